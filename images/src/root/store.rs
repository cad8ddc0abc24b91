//! Where finished trees are kept: `CACHE/{roots,bases}/DIGEST/{tree, root.json, dpkg.log}`.
//!
//! A tree gets its name, by one rename, when it is complete and on the disk; until then it is under a temporary name
//! that the next run removes. One process makes trees at a time.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::Flock;

use super::{Kernel, RootTree};
use crate::error::{Error, Result};
use crate::sandbox;
use crate::tools;

/// The folder of the tree below its work folder.
pub(super) const TREE: &str = "tree";
/// What is known about a finished tree.
const FACTS: &str = "root.json";
/// How the names of unfinished trees begin.
const UNFINISHED: &str = ".unfinished-";
/// Finished trees that are kept.
const KEPT: usize = 3;

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
    /// The tree of that digest, if it has been finished.
    pub(super) fn find(&self, digest: &str) -> Result<Option<RootTree>> {
        let place = self.folder.join(digest);
        let facts = place.join(FACTS);
        let Ok(text) = fs::read_to_string(&facts) else {
            return Ok(None);
        };
        let kernel = serde_json::from_str(&text)
            .map_err(|error| Error::io("understand", &facts)(std::io::Error::other(error)))?;
        // The time of last use decides which trees are kept.
        let folder = fs::File::open(&place).map_err(Error::io("open", &place))?;
        folder
            .set_modified(SystemTime::now())
            .map_err(Error::io("mark as used", &place))?;
        Ok(Some(RootTree {
            path: place.join(TREE),
            digest: digest.to_owned(),
            kernel,
        }))
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
    ) -> Result<RootTree> {
        let facts = work.join(FACTS);
        let text = serde_json::to_vec(&kernel).unwrap_or_default();
        fs::write(&facts, text).map_err(Error::io("write", &facts))?;
        tools::sync_file_system(work)?;
        let place = self.folder.join(digest);
        fs::rename(work, &place).map_err(Error::io("rename to", &place))?;
        for old in leftovers(self.list()?, KEPT) {
            sandbox::remove_tree(&old)?;
        }
        Ok(RootTree {
            path: place.join(TREE),
            digest: digest.to_owned(),
            kernel,
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
