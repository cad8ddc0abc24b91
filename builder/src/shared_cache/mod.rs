//! A cache that builders share: read-through from a store, and pushing to it.
//!
//! Package files are taken by the digests that a lock lists. Parts and trees of a bake, whose names are digests of what
//! they were made from, are taken only with a [statement] signed by a key that the caller trusts. What is missing there,
//! or not what it should be, is made here; only the time shows where something came from, never the bytes.

mod address;
mod blob;
mod push;
mod statement;
mod store;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use images::elsewhere::{Kind, Wanted};
use images::tools::ToolsTree;
use offline_repo::cache::Cache;
use offline_repo::fetch::FetchPlan;
use offline_repo::lock::{Lock, LockedPackage};
use offline_repo::openpgp::Keyring;

pub use push::{Item, push};

use crate::diagnostic::{Diagnostic, Result};
use statement::Statement;
use store::{Access, Failure, Store};

/// How the names of unfinished files begin; `cache gc` and interrupted runs remove them.
const TEMPORARY: &str = ".unfinished-";
/// Requests at a time for package files: enough to hide a server's latency.
const CONNECTIONS: usize = 8;
/// No key file is larger, in bytes; the reader of keys has the same limit.
const KEY_LIMIT: u64 = 1 << 20;

/// What a shared cache has to say while something is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Something came from there.
    Took(String),
    /// Something is wrong there, and does no harm.
    Warning(String),
}

/// Where notes go; it may be called from several threads.
pub type Notes<'a> = &'a (dyn Fn(Note) + Sync);

/// A shared cache to take things from.
pub struct SharedCache {
    store: Store,
    /// Whose statements count; none: only package files are taken.
    keyring: Option<Keyring>,
    /// It could not be asked once, and is not asked again.
    off: AtomicBool,
    /// What is said only once has been.
    told_denied: AtomicBool,
    told_keyless: AtomicBool,
}

impl SharedCache {
    /// Opens the store of an address, with files of keys whose statements count. Connects to nothing yet.
    pub fn open(url: &str, keys: &[PathBuf]) -> Result<Self> {
        let store = Store::open(url, Access::Read)?;
        let keys = keys.iter().map(|path| read_key(path));
        let keys = keys.collect::<Result<Vec<_>>>()?;
        let keyring = match keys.is_empty() {
            true => None,
            false => Some(Keyring::from_files(&keys)?),
        };
        Ok(SharedCache {
            store,
            keyring,
            off: AtomicBool::new(false),
            told_denied: AtomicBool::new(false),
            told_keyless: AtomicBool::new(false),
        })
    }

    /// Takes a part or a tree, if the store has it with a statement that counts; see [`images::elsewhere::Find`].
    pub fn find(&self, wanted: Wanted<'_>, path: &Path, tools: &ToolsTree, notes: Notes) -> bool {
        if self.off.load(Ordering::Relaxed) {
            return false;
        }
        let Some(keyring) = &self.keyring else {
            if !self.told_keyless.swap(true, Ordering::Relaxed) {
                let why = "without --cache-key only package files are taken from it";
                notes(Note::Warning(format!("{}: {why}", self.title())));
            }
            return false;
        };
        let what = format!("{} {}", wanted.kind.name(), wanted.digest);
        let fingerprints = keyring.fingerprints();
        let taken = fingerprints.iter().any(|fingerprint| {
            let taken = self.take(wanted, keyring, fingerprint, path, tools);
            self.heard(&what, taken, notes).is_some()
        });
        if taken {
            notes(Note::Took(format!("{what} from {}", self.store.name())));
        }
        taken
    }

