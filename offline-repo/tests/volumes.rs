//! Bundles in volumes, and deltas: both give the same repository as the whole bundle in one file, or are refused.

mod support;

use std::fs;
use std::path::Path;

use offline_repo::bundle::{Bundle, BundleForm, BundleOptions, bundle_as};
use offline_repo::delta;
use offline_repo::install::{install, install_since};
use offline_repo::layout::Layout;
use offline_repo::locking::LockRequest;
use offline_repo::progress::silent;
use offline_repo::repository::packages_of_bundle;
use offline_repo::verify;
use support::repository::{built, built_as, bundled, content, keyring};
use support::{NOW, request};

fn options() -> BundleOptions {
    BundleOptions {
        version: "1.1.0".into(),
        codename: "trixie".into(),
        architecture: "amd64".into(),
        epoch: NOW,
    }
}

fn split(dir: &Path, bytes: u64) -> Bundle {
    let form = BundleForm {
        split: Some(bytes),
        ..BundleForm::default()
    };
    bundle_as(&dir.join("pigsty"), &options(), form, dir, &silent).unwrap()
}

#[test]
fn volumes_are_the_bundle() {
    let (dir, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let published = built(dir.path());
    let whole = bundled(dir.path(), dir.path());
    let volumes = split(dir.path(), 50_000);
    assert_eq!((volumes.sha256, volumes.size), (whole.sha256, whole.size));
    assert_eq!(volumes.volumes.len() as u64, whole.size.div_ceil(50_000));
    let joined: Vec<u8> = volumes
        .volumes
        .iter()
        .flat_map(|path| fs::read(path).unwrap())
        .collect();
    assert_eq!(joined, fs::read(&whole.path).unwrap());
    // By the list, by a volume, and by the name of the bundle that was split.
    let name = volumes.path.with_extension("");
    for path in [&volumes.path, &volumes.volumes[1], &name] {
        let installed = install(path, target.path(), Some(&keyring()), &silent).unwrap();
        assert_eq!(content(&installed), content(&published.path));
        let (marker, report) = verify::bundle(path, None, &silent).unwrap();
        assert!(report.is_complete());
        assert_eq!(marker.manifest, published.manifest);
        assert_eq!(packages_of_bundle(path, &silent).unwrap().len(), 4);
    }
}

#[test]
fn a_missing_swapped_or_damaged_volume_is_named() {
    let (dir, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    built(dir.path());
    let made = split(dir.path(), 50_000);
    let name = |n: usize| {
        made.volumes[n]
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned()
    };
    let good: Vec<Vec<u8>> = made.volumes.iter().map(|p| fs::read(p).unwrap()).collect();
    let refused = |message: &str| {
        for error in [
            install(&made.path, target.path(), None, &silent).unwrap_err(),
            verify::bundle(&made.path, None, &silent).unwrap_err(),
        ] {
            assert_eq!(error.code(), "FR-REPO-BUNDLE");
            assert!(error.to_string().contains(message), "{message}: {error}");
        }
        assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
    };
    for (n, content) in good.iter().enumerate() {
        fs::remove_file(&made.volumes[n]).unwrap();
        refused(&format!("lacks its volume {}", name(n)));
        let mut flipped = content.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 4;
        for damaged in [flipped, content[..middle].to_vec(), vec![]] {
            fs::write(&made.volumes[n], damaged).unwrap();
            refused(&format!("its volume {} is not as listed", name(n)));
        }
        fs::write(&made.volumes[n], content).unwrap();
    }
    fs::write(&made.volumes[0], &good[1]).unwrap();
    fs::write(&made.volumes[1], &good[0]).unwrap();
    refused(&format!(
        "its volume {} and 1 more are not as listed",
        name(0)
    ));
}

/// An older repository with other packages, the newer one, and the delta between them.
fn two(old: &Path, new: &Path, layout: Layout) -> Bundle {
    let before = LockRequest {
        groups: [(
            "platform".to_string(),
            vec!["ssl".to_string(), "tools".to_string()],
        )]
        .into(),
        ..request()
    };
    built_as(old, &before, layout);
    built_as(new, &request(), layout);
    let marker = delta::marker_of(&old.join("pigsty"), &silent).unwrap();
    let form = BundleForm {
        since: Some(&marker),
        split: None,
    };
    bundle_as(&new.join("pigsty"), &options(), form, new, &silent).unwrap()
}

#[test]
fn a_delta_and_what_it_continues_are_the_whole() {
    for layout in [Layout::Flat, Layout::Pool] {
        let [old, new, target] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let made = two(old.path(), new.path(), layout);
        let again = two(
            tempfile::tempdir().unwrap().path(),
            tempfile::tempdir().unwrap().path(),
            layout,
        );
        assert_eq!(made.sha256, again.sha256);
        let shown = made
            .path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        assert!(
            shown.starts_with("pigsty-v1.1.0.d13.x86_64.since-"),
            "{shown}"
        );
        let whole = bundled(new.path(), new.path());
        assert!(made.size * 2 < whole.size, "{} {}", made.size, whole.size);
        assert!(
            verify::bundle(&made.path, None, &silent)
                .unwrap()
                .1
                .is_complete()
        );

        // From the bundle of the older one, from its folder, and from what is installed.
        let old_bundle = bundled(old.path(), old.path());
        let expected = content(&new.path().join("pigsty"));
        for since in [
            Some(old_bundle.path.as_path()),
            Some(&old.path().join("pigsty")),
            None,
        ] {
            if since.is_none() {
                install(&old_bundle.path, target.path(), None, &silent).unwrap();
            }
            let installed =
                install_since(&made.path, since, target.path(), Some(&keyring()), &silent).unwrap();
            assert_eq!(content(&installed), expected, "{since:?}");
            fs::remove_dir_all(target.path().join("pigsty")).unwrap();
        }
    }
}

#[test]
fn a_delta_on_another_repository_is_refused() {
    let [old, new, target] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let made = two(old.path(), new.path(), Layout::Flat);
    let refused = |since: Option<&Path>, message: &str| {
        let error = install_since(&made.path, since, target.path(), None, &silent).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    };
    refused(None, "is a delta on the manifest");
    refused(Some(&new.path().join("pigsty")), "the delta continues");
    let whole = bundled(new.path(), new.path());
    refused(Some(&whole.path), "the delta continues");
    refused(Some(&made.path), "is itself a delta");
    // A damaged file of the right repository.
    let ssl = old.path().join("pigsty/ssl_3.5_amd64.deb");
    let mut bytes = fs::read(&ssl).unwrap();
    bytes[50] ^= 1;
    fs::write(&ssl, bytes).unwrap();
    refused(Some(&old.path().join("pigsty")), "wrong ssl_3.5_amd64.deb");
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
}
