//! The cache as a whole: what is in it, when it was last used, and what goes when it is bounded.
//!
//! Each run that takes something from the cache holds a shared lock of it; what bounds it needs the lock for itself. So
//! nothing is removed that a running bake, or a machine whose root is a tree of the cache, is using. An entry loses its
//! name by one rename before it is removed: a run that is killed meanwhile leaves nothing that looks whole.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;

use crate::diagnostic::{Diagnostic, Result};
use crate::paths::Paths;

/// Kinds of entries: package files, what is kept of indexes, root trees, the trees that they begin with, the layers of those, file
/// systems of images, what killed runs left, and trees of programs, which the tools keep few of by themselves.
pub const KINDS: [&str; 8] = [
    "download",
    "index",
    "root",
    "base",
    "layer",
    "part",
    "unfinished",
    "tools",
];
/// The file whose lock says who uses the cache.
const LOCK: &str = ".in-use";
/// How the name of an entry begins that is being removed; what is left under such a name goes the next time.
const GOING: &str = ".unfinished-going-";

/// Something in the cache that can go by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// One of [`KINDS`].
    pub kind: &'static str,
    /// Its name: a digest, mostly.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Space that it takes, in bytes.
    pub bytes: u64,
    /// When it was last used, seconds since 1970.
    pub used: u64,
}

/// What is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// As much as is needed to keep only so many bytes, beginning with what was used longest ago.
    pub keep: Option<u64>,
    /// Everything that was not used since then.
    pub before: Option<SystemTime>,
}

/// Keeps what is in the cache there until the value is dropped. `None` where the cache cannot be written to: then
/// nobody without other rights can bound it either.
pub fn hold(cache: &Path) -> Result<Option<Flock<File>>> {
    let Ok(file) = open(cache) else {
        return Ok(None);
    };
    // Waits only while another run removes something.
    Flock::lock(file, FlockArg::LockShared)
        .map(Some)
        .map_err(|(_, errno)| Diagnostic::io("lock", cache, errno.into()))
}

/// Takes the cache for itself.
pub fn alone(cache: &Path, wait: bool) -> Result<Flock<File>> {
    let file = open(cache).map_err(|e| Diagnostic::io("write to", cache, e))?;
    let how = match wait {
        true => FlockArg::LockExclusive,
        false => FlockArg::LockExclusiveNonblock,
    };
    Flock::lock(file, how).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => Diagnostic::failed(
            "FR-CACHE-BUSY",
            format!("another run of farrow uses {}", cache.display()),
        )
        .with_hint("let it end first, or wait for that with --wait"),
        errno => Diagnostic::io("lock", cache, errno.into()),
    })
}

fn open(cache: &Path) -> std::io::Result<File> {
    fs::create_dir_all(cache)?;
    let mut options = fs::OpenOptions::new();
    options.create(true).append(true).open(cache.join(LOCK))
}

/// Everything in the cache and the folder of tools trees.
pub fn entries(paths: &Paths) -> Result<Vec<Entry>> {
    let cache = &paths.cache;
    let mut found = Vec::new();
    let downloads = cache.join("downloads/sha256");
    for (_, folder) in list(&downloads)? {
        collect(&folder, "download", &mut found)?;
    }
    collect(&cache.join("indexes"), "index", &mut found)?;
    collect(&cache.join("roots"), "root", &mut found)?;
    collect(&cache.join("bases"), "base", &mut found)?;
    collect(&cache.join("layers"), "layer", &mut found)?;
    collect(cache, "part", &mut found)?;
    collect(&paths.tools, "tools", &mut found)?;
    Ok(found)
}

/// The entries of a folder: what has a digest for its name, and what a killed run left.
fn collect(folder: &Path, kind: &'static str, found: &mut Vec<Entry>) -> Result<()> {
    for (name, path) in list(folder)? {
        let digest = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let kind = match digest {
            true => kind,
            false if is_unfinished(&name) && kind != "tools" => "unfinished",
            false => continue,
        };
        let Ok(metadata) = path.symlink_metadata() else {
            continue;
        };
        // A file's time of access is set when it is used; a folder's time of change, since looking into it sets the other.
        let used = match metadata.is_dir() {
            true => metadata.mtime(),
            false => metadata.mtime().max(metadata.atime()),
        };
        found.push(Entry {
            kind,
            name,
            bytes: size(&path),
            path,
            used: u64::try_from(used).unwrap_or(0),
        });
    }
    Ok(())
}

/// Names that runs give to what is not finished: of folders, and of downloads, which may be continued.
fn is_unfinished(name: &str) -> bool {
    let starts = [".unfinished-", ".farrow-repo-"];
    starts.iter().any(|start| name.starts_with(start)) || name.ends_with(".part")
}

/// Names and paths in a folder, sorted; none when it is not there.
fn list(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Diagnostic::io("list", folder, e)),
    };
    let entry = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        (name, entry.path())
    };
    let mut found: Vec<_> = entries.flatten().map(entry).collect();
    found.sort();
    Ok(found)
}

