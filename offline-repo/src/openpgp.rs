//! Verification of OpenPGP signatures against listed keys, with the policy that the format itself leaves open.
//!
//! A signature counts when a listed key made it: SHA-256 or better, a sound algorithm, a key or subkey that may
//! sign, that is bound to its certificate by valid self-signatures (a subkey with a back-signature), and that
//! was neither expired nor revoked at the time of the check.

use pgp::composed::{Deserializable, DetachedSignature, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::crypto::public_key::PublicKeyAlgorithm;
use pgp::packet::{Signature, SignatureType, SubpacketData};
use pgp::types::{KeyDetails, Tag};

use crate::clearsign;
use crate::error::{Error, Result};

/// How far a signature may be dated in the future, in seconds: clocks of build hosts are not exact.
const CLOCK_TOLERANCE: u64 = 600;

/// No key file is larger, in bytes; Debian's whole keyring has 60 kB.
const KEY_LIMIT: usize = 1 << 20;

/// Keys whose signatures count.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    keys: Vec<SignedPublicKey>,
}

/// A signature that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Fingerprint of the certificate's primary key, upper-case hex.
    pub fingerprint: String,
    /// When the signature was made, seconds since 1970.
    pub created: u64,
}

impl Keyring {
    /// Reads key files, armoured or binary, each with one or more certificates.
    pub fn from_files<B: AsRef<[u8]>>(files: &[B]) -> Result<Self> {
        let mut keys = Vec::new();
        for (i, file) in files.iter().enumerate() {
            let bytes = file.as_ref();
            let fail = |message: String| Error::Key {
                origin: format!("number {}", i + 1),
                message,
            };
            if bytes.len() > KEY_LIMIT {
                return Err(fail(format!("is larger than {KEY_LIMIT} bytes")));
            }
            let parsed = match bytes.trim_ascii_start().starts_with(b"-----") {
                true => SignedPublicKey::from_armor_many(bytes).map(|(keys, _)| keys.collect()),
                false => SignedPublicKey::from_bytes_many(bytes).map(|keys| keys.collect()),
            };
            let found: pgp::errors::Result<Vec<_>> =
                parsed.and_then(|keys: Vec<_>| keys.into_iter().collect());
            let found = found.map_err(|e| fail(format!("cannot be parsed: {e}")))?;
            if found.is_empty() {
                return Err(fail("holds no public key".into()));
            }
            keys.extend(found);
        }
        Ok(Keyring { keys })
    }

    /// Fingerprints of the primary keys, upper-case hex.
    pub fn fingerprints(&self) -> Vec<String> {
        self.keys.iter().map(fingerprint).collect()
    }

    /// Verifies a clearsigned message at the time `now`; returns the text that was signed.
    pub fn verify_clearsigned(
        &self,
        origin: &str,
        message: &[u8],
        now: u64,
    ) -> Result<(String, Verified)> {
        let refuse = |message: String| Error::Signature {
            origin: origin.to_string(),
            message,
        };
        let message =
            std::str::from_utf8(message).map_err(|_| refuse("it is not UTF-8 text".into()))?;
        let parts = clearsign::parse(message).map_err(|reason| refuse(reason.to_string()))?;
        let verified =
            self.verify_detached(origin, &parts.signed, parts.signature.as_bytes(), Some(now))?;
        Ok((parts.text, verified))
    }

    /// Verifies a detached signature file, armoured or binary, over `data` at the time `now`; `None` is the time
    /// that the signature itself states, for content that must stay usable where clocks are wrong and keys grow
    /// old, behind an air gap. The file may hold several signatures: one that counts is enough.
    pub fn verify_detached(
        &self,
        origin: &str,
        data: &[u8],
        signature: &[u8],
        now: Option<u64>,
    ) -> Result<Verified> {
        let refuse = |message: String| Error::Signature {
            origin: origin.to_string(),
            message,
        };
        let parsed = match signature.trim_ascii_start().starts_with(b"-----") {
            true => DetachedSignature::from_armor_many(signature).map(|(all, _)| all.collect()),
            false => DetachedSignature::from_bytes_many(signature).map(|all| all.collect()),
        };
        let all: Vec<pgp::errors::Result<DetachedSignature>> =
            parsed.map_err(|e| refuse(format!("the signature cannot be parsed: {e}")))?;
        let mut reasons = Vec::new();
        // A signature of an unknown kind must not hide a good one beside it; 16 are more than anyone makes.
        for signature in all.into_iter().take(16) {
            match signature {
                Ok(signature) => match self.check(&signature.signature, data, now) {
                    Ok(verified) => return Ok(verified),
                    Err(reason) => reasons.push(reason),
                },
                Err(e) => reasons.push(format!("a signature cannot be parsed: {e}")),
            }
        }
        if reasons.is_empty() {
            reasons.push("the file holds no signature".into());
        }
        Err(refuse(reasons.join("; ")))
    }

