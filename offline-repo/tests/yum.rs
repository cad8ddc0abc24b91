//! Yum repositories from RPM files: the same bytes each time, everything signed and listed; damaged headers refused.

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use offline_repo::cache::Cache;
use offline_repo::digest::Sha256;
use offline_repo::fetch::fetch;
use offline_repo::lock::{Lock, LockedIndex, LockedPackage, SCHEMA};
use offline_repo::marker;
use offline_repo::progress::silent;
use offline_repo::publish::{Published, publish};
use offline_repo::rpm::header::Headers;
use offline_repo::rpm::package::Package;
use support::repository::{content, keyring, options};
use support::rpm::rpm;
use support::{NOW, Server, client, repository_signer};

const GE: u32 = 12;
const EQ: u32 = 8;

/// Two architectures, relations with and without versions.
fn packages() -> Vec<(&'static str, &'static str, &'static str, Vec<u8>)> {
    let make = |name, evr, arch, relations: &[(&str, &str, u32, &str)]| {
        (name, evr, arch, rpm(name, evr, arch, relations))
    };
    vec![
        make(
            "alpha",
            "1.0-3",
            "x86_64",
            &[
                ("provides", "alpha", EQ, "1.0-3"),
                ("requires", "beta", GE, "2:1"),
                ("requires", "rpmlib(CompressedFileNames)", 10, "3.0.4-1"),
                ("requires", "/usr/bin/alpha", 0, ""),
            ],
        ),
        make("beta", "2-1", "noarch", &[("obsoletes", "old<&>", 2, "1")]),
    ]
}

fn built(dir: &Path) -> Published {
    let packages = packages();
    let files: HashMap<String, Vec<u8>> = packages
        .iter()
        .map(|(name, _, _, bytes)| (format!("/debian/p/{name}.rpm"), bytes.clone()))
        .collect();
    let server = Server::start(files);
    let (cache, client) = (Cache::new(&dir.join("cache")), client(&[&server], false));
    let fetched = fetch(&lock(&packages), &client, &cache, &silent).unwrap();
    publish(&fetched, &options(), &repository_signer(), dir, &silent).unwrap()
}

fn lock(packages: &[(&str, &str, &str, Vec<u8>)]) -> Lock {
    let locked = packages
        .iter()
        .map(|(name, version, architecture, bytes)| LockedPackage {
            name: name.to_string(),
            version: version.to_string(),
            architecture: architecture.to_string(),
            archive: "debian".into(),
            suite: "9".into(),
            path: format!("p/{name}.rpm"),
            size: bytes.len() as u64,
            sha256: Sha256::of(bytes),
            essential: false,
            groups: vec![],
            why: "group x".into(),
        });
    Lock {
        schema: SCHEMA,
        requests: Default::default(),
        name: "pigsty".into(),
        architecture: "x86_64".into(),
        indexes: vec![LockedIndex {
            upstream: "el".into(),
            archive: "debian".into(),
            url: None,
            suite: "9".into(),
            component: String::new(),
            architecture: "x86_64".into(),
            date: NOW,
            signed_by: "AB".into(),
            in_release_sha256: Sha256::of(b""),
            packages_sha256: Sha256::of(b""),
        }],
        packages: locked.collect(),
        modules: Vec::new(),
        bases: Vec::new(),
    }
}

fn unpacked(repository: &Path, kind: &str) -> String {
    let entries = fs::read_dir(repository.join("repodata")).unwrap();
    let path = entries
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().ends_with(&format!("-{kind}.xml.gz")))
        .unwrap();
    let mut text = String::new();
    let file = fs::File::open(path).unwrap();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut text).unwrap();
    text
}

