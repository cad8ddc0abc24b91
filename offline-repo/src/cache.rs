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
    /// Unpacked indexes, by their own digest: unpacking one takes longer than everything else that a lock needs.
    unpacked: PathBuf,
}

/// Unpacked indexes that are kept: those of a few recipes, each with a few suites. Debian's largest has 60 MB.
const UNPACKED_KEPT: usize = 16;

impl Cache {
    /// The cache below `$FARROW_CACHE` (or wherever `root` points).
    pub fn new(root: &Path) -> Self {
        Cache {
            root: root.join("downloads").join("sha256"),
            unpacked: root.join("indexes"),
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
            // The time of last use decides what goes when the cache is bounded; others may share it read-only.
            let used = fs::FileTimes::new().set_accessed(std::time::SystemTime::now());
            let _ = File::open(&path).and_then(|file| file.set_times(used));
            return Ok(true);
        }
        fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        Ok(false)
    }

    /// An unpacked index, if it is there with this content.
    pub(crate) fn unpacked(&self, sha256: &Sha256, size: u64) -> Option<Vec<u8>> {
        let path = self.unpacked.join(sha256.to_string());
        let bytes = files::read_bounded(&path, size).ok()?;
        (bytes.len() as u64 == size && Sha256::of(&bytes) == *sha256).then_some(bytes)
    }

    /// Keeps an unpacked index for the next time, instead of the oldest of too many. Its readers compare it with its digest.
    pub(crate) fn keep_unpacked(&self, sha256: &Sha256, bytes: &[u8]) -> Result<()> {
        files::write_derived(&self.unpacked.join(sha256.to_string()), bytes, 0o444)?;
        let entries = fs::read_dir(&self.unpacked);
        let entries = entries.map_err(|e| Error::io("read", &self.unpacked, e))?;
        let mut found: Vec<_> = entries
            .flatten()
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        found.sort();
        let many = found.len().saturating_sub(UNPACKED_KEPT);
        for (_, path) in &found[..many] {
            // Another process may have removed it.
            let _ = fs::remove_file(path);
        }
        Ok(())
    }

    /// Removes what can be made again from what was downloaded.
    pub fn remove_derived(&self) -> Result<()> {
        files::remove_tree(&self.unpacked)
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
        // Read-only: nothing has a reason to write here. A repository with a link to it makes it writable for its owner.
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
