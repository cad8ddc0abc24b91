//! The files of an image's root and `/var`, with owners and digests, for comparing two images.
//!
//! Both file systems are unpacked in a sandbox with mapped ids, so that owners are kept, listed there, and removed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::opened;
use crate::partitions::{Layout, SECTOR};
use crate::sandbox;
use crate::tools::ToolsTree;

/// The longest listing that is read, in bytes: some 100 000 files need 20 MiB.
const LIMIT: u64 = 512 << 20;

/// Unpacks and lists. `/var` is a partition of its own, whose mount point in the root is empty.
const SCRIPT: &str = r#"
mkdir tree
fsck.erofs --extract=tree --overwrite --force --offset=$ROOT /disk >/dev/null
debugfs -R "rdump / tree/var" "/disk?offset=$VAR" >/dev/null 2>&1
cd tree
find . -mindepth 1 -printf '%y\t%m\t%U\t%G\t%s\t%l\t%P\0' >../list
find . -type f -print0 | xargs -0 -r sha256sum -z >../sums
"#;

/// A file, folder or link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileEntry {
    /// Type as find(1) writes it: `f`, `d`, `l`, …
    pub kind: char,
    /// Permission bits in octal.
    pub mode: String,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Size in bytes; of files only.
    pub size: u64,
    /// SHA-256 of a file's content, target of a link.
    pub content: String,
}

/// All files by their path below `/`.
pub(crate) fn list(
    raw: &Path,
    layout: &Layout,
    tools: &ToolsTree,
    cache: &Path,
) -> Result<BTreeMap<String, FileEntry>> {
    let offset = |name: &str| {
        let found = layout.partitions.iter().find(|p| p.name == name);
        let offset = found.map(|partition| (partition.start * SECTOR).to_string());
        offset.ok_or_else(|| Error::Unknown {
            path: raw.to_owned(),
            reason: format!("it has no partition {name}"),
        })
    };
    let work = opened::work_folder(cache)?;
    let outcome = tools
        .sandbox()
        .bind_ro(raw, "/disk")
        .bind(work.path(), "/work")
        .workdir("/work")
        .env("ROOT", &offset("root-a")?)
        .env("VAR", &offset("var")?)
        .run(&["sh", "-eu", "-c", SCRIPT], None);
    let listed = outcome.and_then(|_| {
        let list = read_bounded(&work.path().join("list"))?;
        let sums = read_bounded(&work.path().join("sums"))?;
        parse(&list, &sums).ok_or_else(|| Error::Unknown {
            path: raw.to_owned(),
            reason: "its files cannot be listed".to_owned(),
        })
    });
    // Its owners are mapped ids, which only a sandbox can remove.
    sandbox::remove_tree(&work.path().join("tree"))?;
    listed
}

fn read_bounded(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LIMIT).read_to_end(&mut bytes))
        .map_err(Error::io("read", path))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Joins the listing with the digests; `None` when a line has not the expected form.
fn parse(list: &str, sums: &str) -> Option<BTreeMap<String, FileEntry>> {
    let mut files = BTreeMap::new();
    for line in list.split_terminator('\0') {
        let mut fields = line.splitn(7, '\t');
        let mut next = || fields.next();
        let (kind, mode) = (next()?.chars().next()?, next()?.to_owned());
        let owner = (next()?.parse().ok()?, next()?.parse().ok()?);
        let size: u64 = next()?.parse().ok()?;
        let content = next()?.to_owned();
        let path = next()?.to_owned();
        let size = if kind == 'f' { size } else { 0 };
        let entry = FileEntry {
            kind,
            mode,
            owner,
            size,
            content,
        };
        files.insert(path, entry);
    }
    for line in sums.split_terminator('\0') {
        let (digest, path) = line.split_once("  ./")?;
        files.get_mut(path)?.content = digest.to_owned();
    }
    Some(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_are_joined_with_digests() {
        let list = "d\t755\t0\t0\t4096\t\ta\0f\t644\t1\t2\t5\t\ta/b c\0l\t777\t0\t0\t3\tb c\ta/l\0";
        let files = parse(list, "00ff  ./a/b c\0").unwrap();
        assert_eq!(files["a/b c"].content, "00ff");
        assert_eq!(files["a/b c"].owner, (1, 2));
        assert_eq!((files["a"].size, &files["a/l"].content[..]), (0, "b c"));
        assert!(parse("f\t644\n", "").is_none());
        assert!(parse(list, "00  ./other\0").is_none());
    }
}
