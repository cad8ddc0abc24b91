//! What differs between two images: packages, partitions, boot, files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::contents::{self, Contents, Installed};
use crate::error::{Error, Result};
use crate::files::{self, FileEntry};
use crate::opened::{self, Opened};
use crate::partitions::{Layout, SECTOR};
use crate::tools::ToolsTree;

/// Something that both have, with both values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// Its name.
    pub name: String,
    /// In the first image.
    pub from: String,
    /// In the second.
    pub to: String,
}

/// A file that only one image has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OneFile {
    /// Path in the image.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
}

/// A file that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChangedFile {
    /// Path in the image.
    pub path: String,
    /// What differs: `type`, `mode`, `owner`, `content`.
    pub what: Vec<&'static str>,
    /// Size in the first image, bytes.
    pub size_from: u64,
    /// Size in the second.
    pub size_to: u64,
}

/// A partition that differs; without a size it is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChangedPartition {
    /// Its name.
    pub name: String,
    /// Size in the first image, bytes.
    pub size_from: Option<u64>,
    /// Size in the second.
    pub size_to: Option<u64>,
}

/// Packages that differ.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Packages {
    /// Only in the second image.
    pub added: Vec<Installed>,
    /// Only in the first.
    pub removed: Vec<Installed>,
    /// In both, in other versions.
    pub changed: Vec<Changed>,
}

/// Files that differ.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Files {
    /// Only in the second image.
    pub added: Vec<OneFile>,
    /// Only in the first.
    pub removed: Vec<OneFile>,
    /// In both.
    pub changed: Vec<ChangedFile>,
}

/// What differs between two images; nothing when all is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Differences {
    /// Name, version, kernel, command line and the like.
    pub facts: Vec<Changed>,
    /// Packages.
    pub packages: Packages,
    /// Partitions whose size or content differs.
    pub partitions: Vec<ChangedPartition>,
    /// Files of the root and `/var`.
    pub files: Files,
}

impl Differences {
    /// Whether the disks are the same.
    pub fn is_empty(&self) -> bool {
        *self == Differences::default()
    }
}

/// An image with all that is compared but its files.
struct Side {
    opened: Opened,
    layout: Layout,
    contents: Contents,
    /// Digests of partitions by name.
    digests: BTreeMap<String, (u64, [u8; 32])>,
}

impl Side {
    fn read(path: &Path, tools: &ToolsTree, cache: &Path) -> Result<Self> {
        let opened = opened::open(path, tools, cache)?;
        let layout = contents::layout(&opened)?;
        Ok(Self {
            contents: contents::read_opened(path, &opened, &layout, tools, cache)?,
            digests: digests(&opened.raw, &layout)?,
            opened,
            layout,
        })
    }
}

/// Compares two images of any formats. What must be unpacked goes into `cache` meanwhile.
///
/// # Errors
/// When one cannot be [read](contents::read).
pub fn compare(from: &Path, to: &Path, tools: &ToolsTree, cache: &Path) -> Result<Differences> {
    let (one, other) = (
        Side::read(from, tools, cache)?,
        Side::read(to, tools, cache)?,
    );
    let partitions = changed_partitions(&one.digests, &other.digests);
    let unpack = partitions
        .iter()
        .any(|partition| ["root-a", "var"].contains(&&partition.name[..]));
    let files = match unpack {
        false => Files::default(),
        true => {
            let list = |side: &Side| files::list(&side.opened.raw, &side.layout, tools, cache);
            changed_files(&list(&one)?, &list(&other)?)
        }
    };
    Ok(Differences {
        facts: changed_facts(&one.contents, &other.contents),
        packages: changed_packages(&one.contents.packages, &other.contents.packages),
        partitions,
        files,
    })
}

fn digests(raw: &Path, layout: &Layout) -> Result<BTreeMap<String, (u64, [u8; 32])>> {
    let file = File::open(raw).map_err(Error::io("open", raw))?;
    let digest = |start: u64, size: u64| -> std::io::Result<[u8; 32]> {
        let mut hash = Sha256::new();
        let mut piece = vec![0; 1 << 20];
        let mut done = 0;
        while done < size {
            let length = (size - done).min(piece.len() as u64) as usize;
            file.read_exact_at(&mut piece[..length], start + done)?;
            hash.update(&piece[..length]);
            done += length as u64;
        }
        Ok(hash.finalize().into())
    };
    let one = |partition: &crate::partitions::Partition| {
        let size = partition.sectors * SECTOR;
        let digest = digest(partition.start * SECTOR, size).map_err(Error::io("read", raw))?;
        Ok((partition.name.clone(), (size, digest)))
    };
    layout.partitions.iter().map(one).collect()
}

fn changed_partitions(
    one: &BTreeMap<String, (u64, [u8; 32])>,
    other: &BTreeMap<String, (u64, [u8; 32])>,
) -> Vec<ChangedPartition> {
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let differing = names
        .into_iter()
        .filter(|name| one.get(*name) != other.get(*name));
    differing
        .map(|name| ChangedPartition {
            name: name.clone(),
            size_from: one.get(name).map(|(size, _)| *size),
            size_to: other.get(name).map(|(size, _)| *size),
        })
        .collect()
}