#[test]
fn a_yum_repository_is_signed_whole_and_the_same_each_time() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [one, two] = [&dirs[0], &dirs[1]].map(|dir| built(dir.path()));
    assert_eq!(content(&one.path), content(&two.path));
    assert_eq!((one.manifest, one.packages), (two.manifest, 2));
    assert!(
        marker::verify(&one.path, Some(&keyring()))
            .unwrap()
            .is_complete()
    );
    let names: Vec<String> = content(&one.path)
        .into_iter()
        .map(|(path, _)| path)
        .collect();
    for name in [
        "alpha-1.0-3.x86_64.rpm",
        "beta-2-1.noarch.rpm",
        "repodata/repomd.xml",
    ] {
        assert!(names.iter().any(|found| found == name), "{names:?}");
    }
    assert!(!names.iter().any(|name| name == "Packages"), "{names:?}");
    let read = |name: &str| fs::read(one.path.join("repodata").join(name)).unwrap();
    keyring()
        .verify_detached(
            "repomd.xml",
            &read("repomd.xml"),
            &read("repomd.xml.asc"),
            Some(NOW),
        )
        .unwrap();
    let beside: Vec<_> = one
        .beside
        .iter()
        .map(|path| path.extension().unwrap())
        .collect();
    assert_eq!(beside, ["asc", "repo"]);
    assert_eq!(
        fs::read_to_string(dirs[0].path().join("pigsty.repo")).unwrap(),
        "[pigsty]\nname=pigsty offline repository\nbaseurl=http://h.pigsty/pigsty/\nenabled=1\ngpgcheck=1\n\
         repo_gpgcheck=1\ngpgkey=http://h.pigsty/pigsty/repodata/repomd.xml.key\n"
    );
}

#[test]
fn metadata_says_what_the_headers_say() {
    let dir = tempfile::tempdir().unwrap();
    let published = built(dir.path());
    let primary = unpacked(&published.path, "primary");
    for line in [
        "<summary>alpha &lt;&amp;&gt; summary</summary>",
        "<version epoch=\"0\" ver=\"1.0\" rel=\"3\"/>",
        "<rpm:entry name=\"beta\" flags=\"GE\" epoch=\"2\" ver=\"1\"/>",
        "<rpm:entry name=\"old&lt;&amp;&gt;\" flags=\"LT\" epoch=\"0\" ver=\"1\"/>",
        "<file>/usr/bin/alpha</file>",
        "<location href=\"alpha-1.0-3.x86_64.rpm\"/>",
    ] {
        assert!(primary.contains(line), "{line}\n{primary}");
    }
    // What rpm itself provides, a file of the package itself, and files of no interest to most are not listed.
    for word in ["rpmlib", "name=\"/usr/bin/alpha\"", "/usr/share"] {
        assert!(!primary.contains(word), "{word}\n{primary}");
    }
    let files = unpacked(&published.path, "filelists");
    assert!(
        files.contains("<file type=\"dir\">/usr/share</file>"),
        "{files}"
    );
}

#[test]
fn a_package_that_is_not_the_locked_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = rpm("alpha", "1.0-3", "x86_64", &[]);
    let server = Server::start([("/debian/p/alpha.rpm".to_string(), bytes.clone())].into());
    let client = client(&[&server], false);
    let cache = Cache::new(&dir.path().join("cache"));
    let lock = lock(&[("alpha", "1.0-4", "x86_64", bytes)]);
    let fetched = fetch(&lock, &client, &cache, &silent).unwrap();
    let error = publish(
        &fetched,
        &options(),
        &repository_signer(),
        dir.path(),
        &silent,
    )
    .unwrap_err();
    assert_eq!(error.code(), "FR-REPO-RPM");
    let message = "its version is '1.0-3', the lock says '1.0-4'";
    assert!(error.to_string().ends_with(message), "{error}");
}

#[test]
fn damaged_headers_are_refused() {
    let good = packages().remove(0).3;
    let outside = |at: usize| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&[0xff; 4]);
        bytes
    };
    // The main header begins at 112, after the lead and an empty signature header; its second entry, the version,
    // at 144.
    for (bytes, message) in [
        (b"no package".to_vec(), "its header is cut off"),
        (vec![0; 200], "is not an RPM package"),
        (good[..300].to_vec(), "its header is cut off"),
        (outside(96), "has no valid header"),
        (outside(120), "its header is larger than rpm allows"),
        (outside(144 + 8), "its tag 1001 lies outside of the header"),
        (outside(144 + 4), "its tag 1001 does not hold text"),
    ] {
        let read = Headers::read(&bytes[..]).and_then(|headers| Package::from_headers(&headers));
        assert_eq!(read.unwrap_err(), message);
    }
}

proptest::proptest! {
    #[test]
    fn any_header_is_read_without_panic(changes in proptest::collection::vec((96usize..700, proptest::num::u8::ANY), 1..6)) {
        let mut bytes = packages().remove(0).3;
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let _ = Headers::read(&bytes[..]).and_then(|headers| Package::from_headers(&headers));
    }
}
