//! Packages made by the test are unpacked, or refused.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use images::deb::{self, Owners};
use tempfile::TempDir;

/// One entry of a data archive.
enum Entry<'a> {
    File(&'a str, &'a str, u32),
    Folder(&'a str),
    Symlink(&'a str, &'a str),
    HardLink(&'a str, &'a str),
    Device(&'a str),
}

/// Writes names as they are: the tar library would refuse hostile ones.
fn tar_of(entries: &[Entry]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        let (kind, name, link, content, mode) = match entry {
            Entry::File(name, content, mode) => {
                (tar::EntryType::Regular, name, "", *content, *mode)
            }
            Entry::Folder(name) => (tar::EntryType::Directory, name, "", "", 0o755),
            Entry::Symlink(name, target) => (tar::EntryType::Symlink, name, *target, "", 0o777),
            Entry::HardLink(name, target) => (tar::EntryType::Link, name, *target, "", 0o644),
            Entry::Device(name) => (tar::EntryType::Char, name, "", "", 0o666),
        };
        let fields = header.as_old_mut();
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn compress(kind: &str, bytes: &[u8]) -> Vec<u8> {
    match kind {
        ".gz" => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        ".xz" => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        ".zst" => zstd::encode_all(bytes, 1).unwrap(),
        _ => bytes.to_vec(),
    }
}

fn package(folder: &Path, name: &str, compression: &str, entries: &[Entry]) -> PathBuf {
    let path = folder.join(name);
    let control = tar_of(&[Entry::File(
        "./control",
        "Package: x\nEssential: yes\n",
        0o644,
    )]);
    let mut builder = ar::Builder::new(fs::File::create(&path).unwrap());
    let members = [
        ("debian-binary".to_owned(), b"2.0\n".to_vec()),
        ("control.tar.gz".to_owned(), compress(".gz", &control)),
        (
            format!("data.tar{compression}"),
            compress(compression, &tar_of(entries)),
        ),
    ];
    for (name, bytes) in members {
        builder
            .append(
                &ar::Header::new(name.into_bytes(), bytes.len() as u64),
                &bytes[..],
            )
            .unwrap();
    }
    path
}

/// An empty merged-/usr tree in a folder of its own.
fn tree() -> (TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    symlink("usr/bin", root.join("bin")).unwrap();
    (place, root)
}

#[test]
fn content_modes_links_and_times_are_kept() {
    for compression in ["", ".gz", ".xz", ".zst"] {
        let (place, root) = tree();
        let entries = [
            Entry::Folder("./"),
            Entry::Folder("./bin/"),
            Entry::File("./bin/tool", "run", 0o4755),
            Entry::HardLink("./usr/bin/same", "./bin/tool"),
            Entry::Symlink("./usr/bin/link", "tool"),
        ];
        let package = package(place.path(), "x.deb", compression, &entries);
        deb::unpack(&package, &root, Owners::Caller).unwrap();
        let tool = root.join("usr/bin/tool");
        assert_eq!(fs::read_to_string(&tool).unwrap(), "run", "{compression}");
        let metadata = tool.metadata().unwrap();
        assert_eq!(
            (metadata.mode() & 0o7777, metadata.mtime()),
            (0o755, 1_000_000_000)
        );
        assert_eq!(
            metadata.ino(),
            root.join("usr/bin/same").metadata().unwrap().ino()
        );
        assert_eq!(
            fs::read_link(root.join("usr/bin/link")).unwrap(),
            Path::new("tool")
        );
        assert!(root.join("bin").is_symlink());
        let control = deb::control_members(&package).unwrap();
        assert_eq!(control["control"].content, b"Package: x\nEssential: yes\n");
    }
}

#[test]
fn nothing_is_written_outside() {
    let hostile: [(&str, &[Entry]); 8] = [
        ("parent", &[Entry::File("../escaped", "x", 0o644)]),
        (
            "parent inside",
            &[Entry::File("./usr/../../escaped", "x", 0o644)],
        ),
        ("absolute", &[Entry::File("/escaped", "x", 0o644)]),
        (
            "link up",
            &[
                Entry::Symlink("./up", "../../.."),
                Entry::File("./up/nowhere/escaped", "x", 0o644),
            ],
        ),
        (
            "link to absolute",
            &[
                Entry::Symlink("./out", "/etc"),
                Entry::File("./out/escaped", "x", 0o644),
            ],
        ),
        (
            "write through a link",
            &[
                Entry::Symlink("./f", "../escaped"),
                Entry::File("./f", "x", 0o644),
            ],
        ),
        (
            "hard link out",
            &[Entry::HardLink("./passwd", "/etc/passwd")],
        ),
        ("device", &[Entry::Device("./null")]),
    ];
    for (name, entries) in hostile {
        let (place, root) = tree();
        let package = package(place.path(), "x.deb", "", entries);
        let error = deb::unpack(&package, &root, Owners::Caller).expect_err(name);
        assert_eq!(error.code(), "FR-IMAGE-PACKAGE", "{name}");
        assert!(!place.path().join("escaped").exists(), "{name}");
        assert!(
            !Path::new("/escaped").exists() && !Path::new("/etc/escaped").exists(),
            "{name}"
        );
    }
}

#[test]
fn links_are_followed_inside_the_tree_only() {
    let (place, root) = tree();
    let entries = [
        Entry::Symlink("./up", "../../../usr"),
        Entry::File("./up/file", "x", 0o644),
    ];
    let package = package(place.path(), "x.deb", ".xz", &entries);
    deb::unpack(&package, &root, Owners::Caller).unwrap();
    assert_eq!(fs::read_to_string(root.join("usr/file")).unwrap(), "x");
}

#[test]
fn a_file_of_two_packages_is_refused() {
    let (place, root) = tree();
    let packages: Vec<PathBuf> = ["a.deb", "b.deb"]
        .iter()
        .map(|name| package(place.path(), name, "", &[Entry::File("./etc", name, 0o644)]))
        .collect();
    let error = deb::unpack_all(&packages, &root, Owners::Caller, &|_| ()).unwrap_err();
    assert!(error.to_string().contains("etc"), "{error}");
}

#[test]
fn damaged_packages_are_refused() {
    let (place, root) = tree();
    let whole = package(
        place.path(),
        "x.deb",
        ".xz",
        &[Entry::File("./a", &"text".repeat(999), 0o644)],
    );
    let bytes = fs::read(&whole).unwrap();
    let flipped = {
        let mut bytes = bytes.clone();
        let place = bytes.len() - 60;
        bytes[place] ^= 1;
        bytes
    };
    let cases: [(&str, &[u8]); 4] = [
        ("empty", b""),
        ("no archive", b"hello"),
        ("cut off", &bytes[..bytes.len() - 40]),
        ("bit flip", &flipped),
    ];
    for (name, content) in cases {
        let path = place.path().join("damaged.deb");
        fs::write(&path, content).unwrap();
        let error = deb::unpack(&path, &root, Owners::Caller).expect_err(name);
        assert!(error.to_string().contains("damaged.deb"), "{name}: {error}");
    }
}