    fn check(
        &self,
        signature: &Signature,
        data: &[u8],
        now: Option<u64>,
    ) -> std::result::Result<Verified, String> {
        let stated = signature.created().map(|t| u64::from(t.as_secs()));
        let now = now.or(stated).ok_or("without a date")?;
        let created = check_signature(signature, now)?;
        let mut reason = format!("made by {}, which is not a listed key", issuer(signature));
        for key in &self.keys {
            match verify_with(key, signature, data, created, now) {
                Ok(true) => {
                    return Ok(Verified {
                        fingerprint: fingerprint(key),
                        created,
                    });
                }
                Ok(false) => {}
                Err(why) => reason = why,
            }
        }
        Err(reason)
    }
}

fn fingerprint(key: &impl KeyDetails) -> String {
    hex::encode_upper(key.fingerprint().as_bytes())
}

/// Whom a signature names as its maker.
fn issuer(signature: &Signature) -> String {
    let by_fingerprint = signature
        .issuer_fingerprint()
        .first()
        .map(|f| hex::encode_upper(f.as_bytes()));
    let by_id = || {
        signature
            .issuer_key_id()
            .first()
            .map(|id| hex::encode_upper(id.as_ref()))
    };
    by_fingerprint
        .or_else(by_id)
        .unwrap_or_else(|| "an unnamed key".into())
}

/// SHA-256 or better.
fn is_strong(hash: Option<HashAlgorithm>) -> bool {
    use HashAlgorithm as H;
    matches!(
        hash,
        Some(H::Sha256 | H::Sha384 | H::Sha512 | H::Sha3_256 | H::Sha3_512)
    )
}

fn is_sound(algorithm: PublicKeyAlgorithm) -> bool {
    use PublicKeyAlgorithm as A;
    matches!(
        algorithm,
        A::RSA | A::RSASign | A::ECDSA | A::EdDSALegacy | A::Ed25519 | A::Ed448
    )
}

/// What can be said about a data signature without a key: its kind, hash and dates. Returns its creation time.
fn check_signature(signature: &Signature, now: u64) -> std::result::Result<u64, String> {
    if !matches!(
        signature.typ(),
        Some(SignatureType::Binary | SignatureType::Text)
    ) {
        return Err("not a signature over data".into());
    }
    if !is_strong(signature.hash_alg()) {
        return Err(match signature.hash_alg() {
            Some(hash) => format!("made with {hash}, which is too weak"),
            None => "made with an unknown hash".into(),
        });
    }
    let created = signature
        .created()
        .map(|t| u64::from(t.as_secs()))
        .ok_or("without a date")?;
    if created > now + CLOCK_TOLERANCE {
        return Err(format!(
            "made in the future, {}",
            crate::date::format(created)
        ));
    }
    let lifetime = signature
        .signature_expiration_time()
        .map_or(0, |d| u64::from(d.as_secs()));
    if lifetime != 0 && created + lifetime <= now {
        return Err(format!(
            "expired {}",
            crate::date::format(created + lifetime)
        ));
    }
    Ok(created)
}

/// Whether a component of this certificate made the signature (`Ok(false)`: it is someone else's), or why one
/// that did must not be used.
fn verify_with(
    key: &SignedPublicKey,
    signature: &Signature,
    data: &[u8],
    created: u64,
    now: u64,
) -> std::result::Result<bool, String> {
    if signature.verify(&key.primary_key, data).is_ok() {
        check_primary(key, now)?;
        check_component(&key.primary_key, created)?;
        let own = newest_self_signature(key, now).ok_or_else(|| unbound(key))?;
        return may_sign(own, true)
            .then_some(true)
            .ok_or_else(|| format!("key {} may not sign", fingerprint(key)));
    }
    for subkey in &key.public_subkeys {
        if signature.verify(&subkey.key, data).is_ok() {
            check_primary(key, now)?;
            check_component(&subkey.key, created)?;
            check_subkey(key, subkey, now)?;
            return Ok(true);
        }
    }
    // Right issuer and wrong content is the usual sign of tampering: say so.
    let named = issuer(signature);
    let is_ours = |candidate: String| candidate.ends_with(&named);
    match is_ours(fingerprint(&key.primary_key))
        || key
            .public_subkeys
            .iter()
            .any(|s| is_ours(fingerprint(&s.key)))
    {
        true => Err(format!(
            "the signature by {named} does not match the content"
        )),
        false => Ok(false),
    }
}

