//! The cache of downloads, by content: `downloads/sha256/ab/abcd…`. A file is there only if it was verified.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::digest::Sha256;
use crate::error::{Error, Result};
use crate::files;
use crate::http::{Client, Expected};
use crate::universe::reduced::{self, Reduced};

/// A folder of verified downloads, shared by processes.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
    /// What choosing packages needs of indexes: unpacking and reading one takes longer than everything else that a lock needs.
    indexes: PathBuf,
}

/// Reduced indexes that are kept: those of a few recipes, each with a few suites. Debian's largest takes 30 MB.
const INDEXES_KEPT: usize = 16;
/// No reduced index is larger, in bytes: an index has at most 512 MiB, and what is added for each package is less than what
/// is left out.
const INDEX_LIMIT: u64 = 512 << 20;

impl Cache {
    /// The cache below `$FARROW_CACHE` (or wherever `root` points).
    pub fn new(root: &Path) -> Self {
        Cache {
            root: root.join("downloads").join("sha256"),
            indexes: root.join("indexes"),
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
            let _ = File::open(&path).map(|file| used_now(&file));
            return Ok(true);
        }
        fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        Ok(false)
    }

    /// What is kept of an index, if it is there, whole and unchanged: of the index whose file has the digest `source`, for one
    /// architecture.
    ///
    /// Its own digest cannot tell who wrote it, so only what the user who runs this program wrote, or root, counts: nobody
    /// else decides through a shared folder which packages are chosen.
    pub(crate) fn index(&self, source: &Sha256, architecture: &str) -> Option<Reduced> {
        let identity = reduced::identity(source, architecture);
        let path = self.indexes.join(identity.to_string());
        let bytes = read_own(&path)?;
        Reduced::from_bytes(&bytes, &identity)
    }

    /// Keeps what choosing packages needs of an index for the next time, instead of the oldest of too many.
    pub(crate) fn keep_index(
        &self,
        source: &Sha256,
        architecture: &str,
        index: &Reduced,
    ) -> Result<()> {
        let identity = reduced::identity(source, architecture);
        let path = self.indexes.join(identity.to_string());
        files::write_derived(&path, &index.to_bytes(&identity), 0o444)?;
        let entries = fs::read_dir(&self.indexes);
        let entries = entries.map_err(|e| Error::io("read", &self.indexes, e))?;
        let mut found: Vec<_> = entries
            .flatten()
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        found.sort();
        let many = found.len().saturating_sub(INDEXES_KEPT);
        for (_, path) in &found[..many] {
            // Another process may have removed it.
            let _ = fs::remove_file(path);
        }
        Ok(())
    }

    /// Removes what can be made again from what was downloaded.
    pub fn remove_derived(&self) -> Result<()> {
        files::remove_tree(&self.indexes)
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

/// A file that only the user who runs this program, or root, can have written.
fn read_own(path: &Path) -> Option<Vec<u8>> {
    let file = File::open(path).ok()?;
    let metadata = file.metadata().ok()?;
    let is_own = [0, nix::unistd::geteuid().as_raw()].contains(&metadata.uid());
    let is_writable = metadata.mode() & 0o022 != 0;
    if !metadata.is_file() || !is_own || is_writable || metadata.len() > INDEX_LIMIT {
        return None;
    }
    used_now(&file);
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    file.take(INDEX_LIMIT).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The time of last use decides what goes when the cache is bounded; others may share it read-only.
fn used_now(file: &File) {
    let used = fs::FileTimes::new().set_accessed(std::time::SystemTime::now());
    let _ = file.set_times(used);
}

/// Opens a partial file and locks it. A file that another process renamed away meanwhile is not the one of
/// that name any more: then it is opened anew.
fn open_locked(part: &Path) -> Result<Flock<File>> {
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