    /// Takes a result with the statement of one key; `None` when there is none.
    fn take(
        &self,
        wanted: Wanted<'_>,
        keyring: &Keyring,
        fingerprint: &str,
        path: &Path,
        tools: &ToolsTree,
    ) -> std::result::Result<Option<()>, Failure> {
        let name = statement::name(wanted, fingerprint);
        let Some(message) = self.store.small(&name, statement::LIMIT)? else {
            return Ok(None);
        };
        let statement = Statement::read(&message, keyring, wanted, now());
        let statement = statement.map_err(Failure::Refused)?;
        let local = |e: std::io::Error| Failure::Refused(format!("it cannot be written here: {e}"));
        let folder = path.parent().unwrap_or(path);
        // Without a name: a run that is killed leaves nothing.
        let packed = tempfile::tempfile_in(folder).map_err(local)?;
        let (digest, size) = (&statement.blob, statement.size);
        if !self.store.blob(digest, size, &packed, &|_| ())? {
            return Err(Failure::Refused(format!("its blob {digest} is not there")));
        }
        let unpacked = match wanted.kind {
            Kind::Part => blob::unpack_file(&packed, statement.unpacked, path),
            Kind::Base => blob::unpack_tree(&packed, statement.unpacked, tools, path),
        };
        unpacked.map(Some).map_err(Failure::Refused)
    }

    /// Takes the package files that a cache lacks of a lock. How many came.
    pub fn fill(
        &self,
        lock: &Lock,
        cache: &Cache,
        notes: Notes,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> usize {
        let missing = FetchPlan::new(lock, cache).missing;
        let total: u64 = missing.iter().map(|package| package.size).sum();
        let (next, taken, bytes) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicU64::new(0));
        let work = || {
            while let Some(package) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.off.load(Ordering::Relaxed) {
                    return;
                }
                let found = self.package(package, cache);
                let what = format!("package file {} {}", package.name, package.sha256);
                if self.heard(&what, found, notes).is_some() {
                    taken.fetch_add(1, Ordering::Relaxed);
                }
                let done = bytes.fetch_add(package.size, Ordering::Relaxed) + package.size;
                progress(done, total);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..CONNECTIONS.min(missing.len()) {
                scope.spawn(work);
            }
        });
        let taken = taken.into_inner();
        if taken > 0 {
            let of = missing.len();
            let from = self.store.name();
            notes(Note::Took(format!(
                "{taken} of {of} package files from {from}"
            )));
        }
        taken
    }

    /// Takes one package file: hashed while it is written, and named when it is whole.
    fn package(
        &self,
        package: &LockedPackage,
        cache: &Cache,
    ) -> std::result::Result<Option<()>, Failure> {
        let local = |e: std::io::Error| Failure::Refused(format!("it cannot be written here: {e}"));
        let path = cache.path(&package.sha256);
        let folder = path.parent().unwrap_or(&path);
        fs::create_dir_all(folder).map_err(local)?;
        let file = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .tempfile_in(folder);
        let file = file.map_err(local)?;
        let digest = package.sha256.to_string();
        if !self
            .store
            .blob(&digest, package.size, file.as_file(), &|_| ())?
        {
            return Ok(None);
        }
        // As the downloads beside it: nothing has a reason to write here.
        let mode = fs::Permissions::from_mode(0o444);
        file.as_file().set_permissions(mode).map_err(local)?;
        file.as_file().sync_all().map_err(local)?;
        file.persist(&path).map_err(|e| local(e.error))?;
        let folder = File::open(folder).and_then(|folder| folder.sync_all());
        folder.map_err(local).map(Some)
    }

    /// What was found, or a note of why not.
    fn heard<T>(
        &self,
        what: &str,
        found: std::result::Result<Option<T>, Failure>,
        notes: Notes,
    ) -> Option<T> {
        let warn = |text: String| notes(Note::Warning(format!("{}: {text}", self.title())));
        match found {
            Ok(found) => return found,
            Err(Failure::Unreachable(reason)) => {
                if !self.off.swap(true, Ordering::Relaxed) {
                    warn(format!(
                        "it cannot be read and is not asked again: {reason}"
                    ));
                }
            }
            Err(Failure::Denied) => {
                if !self.told_denied.swap(true, Ordering::Relaxed) {
                    warn(format!(
                        "{what}: reading it is not allowed; if nothing can be read, check the credentials"
                    ));
                }
            }
            Err(Failure::Refused(reason)) => warn(format!("{what} is not used: {reason}")),
        }
        None
    }

    fn title(&self) -> String {
        format!("shared cache {}", self.store.name())
    }
}

fn read_key(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(KEY_LIMIT + 1).read_to_end(&mut bytes))
        .map_err(|e| Diagnostic::io("read", path, e))?;
    Ok(bytes)
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

#[cfg(test)]
mod tests;
