//! A detached OpenPGP signature by an Ed25519 key, and nothing else of OpenPGP.
//!
//! RFC 9580: 4.2 (packet headers), 5.2.3 (version 4 signatures), 5.2.4 (what is hashed), 5.2.3.3.1 (the two numbers of an
//! EdDSALegacy signature). `gpgv` verifies the same file.

use ed25519_compact::{PublicKey, Signature};
use sha2::{Digest, Sha512};

/// Longest signature in bytes.
pub const LIMIT: u64 = 4096;
/// Packet type.
const SIGNATURE: u8 = 2;
/// Signature over bytes as they are.
const BINARY: u8 = 0;
/// Algorithms: EdDSALegacy and Ed25519.
const EDDSA: u8 = 22;
const ED25519: u8 = 27;
/// SHA-512.
const HASH: u8 = 10;

/// Whether `signature` over `data` was made by the key with these 32 bytes.
///
/// # Errors
/// Why not.
pub fn verify(data: &[u8], signature: &[u8], key: &[u8; 32]) -> Result<(), &'static str> {
    let body = packet(signature).ok_or("it is no single OpenPGP packet")?;
    let fields = Fields::read(body).ok_or("it is no version 4 signature")?;
    if body[1] != BINARY || body[3] != HASH {
        return Err("it is not one over bytes with SHA-512");
    }
    let (r, s) = fields
        .numbers(body[2])
        .ok_or("it is not by an Ed25519 key")?;
    let length = u32::try_from(fields.hashed.len()).map_err(|_| "it is too long")?;
    let digest = Sha512::new()
        .chain_update(data)
        .chain_update(fields.hashed)
        .chain_update([4, 0xff])
        .chain_update(length.to_be_bytes())
        .finalize();
    if digest[..2] != fields.left[..] {
        return Err("it is over something else");
    }
    let mut both = [0; 64];
    both[..32].copy_from_slice(&r);
    both[32..].copy_from_slice(&s);
    let key = PublicKey::from_slice(key).map_err(|_| "the key is none")?;
    let signature = Signature::from_slice(&both).map_err(|_| "it is damaged")?;
    key.verify(digest, &signature)
        .map_err(|_| "it is not by the key that this machine trusts")
}

/// The body of a signature packet that is all there is.
fn packet(bytes: &[u8]) -> Option<&[u8]> {
    let (&first, rest) = bytes.split_first()?;
    let (kind, length, body) = match first >> 6 {
        // The older header: the length has 1, 2 or 4 bytes.
        2 => {
            let size = [1, 2, 4].get(usize::from(first & 3))?;
            let (length, body) = rest.split_at_checked(*size)?;
            (first >> 2 & 15, number(length), body)
        }
        3 => {
            let (size, length) = match *rest.first()? {
                short @ 0..192 => (1, usize::from(short)),
                middle @ 192..224 => (
                    2,
                    ((usize::from(middle) - 192) << 8) + usize::from(*rest.get(1)?) + 192,
                ),
                255 => (5, number(rest.get(1..5)?)),
                _ => return None,
            };
            (first & 63, length, rest.get(size..)?)
        }
        _ => return None,
    };
    (kind == SIGNATURE && length == body.len()).then_some(body)
}

/// The parts of a version 4 signature.
struct Fields<'a> {
    hashed: &'a [u8],
    left: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn read(body: &'a [u8]) -> Option<Self> {
        if body.first() != Some(&4) {
            return None;
        }
        let hashed = 6 + number(body.get(4..6)?);
        let unhashed = number(body.get(hashed..hashed + 2)?);
        let rest = body.get(hashed + 2 + unhashed..)?;
        let (left, rest) = rest.split_at_checked(2)?;
        Some(Fields {
            hashed: &body[..hashed],
            left,
            rest,
        })
    }

    /// The two halves of the signature proper.
    fn numbers(&self, algorithm: u8) -> Option<([u8; 32], [u8; 32])> {
        match algorithm {
            ED25519 if self.rest.len() == 64 => Some((
                self.rest[..32].try_into().ok()?,
                self.rest[32..].try_into().ok()?,
            )),
            EDDSA => {
                let (r, rest) = integer(self.rest)?;
                let (s, rest) = integer(rest)?;
                rest.is_empty().then_some((r, s))
            }
            _ => None,
        }
    }
}

