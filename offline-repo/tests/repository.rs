//! From a lock to a repository and a bundle, and back; what is damaged, cut off or smuggled in is found.

mod support;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use offline_repo::bundle::{Bundle, BundleOptions, bundle};
use offline_repo::cache::Cache;
use offline_repo::digest::Sha256;
use offline_repo::fetch::{Fetched, fetch};
use offline_repo::install::install;
use offline_repo::locking::lock;
use offline_repo::marker::{self, Marker};
use offline_repo::openpgp::Keyring;
use offline_repo::progress::silent;
use offline_repo::publish::{PublishOptions, Published, publish};
use offline_repo::repository::Repository;
use support::{NOW, Server, archive, archive_signer, client, repository_signer, request};

fn fetched(dir: &Path) -> Fetched {
    let server = Server::start(archive(&archive_signer()));
    let cache = Cache::new(&dir.join("cache"));
    let client = client(&[&server], false);
    let locked = lock(&request(), &client, &cache, &silent).unwrap();
    fetch(&locked, &client, &cache, &silent).unwrap()
}

fn options() -> PublishOptions {
    PublishOptions {
        name: "pigsty".into(),
        codename: "trixie".into(),
        epoch: NOW,
        url: None,
    }
}

fn built(dir: &Path) -> Published {
    publish(
        &fetched(dir),
        &options(),
        &repository_signer(),
        dir,
        &silent,
    )
    .unwrap()
}

fn bundled(dir: &Path, out: &Path) -> Bundle {
    let options = BundleOptions {
        version: "1.0.0".into(),
        codename: "trixie".into(),
        architecture: "amd64".into(),
        epoch: NOW,
    };
    bundle(&dir.join("pigsty"), &options, out, &silent).unwrap()
}

fn keyring() -> Keyring {
    repository_signer().public_key().unwrap().keyring().unwrap()
}

/// Paths below a folder with their digests.
fn content(dir: &Path) -> Vec<(String, Sha256)> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => pending.push(path),
                false => found.push((
                    path.strip_prefix(dir).unwrap().display().to_string(),
                    Sha256::of_file(&path).unwrap().0,
                )),
            }
        }
    }
    found.sort();
    found
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("SKIPPED: the check with {program}, which this host does not have");
    }
    found
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{text}");
    text
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let built_one = built(one.path());
    let built_two = built(two.path());
    assert_eq!(built_one.manifest, built_two.manifest);
    assert_eq!(
        content(&one.path().join("pigsty")),
        content(&two.path().join("pigsty"))
    );
    let bundles = [one.path(), two.path()].map(|dir| bundled(dir, dir));
    assert_eq!(bundles[0].sha256, bundles[1].sha256);
    assert_eq!(
        bundles[0].path.file_name().unwrap(),
        "pigsty-v1.0.0.d13.x86_64.tar.gz"
    );
    assert_eq!(
        Sha256::of_file(&bundles[0].path).unwrap(),
        (bundles[0].sha256, bundles[0].size)
    );
    // Building over a finished repository gives the same again and leaves nothing else behind.
    assert_eq!(built(one.path()).manifest, built_two.manifest);
    let names: Vec<String> = fs::read_dir(one.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().all(|name| !name.starts_with('.')), "{names:?}");
}

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

#[test]
fn stock_tools_accept_the_repository() {
    let dir = tempfile::tempdir().unwrap();
    let published = built(dir.path());
    if has("sha256sum") {
        let output = run(Command::new("sha256sum")
            .args(["-c", "repo_complete"])
            .current_dir(&published.path));
        assert!(
            output.contains("InRelease: OK") && !output.contains("WARNING"),
            "{output}"
        );
    }
    if has("gpgv") {
        let key = dir.path().join("pigsty.gpg");
        for files in [&["InRelease"][..], &["Release.gpg", "Release"]] {
            let output = run(Command::new("gpgv")
                .arg("--keyring")
                .arg(&key)
                .args(files)
                .current_dir(&published.path));
            assert!(
                output.contains("Good signature from \"pigsty repository\""),
                "{output}"
            );
        }
    }
}

/// Real apt, with the source entry as published but for the URL, no `trusted=yes`, nothing of this host's setup.
fn apt(root: &Path, sources: &Path) -> Command {
    for folder in [
        "lists/partial",
        "cache/archives/partial",
        "etc/preferences.d",
    ] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::write(root.join("status"), "").unwrap();
    let configuration = format!(
        "Dir::State \"{0}\";\nDir::State::lists \"{0}/lists\";\nDir::State::status \"{0}/status\";\nDir::Cache \"{0}/cache\";\n\
         Dir::Etc \"{0}/etc\";\nDir::Etc::sourcelist \"{1}\";\nDir::Etc::sourceparts \"/dev/null\";\nDir::Etc::parts \"/dev/null\";\n\
         APT::Architecture \"amd64\";\nAPT::Architectures \"amd64\";\nAPT::Sandbox::User \"\";\nAcquire::Languages \"none\";\nDebug::NoLocking \"true\";\n",
        root.display(),
        sources.display()
    );
    fs::write(root.join("apt.conf"), configuration).unwrap();
    let mut command = Command::new("apt-get");
    command
        .env("APT_CONFIG", root.join("apt.conf"))
        .env("LC_ALL", "C");
    command
}

