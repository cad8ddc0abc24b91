//! A bundle on a machine that may have its repository already.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;

use offline_repo::additions::{Additions, OwnPackage};
use offline_repo::deb_write::{NewDeb, NewFile};
use offline_repo::placement::{Placed, place};
use offline_repo::progress::silent;
use offline_repo::publish::{PublishOptions, publish};
use offline_repo::repository::Repository;
use support::repository::{built, bundled, fetched, keyring, options};
use support::{repository_signer, request};

#[test]
fn complete_is_left_alone_and_the_rest_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    built(dir.path());
    let first = bundled(dir.path(), &dir.path().join("first")).path;
    let www = dir.path().join("www");
    let at = |file: &str| www.join("pigsty").join(file);
    let placed = |bundle| {
        place(bundle, None, &www, Some(&keyring()), &silent)
            .unwrap()
            .1
    };
    assert_eq!(placed(&first), Placed::Unpacked);
    let before = fs::metadata(at("Packages")).unwrap().ino();
    assert_eq!(placed(&first), Placed::LeftAlone);
    assert_eq!(fs::metadata(at("Packages")).unwrap().ino(), before);
    // The marker lies.
    fs::write(at("Packages"), "x").unwrap();
    assert_eq!(placed(&first), Placed::Repaired);
    fs::remove_file(at("repo_complete")).unwrap();
    assert_eq!(placed(&first), Placed::Repaired);
    fs::remove_file(www.join("pigsty.asc")).unwrap();
    assert_eq!(placed(&first), Placed::Repaired);
    assert_eq!(placed(&first), Placed::LeftAlone);
}

#[test]
fn packages_of_our_own_are_published_like_others() {
    let dir = tempfile::tempdir().unwrap();
    built(dir.path());
    let first = bundled(dir.path(), &dir.path().join("first")).path;
    let deb = NewDeb {
        name: "own".into(),
        version: "1.0".into(),
        architecture: "amd64".into(),
        fields: vec![("Description".into(), "of our own".into())],
        files: vec![NewFile {
            path: "usr/bin/own".into(),
            mode: 0o755,
            content: b"#!/bin/sh\n".to_vec(),
            is_configuration: false,
        }],
        epoch: 1,
    };
    let own = OwnPackage {
        name: deb.name.clone(),
        version: deb.version.clone(),
        architecture: deb.architecture.clone(),
        format: offline_repo::lock::Format::Deb,
        content: deb.to_bytes().unwrap(),
    };
    let options = PublishOptions {
        additions: Additions {
            packages: vec![own],
            programs: vec![("farrow".into(), b"\x7fELF".to_vec())],
        },
        ..options()
    };
    let fetched = fetched(&dir.path().join("more"), &request());
    publish(
        &fetched,
        &options,
        &repository_signer(),
        dir.path(),
        &silent,
    )
    .unwrap();
    let second = bundled(dir.path(), &dir.path().join("second")).path;
    let www = dir.path().join("www");
    for (bundle, expected) in [(&first, Placed::Unpacked), (&second, Placed::Replaced)] {
        let (_, placed) = place(bundle, None, &www, Some(&keyring()), &silent).unwrap();
        assert_eq!(placed, expected);
    }
    let repository = Repository::open(&www.join("pigsty"), Some(&keyring())).unwrap();
    assert!(repository.verify().unwrap().is_complete());
    assert!(repository.packages().iter().any(|p| p.name == "own"));
    assert_eq!(repository.closure(&["own".into()], false).unwrap().len(), 1);
    let mode = fs::metadata(www.join("pigsty/farrow")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o755);
}
