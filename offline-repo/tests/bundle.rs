//! Bundles: what is installed is what was packed; what is cut off, damaged or smuggled in is refused.

mod support;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use offline_repo::install::install;
use offline_repo::progress::silent;
use offline_repo::repository::Repository;
use support::archive_signer;
use support::repository::{built, bundled, content, keyring};

#[test]
fn a_bundle_installs_to_the_same_repository() {
    let (dir, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let published = built(dir.path());
    let bundle = bundled(dir.path(), dir.path());
    for keyring in [Some(keyring()), None] {
        let path = install(&bundle.path, target.path(), keyring.as_ref(), &silent).unwrap();
        assert_eq!(content(&path), content(&published.path));
    }
    for beside in &published.beside {
        let installed = target.path().join(beside.file_name().unwrap());
        assert_eq!(fs::read(installed).unwrap(), fs::read(beside).unwrap());
    }
    let other = archive_signer().public_key().unwrap().keyring().unwrap();
    let error = install(&bundle.path, target.path(), Some(&other), &silent).unwrap_err();
    assert_eq!(error.code(), "FR-LOCK-SIGNATURE");

    let repository = Repository::open(&target.path().join("pigsty"), Some(&keyring())).unwrap();
    assert_eq!(repository.manifest(), published.manifest);
    assert!(repository.verify().unwrap().is_complete());
    let closure = repository.closure(&["ssl".into()], true).unwrap();
    let shown: Vec<String> = closure
        .iter()
        .map(|c| format!("{} {} {}", c.package.name, c.essential, c.why))
        .collect();
    assert_eq!(
        shown,
        [
            "base-system true essential",
            "libc true base-system",
            "ssl false group request"
        ]
    );
    let error = repository.closure(&["tools".into()], false).unwrap_err();
    assert_eq!(error.code(), "FR-RESOLVE-UNKNOWN");
}

/// A bundle's tar stream, edited member by member.
fn rewrite(bundle: &Path, to: &Path, edit: impl FnOnce(&mut Vec<(tar::Header, String, Vec<u8>)>)) {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(
        fs::File::open(bundle).unwrap(),
    ));
    let mut members = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        members.push((
            entry.header().clone(),
            entry.path().unwrap().display().to_string(),
            bytes,
        ));
    }
    edit(&mut members);
    let gzip =
        flate2::write::GzEncoder::new(fs::File::create(to).unwrap(), flate2::Compression::none());
    let mut builder = tar::Builder::new(gzip);
    for (mut header, path, bytes) in members {
        // Written by hand, since the library refuses to write hostile paths.
        let name = &mut header.as_old_mut().name;
        name.fill(0);
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        builder.append(&header, &bytes[..]).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap();
}

#[test]
fn hostile_bundles_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    built(dir.path());
    let bundle = bundled(dir.path(), dir.path());
    let changed = dir.path().join("changed.tar.gz");
    type Members = Vec<(tar::Header, String, Vec<u8>)>;
    type Edit = Box<dyn FnOnce(&mut Members)>;
    let add = |path: &'static str| {
        move |members: &mut Members| {
            let mut member = members[0].clone();
            member.1 = path.into();
            members.insert(6, member);
        }
    };
    let cases: Vec<(Edit, &str)> = vec![
        (
            Box::new(add("../evil")),
            "holds '../evil', which does not belong there",
        ),
        (
            Box::new(add("/etc/evil")),
            "holds '/etc/evil', which does not belong there",
        ),
        (
            Box::new(add("pigsty/../evil")),
            "holds 'pigsty/../evil', which does not belong there",
        ),
        (
            Box::new(add("other/evil")),
            "holds 'other/evil', which does not belong there",
        ),
        (Box::new(add("pigsty/extra")), "extra extra"),
        (
            Box::new(|m: &mut Members| {
                let mut member = m[6].clone();
                member.0.set_entry_type(tar::EntryType::Symlink);
                member.0.set_link_name("/etc/passwd").unwrap();
                m.insert(7, (member.0, "pigsty/link".into(), vec![]));
            }),
            "holds 'pigsty/link', which does not belong there",
        ),
        (Box::new(|m: &mut Members| m.swap(5, 6)), ""),
        (
            Box::new(|m: &mut Members| drop(m.pop())),
            "is cut off: it has no repo_complete",
        ),
        (
            Box::new(|m: &mut Members| drop(m.remove(6))),
            "missing Packages",
        ),
        (Box::new(|m: &mut Members| m[6].2[0] ^= 1), "wrong Packages"),
        (
            Box::new(|m: &mut Members| drop(m.remove(1))),
            "lacks a key or a source entry",
        ),
        (
            Box::new(|m: &mut Members| m[0].1 = "PIGSTY.asc".into()),
            "is not a bundle of a repository",
        ),
        (
            Box::new(|m: &mut Members| {
                let last = m.len() - 1;
                m.swap(last, last - 1);
            }),
            "after its marker",
        ),
    ];
    for (edit, message) in cases {
        let target = tempfile::tempdir().unwrap();
        rewrite(&bundle.path, &changed, edit);
        let result = install(&changed, target.path(), Some(&keyring()), &silent);
        match message {
            "" => drop(result.unwrap()),
            _ => {
                let error = result.unwrap_err().to_string();
                assert!(error.contains(message), "{message}: {error}");
                assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0, "{message}");
            }
        }
    }
    assert!(!dir.path().parent().unwrap().join("evil").exists());
}

#[test]
fn a_cut_off_or_damaged_bundle_is_refused_and_the_old_repository_stays() {
    let (dir, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    built(dir.path());
    let bundle = bundled(dir.path(), dir.path());
    install(&bundle.path, target.path(), Some(&keyring()), &silent).unwrap();
    let before = content(target.path());
    let bytes = fs::read(&bundle.path).unwrap();
    let changed: PathBuf = dir.path().join("changed.tar.gz");
    let mut refused = 0;
    for step in 1..40 {
        let at = bytes.len() * step / 40;
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        for (damaged, must_fail) in [(bytes[..at].to_vec(), true), (flipped, false)] {
            fs::write(&changed, damaged).unwrap();
            let result = install(&changed, target.path(), Some(&keyring()), &silent);
            // A flipped bit in padding or in a time stamp changes nothing that matters.
            assert!(!must_fail || result.is_err(), "cut at {at}");
            refused += usize::from(result.is_err());
            assert_eq!(content(target.path()), before);
        }
    }
    assert!(refused > 70, "{refused}");
}
