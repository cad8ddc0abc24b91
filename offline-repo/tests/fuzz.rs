//! Every reader of outside input on the kept corpus, and on inputs made from it, for `FARROW_FUZZ_SECONDS` each (1).
//!
//! `just soak` runs the same targets under libFuzzer, which is guided by coverage; what it finds worth keeping goes into
//! `offline-repo/fuzz/corpus`. `FARROW_UPDATE_CORPUS=1` writes the seeds, one document of each kind, anew.

mod support;
#[path = "support/targets.rs"]
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use support::random;
use targets::{TARGETS, Target};

/// Longer than any of these documents needs, on a machine that does other things too.
const HANG: Duration = Duration::from_secs(10);
/// No input is larger.
const LARGEST: usize = 64 << 10;

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name)
}

/// Files of a folder, in the order of their names.
fn inputs(folder: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Runs one input; what brings a reader down is kept in a file.
fn run(name: &str, target: Target, input: &[u8]) {
    let begin = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| target(input)));
    let took = begin.elapsed();
    if outcome.is_err() || took > HANG {
        let path = std::env::temp_dir().join(format!("farrow-fuzz-{name}-{}", std::process::id()));
        fs::write(&path, input).unwrap();
        panic!("{name}: {} after {took:?}", path.display());
    }
}

/// One change, of the kinds that find the most: bits, bytes, numbers at their limits, pieces moved, doubled, cut.
fn change(input: &mut Vec<u8>, other: &[u8], random: &mut fastrand::Rng) {
    const WORDS: [&[u8]; 14] = [
        b"\n\n",
        b"\n ",
        b"../",
        b"\0",
        b"18446744073709551616",
        b"-1",
        b"\xff\xff\xff\xff",
        b"\x7f\xff\xff\xff",
        b"\xc3\xa9",
        b"-----",
        b"\"\"\"",
        b"[[",
        b"#",
        b"\x80",
    ];
    let length = input.len();
    let at = random.usize(0..=length);
    match random.u32(0..8) {
        0 if at < length => input[at] ^= 1 << random.u32(0..8),
        1 if at < length => input[at] = random.u8(..),
        2 => drop(input.splice(at..at, WORDS[random.usize(..WORDS.len())].iter().copied())),
        3 => input.truncate(at),
        4 | 5 => {
            let piece = match random.bool() {
                true => other.to_vec(),
                false => input.clone(),
            };
            if !piece.is_empty() {
                let from = random.usize(..piece.len());
                let to = (from + random.usize(1..=64)).min(piece.len());
                let end = (at + random.usize(0..=to - from)).min(length);
                input.splice(at..end, piece[from..to].iter().copied());
            }
        }
        6 => {
            let end = (at + random.usize(0..=32)).min(length);
            input.drain(at..end);
        }
        _ => {
            if let Some(digits) = input[at..].iter().position(u8::is_ascii_digit) {
                input[at + digits] = random.u8(b'0'..=b'9');
            }
        }
    }
    input.truncate(LARGEST);
}

fn fuzz(name: &str, target: Target, time: Duration, random: &mut fastrand::Rng) -> u64 {
    let inputs = inputs(&corpus(name));
    assert!(!inputs.is_empty(), "{name} has no corpus");
    let begin = Instant::now();
    inputs.iter().for_each(|input| run(name, target, input));
    let mut runs = inputs.len() as u64;
    while begin.elapsed() < time {
        let mut input = inputs[random.usize(..inputs.len())].clone();
        let other = &inputs[random.usize(..inputs.len())];
        for _ in 0..random.u32(1..8) {
            change(&mut input, other, random);
        }
        run(name, target, &input);
        runs += 1;
    }
    runs
}

