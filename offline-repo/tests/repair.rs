//! Every kind of damage to a repository is repaired from each of its sources, or named.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use offline_repo::cache::Cache;
use offline_repo::digest::Sha256;
use offline_repo::layout::Layout;
use offline_repo::marker::{self, Marker};
use offline_repo::openpgp::Keyring;
use offline_repo::progress::silent;
use offline_repo::repair::{Repaired, Sources, WITHDRAWN, repair};
use offline_repo::verify;
use support::repository::{built_as, bundled, content, keyring};
use support::{Server, archive, archive_signer, client, request};

/// What happened to each file, and where its content came from.
fn origins(done: &Repaired) -> BTreeMap<&str, &str> {
    let restored = done.restored.iter();
    restored
        .map(|file| (file.path.as_str(), file.from))
        .collect()
}

/// Puts another file in the place of this one, with one bit flipped.
fn flip(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::remove_file(path).unwrap();
    fs::write(path, flipped(bytes)).unwrap();
}

fn flipped(mut bytes: Vec<u8>) -> Vec<u8> {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes
}

/// Damages every file that the marker lists, in turn by removal, a flipped bit, and a link in its place.
fn damage_all(repository: &Path, elsewhere: &Path) -> usize {
    let marker = Marker::load(repository).unwrap();
    for (i, (path, _)) in marker.files.iter().enumerate() {
        let path = repository.join(path);
        match i % 3 {
            0 => fs::remove_file(&path).unwrap(),
            1 => flip(&path),
            _ => {
                fs::remove_file(&path).unwrap();
                std::os::unix::fs::symlink(elsewhere, &path).unwrap();
            }
        }
    }
    marker.files.len()
}

#[test]
fn a_bundle_restores_everything() {
    for layout in [Layout::Flat, Layout::Pool] {
        let dir = tempfile::tempdir().unwrap();
        let published = built_as(dir.path(), &request(), layout);
        let bundle = bundled(dir.path(), dir.path());
        let before = content(&published.path);
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, "stays").unwrap();
        let damaged = damage_all(&published.path, &elsewhere);
        fs::create_dir(published.path.join("stray")).unwrap();
        fs::write(published.path.join("stray/file"), "mine").unwrap();
        let (_, report) = verify::folder(&published.path, None, &silent).unwrap();
        assert_eq!(report.missing.len() + report.wrong.len(), damaged);

        let sources = Sources {
            bundle: Some(&bundle.path),
            ..Sources::default()
        };
        let done = repair(&published.path, Some(&keyring()), sources, &silent).unwrap();
        assert_eq!(done.restored.len(), damaged, "{done:?}");
        assert_eq!(done.lost, Vec::<String>::new());
        assert_eq!(content(&published.path), before);
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "stays");
        assert_eq!(done.moved, ["stray/file"]);
        let kept = done.moved_to.unwrap().join("stray/file");
        assert_eq!(fs::read_to_string(kept).unwrap(), "mine");
        assert!(!published.path.join("stray").exists());
        let again = repair(&published.path, None, sources, &silent).unwrap();
        assert!(again.restored.is_empty() && again.moved.is_empty());
    }
}

