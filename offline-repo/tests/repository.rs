//! From a lock to a repository that stock tools accept; damage and forgery are found.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use offline_repo::digest::Sha256;
use offline_repo::layout::Layout;
use offline_repo::locking::LockRequest;
use offline_repo::marker::{self, Marker};
use offline_repo::repository::{Repository, diff};
use support::repository::{built, built_as, built_for, bundled, content, keyring, served};
use support::{NOW, request};

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
fn modes_and_times_do_not_depend_on_the_host() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let published = built(dir.path());
    for (path, mode) in [
        ("", 0o40755),
        ("by-hash/SHA256", 0o40755),
        ("InRelease", 0o100644),
        ("ssl_3.5_amd64.deb", 0o100644),
        ("repo_complete", 0o100644),
    ] {
        let metadata = published.path.join(path).metadata().unwrap();
        assert_eq!(metadata.mode(), mode, "{path}");
        assert_eq!(metadata.mtime() as u64, NOW, "{path}");
    }
}

#[test]
fn repositories_are_compared() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let other = LockRequest {
        groups: [(
            "platform".to_string(),
            vec!["ssl".to_string(), "tools".to_string()],
        )]
        .into(),
        ..request()
    };
    let paths = [
        built(dirs[0].path()).path,
        built_for(dirs[1].path(), &other).path,
    ];
    let [old, new] = paths.map(|path| Repository::open(&path, Some(&keyring())).unwrap());
    assert!(diff(&old, &old).is_empty());
    let found = diff(&old, &new);
    assert_eq!(found.added, [("tools".to_string(), "1".to_string())]);
    assert_eq!(
        found.removed,
        [("database".to_string(), "17~rc1".to_string())]
    );
    assert_eq!(found.changed, []);
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
    stock_apt_accepts(Layout::Flat);
}

#[test]
fn stock_apt_accepts_a_repository_with_a_pool() {
    stock_apt_accepts(Layout::Pool);
}

fn stock_apt_accepts(layout: Layout) {
    if !has("apt-get") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let published = built_as(dir.path(), &request(), layout);
    let repository = Repository::open(&published.path, Some(&keyring())).unwrap();
    assert_eq!(repository.layout(), Some(layout));
    assert!(repository.verify().unwrap().is_complete());
    let text = fs::read_to_string(dir.path().join("pigsty.sources")).unwrap();
    let server = served(dir.path());
    for url in [
        format!("file:{}/", published.path.display()),
        format!("{server}/pigsty/"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let sources = root.path().join("pigsty.sources");
        fs::write(&sources, text.replace("http://h.pigsty/pigsty/", &url)).unwrap();
        let output = run(apt(root.path(), &sources).arg("update"));
        assert!(
            !output.contains("W: ") || !output.contains("pigsty ./"),
            "{output}"
        );
        let lists: Vec<_> = content(&root.path().join("lists"))
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert!(
            lists.iter().any(|name| name.ends_with("Packages")) || url.starts_with("file:"),
            "{lists:?}"
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
    // By its digest an index is found while the one of that name is being replaced.
    let index = published.path.join(match layout {
        Layout::Flat => "",
        Layout::Pool => "dists/trixie/main/binary-amd64",
    });
    let mut bytes = fs::read(index.join("Packages.xz")).unwrap();
    for name in ["Packages.xz", "Packages.gz", "Packages"] {
        fs::remove_file(index.join(name)).unwrap();
    }
    let root = tempfile::tempdir().unwrap();
    let sources = root.path().join("pigsty.sources");
    let entry = text.replace("http://h.pigsty/pigsty/", &format!("{server}/pigsty/"));
    fs::write(&sources, entry).unwrap();
    run(apt(root.path(), &sources).args(["update", "--error-on=any"]));

    // A repository that someone changed is refused.
    bytes[30] ^= 1;
    for name in ["Packages.xz", "Packages.gz", "Packages"] {
        fs::write(index.join(name), &bytes).unwrap();
    }
    fs::remove_dir_all(index.join("by-hash")).unwrap();
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