/// A multiprecision integer of at most 32 bytes: its length in bits, then its bytes without leading zeros.
fn integer(bytes: &[u8]) -> Option<([u8; 32], &[u8])> {
    let (bits, rest) = bytes.split_at_checked(2)?;
    let (digits, rest) = rest.split_at_checked(number(bits).div_ceil(8))?;
    let zeros = digits.first()?.leading_zeros() as usize;
    let mut padded = [0; 32];
    padded
        .get_mut(32usize.checked_sub(digits.len())?..)?
        .copy_from_slice(digits);
    (number(bits) == digits.len() * 8 - zeros).then_some((padded, rest))
}

fn number(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .fold(0, |value, byte| value << 8 | usize::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_compact::{KeyPair, Seed};

    fn pair() -> KeyPair {
        KeyPair::from_seed(Seed::new([7; 32]))
    }

    fn key() -> [u8; 32] {
        *pair().pk
    }

    /// A signature as OpenPGP programs write it; `algorithm` 22 or 27.
    fn sign(data: &[u8], algorithm: u8) -> Vec<u8> {
        let mut body = vec![4, BINARY, algorithm, HASH, 0, 6, 5, 2, 1, 2, 3, 4];
        let digest = Sha512::new()
            .chain_update(data)
            .chain_update(&body)
            .chain_update([4, 0xff, 0, 0, 0, 12])
            .finalize();
        let signature = pair().sk.sign(digest, None);
        body.extend([0, 0]);
        body.extend(&digest[..2]);
        for half in signature.chunks(32) {
            if algorithm == EDDSA {
                let zeros = half.iter().take_while(|b| **b == 0).count();
                let bits = (32 - zeros) * 8 - half[zeros].leading_zeros() as usize;
                body.extend((bits as u16).to_be_bytes());
                body.extend(&half[zeros..]);
            } else {
                body.extend(half);
            }
        }
        [&[0xc2, body.len() as u8][..], &body].concat()
    }

    #[test]
    fn signatures_of_both_forms_verify() {
        for algorithm in [EDDSA, ED25519] {
            // Many, so that numbers with leading zeros are among them.
            for n in 0..300_u32 {
                let data = n.to_le_bytes();
                verify(&data, &sign(&data, algorithm), &key()).unwrap();
            }
        }
        let new = sign(b"x", ED25519);
        let old = [&[0x88, new[1]][..], &new[2..]].concat();
        verify(b"x", &old, &key()).unwrap();
        let long = [&[0xc2, 255, 0, 0, 0, new[1]][..], &new[2..]].concat();
        verify(b"x", &long, &key()).unwrap();
    }

    #[test]
    fn no_changed_or_cut_byte_verifies() {
        for algorithm in [EDDSA, ED25519] {
            let good = sign(b"data", algorithm);
            assert!(verify(b"Data", &good, &key()).is_err());
            assert!(verify(b"data", &good, &[1; 32]).is_err());
            // The unhashed part (bytes 14 and 15, empty here) is all that a signature does not cover.
            for at in 0..good.len() {
                for bit in 0..8 {
                    let mut bad = good.clone();
                    bad[at] ^= 1 << bit;
                    let header = at < 2 && verify(b"data", &bad, &key()).is_ok();
                    assert!(
                        !header && verify(b"data", &bad, &key()).is_err(),
                        "byte {at} bit {bit}"
                    );
                }
                assert!(verify(b"data", &good[..at], &key()).is_err(), "{at} bytes");
            }
            let twice = [&good[..], &good].concat();
            assert!(verify(b"data", &twice, &key()).is_err());
        }
    }
}
