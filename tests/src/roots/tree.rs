//! A tree of files from a tar archive, in a form in which two of them can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::EXCEPTIONS;

/// Files whose lines are compared without their order and without ids that packages were given by chance.
const ACCOUNTS: [&str; 6] = [
    "/etc/passwd",
    "/etc/group",
    "/etc/shadow",
    "/etc/gshadow",
    "/etc/subuid",
    "/etc/subgid",
];
/// Where Farrow keeps the package database, and where Debian has it.
const DATABASE: (&str, &str) = ("/usr/lib/sysimage/dpkg", "/var/lib/dpkg");
/// Python's compiled modules. How their header says what they were compiled from, a time or a hash, is each maker's affair (PEP 552):
/// magic number and flags of four bytes each, eight for the source.
const BYTECODE: &str = ".pyc";
const BYTECODE_HEADER: usize = 16;

/// What is at a path, as one line: type, mode, owner, group, target or digest.
pub type Tree = BTreeMap<String, String>;

struct Entry {
    kind: tar::EntryType,
    mode: u32,
    ids: (u64, u64),
    /// Target of a link, or digest of the content.
    what: String,
}

/// Reads a tree; owners are named by its own account files, a hard link is what it leads to.
pub fn read(path: &Path) -> Result<Tree> {
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    let mut archive = tar::Archive::new(std::io::BufReader::new(file));
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    let mut accounts: BTreeMap<String, String> = BTreeMap::new();
    let mut hard_links = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = absolute(&entry.path()?);
        let header = entry.header();
        let (kind, mode) = (header.entry_type(), header.mode()? & 0o7777);
        let ids = (header.uid()?, header.gid()?);
        let target = entry
            .link_name()?
            .map(|name| name.to_string_lossy().into_owned());
        if kind.is_hard_link() {
            let target = absolute(Path::new(&target.context("a link without target")?));
            hard_links.push((path, target));
            continue;
        }
        let what = match target {
            Some(target) if kind.is_symlink() => target,
            _ => content(&mut entry, &path, &mut accounts)?,
        };
        entries.insert(
            path,
            Entry {
                kind,
                mode,
                ids,
                what,
            },
        );
    }
    let mut tree = render(&entries, &accounts);
    for (path, target) in hard_links {
        let same = tree.get(&moved(&target)).cloned();
        tree.insert(moved(&path), same.context("a hard link to nothing")?);
    }
    Ok(tree)
}

fn absolute(path: &Path) -> String {
    let text = path.to_string_lossy();
    let text = text.trim_start_matches("./").trim_matches('/');
    format!("/{text}")
}

fn moved(path: &str) -> String {
    match path.strip_prefix(DATABASE.0) {
        Some(rest) => format!("{}{rest}", DATABASE.1),
        None => path.to_owned(),
    }
}

/// A digest of what a file says; for some files of its lines in a fixed order.
fn content(
    entry: &mut impl Read,
    path: &str,
    accounts: &mut BTreeMap<String, String>,
) -> Result<String> {
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    if ACCOUNTS.contains(&path) {
        let text = String::from_utf8(bytes)?;
        bytes = without_ids(&text).into_bytes();
        accounts.insert(path.into(), text);
    } else if moved(path) == "/var/lib/dpkg/status" {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        bytes = sorted(text.split("\n\n").map(str::to_owned)).into_bytes();
    } else if path.starts_with("/var/lib/") || path.starts_with("/usr/lib/sysimage/") {
        // Registers of packages, in the order in which they were configured.
        if let Ok(text) = std::str::from_utf8(&bytes) {
            bytes = sorted(text.lines().map(str::to_owned)).into_bytes();
        }
    }
    let mut said = &bytes[..];
    if path.ends_with(BYTECODE) {
        said = said.get(BYTECODE_HEADER..).unwrap_or_default();
    }
    Ok(hex::encode(&Sha256::digest(said)[..8]))
}

fn sorted(parts: impl Iterator<Item = String>) -> String {
    let parts: BTreeSet<String> = parts.map(|part| part.trim().to_owned()).collect();
    parts.into_iter().collect::<Vec<_>>().join("\n")
}

/// Lines of accounts without the fields that hold ids and days: what stays is who there is, and what of.
fn without_ids(text: &str) -> String {
    let line = |line: &str| {
        let words = line.split(':').map(|word| match word.parse::<u32>() {
            Ok(_) => "#",
            Err(_) => word,
        });
        words.collect::<Vec<_>>().join(":")
    };
    sorted(text.lines().map(line))
}

fn names(accounts: &BTreeMap<String, String>, file: &str) -> BTreeMap<u64, String> {
    let text = accounts.get(file).map_or("", String::as_str);
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split(':');
        let name = words.next()?;
        Some((words.nth(1)?.parse().ok()?, name.to_owned()))
    });
    lines.collect()
}

fn render(entries: &BTreeMap<String, Entry>, accounts: &BTreeMap<String, String>) -> Tree {
    let (users, groups) = (
        names(accounts, "/etc/passwd"),
        names(accounts, "/etc/group"),
    );
    let name = |names: &BTreeMap<u64, String>, id: u64| {
        names.get(&id).cloned().unwrap_or_else(|| id.to_string())
    };
    let line = |entry: &Entry| {
        let owner = name(&users, entry.ids.0);
        let group = name(&groups, entry.ids.1);
        // The mode of a link means nothing.
        let mode = if entry.kind.is_symlink() {
            0o777
        } else {
            entry.mode
        };
        format!("{:?} {mode:o} {owner}:{group} {}", entry.kind, entry.what)
    };
    entries
        .iter()
        .map(|(path, entry)| (moved(path), line(entry)))
        .collect()
}

/// Lines that differ and are no exception: `-` what only the yardstick has, `+` what only ours has; and how many paths are equal.
pub fn difference(ours: &Tree, yardstick: &Tree) -> (Vec<String>, usize) {
    let mut equal = 0;
    let mut lines = Vec::new();
    let paths: BTreeSet<&String> = ours.keys().chain(yardstick.keys()).collect();
    for path in paths {
        match (ours.get(path), yardstick.get(path)) {
            (a, b) if a == b => equal += 1,
            _ if EXCEPTIONS.iter().any(|(pattern, _)| matches(pattern, path)) => {}
            (a, b) => {
                lines.extend(b.map(|line| format!("- {path}: {line}")));
                lines.extend(a.map(|line| format!("+ {path}: {line}")));
            }
        }
    }
    (lines, equal)
}

/// Whether a path matches: `*` stands for any characters, `?` for one, `[0-9]` for a digit.
fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, path) = (pattern.as_bytes(), path.as_bytes());
    fn at(pattern: &[u8], path: &[u8]) -> bool {
        match (pattern, path) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => (0..=path.len()).any(|skipped| at(rest, &path[skipped..])),
            ([b'[', b'0', b'-', b'9', b']', rest @ ..], [digit, path @ ..]) => {
                digit.is_ascii_digit() && at(rest, path)
            }
            ([b'?', rest @ ..], [_, path @ ..]) => at(rest, path),
            ([wanted, rest @ ..], [found, path @ ..]) => wanted == found && at(rest, path),
            _ => false,
        }
    }
    at(pattern, path)
}
