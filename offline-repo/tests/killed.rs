//! A build that is killed at any moment leaves nothing half-done under a final name, and the next one finishes.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use offline_repo::cache::Cache;
use offline_repo::digest::Sha256;
use offline_repo::fetch::fetch;
use offline_repo::http::Client;
use offline_repo::install::install;
use offline_repo::lock::Lock;
use offline_repo::locking::lock;
use offline_repo::marker;
use offline_repo::mirror::Mirrors;
use offline_repo::progress::silent;
use offline_repo::publish::{PublishOptions, publish};
use support::repository::{bundled, keyring};
use support::{NOW, Server, archive, archive_signer, repository_signer, request};

const OUT: &str = "FARROW_TEST_OUT";
const URL: &str = "FARROW_MIRROR_DEBIAN";
const KILLS: u32 = 25;

/// The whole path, in a process of its own that may be killed.
#[test]
#[ignore = "started by killed_builds_are_continued"]
fn build_in_a_child() {
    let out = std::env::var_os(OUT).unwrap();
    let out = Path::new(&out);
    let mirrors = Mirrors::from_host(Default::default());
    let client = Client::new(mirrors, false).unwrap();
    let cache = Cache::new(&out.join("cache"));
    let locked = lock(&request(), &client, &cache, &silent).unwrap();
    locked.save(&out.join("pigsty.lock")).unwrap();
    let fetched = fetch(&locked, &client, &cache, &silent).unwrap();
    let options = PublishOptions {
        name: "pigsty".into(),
        codename: "trixie".into(),
        epoch: NOW,
        url: None,
        groups: Default::default(),
        bases: Vec::new(),
    };
    publish(&fetched, &options, &repository_signer(), out, &silent).unwrap();
    let bundle = bundled(out, out);
    install(&bundle.path, &out.join("www"), Some(&keyring()), &silent).unwrap();
}

fn start(out: &Path, server: &Server) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "build_in_a_child", "--ignored"])
        .env(OUT, out)
        .env(URL, format!("{}/debian", server.url))
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Whatever has its final name is whole.
fn check(out: &Path) {
    for repository in [out.join("pigsty"), out.join("www/pigsty")] {
        if repository.exists() {
            let report = marker::verify(&repository, Some(&keyring())).unwrap();
            assert!(report.is_complete(), "{}", report.summary());
        }
    }
    let lock = out.join("pigsty.lock");
    if lock.exists() {
        Lock::load(&lock).unwrap();
    }
    let bundle = out.join("pigsty-v1.0.0.d13.x86_64.tar.gz");
    if bundle.exists() {
        let target = tempfile::tempdir().unwrap();
        install(&bundle, target.path(), Some(&keyring()), &silent).unwrap();
    }
    for folder in std::fs::read_dir(out.join("cache/downloads/sha256"))
        .into_iter()
        .flatten()
    {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if !name.ends_with(".part") {
                assert_eq!(Sha256::of_file(&path).unwrap().0.to_string(), name);
            }
        }
    }
}

#[test]
fn killed_builds_are_continued() {
    let server = Server::start(archive(&archive_signer()));
    let measured = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    assert!(start(measured.path(), &server).wait().unwrap().success());
    let whole = begin.elapsed();

    let dir = tempfile::tempdir().unwrap();
    for kill in 0..KILLS {
        // Moments spread over the run; every fifth time from the very beginning.
        if kill % 5 == 0 {
            std::fs::remove_dir_all(dir.path()).unwrap();
            std::fs::create_dir(dir.path()).unwrap();
        }
        let mut child = start(dir.path(), &server);
        std::thread::sleep(whole.mul_f64(f64::from(kill * 7 % KILLS) / f64::from(KILLS)));
        child.kill().unwrap();
        child.wait().unwrap();
        check(dir.path());
    }
    assert!(start(dir.path(), &server).wait().unwrap().success());
    check(dir.path());
    let expected = [".", "www"].map(|folder| names(&measured.path().join(folder)));
    assert_eq!(
        [".", "www"].map(|folder| names(&dir.path().join(folder))),
        expected
    );
    assert!(whole > Duration::ZERO);
}

/// Names in a folder; temporary files of a few hundred bytes are all that a killed build may leave behind.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries
        .filter(|name| !name.starts_with(".farrow-"))
        .collect();
    names.sort();
    names
}
