//! Writes to the host's file system that appear whole or not at all.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use nix::fcntl::{Flock, FlockArg, PosixFadviseAdvice, RenameFlags, posix_fadvise};

use crate::error::{Error, Result};

/// Reads a file that must not be larger than `limit` bytes.
pub fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io("read", path, e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::TooLarge {
            origin: path.display().to_string(),
            limit,
        });
    }
    Ok(bytes)
}

/// Writes a file under a temporary name beside it, syncs it, and renames it.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let parent = parent(path);
    let file = write_temporary(path, bytes, mode)?;
    let fail = |e| Error::io("write", path, e);
    file.as_file().sync_all().map_err(fail)?;
    file.persist(path).map_err(|e| fail(e.error))?;
    sync_dir(parent)
}

/// The same without waiting for the disk, for files whose content every reader proves, and which can be made again.
pub fn write_derived(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let file = write_temporary(path, bytes, mode)?;
    let fail = |e: tempfile::PersistError| Error::io("write", path, e.error);
    file.persist(path).map(drop).map_err(fail)
}

fn write_temporary(path: &Path, bytes: &[u8], mode: u32) -> Result<tempfile::NamedTempFile> {
    let parent = parent(path);
    create_dirs(parent)?;
    let fail = |e| Error::io("write", path, e);
    let mut file = tempfile::Builder::new()
        .prefix(".farrow-")
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(parent)
        .map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    // The process's umask also applied to the temporary file: set the mode that was asked for.
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(mode))
        .map_err(fail)?;
    Ok(file)
}

/// The folder a path is in ("." for a bare name).
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// Makes a folder and those above it.
pub fn create_dirs(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::io("create", path, e))
}

/// Makes a rename or a new file in this folder durable.
pub fn sync_dir(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| Error::io("sync", path, e))
}

/// Makes everything below this folder durable. Not with one syncfs(2), which also waits for whatever else the machine
/// writes; a file with more than one name was durable before it got this one.
pub fn sync_tree(root: &Path) -> Result<()> {
    let (mut paths, mut folders) = (Vec::new(), BTreeSet::from([root.to_path_buf()]));
    for relative in walk(root)? {
        let path = root.join(relative);
        let above = path.ancestors().skip(1);
        folders.extend(above.take_while(|p| *p != root).map(Path::to_path_buf));
        paths.push(path);
    }
    let sync = |path: &PathBuf| {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let metadata = file.metadata().map_err(|e| Error::io("read", path, e))?;
        match metadata.is_file() && metadata.nlink() > 1 {
            true => Ok(()),
            false => file.sync_all().map_err(|e| Error::io("sync", path, e)),
        }
    };
    on_all_cores(&paths, sync)?;
    on_all_cores(&Vec::from_iter(folders), sync)
}

/// Removes a tree if it is there.
pub fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// Holds off other processes that write into the same folder, until it is dropped.
///
/// The folder itself is locked, so no lock file stays behind; the kernel drops the lock of a process that dies.
pub fn lock_dir(path: &Path) -> Result<Flock<File>> {
    let dir = File::open(path).map_err(|e| Error::io("open", path, e))?;
    Flock::lock(dir, FlockArg::LockExclusive).map_err(|(_, e)| Error::io("lock", path, e.into()))
}

/// What lies in a repository to be run, as plain files at its top.
const PROGRAMS: [&str; 2] = ["farrow", "farrow-bootstrap"];

/// The mode of a file of a repository, by its path there.
pub fn mode_of(relative: &str) -> u32 {
    if PROGRAMS.contains(&relative) {
        0o755
    } else {
        0o644
    }
}

/// Gives everything below a folder, and the folder itself, the modes and the time that a published tree has:
/// whatever the umask, others must be able to read it, and the same tree must look the same each time.
pub fn normalise(root: &Path, epoch: u64) -> Result<()> {
    let time = UNIX_EPOCH + Duration::from_secs(epoch);
    let set = |path: &Path, mode| {
        File::open(path)
            .and_then(|file| {
                file.set_permissions(fs::Permissions::from_mode(mode))?;
                file.set_modified(time)
            })
            .map_err(|e| Error::io("set the mode of", path, e))
    };
    let mut folders = BTreeSet::from([root.to_path_buf()]);
    for relative in walk(root)? {
        let path = root.join(&relative);
        set(&path, mode_of(&relative))?;
        let above = path.ancestors().skip(1);
        folders.extend(above.take_while(|p| *p != root).map(Path::to_path_buf));
    }
    folders.iter().try_for_each(|folder| set(folder, 0o755))
}

/// A folder being built beside its final place, removed again unless it is installed.
///
/// Its name is fixed, so that what a killed run left behind is found and removed by the next one.
/// The caller holds [`lock_dir`] of the parent.
pub struct Staging {
    path: PathBuf,
    target: PathBuf,
    installed: bool,
}

impl Staging {
    /// An empty folder `.NAME.partial` beside `target`.
    pub fn new(target: &Path) -> Result<Self> {
        let name = target
            .file_name()
            .ok_or_else(|| Error::invalid(target.display(), "is not a name for a folder"))?;
        let path = parent(target).join(format!(".{}.partial", name.to_string_lossy()));
        remove_tree(&path)?;
        create_dirs(&path)?;
        Ok(Staging {
            path,
            target: target.to_path_buf(),
            installed: false,
        })
    }