/// Space below a path. What a plain user's mapped owners keep to themselves does not count.
fn size(path: &Path) -> u64 {
    let Ok(metadata) = path.symlink_metadata() else {
        return 0;
    };
    let own = metadata.blocks() * 512;
    if !metadata.is_dir() {
        return own;
    }
    let inside = fs::read_dir(path).into_iter().flatten().flatten();
    own + inside.map(|entry| size(&entry.path())).sum::<u64>()
}

impl Rule {
    /// What goes, and what stays. What killed runs left goes in any case; trees of programs stay.
    pub fn apply(self, entries: Vec<Entry>) -> (Vec<Entry>, Vec<Entry>) {
        let before = self.before.map(|time| {
            let since = time.duration_since(SystemTime::UNIX_EPOCH);
            since.unwrap_or(Duration::ZERO).as_secs()
        });
        let (mut stay, rest): (Vec<Entry>, Vec<Entry>) =
            entries.into_iter().partition(|entry| entry.kind == "tools");
        let (mut go, mut rest): (Vec<Entry>, Vec<Entry>) = rest.into_iter().partition(|entry| {
            entry.kind == "unfinished" || before.is_some_and(|before| entry.used < before)
        });
        // The newest first.
        rest.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.path.cmp(&b.path)));
        let mut kept = 0;
        for entry in rest {
            kept += entry.bytes;
            match self.keep.is_some_and(|keep| kept > keep) {
                true => go.push(entry),
                false => stay.push(entry),
            }
        }
        (go, stay)
    }
}

/// Removes an entry. The cache is [locked](alone).
pub fn remove(entry: &Entry) -> Result<()> {
    let going = match entry.kind {
        "unfinished" => entry.path.clone(),
        _ => {
            let going = entry.path.with_file_name(format!("{GOING}{}", entry.name));
            fs::rename(&entry.path, &going)
                .map_err(|e| Diagnostic::io("rename", &entry.path, e))?;
            going
        }
    };
    let is_folder = going.symlink_metadata().is_ok_and(|found| found.is_dir());
    match is_folder {
        // The files of trees may belong to mapped ids.
        true => Ok(fs::remove_dir_all(&going).or_else(|_| images::sandbox::remove_tree(&going))?),
        false => fs::remove_file(&going).map_err(|e| Diagnostic::io("remove", &going, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: &'static str, name: &str, bytes: u64, used: u64) -> Entry {
        Entry {
            kind,
            name: name.into(),
            path: name.into(),
            bytes,
            used,
        }
    }

    fn names(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(|entry| entry.name.as_str()).collect()
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let all = || {
            vec![
                entry("part", "old", 10, 1),
                entry("root", "new", 10, 3),
                entry("tools", "tools", 100, 0),
                entry("unfinished", "left", 1, 9),
                entry("download", "middle", 10, 2),
            ]
        };
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        for (keep, before, expected) in [
            (None, None, vec!["left"]),
            (Some(20), None, vec!["left", "old"]),
            (Some(0), None, vec!["left", "middle", "new", "old"]),
            (None, at(3), vec!["left", "middle", "old"]),
            (Some(5), at(2), vec!["left", "middle", "new", "old"]),
        ] {
            let (go, stay) = Rule { keep, before }.apply(all());
            let mut going = names(&go);
            going.sort_unstable();
            assert_eq!(going, expected, "{keep:?} {before:?}");
            assert_eq!(go.len() + stay.len(), all().len());
        }
    }

    #[test]
    fn entries_are_found_and_removed_and_nothing_is_while_another_run_goes() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths {
            cache: folder.path().join("cache"),
            tools: folder.path().join("tools"),
            state: folder.path().join("state"),
        };
        let digest = "0a".repeat(32);
        let part = paths.cache.join(&digest);
        fs::create_dir_all(&part).unwrap();
        fs::write(part.join("part.img"), vec![1; 8192]).unwrap();
        let download = paths.cache.join("downloads/sha256/0a");
        fs::create_dir_all(&download).unwrap();
        fs::write(download.join(&digest), b"x").unwrap();
        fs::write(paths.cache.join("accelerator.json"), b"{}").unwrap();
        let found = entries(&paths).unwrap();
        let kinds: Vec<_> = found.iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, ["download", "part"]);
        assert!(found[1].bytes >= 8192);
        let held = hold(&paths.cache).unwrap();
        let refused = alone(&paths.cache, false).unwrap_err();
        assert_eq!(refused.code, "FR-CACHE-BUSY");
        drop(held);
        let _alone = alone(&paths.cache, false).unwrap();
        remove(&found[0]).unwrap();
        assert!(!download.join(&digest).exists());
        assert_eq!(fs::read_dir(&download).unwrap().count(), 0);
    }
}
