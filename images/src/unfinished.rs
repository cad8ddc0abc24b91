//! Folders of a cache for what is not finished. A folder is locked by the process that works in it, so that others know which
//! ones a killed process left, and remove them.

use std::fs::{self, File};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::sandbox;

/// How their names begin.
const TEMPORARY: &str = ".unfinished-";
/// Letters and digits that follow in the name of one of these folders, and in no other that begins so.
const RANDOM: usize = 9;

/// A folder that goes with this value, unless it was renamed.
#[derive(Debug)]
pub(crate) struct Unfinished {
    folder: TempDir,
    _lock: Flock<File>,
}

impl Unfinished {
    /// Makes an empty one in `cache`, which is made when it is missing, after removing those of killed processes.
    pub(crate) fn begin(cache: &Path) -> Result<Self> {
        fs::create_dir_all(cache).map_err(Error::io("create", cache))?;
        sweep(cache)?;
        loop {
            let folder = tempfile::Builder::new()
                .prefix(TEMPORARY)
                .rand_bytes(RANDOM)
                .tempdir_in(cache)
                .map_err(Error::io("create in", cache))?;
            // Until it is locked, another process may take it for left.
            if let Some(lock) = lock(folder.path())
                && folder.path().is_dir()
            {
                return Ok(Self {
                    folder,
                    _lock: lock,
                });
            }
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn lock(folder: &Path) -> Option<Flock<File>> {
    let file = File::open(folder).ok()?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()
}

/// Removes folders that nobody has locked.
pub(crate) fn sweep(cache: &Path) -> Result<()> {
    for entry in fs::read_dir(cache)
        .map_err(Error::io("list", cache))?
        .flatten()
    {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let random = name.strip_prefix(TEMPORARY).map(str::len);
        if random == Some(RANDOM)
            && let Some(_lock) = lock(&entry.path())
        {
            sandbox::remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locked_folders_stay_and_their_names_are_told_from_others() {
        let cache = tempfile::tempdir().unwrap();
        let one = Unfinished::begin(cache.path()).unwrap();
        let other = cache.path().join(".unfinished-1234");
        fs::create_dir(&other).unwrap();
        let two = Unfinished::begin(cache.path()).unwrap();
        assert!(one.path().is_dir() && two.path().is_dir() && other.is_dir());
        let place = one.path().to_owned();
        drop(one);
        assert!(!place.exists());
    }
}
