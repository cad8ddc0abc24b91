//! The cache of downloads, by content: `downloads/sha256/ab/abcd…`. A file is there only if it was verified.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::digest::Sha256;
use crate::error::{Error, Result};
use crate::files;
use crate::http::{Client, Expected};

/// A folder of verified downloads, shared by processes.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache below `$FARROW_CACHE` (or wherever `root` points).
    pub fn new(root: &Path) -> Self {
        Cache {
            root: root.join("downloads").join("sha256"),
        }
    }

    /// Where content with this digest is, or would be.
    pub fn path(&self, sha256: &Sha256) -> PathBuf {
        let name = sha256.to_string();
        self.root.join(&name[..2]).join(&name)
    }

    /// Whether a file of that digest and size is there. Its content is not read.
    pub fn has(&self, sha256: &Sha256, size: u64) -> bool {
        self.path(sha256)
            .symlink_metadata()
            .is_ok_and(|m| m.is_file() && m.len() == size)
    }

    /// Whether a file is there and its content still is what it was; a damaged one is removed.
    pub fn verify(&self, sha256: &Sha256, size: u64) -> Result<bool> {
        if !self.has(sha256, size) {
            return Ok(false);
        }
        let path = self.path(sha256);
        if Sha256::of_file(&path)? == (*sha256, size) {
            return Ok(true);
        }
        fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        Ok(false)
    }

    /// Fetches a file that is not there yet: into `.part` (kept when interrupted, and continued), verified,
    /// synced, renamed.
    pub fn fetch(
        &self,
        client: &Client,
        urls: &[String],
        expected: &Expected,
        on_bytes: &dyn Fn(u64),
    ) -> Result<PathBuf> {
        let path = self.path(&expected.sha256);
        let parent = files::parent(&path);
        files::create_dirs(parent)?;
        let part = path.with_extension("part");
        let mut locked = open_locked(&part)?;
        // Another process may have finished it while this one waited for the lock.
        if self.verify(&expected.sha256, expected.size)? {
            return Ok(path);
        }
        client.download(urls, expected, &mut locked, &part, on_bytes)?;
        let fail = |e| Error::io("write", &part, e);
        // Read-only: whatever is made from the cache is a copy, nothing has a reason to write here.
        locked
            .set_permissions(fs::Permissions::from_mode(0o444))
            .map_err(fail)?;
        locked.sync_all().map_err(fail)?;
        fs::rename(&part, &path).map_err(|e| Error::io("install", &path, e))?;
        files::sync_dir(parent)?;
        Ok(path)
    }
}

/// Opens a partial file and locks it. A file that another process renamed away meanwhile is not the one of
/// that name any more: then it is opened anew.
fn open_locked(part: &Path) -> Result<Flock<File>> {
    use std::os::unix::fs::MetadataExt;
    loop {
        let fail = |e| Error::io("open", part, e);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(part)
            .map_err(fail)?;
        let locked = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, e)| Error::io("lock", part, e.into()))?;
        let own = locked.metadata().map_err(fail)?.ino();
        if part.symlink_metadata().is_ok_and(|m| m.ino() == own) {
            return Ok(locked);
        }
    }
}
