//! Where finished trees are kept: `CACHE/{roots,bases}/DIGEST/{tree, root.json, dpkg.log}`.
//!
//! A tree gets its name, by one rename, when it is complete; until then it is under a temporary name that the next run
//! removes. One process makes trees at a time. A tree that took long is on the disk before it gets its name. One that
//! is quickly made again is not: syncing waits for whatever else the machine writes, so it is trusted until the machine
//! is booted again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};

use super::{Kernel, RootTree};
use crate::error::{Error, Result};
use crate::sandbox;
use crate::tools;

/// The folder of the tree below its work folder.
pub(crate) const TREE: &str = "tree";
/// The file of [`Facts`] beside a finished tree.
pub(crate) const FACTS: &str = "root.json";
/// No larger file of facts is read from another builder's tree, in bytes.
const FACTS_LIMIT: u64 = 64 << 10;
/// How the names of unfinished trees begin.
const UNFINISHED: &str = ".unfinished-";
/// Finished trees that are kept.
const KEPT: usize = 3;

/// Changes with each boot (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// How far a finished tree can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasting {
    /// It is on the disk when it gets its name.
    Always,
    /// It may be damaged after a power cut.
    UntilBoot,
}

/// What is known about a finished tree.
#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    kernel: Option<Kernel>,
    /// The boot after which it is not trusted.
    boot: Option<String>,
    /// What was added to the tree's base.
    added: Vec<String>,
}

/// The folder of trees, locked.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    _lock: Flock<fs::File>,
}

/// Waits for its turn and opens the folder of trees.
pub(super) fn open(cache: &Path, kind: &str) -> Result<Store> {
    let folder = cache.join(kind);
    fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    let folder = folder.canonicalize().map_err(Error::io("find", &folder))?;
    let lock = tools::lock(&folder)?;
    Ok(Store {
        folder,
        _lock: lock,
    })
}

impl Store {
    /// The tree of that digest, if it has been finished, and what was added to its base.
    pub(super) fn find(&self, digest: &str) -> Result<Option<(RootTree, Vec<String>)>> {
        let place = self.folder.join(digest);
        let facts = place.join(FACTS);
        let Ok(text) = fs::read_to_string(&facts) else {
            return Ok(None);
        };
        // Facts that cannot be read are those of a tree that was not written out.
        let Ok(Facts {
            kernel,
            boot,
            added,
        }) = serde_json::from_str(&text)
        else {
            return Ok(None);
        };
        if boot.is_some_and(|boot| Some(boot) != boot_id()) {
            return Ok(None);
        }
        // The time of last use decides which trees are kept.
        let folder = fs::File::open(&place).map_err(Error::io("open", &place))?;
        folder
            .set_modified(SystemTime::now())
            .map_err(Error::io("mark as used", &place))?;
        let tree = RootTree {
            path: place.join(TREE),
            digest: digest.to_owned(),
            kernel,
            base: None,
        };
        Ok(Some((tree, added)))
    }

    /// Makes an empty work folder. What interrupted runs left is removed first; old trees go when the new one is
    /// finished, because ext4 searches long for inodes right after many have been freed.
    pub(super) fn begin(&self) -> Result<PathBuf> {
        for place in leftovers(self.list()?, usize::MAX) {
            sandbox::remove_tree(&place)?;
        }
        let work = self
            .folder
            .join(format!("{UNFINISHED}{}", std::process::id()));
        fs::create_dir(&work).map_err(Error::io("create", &work))?;
        Ok(work)
    }

    /// Gives a finished tree its name.
    pub(super) fn publish(
        &self,
        work: &Path,
        digest: &str,
        kernel: Option<Kernel>,
        added: &[String],
        lasting: Lasting,
    ) -> Result<RootTree> {
        let boot = match lasting {
            Lasting::Always => None,
            Lasting::UntilBoot => Some(boot_id().unwrap_or_default()),
        };
        let added = added.to_owned();
        let facts = Facts {
            kernel,
            boot,
            added,
        };
        let text = serde_json::to_vec(&facts).unwrap_or_default();
        let path = work.join(FACTS);
        fs::write(&path, text).map_err(Error::io("write", &path))?;
        if lasting == Lasting::Always {
            tools::sync_file_system(work)?;
        }
        let place = self.folder.join(digest);
        sandbox::remove_tree(&place)?;
        fs::rename(work, &place).map_err(Error::io("rename to", &place))?;
        for old in leftovers(self.list()?, KEPT) {
            sandbox::remove_tree(&old)?;
        }
        Ok(RootTree {
            path: place.join(TREE),
            digest: digest.to_owned(),
            kernel: facts.kernel,
            base: None,
        })
    }

