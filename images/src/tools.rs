//! The tools tree: programs the build needs (mkfs, QEMU, …), unpacked from packages and never configured.
//!
//! No maintainer script runs in it, so it needs no mapped ids to make; programs run in it through
//! [`ToolsTree::sandbox`].

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use crate::deb::{self, Owners};
use crate::error::{Error, Result};
use crate::progress::{Progress, ProgressFn};
use crate::sandbox::Sandbox;

/// The stage's name in [`Progress`].
const STAGE: &str = "tools/unpack";
/// Changes when the same packages are to give another tree.
const FORMAT: &str = "farrow tools tree 1\n";
/// How the names of unfinished trees begin.
const TEMPORARY: &str = ".unfinished-";
/// Trees that are kept beside the one in use: for older locks, and of other recipes.
const KEPT: usize = 4;

/// A tree of programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolsTree {
    /// The folder that is `/` for the programs in it.
    pub root: PathBuf,
    /// SHA-256 in hex over the packages it was made from.
    pub digest: String,
}

impl ToolsTree {
    /// A sandbox whose root is this tree, read-only, with no network.
    pub fn sandbox(&self) -> Sandbox {
        Sandbox::new(&self.root).read_only()
    }
}

/// The tools tree of `packages` (only their SHA-256 in hex counts) if it is below `dir` already; writes nothing.
pub fn find(dir: &Path, packages: &[(PathBuf, String)]) -> Option<ToolsTree> {
    let digest = digest(packages);
    let root = dir.join(&digest);
    root.is_dir().then_some(ToolsTree { root, digest })
}

/// Makes the tools tree of `packages` (verified `.deb` files with their SHA-256 in hex) below `dir`, or finds it there.
///
/// # Errors
/// [`Error::Package`] when a package is damaged, [`Error::Io`] when the tree cannot be written.
pub fn ensure(
    dir: &Path,
    packages: &[(PathBuf, String)],
    progress: ProgressFn,
) -> Result<ToolsTree> {
    let digest = digest(packages);
    let root = dir.join(&digest);
    let start = std::time::Instant::now();
    progress(Progress::Started {
        stage: STAGE,
        total: Some(packages.len() as u64),
    });
    // A tree under its final name is whole; finding it needs no right to write, so users can share one.
    let reused = root.is_dir() || unpack(dir, &root, packages, progress)?;
    progress(Progress::Finished {
        stage: STAGE,
        seconds: start.elapsed().as_secs_f64(),
        reused,
    });
    Ok(ToolsTree { root, digest })
}

/// Makes the tree unless another process did so while this one waited; true in that case.
fn unpack(
    dir: &Path,
    root: &Path,
    packages: &[(PathBuf, String)],
    progress: ProgressFn,
) -> Result<bool> {
    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let _lock = lock(dir)?;
    if root.is_dir() {
        return Ok(true);
    }
    remove_leftovers(dir, KEPT)?;
    let temporary = tempfile::Builder::new()
        .prefix(TEMPORARY)
        .tempdir_in(dir)
        .map_err(Error::io("create in", dir))?;
    let paths: Vec<PathBuf> = packages.iter().map(|(path, _)| path.clone()).collect();
    make(temporary.path(), &paths, progress)?;
    publish(temporary, root)?;
    Ok(false)
}

/// Waits until no other process makes trees in `dir`; the lock ends with the returned file.
pub(crate) fn lock(dir: &Path) -> Result<Flock<fs::File>> {
    let path = dir.join(".lock");
    let file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| Error::io("lock", &path)(errno.into()))
}

fn make(root: &Path, packages: &[PathBuf], progress: ProgressFn) -> Result<()> {
    make_base(root)?;
    let report = |done| progress(Progress::Advanced { stage: STAGE, done });
    deb::unpack_all(packages, root, Owners::Caller, &report)?;
    write_base_files(root)
}

/// The links of a merged-/usr system, made before packages that still say `/lib`.
pub(crate) fn make_base(root: &Path) -> Result<()> {
    for (link, target) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/sbin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
    ] {
        let folder = root.join(target);
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        symlink(target, root.join(link)).map_err(Error::io("link", root.join(link)))?;
    }
    Ok(())
}

/// What maintainer scripts would have made and programs miss: mount points, two accounts, `awk`.
fn write_base_files(root: &Path) -> Result<()> {
    for folder in ["etc", "proc", "dev", "sys", "run", "tmp", "var/tmp"] {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
    let files = [
        ("etc/passwd", passwd),
        ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        (
            "etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files\n",
        ),
    ];
    for (name, content) in files {
        let path = root.join(name);
        if path.symlink_metadata().is_err() {
            fs::write(&path, content).map_err(Error::io("write", &path))?;
        }
    }
    let awk = root.join("usr/bin/awk");
    let implementation = ["gawk", "mawk"]
        .into_iter()
        .find(|name| root.join("usr/bin").join(name).exists());
    if let (Some(name), Err(_)) = (implementation, awk.symlink_metadata()) {
        symlink(name, &awk).map_err(Error::io("link", &awk))?;
    }
    Ok(())
}

/// Gives a finished tree its name; what it holds is on the disk by then.
fn publish(temporary: tempfile::TempDir, root: &Path) -> Result<()> {
    sync_file_system(temporary.path())?;
    let temporary = temporary.keep();
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))
        .map_err(Error::io("open up", &temporary))?;
    fs::rename(&temporary, root).map_err(Error::io("rename to", root))
}

/// Writes everything that the file system of `path` still holds in memory to its disk.
pub(crate) fn sync_file_system(path: &Path) -> Result<()> {
    let folder = fs::File::open(path).map_err(Error::io("open", path))?;
    nix::unistd::syncfs(&folder).map_err(|errno| Error::io("sync", path)(errno.into()))
}

/// SHA-256 over the sorted list of package hashes.
fn digest(packages: &[(PathBuf, String)]) -> String {
    let mut hashes: Vec<&str> = packages.iter().map(|(_, sha256)| sha256.as_str()).collect();
    hashes.sort_unstable();
    let mut hasher = Sha256::new();
    hasher.update(FORMAT);
    for hash in hashes {
        hasher.update(hash);
        hasher.update("\n");
    }
    hex::encode(hasher.finalize())
}

/// Removes what interrupted runs left, and all but the `keep` newest trees. The lock on `dir` is held.
fn remove_leftovers(dir: &Path, keep: usize) -> Result<()> {
    let mut trees = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(TEMPORARY) {
            trees.push((std::time::UNIX_EPOCH, entry.path()));
        } else if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            trees.push((
                modified.map_err(Error::io("inspect", entry.path()))?,
                entry.path(),
            ));
        }
    }
    trees.sort();
    let temporary = trees
        .iter()
        .filter(|(modified, _)| *modified == std::time::UNIX_EPOCH)
        .count();
    let finished = trees.len() - temporary;
    let old = temporary + finished.saturating_sub(keep);
    trees
        .iter()
        .take(old)
        .try_for_each(|(_, path)| fs::remove_dir_all(path).map_err(Error::io("remove", path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_does_not_depend_on_order_or_paths() {
        let one = [
            ("a.deb".into(), "11".to_owned()),
            ("b.deb".into(), "22".to_owned()),
        ];
        let two = [
            ("x/b.deb".into(), "22".to_owned()),
            ("x/a.deb".into(), "11".to_owned()),
        ];
        assert_eq!(digest(&one), digest(&two));
        assert_ne!(digest(&one), digest(&one[..1]));
    }
}