#[test]
fn each_source_gives_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let published = built_as(dir.path(), &request(), Layout::Flat);
    let path = published.path.as_path();
    let before = content(path);
    let cache = Cache::new(&dir.path().join("cache"));

    // Without any source: what lies there twice, or follows from what is there.
    for name in ["Packages.xz", "Packages.gz", "Release"] {
        flip(&path.join(name));
    }
    fs::remove_dir_all(path.join("by-hash")).unwrap();
    let done = repair(path, None, Sources::default(), &silent).unwrap();
    let from = origins(&done);
    assert_eq!(from["Packages.xz"], "made again");
    assert_eq!(from["Release"], "made again");
    assert_eq!(from.values().filter(|o| **o == "repository").count(), 3);
    assert_eq!(content(path), before);

    // From the cache of the build.
    flip(&path.join("ssl_3.5_amd64.deb"));
    let cached = Sources {
        cache: Some(&cache),
        ..Sources::default()
    };
    let done = repair(path, None, cached, &silent).unwrap();
    assert_eq!(origins(&done), [("ssl_3.5_amd64.deb", "cache")].into());

    // Of a file that was changed in place the cache has no other copy, and it does not give out a wrong one.
    let package = path.join("ssl_3.5_amd64.deb");
    let good = fs::read(&package).unwrap();
    fs::remove_file(&package).unwrap();
    let sha256 = Sha256::of(&good);
    fs::hard_link(cache.path(&sha256), &package).unwrap();
    fs::write(&package, flipped(good.clone())).unwrap();
    let done = repair(path, None, cached, &silent).unwrap();
    assert_eq!(done.lost, ["ssl_3.5_amd64.deb"]);
    assert!(!cache.verify(&sha256, good.len() as u64).unwrap());
    fs::write(&package, good).unwrap();
    repair(path, None, Sources::default(), &silent).unwrap();

    // From the archive that the lock names.
    let empty = Cache::new(&dir.path().join("empty"));
    let server = Server::start(archive(&archive_signer()));
    let client = client(&[&server], false);
    fs::remove_file(path.join("ssl_3.5_amd64.deb")).unwrap();
    let archives = Sources {
        cache: Some(&empty),
        client: Some(&client),
        ..Sources::default()
    };
    let done = repair(path, None, archives, &silent).unwrap();
    assert_eq!(origins(&done), [("ssl_3.5_amd64.deb", "archive")].into());
    assert_eq!(
        server.requests().len(),
        1,
        "only what is missing is fetched"
    );
    assert_eq!(content(path), before);
}

#[test]
fn what_nobody_has_is_named_and_the_marker_stays_withdrawn() {
    let dir = tempfile::tempdir().unwrap();
    let published = built_as(dir.path(), &request(), Layout::Flat);
    let bundle = bundled(dir.path(), dir.path());
    let path = published.path.as_path();
    let before = content(path);
    for name in ["InRelease", "ssl_3.5_amd64.deb", "Packages"] {
        flip(&path.join(name));
    }
    let done = repair(path, None, Sources::default(), &silent).unwrap();
    assert_eq!(done.lost, ["InRelease", "ssl_3.5_amd64.deb"]);
    assert_eq!(origins(&done), [("Packages", "repository")].into());
    assert!(!path.join(marker::NAME).exists() && path.join(WITHDRAWN).exists());
    assert_eq!(
        verify::folder(path, None, &silent).unwrap_err().code(),
        "FR-REPO-INCOMPLETE"
    );
    // A temporary file of a killed repair is no file of the user's.
    fs::write(path.join(".farrow-killed"), "half").unwrap();
    let sources = Sources {
        bundle: Some(&bundle.path),
        ..Sources::default()
    };
    let done = repair(path, None, sources, &silent).unwrap();
    assert_eq!((done.lost, done.moved), (vec![], vec![]));
    assert_eq!(content(path), before);
}

#[test]
fn a_lying_marker_is_replaced_by_the_bundles() {
    let dir = tempfile::tempdir().unwrap();
    let published = built_as(dir.path(), &request(), Layout::Flat);
    let bundle = bundled(dir.path(), dir.path());
    let path = published.path.as_path();
    let before = content(path);
    let marker = path.join(marker::NAME);
    let sources = Sources {
        bundle: Some(&bundle.path),
        ..Sources::default()
    };
    for damage in ["", "half", "gone"] {
        let text = fs::read_to_string(&marker).unwrap();
        match damage {
            "half" => fs::write(&marker, &text[..text.len() / 2]).unwrap(),
            "gone" => fs::remove_file(&marker).unwrap(),
            _ => fs::write(&marker, "").unwrap(),
        }
        flip(&path.join("InRelease"));
        assert!(repair(path, None, Sources::default(), &silent).is_err());
        let done = repair(path, None, sources, &silent).unwrap();
        assert_eq!(done.lost, Vec::<String>::new());
        assert_eq!(content(path), before, "{damage}");
    }
    // A stranger's key does not vouch for it.
    let stranger: Keyring = archive_signer().public_key().unwrap().keyring().unwrap();
    let error = repair(path, Some(&stranger), sources, &silent).unwrap_err();
    assert_eq!(error.code(), "FR-LOCK-SIGNATURE");
}