    /// Where to build.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes everything durable and puts it in its final place, replacing what was there in one step.
    ///
    /// `withdraw` is a file of the old tree that is removed first where the file system
    /// cannot exchange two folders, so that a half-replaced tree never looks complete.
    pub fn install(mut self, withdraw: &str) -> Result<()> {
        sync_tree(&self.path)?;
        let fail = |e| Error::io("install", &self.target, e);
        if self.target.symlink_metadata().is_err() {
            fs::rename(&self.path, &self.target).map_err(fail)?;
            self.installed = true;
        } else {
            let exchanged = nix::fcntl::renameat2(
                nix::fcntl::AT_FDCWD,
                &self.path,
                nix::fcntl::AT_FDCWD,
                &self.target,
                RenameFlags::RENAME_EXCHANGE,
            );
            if exchanged.is_err() {
                let _ = fs::remove_file(self.target.join(withdraw));
                remove_tree(&self.target)?;
                fs::rename(&self.path, &self.target).map_err(fail)?;
                self.installed = true;
            }
        }
        // After an exchange the staging path holds the old tree; dropping `self` removes it.
        sync_dir(parent(&self.target))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.installed {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// A large file being written beside its final place, removed again unless it is installed.
///
/// Its name is fixed, so that what a killed run left behind is overwritten by the next one, where a random name
/// would pile up. The caller holds [`lock_dir`] of the folder.
pub struct PartialFile {
    file: File,
    path: PathBuf,
    target: PathBuf,
    /// How much was written, and how much of that the disk was told of.
    size: i64,
    announced: i64,
}

/// Bytes that are handed to the disk at once.
const ANNOUNCED: i64 = 8 << 20;

impl PartialFile {
    /// An empty file `.NAME.partial` beside `target`.
    pub fn new(target: &Path) -> Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = parent(target).join(format!(".{name}.partial"));
        let file = File::create(&path).map_err(|e| Error::io("create", &path, e))?;
        Ok(PartialFile {
            file,
            path,
            target: target.to_path_buf(),
            size: 0,
            announced: 0,
        })
    }

    /// Has the disk begin with what was written, so that there is little left to wait for at the end: Linux starts to write
    /// pages that it is told nobody needs in memory (`generic_fadvise` in its mm/fadvise.c). Only advice: it may do nothing.
    fn announce(&mut self) {
        let length = self.size - self.announced;
        if length >= ANNOUNCED {
            let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
            let _ = posix_fadvise(&self.file, self.announced, length, advice);
            self.announced = self.size;
        }
    }

    /// Makes it durable and gives it its final name.
    pub fn install(self) -> Result<()> {
        let fail = |e| Error::io("install", &self.target, e);
        let mode = fs::Permissions::from_mode(0o644);
        self.file.set_permissions(mode).map_err(fail)?;
        self.file.sync_all().map_err(fail)?;
        fs::rename(&self.path, &self.target).map_err(fail)?;
        sync_dir(parent(&self.target))
    }
}

impl Write for PartialFile {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.size += written as i64;
        self.announce();
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        // After `install` nothing of that name is left.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether a relative path stays where it is put: only plain components, no empty, `.` or `..` ones.
pub fn is_confined(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 4096
        && !path.contains(['\0', '\n', '\\'])
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Every file below a folder, as sorted relative paths; anything but files and folders is an error's text.
pub fn walk(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    let mut pending = vec![String::new()];
    while let Some(relative) = pending.pop() {
        let dir = root.join(&relative);
        for entry in fs::read_dir(&dir).map_err(|e| Error::io("read", &dir, e))? {
            let entry = entry.map_err(|e| Error::io("read", &dir, e))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                return Err(Error::invalid(
                    dir.display(),
                    "holds a name that is not UTF-8",
                ));
            };
            let path = match relative.as_str() {
                "" => name.to_string(),
                parent => format!("{parent}/{name}"),
            };
            let kind = entry.file_type().map_err(|e| Error::io("read", &dir, e))?;
            match kind.is_dir() {
                true => pending.push(path),
                false => files.push(path),
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Runs `work` on every item, on all cores, in the order of the items; the first error ends it.
pub fn on_all_cores<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let run = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = work(item) {
                next.store(items.len(), Ordering::Relaxed);
                failed
                    .lock()
                    .expect("no thread panics with it")
                    .get_or_insert(error);
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 1..cores.min(items.len()) {
            scope.spawn(run);
        }
        run();
    });
    match failed.into_inner().expect("no thread panics with it") {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_confined() {
        for good in ["a", "pool/main/a/a_1%3a2.deb", "by-hash/SHA256/ab", "..a"] {
            assert!(is_confined(good), "{good}");
        }
        for bad in [
            "", "/a", "a//b", "../a", "a/../b", "./a", "a/", "a\nb", "a\\b", ".",
        ] {
            assert!(!is_confined(bad), "{bad}");
        }
    }

    #[test]
    fn staging_replaces_whole_trees() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("pigsty");
        for content in ["one", "two"] {
            let staging = Staging::new(&target).unwrap();
            fs::write(staging.path().join(content), content).unwrap();
            staging.install("marker").unwrap();
            assert_eq!(walk(&target).unwrap(), [content]);
        }
        drop(Staging::new(&target).unwrap());
        assert_eq!(walk(dir.path()).unwrap(), ["pigsty/two"]);
    }
}