#[test]
fn stock_apt_accepts_the_repository() {
    if !has("apt-get") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let published = built(dir.path());
    let text = fs::read_to_string(dir.path().join("pigsty.sources")).unwrap();
    let mut files = std::collections::HashMap::new();
    for (path, _) in content(&published.path) {
        files.insert(
            format!("/pigsty/{path}"),
            fs::read(published.path.join(&path)).unwrap(),
        );
    }
    let server = Server::start(files);
    for url in [
        format!("file:{}/", published.path.display()),
        format!("{}/pigsty/", server.url),
    ] {
        let root = tempfile::tempdir().unwrap();
        let sources = root.path().join("pigsty.sources");
        fs::write(&sources, text.replace("http://h.pigsty/pigsty/", &url)).unwrap();
        let output = run(apt(root.path(), &sources).arg("update"));
        assert!(
            !output.contains("W: ") || !output.contains("pigsty ./"),
            "{output}"
        );
        let output = run(apt(root.path(), &sources).args([
            "-y",
            "--download-only",
            "install",
            "database",
            "base-system",
        ]));
        assert!(
            output.contains("libc") && !output.contains("cannot be authenticated"),
            "{output}"
        );
        let output =
            run(apt(root.path(), &sources).args(["-s", "install", "database", "base-system"]));
        assert_eq!(
            output.matches("\nInst ").count() + usize::from(output.starts_with("Inst ")),
            4,
            "{output}"
        );
    }
    // A repository that someone changed is refused.
    let packages = published.path.join("Packages.xz");
    let mut bytes = fs::read(&packages).unwrap();
    bytes[30] ^= 1;
    for path in [
        packages,
        published.path.join("Packages.gz"),
        published.path.join("Packages"),
    ] {
        fs::write(path, &bytes).unwrap();
    }
    fs::remove_dir_all(published.path.join("by-hash")).unwrap();
    let root = tempfile::tempdir().unwrap();
    let sources = root.path().join("pigsty.sources");
    fs::write(
        &sources,
        text.replace(
            "http://h.pigsty/pigsty/",
            &format!("file:{}/", published.path.display()),
        ),
    )
    .unwrap();
    assert!(
        !apt(root.path(), &sources)
            .arg("update")
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn every_kind_of_damage_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let published = built(dir.path());
    let path = published.path.as_path();
    let ssl = path.join("ssl_3.5_amd64.deb");
    let good = fs::read(&ssl).unwrap();
    let report = || marker::verify(path, Some(&keyring())).unwrap();
    assert!(report().is_complete());

    fs::write(path.join("stray"), "").unwrap();
    let mut bad = good.clone();
    bad[50] ^= 8;
    fs::write(&ssl, &bad).unwrap();
    fs::remove_file(path.join("Release")).unwrap();
    let found = report();
    assert_eq!(
        (found.missing, found.extra, found.wrong),
        (
            vec!["Release".to_string()],
            vec!["stray".to_string()],
            vec!["ssl_3.5_amd64.deb".to_string()]
        )
    );
    let error = report().into_result(Path::new("pigsty")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "repository pigsty is not complete: missing Release, wrong ssl_3.5_amd64.deb, extra stray"
    );

    // A link to the right content is not the right content.
    fs::write(dir.path().join("elsewhere"), &good).unwrap();
    fs::remove_file(&ssl).unwrap();
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), &ssl).unwrap();
    assert_eq!(report().wrong, ["ssl_3.5_amd64.deb"]);

    fs::remove_file(path.join(marker::NAME)).unwrap();
    let error = marker::verify(path, None).unwrap_err();
    assert_eq!(error.code(), "FR-REPO-INCOMPLETE");
    assert!(Repository::open(path, None).is_err());
}

#[test]
fn a_changed_marker_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let published = built(dir.path());
    let text = fs::read_to_string(published.path.join(marker::NAME)).unwrap();
    let first = text.lines().next().unwrap();
    let other = Sha256::of(b"other").to_string();
    let rehash = |lines: String| {
        let (list, comments) = lines.split_at(lines.find('#').unwrap());
        let signature = comments.lines().nth(1).unwrap();
        format!(
            "{list}# manifest-sha256: {}\n{signature}\n",
            Sha256::of(list.as_bytes())
        )
    };
    let replaced = text.replacen(&first[..64], &other, 1);
    for (changed, message) in [
        (
            replaced.clone(),
            "the manifest digest does not match the lines",
        ),
        (rehash(replaced), "does not match the content"),
        (
            text.replacen("  InRelease", "  ../InRelease", 1),
            "leads outside",
        ),
        (
            text.replacen(&format!("{first}\n"), &format!("{first}\n{first}\n"), 1),
            "not sorted",
        ),
        (
            text.replacen("# signature: ", "# signature: !", 1),
            "not base64",
        ),
        (text[..text.len() / 2].to_string(), "it is cut off"),
        (
            text.replace("# manifest", "# Manifest"),
            "expected the manifest digest",
        ),
        (String::new(), "expected the manifest digest"),
    ] {
        let result = Marker::parse("repo_complete", &changed)
            .and_then(|m| m.check_signature("repo_complete", &keyring()));
        let error = result.unwrap_err().to_string();
        assert!(error.contains(message), "{message}: {error}");
    }
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