#[test]
fn readers_come_back() {
    if std::env::var_os("FARROW_UPDATE_CORPUS").is_some() {
        seeds::write();
    }
    let seconds = std::env::var("FARROW_FUZZ_SECONDS").map_or(1.0, |s| s.parse().unwrap());
    let only = std::env::var("FARROW_FUZZ_TARGET").ok();
    let mut random = random("fuzz", TARGETS.len() as u32);
    for (name, target) in TARGETS {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let time = Duration::from_secs_f64(seconds);
        let runs = fuzz(name, *target, time, &mut random);
        println!("{name}: {runs} inputs in {seconds} s");
    }
    // Nothing that the readers were given may make them keep much.
    let peak = support::members::peak_memory();
    assert!(peak < 700 << 10, "{peak} kB");
}

mod seeds {
    //! One valid document of each kind.

    use super::*;
    use offline_repo::compression::{Codec, decompress, gzip, xz};
    use offline_repo::digest::Sha256;
    use offline_repo::lock::Lock;
    use offline_repo::universe::reduced::Reduced;
    use support::repository::{built, bundled};
    use support::{archive, archive_signer, deb};

    const CONTROL: &str = "Package: aa\nVersion: 1:2~rc-3\nArchitecture: all\nDepends: b (>= 1), c | d:any [amd64]\nDescription: x\n y\n";

    const REPOMD: &str = "<?xml version=\"1.0\"?><repomd xmlns=\"http://linux.duke.edu/metadata/repo\"><revision>1</revision>\
        <data type=\"primary\"><checksum type=\"sha256\">e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855</checksum>\
        <open-checksum type=\"sha256\">e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855</open-checksum>\
        <location href=\"repodata/primary.xml.gz\"/><timestamp>1</timestamp><size>1</size><open-size>1</open-size></data></repomd>";
    const PRIMARY: &str = "<metadata xmlns:rpm=\"x\" packages=\"1\"><package type=\"rpm\"><name>a</name><arch>x86_64</arch>\
        <version epoch=\"1\" ver=\"2\" rel=\"3\"/><checksum type=\"sha256\" pkgid=\"YES\">\
        e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855</checksum><size package=\"1\"/><location href=\"a.rpm\"/>\
        <format><rpm:provides><rpm:entry name=\"a\" flags=\"EQ\" epoch=\"1\" ver=\"2\" rel=\"3\"/></rpm:provides>\
        <rpm:requires><rpm:entry name=\"(b if c)\"/></rpm:requires><file>/usr/bin/a</file></format></package></metadata>";
    const FILELISTS: &str = "<filelists packages=\"1\"><package \
        pkgid=\"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\" name=\"a\" arch=\"x86_64\">\
        <version epoch=\"1\" ver=\"2\" rel=\"3\"/><file type=\"dir\">/usr</file><file>/usr/bin/a</file></package></filelists>";
    const MODULES: &str = "---\ndocument: modulemd\nversion: 2\ndata:\n  name: a\n  stream: \"1\"\n  artifacts:\n    rpms:\n    - b-0:1-1.x86_64\n...\n\
        ---\ndocument: modulemd-defaults\nversion: 1\ndata:\n  module: a\n  stream: \"1\"\n...\n";
    const INSTALLED: &str = "Package: a\nVersion: 1:2-3\nArchitecture: x86_64\nProvides: a = 1:2-3\nRequires: (b if c)\nFile: /usr/bin/a\n";

