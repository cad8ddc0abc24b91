//! A real archive in memory, signed and served over HTTP by a small server that can misbehave on order.

#![allow(dead_code, unused_imports)]

pub mod members;
pub mod repository;
pub mod rpm;
pub mod server;
pub mod tables;

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use offline_repo::archive::Upstream;
use offline_repo::compression;
use offline_repo::date;
use offline_repo::digest::Sha256;
use offline_repo::http::{Client, Options};
use offline_repo::locking::LockRequest;
use offline_repo::mirror::Mirrors;
use offline_repo::signer::Signer;
pub use server::{Fault, Server};

/// The time at which everything in these tests happens: 2026-11-18.
pub const NOW: u64 = 1_795_000_000;

/// A `.deb` with these control fields and one file of content; the same fields give the same bytes.
pub fn deb(control: &str) -> Vec<u8> {
    static MADE: Mutex<BTreeMap<String, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap();
    let deb = made.entry(control.to_string());
    deb.or_insert_with(|| make_deb(control)).clone()
}

fn make_deb(control: &str) -> Vec<u8> {
    let tar = |name: &str, content: &[u8]| {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content).unwrap();
        builder.into_inner().unwrap()
    };
    let mut deb = ar::Builder::new(Vec::new());
    let content: Vec<u8> = (0..20_000u32)
        .flat_map(|i| Sha256::of(format!("{control}{i}").as_bytes()).as_bytes()[..2].to_vec())
        .collect();
    for (name, content) in [
        ("debian-binary", b"2.0\n".to_vec()),
        (
            "control.tar.xz",
            compression::xz(&tar("./control", control.as_bytes())),
        ),
        (
            "data.tar.xz",
            compression::xz(&tar("./usr/share/content", &content)),
        ),
    ] {
        deb.append(
            &ar::Header::new(name.as_bytes().to_vec(), content.len() as u64),
            &content[..],
        )
        .unwrap();
    }
    deb.into_inner().unwrap()
}

/// Packages of the archive: control fields after Package, Version, Architecture.
pub const PACKAGES: &[(&str, &str, &str)] = &[
    (
        "base-system",
        "12",
        "Essential: yes\nDepends: libc (>= 2)\nPriority: required\n",
    ),
    (
        "libc",
        "1:2.41-1+deb13u1",
        "Multi-Arch: same\nProvides: libc-dev\n",
    ),
    (
        "database",
        "17~rc1",
        "Depends: libc, ssl | ssl-legacy\nRecommends: tools\n",
    ),
    ("ssl", "3.5", "Breaks: ssl-legacy (<< 3)\n"),
    ("ssl-legacy", "1.1", ""),
    ("tools", "1", ""),
];

/// Files of an archive `debian` with the suite "trixie", signed at [`NOW`] less one day.
pub fn archive(signer: &Signer) -> HashMap<String, Vec<u8>> {
    let mut files = HashMap::new();
    let mut packages = String::new();
    for (name, version, fields) in PACKAGES {
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: nobody\n{fields}Description: {name}\n long text\n"
        );
        let deb = deb(&control);
        let path = format!(
            "pool/main/{name}_{}_amd64.deb",
            version.split(':').next_back().unwrap()
        );
        packages += &format!(
            "{control}Filename: {path}\nSize: {}\nSHA256: {}\n\n",
            deb.len(),
            Sha256::of(&deb)
        );
        files.insert(format!("/debian/{path}"), deb);
    }
    sign_index(&mut files, packages.as_bytes(), signer, NOW - 86400);
    files
}

/// Puts an index and a signed InRelease into the archive.
pub fn sign_index(
    files: &mut HashMap<String, Vec<u8>>,
    packages: &[u8],
    signer: &Signer,
    date: u64,
) {
    let packed = compression::xz(packages);
    let sha256 = Sha256::of(&packed);
    let release = format!(
        "Origin: Test\nSuite: stable\nCodename: trixie\nDate: {}\nValid-Until: {}\nAcquire-By-Hash: yes\nSHA256:\n {sha256} {} main/binary-amd64/Packages.xz\n",
        date::format(date),
        date::format(date + 7 * 86400),
        packed.len()
    );
    let in_release = signer.clearsign(&release, date).unwrap().into_bytes();
    files.insert("/debian/dists/trixie/InRelease".into(), in_release);
    files.insert(
        "/debian/dists/trixie/main/binary-amd64/Packages.xz".into(),
        packed.clone(),
    );
    files.insert(
        format!("/debian/dists/trixie/main/binary-amd64/by-hash/SHA256/{sha256}"),
        packed,
    );
}

/// The archive's key: the same in every test.
pub fn archive_signer() -> Signer {
    Signer::from_secret([7; 32], "archive").unwrap()
}

/// The repository's key.
pub fn repository_signer() -> Signer {
    Signer::from_secret([8; 32], "pigsty repository").unwrap()
}

/// A client for archives at these servers, in order of preference.
pub fn client(servers: &[&Server], offline: bool) -> Client {
    let urls: Vec<String> = (servers.iter())
        .map(|server| format!("{}/debian", server.url))
        .collect();
    client_of(&urls, Options { offline, ..quick() })
}

/// Options of a client that is short of patience, as tests are.
pub fn quick() -> Options {
    Options {
        patience: Duration::from_secs(1),
        backoff: Duration::from_millis(5),
        ..Options::default()
    }
}

/// A client for archives at these base URLs, in order of preference.
pub fn client_of(urls: &[String], options: Options) -> Client {
    let overrides = BTreeMap::from([("debian".to_string(), urls.to_vec())]);
    let mirrors = Mirrors::new(overrides, BTreeMap::new(), &[]);
    Client::with_options(mirrors, options).unwrap()
}

/// A request for "database" with the essential packages.
pub fn request() -> LockRequest {
    LockRequest {
        name: "pigsty".into(),
        architecture: "amd64".into(),
        upstreams: vec![Upstream {
            name: "base".into(),
            archive: "debian".into(),
            url: None,
            suites: vec!["trixie".into()],
            components: vec!["main".into()],
            keys: vec![archive_signer().public_key().unwrap().armored.into_bytes()],
            priority: 0,
        }],
        groups: BTreeMap::from([("platform".to_string(), vec!["database".to_string()])]),
        include_essential: true,
        recommends: false,
        now: Some(NOW),
        ..LockRequest::default()
    }
}

/// Number of cases of a random test: `FARROW_TEST_CASES`, or what its part of the whole suite is.
pub fn cases(default: u32) -> u32 {
    number("FARROW_TEST_CASES").map_or(default, |n| u32::try_from(n).unwrap())
}

/// The seed of a random test: `FARROW_TEST_SEED`, or the same each time; printed with the number of cases.
pub fn random(what: &str, cases: u32) -> fastrand::Rng {
    let seed = number("FARROW_TEST_SEED").unwrap_or(1);
    println!("{what}: {cases} cases, seed {seed} (FARROW_TEST_CASES, FARROW_TEST_SEED)");
    fastrand::Rng::with_seed(seed)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number: {text}")),
    )
}

/// A folder in memory where there is one: what is killed here was not switched off, so nothing must reach a disk,
/// and a busy disk would make each sync take seconds.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}
