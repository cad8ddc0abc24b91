//! Readers of outside input, each as a function of bytes that must come back: for `fuzz.rs` beside, and for
//! libFuzzer in `offline-repo/fuzz`.

use std::collections::HashSet;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::support::{NOW, archive_signer, repository_signer};
use offline_repo::compression::{Codec, decompress};
use offline_repo::digest::Sha256;
use offline_repo::install::install;
use offline_repo::lock::Lock;
use offline_repo::marker::Marker;
use offline_repo::openpgp::Keyring;
use offline_repo::progress::silent;
use offline_repo::proof;
use offline_repo::release::Release;
use offline_repo::rpm::header::Headers;
use offline_repo::rpm::modules::Modules;
use offline_repo::rpm::package::Package;
use offline_repo::rpm::repomd::Repomd;
use offline_repo::rpm::universe::Kind;
use offline_repo::universe::reduced::Reduced;
use offline_repo::universe::{IndexText, Universe};
use offline_repo::{clearsign, date, deb, deb822, dependency, mirror, rpm, version};

/// A reader under test.
pub type Target = fn(&[u8]);

/// All of them, by the name of their folder in the corpus. New readers join here.
pub const TARGETS: &[(&str, Target)] = &[
    ("index", index),
    ("reduced", reduced),
    ("deb822", stanzas),
    ("release", release),
    ("clearsign", signed),
    ("key", key),
    ("deb", package),
    ("control_tar", control_tar),
    ("lock", lock),
    ("marker", marker),
    ("proof", proofs),
    ("bundle", bundle),
    ("rpm", rpm_package),
    ("repomd", repomd),
    ("primary", primary),
    ("filelists", filelists),
    ("modules", modules),
    ("installed", installed),
    ("codec", codec),
    ("words", words),
];

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// What is kept of an index, behind its digest.
fn reduced(bytes: &[u8]) {
    let Some(reduced) = Reduced::from_body(bytes) else {
        return;
    };
    let identity = Sha256::of(b"x");
    let written = reduced.to_bytes(&identity);
    assert_eq!(
        Reduced::from_bytes(&written, &identity).as_ref(),
        Some(&reduced)
    );
    let index = ("Packages".to_string(), 0, reduced);
    ask(&Universe::of_reduced(vec![index], "amd64").unwrap());
}

fn ask(universe: &Universe) {
    for id in universe.ids() {
        let _ = (
            universe.depends(id),
            universe.conflicts(id),
            universe.recommends(id),
        );
        let _ = (
            universe.sha256(id),
            universe.size(id),
            universe.versions(universe.name(id)),
            universe.first_mention(universe.name(id)),
        );
    }
}

/// A Packages file, and all that is read from it later.
fn index(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let index = IndexText {
        origin: "Packages".into(),
        text: text.to_string().into(),
        priority: 0,
    };
    let Ok(universe) = Universe::parse(vec![index], "amd64") else {
        return;
    };
    ask(&universe);
    for id in universe.ids() {
        assert!(
            universe
                .path(id)
                .split('/')
                .all(|part| !part.is_empty() && part != "..")
        );
    }
}

fn stanzas(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(stanzas) = deb822::parse(text) {
        for stanza in stanzas {
            for (name, value) in stanza.fields() {
                assert!(stanza.get(name).is_some(), "{name:?} {value:?}");
            }
        }
    }
    mirror::parse_sources(text);
    mirror::parse_list(text);
}

fn release(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(release) = Release::parse("Release", text) {
        let _ = release.check("Release", "trixie", NOW);
        let _ = release.index("main/binary-amd64/Packages");
        assert!(release.files.keys().all(|path| !path.starts_with('/')));
    }
}

fn signed(bytes: &[u8]) {
    let signer = archive_signer();
    let key = signer.public_key().unwrap();
    let keyring = key.keyring().unwrap();
    let _ = keyring.verify_clearsigned("InRelease", bytes, NOW);
    if let Some(Ok(parsed)) = text(bytes).map(clearsign::parse) {
        clearsign::signed_bytes(&parsed.text);
    }
}

fn key(bytes: &[u8]) {
    if let Ok(keyring) = Keyring::from_files(&[bytes]) {
        let _ = keyring.verify_detached("x", b"data", bytes, Some(NOW));
        keyring.fingerprints();
    }
}

fn package(bytes: &[u8]) {
    if let Ok(control) = deb::control_of(Path::new("x.deb"), bytes) {
        let _ = deb822::parse_one(&control);
    }
}

/// The tarball inside a package, without the work of compressing it.
fn control_tar(bytes: &[u8]) {
    let mut ar = ar::Builder::new(Vec::new());
    for (name, content) in [("debian-binary", &b"2.0\n"[..]), ("control.tar", bytes)] {
        let header = ar::Header::new(name.as_bytes().to_vec(), content.len() as u64);
        ar.append(&header, content).unwrap();
    }
    package(&ar.into_inner().unwrap());
}