    pub fn write() {
        let files = archive(&archive_signer());
        let dists = "/debian/dists/trixie";
        let in_release = files[&format!("{dists}/InRelease")].clone();
        let text = String::from_utf8(in_release.clone()).unwrap();
        let release = offline_repo::clearsign::parse(&text).unwrap().text;
        let packed = &files[&format!("{dists}/main/binary-amd64/Packages.xz")];
        let packages = decompress("x", Codec::Xz, packed, 1 << 20).unwrap();
        let dir = tempfile::tempdir().unwrap();
        built(dir.path());
        let bundle = bundled(dir.path(), dir.path()).path;
        let marker = fs::read(dir.path().join("pigsty/repo_complete")).unwrap();
        let key = archive_signer().public_key().unwrap();
        // The bundle's packages would only make it large.
        let mut small: Vec<_> = support::members::read(&bundle);
        small.retain(|member| !member.header.path_bytes().ends_with(b".deb"));
        let mut tar = Vec::new();
        support::members::write(&small, &mut tar);
        let mut long = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(CONTROL.len() as u64);
        long.append_data(
            &mut header,
            format!("{}control", "./".repeat(90)),
            CONTROL.as_bytes(),
        )
        .unwrap();
        header.set_size(CONTROL.len() as u64);
        long.append_data(&mut header, "./control", CONTROL.as_bytes())
            .unwrap();
        let tagged = |tag: u8, bytes: Vec<u8>| [vec![tag], bytes].concat();
        let lock: Lock = support::repository::fetched(dir.path(), &support::request())
            .lock()
            .clone();
        let proof = r#"{"schema": 1, "groups": {"a": ["b (>= 1)"]}, "verdicts": []}"#;
        for (target, seed, bytes) in [
            ("index", "packages", packages.clone()),
            ("reduced", "packages", reduced(&packages)),
            ("deb822", "packages", packages),
            (
                "deb822",
                "sources",
                b"Types: deb\nURIs: http://m/debian\n# c\nSuites: trixie\n".to_vec(),
            ),
            (
                "deb822",
                "list",
                b"deb [arch=amd64] http://m/debian trixie main # c\n".to_vec(),
            ),
            ("release", "release", release.into_bytes()),
            ("clearsign", "in_release", in_release),
            ("key", "binary", key.binary),
            ("key", "armored", key.armored.into_bytes()),
            ("deb", "xz", small_deb()),
            ("control_tar", "long_name", long.into_inner().unwrap()),
            ("lock", "lock", lock.to_text().into_bytes()),
            ("marker", "marker", marker),
            ("proof", "empty", proof.into()),
            ("bundle", "members", tar),
            (
                "rpm",
                "package",
                support::rpm::rpm("a", "1:2-3", "x86_64", &[("requires", "b", 12, "2:1")]),
            ),
            ("repomd", "repomd", REPOMD.into()),
            ("primary", "primary", PRIMARY.into()),
            ("filelists", "filelists", FILELISTS.into()),
            ("modules", "modules", MODULES.into()),
            ("installed", "installed", INSTALLED.into()),
            ("codec", "gzip", tagged(0, gzip(CONTROL.as_bytes()))),
            ("codec", "xz", tagged(1, xz(CONTROL.as_bytes()))),
            (
                "codec",
                "zstd",
                tagged(2, zstd::encode_all(CONTROL.as_bytes(), 3).unwrap()),
            ),
            (
                "words",
                "depends",
                b"b (>= 1), c | d:any [amd64 !i386] <!x>\na | b (= 1:2-3~4)".to_vec(),
            ),
            (
                "words",
                "versions",
                b"1:2.41-1+deb13u1\n1:2.41-1+deb13u1~bpo12+1".to_vec(),
            ),
            (
                "words",
                "date",
                b"Fri, 20 Nov 2026 00:12:42 UTC\n10M".to_vec(),
            ),
        ] {
            let folder = corpus(target);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(format!("seed-{seed}")), bytes).unwrap();
        }
    }

    /// What the digest of a kept index is about: all behind it and the magic.
    fn reduced(packages: &[u8]) -> Vec<u8> {
        let text = std::str::from_utf8(packages).unwrap();
        let reduced = Reduced::of("Packages", text, "amd64").unwrap();
        reduced.to_bytes(&Sha256::of(b"x"))[48..].to_vec()
    }

    fn small_deb() -> Vec<u8> {
        let whole = deb(CONTROL);
        // The data, 40 kB of it, is never read.
        let data = whole.windows(8).position(|w| w == b"data.tar").unwrap();
        whole[..data + 60].to_vec()
    }
}
