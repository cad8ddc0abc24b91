//! The signature policy on certificates made for each case, with gpgv's verdict beside ours where this host has it.

#[path = "support/certificate.rs"]
mod certificate;

use std::process::Command;

use certificate::{Case, DATA, DAY, make, now};
use offline_repo::openpgp::Keyring;
use offline_repo::signer::{KEY_EPOCH, Signer};
use pgp::packet::SignatureType;

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
];

#[test]
fn policy_table() {
    let mut compared = 0;
    for (what, change, expected, gpgv_differs) in ROWS {
        let mut case = Case::usual();
        change(&mut case);
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