/// Algorithm and age of the key that made a signature.
fn check_component(
    key: &impl KeyDetails,
    signature_created: u64,
) -> std::result::Result<(), String> {
    if !is_sound(key.algorithm()) {
        return Err(format!(
            "key {} has the algorithm {:?}",
            fingerprint(key),
            key.algorithm()
        ));
    }
    if u64::from(key.created_at().as_secs()) > signature_created {
        return Err(format!(
            "the signature is older than its key {}",
            fingerprint(key)
        ));
    }
    Ok(())
}

fn unbound(key: &SignedPublicKey) -> String {
    format!("key {} has no valid self-signature", fingerprint(key))
}

/// The primary key's own state: not revoked, bound by a self-signature, not expired.
fn check_primary(key: &SignedPublicKey, now: u64) -> std::result::Result<(), String> {
    let revoked = (key.details.revocation_signatures.iter()).any(|s| {
        s.typ() == Some(SignatureType::KeyRevocation) && s.verify_key(&key.primary_key).is_ok()
    });
    if revoked {
        return Err(format!("key {} is revoked", fingerprint(key)));
    }
    let own = newest_self_signature(key, now).ok_or_else(|| unbound(key))?;
    check_expiry(&key.primary_key, own, now)
}

/// The newest valid self-signature (over the key itself or over a user id) that is not dated after `now`:
/// it decides what the key may do and until when.
fn newest_self_signature(key: &SignedPublicKey, now: u64) -> Option<&Signature> {
    let direct = (key.details.direct_signatures.iter())
        .filter(|s| s.typ() == Some(SignatureType::Key) && s.verify_key(&key.primary_key).is_ok());
    let users = key.details.users.iter().flat_map(|user| {
        let valid = move |s: &&Signature| {
            s.is_certification()
                && s.verify_certification(&key.primary_key, Tag::UserId, &user.id)
                    .is_ok()
        };
        user.signatures.iter().filter(valid)
    });
    newest(direct.chain(users), now)
}

fn newest<'a>(signatures: impl Iterator<Item = &'a Signature>, now: u64) -> Option<&'a Signature> {
    signatures
        .filter(|s| is_strong(s.hash_alg()))
        .filter_map(|s| Some((u64::from(s.created()?.as_secs()), s)))
        .filter(|(created, _)| *created <= now + CLOCK_TOLERANCE)
        .max_by_key(|(created, _)| *created)
        .map(|(_, s)| s)
}

fn check_expiry(
    key: &impl KeyDetails,
    own: &Signature,
    now: u64,
) -> std::result::Result<(), String> {
    let lifetime = own
        .key_expiration_time()
        .map_or(0, |d| u64::from(d.as_secs()));
    let end = u64::from(key.created_at().as_secs()) + lifetime;
    if lifetime != 0 && end <= now {
        return Err(format!(
            "key {} expired {}",
            fingerprint(key),
            crate::date::format(end)
        ));
    }
    Ok(())
}

/// A signature without key flags leaves a primary key free to sign; a subkey must be told so.
fn may_sign(own: &Signature, without_flags: bool) -> bool {
    let has_flags = own.config().is_some_and(|c| {
        c.hashed_subpackets()
            .any(|p| matches!(p.data, SubpacketData::KeyFlags(_)))
    });
    match has_flags {
        true => own.key_flags().sign(),
        false => without_flags,
    }
}

/// A subkey's binding: newest valid one, back-signed, not revoked, not expired, for signing.
fn check_subkey(
    key: &SignedPublicKey,
    subkey: &SignedPublicSubKey,
    now: u64,
) -> std::result::Result<(), String> {
    let name = fingerprint(&subkey.key);
    let valid = |typ| {
        move |s: &&Signature| {
            s.typ() == Some(typ)
                && s.verify_subkey_binding(&key.primary_key, &subkey.key)
                    .is_ok()
        }
    };
    if subkey
        .signatures
        .iter()
        .any(|s| valid(SignatureType::SubkeyRevocation)(&s))
    {
        return Err(format!("subkey {name} is revoked"));
    }
    let binding = newest(
        subkey
            .signatures
            .iter()
            .filter(valid(SignatureType::SubkeyBinding)),
        now,
    )
    .ok_or_else(|| format!("subkey {name} is not bound to its key"))?;
    let back = binding.embedded_signature().is_some_and(|back| {
        is_strong(back.hash_alg())
            && back
                .verify_primary_key_binding(&subkey.key, &key.primary_key)
                .is_ok()
    });
    if !may_sign(binding, false) || !back {
        return Err(format!("subkey {name} may not sign"));
    }
    check_expiry(&subkey.key, binding, now)
}
