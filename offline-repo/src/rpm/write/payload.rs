//! Files of a package: in the payload, a cpio archive (the "newc" form of cpio(5)), and in the tags that describe them.

use super::encode::Value;
use super::{CONFIGURATION, NewRpm, SHA256, tag};
use crate::digest::Sha256;

/// `S_IFREG` and `S_IFDIR` of inode(7).
const REGULAR: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const TRAILER: &str = "TRAILER!!!";

/// A file or folder of a package.
pub(super) struct Entry<'a> {
    /// Path without leading slash.
    path: &'a str,
    /// Kind and permission bits.
    mode: u32,
    /// Nothing for a folder.
    content: Option<&'a [u8]>,
    is_configuration: bool,
}

/// Files and folders by name, as rpmbuild orders them.
pub(super) fn entries(package: &NewRpm) -> Vec<Entry<'_>> {
    let files = package.files.iter().map(|file| Entry {
        path: &file.path,
        mode: REGULAR | file.mode,
        content: Some(&file.content),
        is_configuration: file.is_configuration,
    });
    let folders = package.folders.iter().map(|path| Entry {
        path,
        mode: FOLDER | 0o755,
        content: None,
        is_configuration: false,
    });
    let mut all: Vec<Entry<'_>> = files.chain(folders).collect();
    all.sort_by_key(|entry| entry.path);
    all
}

/// The archive.
pub(super) fn archive(entries: &[Entry<'_>], epoch: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, entry) in entries.iter().enumerate() {
        let links = if entry.content.is_some() { 1 } else { 2 };
        let fields = [number as u32 + 1, entry.mode, links, epoch as u32];
        let content = entry.content.unwrap_or_default();
        add(&mut bytes, fields, &format!("./{}", entry.path), content);
    }
    add(&mut bytes, [0, 0, 1, 0], TRAILER, &[]);
    bytes
}

/// Adds an entry of the archive; the fields are inode, mode, links and time.
fn add(bytes: &mut Vec<u8>, [inode, mode, links, time]: [u32; 4], name: &str, content: &[u8]) {
    let (size, name_size) = (content.len() as u32, name.len() as u32 + 1);
    bytes.extend(b"070701");
    // After the size: device and device node, each in two parts; the length of the name; a checksum of none.
    for field in [
        inode, mode, 0, 0, links, time, size, 0, 0, 0, 0, name_size, 0,
    ] {
        bytes.extend(format!("{field:08x}").as_bytes());
    }
    bytes.extend(name.as_bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// What the header says of them; nothing for a package without any.
pub(super) fn tags(entries: &[Entry<'_>], epoch: u64) -> Vec<(u32, Value)> {
    if entries.is_empty() {
        return Vec::new();
    }
    let count = entries.len();
    let numbers = |of: &dyn Fn(&Entry<'_>) -> u32| Value::Numbers(entries.iter().map(of).collect());
    let texts = |of: &dyn Fn(&Entry<'_>) -> String| Value::Texts(entries.iter().map(of).collect());
    let (mut folders, mut places): (Vec<String>, Vec<u32>) = (Vec::new(), Vec::new());
    for entry in entries {
        let (folder, _) = split(entry.path);
        let place = folders.iter().position(|known| *known == folder);
        let place = place.unwrap_or_else(|| {
            folders.push(folder);
            folders.len() - 1
        });
        places.push(place as u32);
    }
    let size = |entry: &Entry<'_>| entry.content.map_or(0, |content| content.len() as u32);
    let sha256 = |content: &[u8]| Sha256::of(content).to_string();
    let flags = |entry: &Entry<'_>| {
        if entry.is_configuration {
            CONFIGURATION
        } else {
            0
        }
    };
    vec![
        (tag::FILE_SIZES, numbers(&size)),
        (
            tag::FILE_MODES,
            Value::Shorts(entries.iter().map(|entry| entry.mode as u16).collect()),
        ),
        (tag::FILE_RDEVS, Value::Shorts(vec![0; count])),
        (tag::FILE_MTIMES, numbers(&|_| epoch as u32)),
        (
            tag::FILE_DIGESTS,
            texts(&|entry| entry.content.map(sha256).unwrap_or_default()),
        ),
        (tag::FILE_LINK_TOS, texts(&|_| String::new())),
        (tag::FILE_FLAGS, numbers(&flags)),
        (tag::FILE_USER, texts(&|_| "root".into())),
        (tag::FILE_GROUP, texts(&|_| "root".into())),
        // Everything is verified.
        (tag::FILE_VERIFY_FLAGS, numbers(&|_| u32::MAX)),
        (tag::FILE_DEVICES, numbers(&|_| 1)),
        (
            tag::FILE_INODES,
            Value::Numbers((1..=count as u32).collect()),
        ),
        (tag::FILE_LANGS, texts(&|_| String::new())),
        (tag::DIR_INDEXES, Value::Numbers(places)),
        (
            tag::BASE_NAMES,
            texts(&|entry| split(entry.path).1.to_string()),
        ),
        (tag::DIR_NAMES, Value::Texts(folders)),
        (tag::FILE_DIGEST_ALGORITHM, Value::Numbers(vec![SHA256])),
    ]
}

/// The folder, with slashes around it, and the name in it.
fn split(path: &str) -> (String, &str) {
    match path.rsplit_once('/') {
        Some((folder, name)) => (format!("/{folder}/"), name),
        None => ("/".into(), path),
    }
}