/// What an image says in a few words each. The root hash, which is in the command line, too, is told once.
fn facts(contents: &Contents) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    facts.insert("root hash".to_owned(), contents.root_hash.clone());
    facts.insert("disk size".to_owned(), contents.disk_size.to_string());
    if let Some(serde_json::Value::Object(identity)) = &contents.identity {
        for (key, value) in identity {
            let text = value.as_str().map_or(value.to_string(), str::to_owned);
            facts.insert(key.clone(), text);
        }
    }
    if let Some(kernel) = contents.kernels.last() {
        let words = kernel.command_line.split(' ');
        let lasting =
            words.filter(|word| !word.starts_with("farrow.ro") && !word.contains("verity="));
        let words: Vec<&str> = lasting.collect();
        facts.insert("kernel".to_owned(), kernel.release.clone());
        facts.insert("command line".to_owned(), words.join(" "));
        facts.insert("initrd size".to_owned(), kernel.initrd_size.to_string());
    }
    facts
}

fn changed_facts(one: &Contents, other: &Contents) -> Vec<Changed> {
    let (one, other) = (facts(one), facts(other));
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let differing = names
        .into_iter()
        .filter(|name| one.get(*name) != other.get(*name));
    let text = |facts: &BTreeMap<String, String>, name: &String| {
        facts.get(name).cloned().unwrap_or_default()
    };
    differing
        .map(|name| Changed {
            name: name.clone(),
            from: text(&one, name),
            to: text(&other, name),
        })
        .collect()
}

fn changed_packages(one: &[Installed], other: &[Installed]) -> Packages {
    let by_name = |packages: &[Installed]| -> BTreeMap<(String, String), Installed> {
        let entry = |p: &Installed| ((p.name.clone(), p.architecture.clone()), p.clone());
        packages.iter().map(entry).collect()
    };
    let (one, other) = (by_name(one), by_name(other));
    let only = |here: &BTreeMap<_, Installed>, there: &BTreeMap<_, Installed>| {
        let lone = here.iter().filter(|(key, _)| !there.contains_key(*key));
        lone.map(|(_, package)| package.clone()).collect()
    };
    let changed = one.iter().filter_map(|(key, from)| {
        let to = other.get(key).filter(|to| to.version != from.version)?;
        Some(Changed {
            name: from.name.clone(),
            from: from.version.clone(),
            to: to.version.clone(),
        })
    });
    Packages {
        added: only(&other, &one),
        removed: only(&one, &other),
        changed: changed.collect(),
    }
}

fn changed_files(one: &BTreeMap<String, FileEntry>, other: &BTreeMap<String, FileEntry>) -> Files {
    let only = |here: &BTreeMap<String, FileEntry>, there: &BTreeMap<String, FileEntry>| {
        let lone = here.iter().filter(|(path, _)| !there.contains_key(*path));
        lone.map(|(path, entry)| OneFile {
            path: path.clone(),
            size: entry.size,
        })
        .collect()
    };
    let changed = one.iter().filter_map(|(path, from)| {
        let to = other.get(path)?;
        let parts = [
            ("type", from.kind != to.kind),
            ("mode", from.mode != to.mode),
            ("owner", from.owner != to.owner),
            ("content", from.content != to.content),
        ];
        let what: Vec<_> = parts
            .iter()
            .filter(|part| part.1)
            .map(|part| part.0)
            .collect();
        (!what.is_empty()).then(|| ChangedFile {
            path: path.clone(),
            what,
            size_from: from.size,
            size_to: to.size,
        })
    });
    Files {
        added: only(other, one),
        removed: only(one, other),
        changed: changed.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> Installed {
        Installed {
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: "amd64".to_owned(),
            installed_kib: 1,
        }
    }

    #[test]
    fn packages_are_told_apart_by_name_and_version() {
        let one = [package("a", "1"), package("b", "1"), package("c", "1")];
        let other = [package("b", "1"), package("c", "2"), package("d", "1")];
        let found = changed_packages(&one, &other);
        assert_eq!(found.added, [package("d", "1")]);
        assert_eq!(found.removed, [package("a", "1")]);
        assert_eq!((&found.changed[0].name[..], found.changed.len()), ("c", 1));
        assert_eq!(changed_packages(&one, &one), Packages::default());
    }

    #[test]
    fn files_say_what_differs() {
        let entry = |mode: &str, content: &str, size| FileEntry {
            kind: 'f',
            mode: mode.to_owned(),
            owner: (0, 0),
            size,
            content: content.to_owned(),
        };
        let one = BTreeMap::from([
            ("gone".to_owned(), entry("644", "x", 1)),
            ("same".to_owned(), entry("644", "x", 1)),
            ("changed".to_owned(), entry("644", "x", 1)),
        ]);
        let mut other = one.clone();
        other.remove("gone");
        other.insert("changed".to_owned(), entry("600", "y", 2));
        let found = changed_files(&one, &other);
        assert_eq!(found.removed[0].path, "gone");
        assert_eq!(found.changed[0].what, ["mode", "content"]);
        assert_eq!((found.changed.len(), found.added.len()), (1, 0));
    }
}
