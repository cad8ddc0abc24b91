//! The key that signs a repository: Ed25519 or, for clients that do not know that, RSA; made, kept and used here.
//!
//! Signatures carry the time they are given, so that the same content signs to the same bytes.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use pgp::composed::{
    ArmorOptions, Deserializable, DetachedSignature, SignedKeyDetails, SignedPublicKey,
    SignedSecretKey,
};
use pgp::crypto::ed25519::{Mode, SecretKey as Ed25519};
use pgp::crypto::eddsa_legacy;
use pgp::crypto::hash::HashAlgorithm;
use pgp::crypto::public_key::PublicKeyAlgorithm;
use pgp::crypto::rsa;
use pgp::packet::{
    self, KeyFlags, PubKeyInner, SignatureConfig, SignatureType, Subpacket, SubpacketData, UserId,
};
use pgp::ser::Serialize;
use pgp::types::{
    EddsaLegacyPublicParams, KeyDetails, KeyVersion, Password, PlainSecretParams, PublicParams,
    SecretParams, Tag, Timestamp,
};

use rand::rngs::OsRng;
use serde::{Deserialize, Serialize as SerializeConfig};

use crate::clearsign;
use crate::error::{Error, Result};
use crate::files;
use crate::openpgp::Keyring;

/// Creation time of generated keys and of their self-signatures: 2025-01-01 00:00:00 UTC.
///
/// Verifiers refuse signatures that are older than their key, and repositories are signed with the date of
/// their content (`SOURCE_DATE_EPOCH`), which is usually older than the key really is.
pub const KEY_EPOCH: u64 = 1_735_689_600;

const KEY_FILE_LIMIT: u64 = 1 << 20;

/// Kinds of key that can be made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, SerializeConfig, Deserialize)]
pub enum KeyKind {
    /// Ed25519, which gpgv, apt and the rpm of EL 9 know.
    #[default]
    #[serde(rename = "ed25519")]
    Ed25519,
    /// RSA with 3072 bits.
    #[serde(rename = "rsa-3072")]
    Rsa3072,
    /// RSA with 4096 bits.
    #[serde(rename = "rsa-4096")]
    Rsa4096,
}

/// A secret key without a passphrase.
pub struct Signer {
    key: SignedSecretKey,
}

/// The public half of a [`Signer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Armoured form (`.asc`).
    pub armored: String,
    /// Binary form (`.gpg`).
    pub binary: Vec<u8>,
    /// Fingerprint, upper-case hex.
    pub fingerprint: String,
}

impl PublicKey {
    /// A keyring that holds only this key.
    pub fn keyring(&self) -> Result<Keyring> {
        Keyring::from_files(&[&self.binary])
    }
}

/// The 32 bytes of the Ed25519 key that signs with a certificate, armoured or binary: its first subkey for signing, else
/// the primary key, as [`Signer`] chooses. `None` when that is of another kind.
///
/// # Errors
/// The bytes are no certificate.
pub fn ed25519_key(certificate: &[u8]) -> Result<Option<[u8; 32]>> {
    let parsed = match certificate.trim_ascii_start().starts_with(b"-----") {
        true => SignedPublicKey::from_armor_single(certificate).map(|(key, _)| key),
        false => SignedPublicKey::from_bytes(certificate),
    };
    let key = parsed.map_err(|e| fail(format!("cannot be parsed: {e}")))?;
    let signs = |sub: &&pgp::composed::SignedPublicSubKey| {
        sub.signatures.iter().any(|s| s.key_flags().sign())
    };
    let params = match key.public_subkeys.iter().find(signs) {
        Some(sub) => sub.key.public_params(),
        None => key.primary_key.public_params(),
    };
    Ok(match params {
        PublicParams::EdDSALegacy(EddsaLegacyPublicParams::Ed25519 { key }) => Some(key.to_bytes()),
        PublicParams::Ed25519(params) => Some(params.key.to_bytes()),
        _ => None,
    })
}

impl std::fmt::Debug for Signer {
    /// Shows the fingerprint only.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Signer({})",
            hex::encode_upper(self.key.fingerprint().as_bytes())
        )
    }
}

fn fail(message: impl ToString) -> Error {
    Error::Key {
        origin: "of the repository".into(),
        message: message.to_string(),
    }
}

