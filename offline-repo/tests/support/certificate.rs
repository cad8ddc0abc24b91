//! Certificates and signatures with one thing special about each.

use std::time::{SystemTime, UNIX_EPOCH};

use pgp::composed::{SignedKeyDetails, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::ed25519::{Mode, SecretKey as Ed25519};
use pgp::crypto::eddsa_legacy;
use pgp::crypto::hash::HashAlgorithm;
use pgp::crypto::public_key::PublicKeyAlgorithm;
use pgp::packet::{
    KeyFlags, PubKeyInner, PublicKey, PublicSubkey, SecretKey, SecretSubkey, Signature,
    SignatureConfig, SignatureType, Subpacket, SubpacketData, UserId,
};
use pgp::ser::Serialize;
use pgp::types::{
    Duration, EddsaLegacyPublicParams, KeyDetails, KeyVersion, Password, PlainSecretParams,
    PublicParams, SecretParams, SigningKey, Tag, Timestamp,
};

pub const DATA: &[u8] = b"Suite: trixie\n";
pub const DAY: u64 = 86400;

pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// What is special about a certificate and the signature made with it.
#[derive(Clone)]
pub struct Case {
    /// When the keys were made.
    pub created: u64,
    /// Lifetime of the primary key in seconds.
    pub lifetime: Option<u64>,
    /// A newer self-signature with another lifetime.
    pub renewed: Option<Option<u64>>,
    pub primary_may_sign: bool,
    /// Sign with a subkey.
    pub subkey: bool,
    pub subkey_may_sign: bool,
    pub subkey_lifetime: Option<u64>,
    pub back_signature: bool,
    pub revoke_primary: bool,
    pub revoke_subkey: bool,
    /// The user id is bound by another key's signature.
    pub foreign_binding: bool,
    pub hash: HashAlgorithm,
    pub self_hash: HashAlgorithm,
    pub typ: SignatureType,
    pub signed_at: u64,
    pub expires_after: Option<u64>,
}

impl Case {
    pub fn usual() -> Self {
        Case {
            created: now() - 100 * DAY,
            lifetime: None,
            renewed: None,
            primary_may_sign: true,
            subkey: false,
            subkey_may_sign: true,
            subkey_lifetime: None,
            back_signature: true,
            revoke_primary: false,
            revoke_subkey: false,
            foreign_binding: false,
            hash: HashAlgorithm::Sha256,
            self_hash: HashAlgorithm::Sha512,
            typ: SignatureType::Binary,
            signed_at: now() - DAY,
            expires_after: None,
        }
    }
}

fn seconds(value: u64) -> u32 {
    u32::try_from(value).unwrap()
}

fn key(secret: u8, created: u64) -> (PubKeyInner, SecretParams) {
    let secret = Ed25519::try_from_bytes([secret; 32], Mode::EdDSALegacy).unwrap();
    let params = PublicParams::EdDSALegacy(EddsaLegacyPublicParams::from(&secret));
    let time = Timestamp::from_secs(seconds(created));
    let inner = PubKeyInner::new(
        KeyVersion::V4,
        PublicKeyAlgorithm::EdDSALegacy,
        time,
        None,
        params,
    )
    .unwrap();
    let plain = PlainSecretParams::EdDSALegacy(eddsa_legacy::SecretKey::Ed25519(secret));
    (inner, SecretParams::Plain(plain))
}

fn primary(secret: u8, created: u64) -> (PublicKey, SecretKey) {
    let (inner, params) = key(secret, created);
    let public = PublicKey::from_inner(inner).unwrap();
    (public.clone(), SecretKey::new(public, params).unwrap())
}

fn config(
    typ: SignatureType,
    key: &impl KeyDetails,
    hash: HashAlgorithm,
    at: u64,
    more: Vec<SubpacketData>,
) -> SignatureConfig {
    let mut config = SignatureConfig::v4(typ, key.algorithm(), hash);
    let mut data = vec![
        SubpacketData::SignatureCreationTime(Timestamp::from_secs(seconds(at))),
        SubpacketData::IssuerFingerprint(key.fingerprint()),
    ];
    data.extend(more);
    config.hashed_subpackets = data
        .into_iter()
        .map(|d| Subpacket::regular(d).unwrap())
        .collect();
    config.unhashed_subpackets =
        vec![Subpacket::regular(SubpacketData::IssuerKeyId(key.legacy_key_id())).unwrap()];
    config
}

fn flags(certify: bool, sign: bool) -> SubpacketData {
    let mut flags = KeyFlags::default();
    flags.set_certify(certify);
    flags.set_sign(sign);
    SubpacketData::KeyFlags(flags)
}

fn lifetime(value: Option<u64>) -> Vec<SubpacketData> {
    value
        .map(|v| SubpacketData::KeyExpirationTime(Duration::from_secs(seconds(v))))
        .into_iter()
        .collect()
}

fn self_signature(
    case: &Case,
    at: u64,
    life: Option<u64>,
    by: &SecretKey,
    public: &PublicKey,
    user: &UserId,
) -> Signature {
    let mut more = lifetime(life);
    more.push(flags(true, case.primary_may_sign));
    config(SignatureType::CertPositive, by, case.self_hash, at, more)
        .sign_certification(by, public, &Password::empty(), Tag::UserId, user)
        .unwrap()
}

/// The certificate of a case and a signature over [`DATA`].
pub fn make(case: &Case) -> (Vec<u8>, Vec<u8>) {
    let pw = Password::empty();
    let (public, secret) = primary(1, case.created);
    let user = UserId::from_str(Default::default(), "case").unwrap();
    let (_, stranger) = primary(9, case.created);
    let by = if case.foreign_binding {
        &stranger
    } else {
        &secret
    };
    let mut bindings = vec![self_signature(
        case,
        case.created,
        case.lifetime,
        by,
        &public,
        &user,
    )];
    if let Some(renewed) = case.renewed {
        bindings.push(self_signature(
            case,
            now() - 2 * DAY,
            renewed,
            by,
            &public,
            &user,
        ));
    }
    let revocation = |typ| config(typ, &secret, HashAlgorithm::Sha512, now() - 3 * DAY, vec![]);
    let revocations = match case.revoke_primary {
        true => vec![
            revocation(SignatureType::KeyRevocation)
                .sign_key(&secret, &pw, &public)
                .unwrap(),
        ],
        false => vec![],
    };
    let details = SignedKeyDetails::new(
        revocations,
        vec![],
        vec![pgp::types::SignedUser::new(user, bindings)],
        vec![],
    );

    let (inner, params) = key(2, case.created);
    let sub_public = PublicSubkey::from_inner(inner).unwrap();
    let sub_secret = SecretSubkey::new(sub_public.clone(), params).unwrap();
    let mut more = lifetime(case.subkey_lifetime);
    more.push(flags(false, case.subkey_may_sign));
    if case.back_signature {
        let back = config(
            SignatureType::KeyBinding,
            &sub_secret,
            case.self_hash,
            case.created,
            vec![],
        )
        .sign_primary_key_binding(&sub_secret, &sub_public, &pw, &public)
        .unwrap();
        more.push(SubpacketData::EmbeddedSignature(Box::new(back)));
    }
    let mut sub_signatures = vec![
        config(
            SignatureType::SubkeyBinding,
            &secret,
            case.self_hash,
            case.created,
            more,
        )
        .sign_subkey_binding(&secret, &public, &pw, &sub_public)
        .unwrap(),
    ];
    if case.revoke_subkey {
        let revoked = revocation(SignatureType::SubkeyRevocation);
        sub_signatures.push(
            revoked
                .sign_subkey_binding(&secret, &public, &pw, &sub_public)
                .unwrap(),
        );
    }
    let certificate = SignedPublicKey::new(
        public,
        details,
        vec![SignedPublicSubKey::new(sub_public, sub_signatures)],
    );
    let signature = match case.subkey {
        true => data_signature(case, &sub_secret),
        false => data_signature(case, &secret),
    };
    (certificate.to_bytes().unwrap(), signature)
}

fn data_signature(case: &Case, key: &impl SigningKey) -> Vec<u8> {
    let expires = case
        .expires_after
        .map(|v| SubpacketData::SignatureExpirationTime(Duration::from_secs(seconds(v))));
    let config = config(
        case.typ,
        key,
        case.hash,
        case.signed_at,
        expires.into_iter().collect(),
    );
    let signature = config.sign(key, &Password::empty(), DATA).unwrap();
    pgp::composed::DetachedSignature::new(signature)
        .to_bytes()
        .unwrap()
}