    fn list(&self) -> Result<Vec<(SystemTime, PathBuf)>> {
        let mut places = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(Error::io("list", &self.folder))? {
            let entry = entry.map_err(Error::io("list", &self.folder))?;
            let metadata = entry
                .metadata()
                .map_err(Error::io("inspect", entry.path()))?;
            if metadata.is_dir() {
                let used = metadata
                    .modified()
                    .map_err(Error::io("inspect", entry.path()))?;
                places.push((used, entry.path()));
            }
        }
        Ok(places)
    }
}

/// The kernel of a base below `place`, which need not be of this cache, if it has one; `None` when no finished base that
/// lasts is there. Paths that lead out of the tree are refused.
pub(crate) fn kernel_of(place: &Path) -> Option<Option<Kernel>> {
    let path = place.join(FACTS);
    let found = fs::symlink_metadata(&path).ok()?;
    if !found.is_file() || found.len() > FACTS_LIMIT {
        return None;
    }
    let facts: Facts = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
    let normal = |path: &Path| {
        let mut parts = path.components();
        parts.all(|part| matches!(part, std::path::Component::Normal(_)))
    };
    let inside = |kernel: &Kernel| normal(&kernel.image) && normal(&kernel.modules);
    let lasts = facts.boot.is_none() && facts.added.is_empty();
    (lasts && facts.kernel.as_ref().is_none_or(inside)).then_some(facts.kernel)
}

fn boot_id() -> Option<String> {
    let id = fs::read_to_string(BOOT_ID).ok()?;
    Some(id.trim().to_owned())
}

/// What to remove: everything unfinished, and all but the `keep` finished trees that were used last.
fn leftovers(mut places: Vec<(SystemTime, PathBuf)>, keep: usize) -> Vec<PathBuf> {
    places.sort_by(|a, b| b.cmp(a));
    let unfinished = |path: &Path| {
        path.file_name()
            .is_none_or(|name| name.to_string_lossy().starts_with('.'))
    };
    let (mut remove, finished): (Vec<_>, Vec<_>) = places
        .into_iter()
        .map(|(_, path)| path)
        .partition(|path| unfinished(path));
    remove.extend(finished.into_iter().skip(keep));
    remove
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_another_builder_stay_inside_the_tree() {
        let folder = tempfile::tempdir().unwrap();
        let facts = |image: &str, more: &str| {
            let kernel = format!(r#"{{"image": "{image}", "version": "6", "modules": "usr/lib"}}"#);
            let text = format!(r#"{{"kernel": {kernel}, "boot": null, "added": [{more}]}}"#);
            fs::write(folder.path().join(FACTS), text).unwrap();
            kernel_of(folder.path())
        };
        assert!(kernel_of(folder.path()).is_none());
        assert!(facts("boot/vmlinuz", "").unwrap().is_some());
        assert!(facts("../vmlinuz", "").is_none());
        assert!(facts("/boot/vmlinuz", "").is_none());
        assert!(facts("boot/vmlinuz", "\"etc/x\"").is_none());
    }

    #[test]
    fn unfinished_and_old_trees_go() {
        let at = |seconds, name: &str| {
            (
                SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds),
                name.into(),
            )
        };
        let places = vec![
            at(1, "/r/old"),
            at(9, "/r/.unfinished-7"),
            at(3, "/r/new"),
            at(2, "/r/middle"),
        ];
        let expected: Vec<PathBuf> = vec!["/r/.unfinished-7".into(), "/r/old".into()];
        assert_eq!(leftovers(places, 2), expected);
    }
}