fn lock(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(lock) = Lock::parse("x.lock", text) {
        for package in &lock.packages {
            assert!(!package.file_name().contains('/'));
            assert!(!lock.why(&package.name).is_empty());
        }
        assert_eq!(Lock::parse("x.lock", &lock.to_text()).unwrap(), lock);
    }
}

fn marker(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(marker) = Marker::parse("repo_complete", text) {
        assert!(
            marker
                .files
                .iter()
                .all(|(path, _)| !path.starts_with('/') && !path.contains("..//"))
        );
        let key = repository_signer().public_key().unwrap();
        let _ = marker.check_signature("repo_complete", &key.keyring().unwrap());
    }
}

fn proofs(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(document) = proof::Document::parse("proof.json", text) {
        assert!(proof::Document::parse("proof.json", &document.to_text()).is_ok());
    }
}

/// A tarball, stored as gzip, so that the changes are in what the gzip checksum would hide.
fn bundle(bytes: &[u8]) {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    gzip.write_all(bytes).unwrap();
    let packed = gzip.finish().unwrap();
    let (file, path) = memory_file(&packed);
    let target = tempfile::tempdir_in(fast_folder()).unwrap();
    let outside = tempfile::tempdir_in(fast_folder()).unwrap();
    let result = install(&path, target.path(), None, &silent);
    drop(file);
    let left = std::fs::read_dir(target.path()).unwrap().count();
    assert!(
        result.is_ok() || left == 0,
        "{left} entries stay behind: {result:?}"
    );
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

/// Tests write a lot here, and nothing of it matters after a crash.
fn fast_folder() -> PathBuf {
    match Path::new("/dev/shm").is_dir() {
        true => "/dev/shm".into(),
        false => std::env::temp_dir(),
    }
}

fn memory_file(bytes: &[u8]) -> (std::fs::File, PathBuf) {
    let mut file = tempfile::tempfile_in(fast_folder()).unwrap();
    file.write_all(bytes).unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    (file, path)
}

fn rpm_package(bytes: &[u8]) {
    if let Ok(headers) = Headers::read(bytes) {
        let _ = Package::from_headers(&headers);
    }
}

fn repomd(bytes: &[u8]) {
    if let Ok(repomd) = Repomd::parse("repomd.xml", bytes) {
        let _ = (repomd.date(), repomd.file("primary"));
    }
}

/// A table of packages, and all that is read from it later.
fn primary(bytes: &[u8]) {
    let mut universe = rpm::universe::Universe::new("x86_64");
    if universe.read_primary(bytes, 0).is_err() {
        return;
    }
    universe.finish();
    for id in universe.ids() {
        let _ = (universe.nevra(id), universe.size(id), universe.sha256(id));
        for relation in universe.relations(id, Kind::Requires) {
            universe.providers(&relation);
        }
        assert!(!universe.path(id).split('/').any(|part| part == ".."));
    }
}

fn filelists(bytes: &[u8]) {
    let mut universe = rpm::universe::Universe::new("x86_64");
    let wanted = HashSet::from(["/usr/bin/a".to_string()]);
    let _ = universe.read_filelists(bytes, &wanted);
}

fn modules(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let mut modules = Modules::default();
    if modules.read(text).is_ok() {
        modules.visible().has("a", "1-1", "x86_64");
    }
}

/// What rpm says of the packages of a machine.
fn installed(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let mut universe = rpm::universe::Universe::new("x86_64");
    if universe.read_installed(text).is_ok() {
        universe.finish();
        assert_eq!(universe.installed().count(), universe.ids().len());
    }
}

/// The first byte chooses the compression.
fn codec(bytes: &[u8]) {
    let Some((first, packed)) = bytes.split_first() else {
        return;
    };
    let codec = match first % 3 {
        0 => Codec::Gzip,
        1 => Codec::Xz,
        _ => Codec::Zstd,
    };
    if let Ok(unpacked) = decompress("x", codec, packed, 1 << 20) {
        assert!(unpacked.len() <= 1 << 20);
    }
}

/// Small texts: dependencies, versions, dates, rates.
fn words(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let (a, b) = text.split_once('\n').unwrap_or((text, ""));
    let _ = (dependency::parse(a), dependency::parse_request(b));
    let _ = (version::is_valid(a), offline_repo::http::parse_rate(a));
    assert_eq!(version::compare(a, b), version::compare(b, a).reverse());
    let (a, b) = (a.trim(), b.trim());
    assert_eq!(
        offline_repo::rpm::evr::compare(a, b),
        offline_repo::rpm::evr::compare(b, a).reverse()
    );
    if let Some(epoch) = date::parse(a) {
        assert_eq!(date::parse(&date::format(epoch)), Some(epoch));
    }
}
