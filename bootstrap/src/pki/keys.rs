//! P-256 keys that derive from secrets.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::secrets::SECRET_BYTES;

/// Length of an uncompressed point, SEC 1 §2.3.3: 4, x, y.
pub(super) const POINT_BYTES: usize = 65;

/// PKCS #8 (RFC 5958) around a P-256 key (RFC 5915): everything up to the scalar, and what is between it and the point.
const PKCS8_HEAD: [u8; 36] = [
    0x30, 0x81, 0x87, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02,
    0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x6d, 0x30, 0x6b, 0x02,
    0x01, 0x01, 0x04, 0x20,
];
const PKCS8_POINT: [u8; 5] = [0xa1, 0x44, 0x03, 0x42, 0x00];

/// Base64 characters in a line of PEM, RFC 7468 §2.
const PEM_LINE: usize = 64;

/// A private key with its public half.
pub(super) struct Key {
    signing: SigningKey,
    point: Vec<u8>,
}

impl Key {
    /// The first valid scalar of a sequence. One in 2^32 candidates is not less than the group's order, so the second
    /// is needed about never; but a key must exist for every secret.
    pub(super) fn derive(candidate: impl Fn(u32) -> Zeroizing<[u8; SECRET_BYTES]>) -> Self {
        let signing = (0..=u32::MAX)
            .find_map(|counter| SigningKey::from_slice(candidate(counter).as_slice()).ok())
            .unwrap_or_else(|| unreachable!());
        let point = signing.verifying_key().to_sec1_point(false);
        Key {
            point: point.as_bytes().to_vec(),
            signing,
        }
    }

    /// The public half, an uncompressed point.
    pub(super) fn point(&self) -> &[u8] {
        &self.point
    }

    /// Key identifier, RFC 7093 §2 method 1: the first 160 bits of the point's SHA-256.
    pub(super) fn identifier(&self) -> Vec<u8> {
        Sha256::digest(&self.point)[..20].to_vec()
    }

    /// The key in PKCS #8, as every program reads it.
    pub(super) fn to_pem(&self) -> Zeroizing<String> {
        let scalar = Zeroizing::new(self.signing.to_bytes());
        let mut der = Zeroizing::new(Vec::with_capacity(138));
        der.extend_from_slice(&PKCS8_HEAD);
        der.extend_from_slice(&scalar);
        der.extend_from_slice(&PKCS8_POINT);
        der.extend_from_slice(&self.point);
        let encoded = Zeroizing::new(STANDARD.encode(der.as_slice()));
        let mut pem = Zeroizing::new(String::with_capacity(256));
        pem.push_str("-----BEGIN PRIVATE KEY-----\n");
        for (index, character) in encoded.chars().enumerate() {
            if index > 0 && index % PEM_LINE == 0 {
                pem.push('\n');
            }
            pem.push(character);
        }
        pem.push_str("\n-----END PRIVATE KEY-----\n");
        pem
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Key {
    /// RFC 6979: the nonce follows from key and message, so the same certificate has the same signature.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: Signature = self.signing.sign(message);
        Ok(signature.to_der().as_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_scalars_are_skipped() {
        let key = Key::derive(|counter| {
            Zeroizing::new(match counter {
                0 => [0; SECRET_BYTES],
                // Above the order of P-256.
                1 => [0xff; SECRET_BYTES],
                _ => [9; SECRET_BYTES],
            })
        });
        let direct = Key::derive(|_| Zeroizing::new([9; SECRET_BYTES]));
        assert_eq!(key.point(), direct.point());
        assert_eq!(key.point().len(), POINT_BYTES);
        assert_eq!(*key.to_pem(), *direct.to_pem());
    }
}
