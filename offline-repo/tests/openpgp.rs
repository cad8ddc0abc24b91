//! The signature policy on certificates made for each case, with gpgv's verdict beside ours where this host has it.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use offline_repo::openpgp::Keyring;
use offline_repo::signer::{KEY_EPOCH, Signer};
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

const DATA: &[u8] = b"Suite: trixie\n";
const DAY: u64 = 86400;

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// What is special about a certificate and the signature made with it.
#[derive(Clone)]
struct Case {
    /// When the keys were made.
    created: u64,
    /// Lifetime of the primary key in seconds.
    lifetime: Option<u64>,
    /// A newer self-signature with another lifetime.
    renewed: Option<Option<u64>>,
    primary_may_sign: bool,
    /// Sign with a subkey.
    subkey: bool,
    subkey_may_sign: bool,
    subkey_lifetime: Option<u64>,
    back_signature: bool,
    revoke_primary: bool,
    revoke_subkey: bool,
    /// The user id is bound by another key's signature.
    foreign_binding: bool,
    hash: HashAlgorithm,
    self_hash: HashAlgorithm,
    typ: SignatureType,
    signed_at: u64,
    expires_after: Option<u64>,
}

impl Case {
    fn usual() -> Self {
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
fn make(case: &Case) -> (Vec<u8>, Vec<u8>) {
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

/// Whether gpgv calls the signature good without any reservation; `None` without gpgv.
fn gpgv(certificate: &[u8], signature: &[u8]) -> Option<bool> {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        ("key.gpg", certificate),
        ("data.sig", signature),
        ("data", DATA),
    ] {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let output = Command::new("gpgv")
        .args(["--status-fd", "1", "--keyring"])
        .arg(dir.path().join("key.gpg"))
        .args(["data.sig", "data"])
        .current_dir(dir.path())
        .output()
        .ok()?;
    let status = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(status.contains("[GNUPG:] GOODSIG") && !status.contains("KEYREVOKED"))
}

/// A change to the usual case, our verdict, and whether gpgv is known to judge otherwise.
type Row = (&'static str, fn(&mut Case), &'static str, bool);

const ROWS: &[Row] = &[
    ("the usual primary key", |_| {}, "", false),
    ("the usual subkey", |c| c.subkey = true, "", false),
    ("text mode", |c| c.typ = SignatureType::Text, "", false),
    (
        "a key that expires later",
        |c| c.lifetime = Some(200 * DAY),
        "",
        false,
    ),
    (
        "an expired key",
        |c| c.lifetime = Some(50 * DAY),
        "expired",
        false,
    ),
    (
        "an expired key that was renewed",
        |c| (c.lifetime, c.renewed) = (Some(50 * DAY), Some(None)),
        "",
        false,
    ),
    (
        "a key whose renewal ends it",
        |c| c.renewed = Some(Some(50 * DAY)),
        "expired",
        false,
    ),
    (
        "an expired subkey",
        |c| (c.subkey, c.subkey_lifetime) = (true, Some(50 * DAY)),
        "expired",
        false,
    ),
    (
        "a subkey of an expired key",
        |c| (c.subkey, c.lifetime) = (true, Some(50 * DAY)),
        "expired",
        false,
    ),
    (
        "a revoked key",
        |c| c.revoke_primary = true,
        "is revoked",
        false,
    ),
    (
        "a revoked subkey",
        |c| (c.subkey, c.revoke_subkey) = (true, true),
        "is revoked",
        false,
    ),
    (
        "a subkey of a revoked key",
        |c| (c.subkey, c.revoke_primary) = (true, true),
        "is revoked",
        false,
    ),
    (
        "the primary key beside a revoked subkey",
        |c| c.revoke_subkey = true,
        "",
        false,
    ),
    (
        "a subkey that may not sign",
        |c| (c.subkey, c.subkey_may_sign) = (true, false),
        "may not sign",
        false,
    ),
    (
        "a subkey without back-signature",
        |c| (c.subkey, c.back_signature) = (true, false),
        "may not sign",
        false,
    ),
    // gpgv lets a primary key sign whatever its flags say; nothing here has to.
    (
        "a primary key that may not sign",
        |c| c.primary_may_sign = false,
        "may not sign",
        true,
    ),
    (
        "a user id that someone else bound",
        |c| c.foreign_binding = true,
        "no valid self-signature",
        true,
    ),
    (
        "a signature older than its key",
        |c| c.signed_at = c.created - DAY,
        "is older than its key",
        false,
    ),
    // The file's date is checked against the clock, where gpgv only warns.
    (
        "a signature from the future",
        |c| c.signed_at = now() + 30 * DAY,
        "made in the future",
        true,
    ),
    (
        "an expired signature",
        |c| c.expires_after = Some(3600),
        "expired",
        false,
    ),
    // apt tells gpgv to refuse these.
    (
        "SHA-1 in a self-signature",
        |c| c.self_hash = HashAlgorithm::Sha1,
        "no valid self-signature",
        true,
    ),
];

#[test]
fn policy_table() {
    let mut compared = 0;
    for (what, change, expected, gpgv_differs) in ROWS {
        let mut case = Case::usual();
        change(&mut case);
        if case.self_hash == HashAlgorithm::Sha1 {
            // The library itself refuses to make such a signature with Ed25519: nothing to verify then.
            if std::panic::catch_unwind(|| make(&case)).is_err() {
                continue;
            }
        }
        let (certificate, signature) = make(&case);
        let keyring = Keyring::from_files(&[&certificate]).unwrap();
        let verdict = keyring.verify_detached("data", DATA, &signature, Some(now()));
        match (&verdict, expected.is_empty()) {
            (Ok(verified), true) => assert_eq!(verified.created, case.signed_at, "{what}"),
            (Err(error), false) => assert!(error.to_string().contains(expected), "{what}: {error}"),
            _ => panic!("{what}: {verdict:?}"),
        }
        if let Some(good) = gpgv(&certificate, &signature).filter(|_| !gpgv_differs) {
            assert_eq!(good, verdict.is_ok(), "{what}: gpgv");
            compared += 1;
        }
        let other = keyring.verify_detached("data", b"Suite: sid\n", &signature, Some(now()));
        assert!(other.is_err(), "{what}");
    }
    if compared == 0 {
        eprintln!("SKIPPED: the comparison with gpgv, which this host does not have");
    }
}

#[test]
fn damaged_signatures_and_keys_never_count() {
    let (certificate, signature) = make(&Case::usual());
    let keyring = Keyring::from_files(&[&certificate]).unwrap();
    for at in 0..signature.len() {
        let mut damaged = signature.clone();
        damaged[at] ^= 1;
        // The unhashed issuer is not covered; everything that still verifies says the same.
        if let Ok(verified) = keyring.verify_detached("data", DATA, &damaged, Some(now())) {
            assert_eq!(verified.fingerprint, keyring.fingerprints()[0]);
        }
        assert!(
            keyring
                .verify_detached("data", b"other", &damaged, Some(now()))
                .is_err()
        );
        let cut = &signature[..at];
        assert!(
            keyring
                .verify_detached("data", DATA, cut, Some(now()))
                .is_err()
        );
    }
    for at in 0..certificate.len() {
        let mut damaged = certificate.clone();
        damaged[at] ^= 1;
        let _ = Keyring::from_files(&[&damaged])
            .map(|k| k.verify_detached("data", DATA, &signature, Some(now())));
        let _ = Keyring::from_files(&[&certificate[..at]]);
    }
    // One good signature among others is enough, as while an archive changes its key.
    let stranger = Signer::from_secret([3; 32], "stranger")
        .unwrap()
        .detach(DATA, now())
        .unwrap();
    keyring
        .verify_detached(
            "data",
            DATA,
            &[stranger.clone(), signature].concat(),
            Some(now()),
        )
        .unwrap();
    assert!(
        keyring
            .verify_detached("data", DATA, &stranger, Some(now()))
            .is_err()
    );
}

#[test]
fn signing_is_deterministic_and_keys_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys/repository.asc");
    let signer = Signer::generate("pigsty repository").unwrap();
    signer.save(&path).unwrap();
    assert!(signer.save(&path).is_err(), "a key is never overwritten");
    let loaded = Signer::load(&path).unwrap();
    let epoch = KEY_EPOCH + DAY;
    for _ in 0..2 {
        assert_eq!(
            signer.clearsign("- a\n b \n", epoch).unwrap(),
            loaded.clearsign("- a\n b \n", epoch).unwrap()
        );
        assert_eq!(
            signer.detach(DATA, epoch).unwrap(),
            loaded.detach(DATA, epoch).unwrap()
        );
    }
    assert_ne!(
        signer.detach(DATA, epoch).unwrap(),
        signer.detach(DATA, epoch + 1).unwrap()
    );
    let keyring = Keyring::from_files(&[signer.public_key().unwrap().armored]).unwrap();
    let (text, verified) = keyring
        .verify_clearsigned(
            "x",
            signer.clearsign("- a\n b \n", epoch).unwrap().as_bytes(),
            now(),
        )
        .unwrap();
    assert_eq!((text.as_str(), verified.created), ("- a\n b\n", epoch));
    assert_ne!(
        Signer::generate("x")
            .unwrap()
            .public_key()
            .unwrap()
            .fingerprint,
        verified.fingerprint
    );

    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = Signer::load(&path).unwrap_err();
    assert_eq!(error.hint().unwrap(), "chmod 600 the key file");
    let error = signer.detach(DATA, KEY_EPOCH - 1).unwrap_err().to_string();
    assert!(
        error.contains("cannot sign with the date Tue, 31 Dec 2024 23:59:59 UTC"),
        "{error}"
    );
}
