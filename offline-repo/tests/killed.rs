//! A build that is killed at any moment leaves nothing half-done under a final name, and the next one finishes.

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use offline_repo::cache::Cache;
use offline_repo::digest::Sha256;
use offline_repo::fetch::fetch;
use offline_repo::http::Client;
use offline_repo::install::install;
use offline_repo::layout::Layout;
use offline_repo::lock::Lock;
use offline_repo::locking::lock;
use offline_repo::marker;
use offline_repo::mirror::Mirrors;
use offline_repo::progress::silent;
use offline_repo::publish::{PublishOptions, publish};
use support::repository::{bundled, keyring};
use support::{
    NOW, Server, archive, archive_signer, cases, random, repository_signer, request, scratch,
};

const OUT: &str = "FARROW_TEST_OUT";
const URL: &str = "FARROW_MIRROR_DEBIAN";
/// The file that says which stage a child is in.
const STAGE: &str = "stage";
const STAGES: [&str; 5] = ["lock", "fetch", "publish", "bundle", "install"];

/// The whole path, in a process of its own that may be killed.
#[test]
#[ignore = "started by killed_builds_are_continued"]
fn build_in_a_child() {
    let out = std::env::var_os(OUT).unwrap();
    let out = Path::new(&out);
    let enter = |stage: &str| {
        std::fs::write(out.join(".farrow-stage"), stage).unwrap();
        std::fs::rename(out.join(".farrow-stage"), out.join(STAGE)).unwrap();
    };
    let mirrors = Mirrors::from_host(Default::default());
    let client = Client::new(mirrors, false).unwrap();
    let cache = Cache::new(&out.join("cache"));
    enter("lock");
    let locked = lock(&request(), &client, &cache, &silent).unwrap();
    locked.save(&out.join("pigsty.lock")).unwrap();
    enter("fetch");
    let fetched = fetch(&locked, &client, &cache, &silent).unwrap();
    let options = PublishOptions {
        name: "pigsty".into(),
        codename: "trixie".into(),
        epoch: NOW,
        url: None,
        groups: Default::default(),
        bases: Vec::new(),
        additions: Default::default(),
        layout: Layout::Flat,
    };
    enter("publish");
    publish(&fetched, &options, &repository_signer(), out, &silent).unwrap();
    enter("bundle");
    let bundle = bundled(out, out);
    enter("install");
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
        let target = scratch();
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

/// Digests of the downloads that are verified.
fn verified(out: &Path) -> BTreeSet<String> {
    let folders = std::fs::read_dir(out.join("cache/downloads/sha256"));
    let files = (folders.into_iter().flatten())
        .flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
    files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".part"))
        .collect()
}

/// What a child starts from: nothing, downloads, everything, or what the last one left.
fn prepare(out: &Path, choice: u32) {
    if choice == 0 {
        std::fs::remove_dir_all(out).unwrap();
        std::fs::create_dir(out).unwrap();
    }
    if choice == 1 {
        for name in ["pigsty", "www"] {
            let _ = std::fs::remove_dir_all(out.join(name));
        }
    }
    let _ = std::fs::remove_file(out.join(STAGE));
}

#[test]
fn killed_builds_are_continued() {
    let server = Server::start(archive(&archive_signer()));
    // Slow enough that some kills fall into a download.
    server.site.lock().unwrap().pause = Duration::from_millis(15);
    let kills = cases(20);
    let mut random = random("kill -9", kills);
    let measured = scratch();
    // The faster of two, since the first one reads programs from the disk.
    let whole = (0..2).map(|_| {
        prepare(measured.path(), 0);
        let begin = Instant::now();
        assert!(start(measured.path(), &server).wait().unwrap().success());
        begin.elapsed()
    });
    let whole = whole.min().unwrap();
    let expected = [".", "www"].map(|folder| names(&measured.path().join(folder)));
    let digests: HashMap<String, String> = (server.site.lock().unwrap().files.iter())
        .map(|(path, bytes)| (path.clone(), Sha256::of(bytes).to_string()))
        .collect();

    let dir = scratch();
    let (mut hit, mut resumed, mut late) = (BTreeMap::<String, u32>::new(), 0, 0);
    let mut killed = 0;
    while killed < kills {
        prepare(dir.path(), random.u32(0..4));
        let mut child = start(dir.path(), &server);
        std::thread::sleep(whole.mul_f64(random.f64()));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            // It was faster than the one that was measured: no kill.
            late += 1;
            assert!(late < 10 * kills);
            continue;
        }
        killed += 1;
        check(dir.path());
        let stage = std::fs::read_to_string(dir.path().join(STAGE)).unwrap_or("start".into());
        *hit.entry(stage).or_default() += 1;
        // The next run finishes, and fetches nothing that was verified.
        let before = verified(dir.path());
        server.requests();
        assert!(start(dir.path(), &server).wait().unwrap().success());
        check(dir.path());
        for request in server.requests() {
            let path = request.split(" from ").next().unwrap();
            resumed += u32::from(request.contains(" from "));
            assert!(
                !before.contains(&digests[path]),
                "{request} was verified before"
            );
        }
        let made = [".", "www"].map(|folder| names(&dir.path().join(folder)));
        assert_eq!(made, expected);
    }
    println!("killed in: {hit:?}, {late} more had ended before; {resumed} downloads continued");
    if kills >= 100 {
        assert!(
            STAGES.iter().all(|stage| hit.contains_key(*stage)),
            "{hit:?}"
        );
        assert!(resumed > 0);
    }
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