impl Signer {
    /// A new key from the kernel's randomness. `user_id` is a name such as "pigsty repository".
    pub fn generate(user_id: &str) -> Result<Self> {
        let mut secret = [0; 32];
        File::open("/dev/urandom")
            .and_then(|mut f| f.read_exact(&mut secret))
            .map_err(|e| Error::io("read", "/dev/urandom", e))?;
        Signer::from_secret(secret, user_id)
    }

    /// A new key of a kind.
    pub fn generate_kind(kind: KeyKind, user_id: &str) -> Result<Self> {
        let bits = match kind {
            KeyKind::Ed25519 => return Signer::generate(user_id),
            KeyKind::Rsa3072 => 3072,
            KeyKind::Rsa4096 => 4096,
        };
        let build = || {
            let secret = rsa::SecretKey::generate(OsRng, bits)?;
            let params = PublicParams::RSA((&secret).into());
            let plain = PlainSecretParams::RSA(secret);
            certificate(PublicKeyAlgorithm::RSA, params, plain, user_id)
        };
        build().map(|key| Signer { key }).map_err(fail)
    }

    /// Whether it signs by RSA.
    pub fn is_rsa(&self) -> bool {
        let algorithm = self.key.primary_key.algorithm();
        matches!(
            algorithm,
            PublicKeyAlgorithm::RSA | PublicKeyAlgorithm::RSASign
        )
    }

    /// The key with these 32 secret bytes. The legacy Ed25519 encoding is the one that every gpgv reads.
    pub fn from_secret(secret: [u8; 32], user_id: &str) -> Result<Self> {
        build(secret, user_id)
            .map(|key| Signer { key })
            .map_err(fail)
    }

    /// Reads a key file, armoured or binary, as written by [`Signer::save`] or exported from GnuPG.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let key = match bytes.trim_ascii_start().starts_with(b"-----") {
            true => SignedSecretKey::from_armor_single(bytes).map(|(key, _)| key),
            false => SignedSecretKey::from_bytes(bytes),
        };
        let key = key.map_err(|e| fail(format!("cannot be parsed: {e}")))?;
        match key.primary_key.secret_params() {
            SecretParams::Plain(_) => Ok(Signer { key }),
            SecretParams::Encrypted(_) => Err(fail("has a passphrase; export it without one")),
        }
    }

    /// Loads a key file that only its owner may read.
    pub fn load(path: &Path) -> Result<Self> {
        let metadata = path.metadata().map_err(|e| Error::io("read", path, e))?;
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err(Error::Key {
                origin: path.display().to_string(),
                message: "is readable by others".into(),
            });
        }
        Signer::from_bytes(&files::read_bounded(path, KEY_FILE_LIMIT)?).map_err(|error| match error
        {
            Error::Key { message, .. } => Error::Key {
                origin: path.display().to_string(),
                message,
            },
            other => other,
        })
    }

    /// Writes the key to a new file with mode 0600; an existing file is never overwritten.
    pub fn save(&self, path: &Path) -> Result<()> {
        let armored = self
            .key
            .to_armored_string(ArmorOptions::default())
            .map_err(fail)?;
        let parent = files::parent(path);
        files::create_dirs(parent)?;
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| Error::io("create", path, e))?;
        file.write_all(armored.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|e| Error::io("write", path, e))?;
        files::sync_dir(parent)
    }

    /// The public half.
    pub fn public_key(&self) -> Result<PublicKey> {
        let public: SignedPublicKey = self.key.to_public_key();
        Ok(PublicKey {
            armored: public
                .to_armored_string(ArmorOptions::default())
                .map_err(fail)?,
            binary: public.to_bytes().map_err(fail)?,
            fingerprint: hex::encode_upper(public.fingerprint().as_bytes()),
        })
    }

    /// A clearsigned message (`InRelease`), dated `epoch`.
    pub fn clearsign(&self, text: &str, epoch: u64) -> Result<String> {
        let signed = clearsign::signed_bytes(text);
        let signature = self.sign(SignatureType::Text, &signed, epoch)?;
        let armored = signature
            .to_armored_string(ArmorOptions::default())
            .map_err(fail)?;
        Ok(clearsign::assemble(text, "SHA512", &armored))
    }

    /// A detached binary signature, dated `epoch`.
    pub fn detach(&self, data: &[u8], epoch: u64) -> Result<Vec<u8>> {
        self.sign(SignatureType::Binary, data, epoch)?
            .to_bytes()
            .map_err(fail)
    }

    /// A detached armoured signature (`Release.gpg`), dated `epoch`.
    pub fn detach_armored(&self, data: &[u8], epoch: u64) -> Result<String> {
        let signature = self.sign(SignatureType::Binary, data, epoch)?;
        signature
            .to_armored_string(ArmorOptions::default())
            .map_err(fail)
    }

    /// Signs, then verifies with the public half as a client will, so that an unusable key (expired, too
    /// new, not for signing) is found here.
    fn sign(&self, typ: SignatureType, data: &[u8], epoch: u64) -> Result<DetachedSignature> {
        let time = u32::try_from(epoch).map_err(|_| fail("cannot sign with a date after 2106"))?;
        let primary = &self.key.primary_key;
        let subkey = self
            .key
            .secret_subkeys
            .iter()
            .find(|sub| sub.signatures.iter().any(|s| s.key_flags().sign()));
        let signature =
            match subkey {
                Some(sub) => config(typ, &sub.key, time)
                    .and_then(|c| c.sign(&sub.key, &Password::empty(), data)),
                None => config(typ, primary, time)
                    .and_then(|c| c.sign(primary, &Password::empty(), data)),
            };
        let signature = DetachedSignature::new(signature.map_err(fail)?);
        let bytes = signature.to_bytes().map_err(fail)?;
        self.public_key()?
            .keyring()?
            .verify_detached("own signature", data, &bytes, Some(epoch))
            .map_err(|e| {
                fail(format!(
                    "cannot sign with the date {}: {e}",
                    crate::date::format(epoch)
                ))
            })?;
        Ok(signature)
    }
}

/// A version 4 signature without salt: Ed25519 and RSA then sign to the same bytes each time.
fn config(
    typ: SignatureType,
    key: &impl KeyDetails,
    time: u32,
) -> pgp::errors::Result<SignatureConfig> {
    let mut config = SignatureConfig::v4(typ, key.algorithm(), HashAlgorithm::Sha512);
    config.hashed_subpackets = vec![
        Subpacket::regular(SubpacketData::SignatureCreationTime(Timestamp::from_secs(
            time,
        )))?,
        Subpacket::regular(SubpacketData::IssuerFingerprint(key.fingerprint()))?,
    ];
    config.unhashed_subpackets = vec![Subpacket::regular(SubpacketData::IssuerKeyId(
        key.legacy_key_id(),
    ))?];
    Ok(config)
}

fn build(secret: [u8; 32], user_id: &str) -> pgp::errors::Result<SignedSecretKey> {
    let secret = Ed25519::try_from_bytes(secret, Mode::EdDSALegacy)?;
    let params = PublicParams::EdDSALegacy(EddsaLegacyPublicParams::from(&secret));
    let plain = PlainSecretParams::EdDSALegacy(eddsa_legacy::SecretKey::Ed25519(secret));
    certificate(PublicKeyAlgorithm::EdDSALegacy, params, plain, user_id)
}

/// A primary key that certifies and signs, with one user id.
fn certificate(
    algorithm: PublicKeyAlgorithm,
    params: PublicParams,
    plain: PlainSecretParams,
    user_id: &str,
) -> pgp::errors::Result<SignedSecretKey> {
    let time = KEY_EPOCH as u32;
    let created = Timestamp::from_secs(time);
    let inner = PubKeyInner::new(KeyVersion::V4, algorithm, created, None, params)?;
    let public = packet::PublicKey::from_inner(inner)?;
    let primary = packet::SecretKey::new(public.clone(), SecretParams::Plain(plain))?;

    let user = UserId::from_str(Default::default(), user_id)?;
    let mut flags = KeyFlags::default();
    flags.set_certify(true);
    flags.set_sign(true);
    let mut certify = config(SignatureType::CertPositive, &primary, time)?;
    certify
        .hashed_subpackets
        .push(Subpacket::regular(SubpacketData::KeyFlags(flags))?);
    certify
        .hashed_subpackets
        .push(Subpacket::regular(SubpacketData::IsPrimary(true))?);
    let signature =
        certify.sign_certification(&primary, &public, &Password::empty(), Tag::UserId, &user)?;
    let details = SignedKeyDetails::new(vec![], vec![], vec![user.into_signed(signature)], vec![]);
    Ok(SignedSecretKey::new(primary, details, vec![], vec![]))
}
