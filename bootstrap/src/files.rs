//! The only place that writes files: atomically, with owner and mode, and only when something differs.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};

/// User and group id.
pub type Owner = (u32, u32);

/// Deepest chain of symbolic links followed, as in the kernel.
const MAX_LINKS: usize = 40;

/// Makes a directory with its parents (0755) and gives it mode and owner. Returns whether anything was done.
///
/// # Errors
/// `FR-IO`.
pub fn make_directory(path: &Path, mode: u32, owner: Option<Owner>) -> Result<bool> {
    let made = !path.is_dir();
    fs::create_dir_all(path).map_err(|error| Error::io("make", path, error))?;
    Ok(set_owner_and_mode(path, mode, owner)? || made)
}

/// Writes a file unless it has the content, mode and owner already. A reader sees the old or the new file, whole.
///
/// # Errors
/// `FR-IO`.
pub fn write_if_changed(
    path: &Path,
    content: &[u8],
    mode: u32,
    owner: Option<Owner>,
) -> Result<bool> {
    let regular = fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    if regular && fs::read(path).is_ok_and(|found| found == content) {
        return set_owner_and_mode(path, mode, owner);
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(|error| Error::io("make", folder, error))?;
    let temporary = temporary_name(path);
    let written = write_new(&temporary, content, mode, owner).and_then(|()| {
        fs::rename(&temporary, path).map_err(|error| Error::io("replace", path, error))
    });
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_directory(folder)?;
    Ok(true)
}

/// Makes a symbolic link unless it is there. A file is replaced, a directory is not.
///
/// # Errors
/// `FR-IO`.
pub fn link_if_changed(path: &Path, target: &str) -> Result<bool> {
    if fs::read_link(path).is_ok_and(|found| found == Path::new(target)) {
        return Ok(false);
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(|error| Error::io("make", folder, error))?;
    let temporary = temporary_name(path);
    let _ = fs::remove_file(&temporary);
    std::os::unix::fs::symlink(target, &temporary)
        .map_err(|error| Error::io("link", &temporary, error))?;
    fs::rename(&temporary, path).map_err(|error| {
        let _ = fs::remove_file(&temporary);
        Error::io("replace", path, error)
    })?;
    Ok(true)
}

/// Copies a folder of files and folders, for nobody but this user.
///
/// # Errors
/// What the kernel says, also when `to` exists.
pub fn copy_private(from: &Path, to: &Path) -> std::io::Result<()> {
    DirBuilder::new().mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_private(&entry.path(), &place)?;
        } else {
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(place)?;
            std::io::copy(&mut File::open(entry.path())?, &mut file)?;
        }
    }
    Ok(())
}

/// Removes a file or link; false when it is not there.
///
/// # Errors
/// `FR-IO`.
pub fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("remove", path, error)),
    }
}

/// Gives a file or link a second name: the same file where the file system can, else a copy with its owner and mode. Nothing
/// here writes to a file in place, so what has the second name stays as it is.
///
/// # Errors
/// `FR-IO`.
pub fn duplicate(path: &Path, second: &Path) -> Result<()> {
    if fs::hard_link(path, second).is_err() {
        let failed = |error| Error::io("copy", path, error);
        let found = fs::symlink_metadata(path).map_err(failed)?;
        if found.is_symlink() {
            let target = fs::read_link(path).map_err(failed)?;
            std::os::unix::fs::symlink(target, second).map_err(failed)?;
        } else {
            let content = fs::read(path).map_err(failed)?;
            let owner = Some((found.uid(), found.gid()));
            write_new(second, &content, found.mode() & 0o7777, owner)?;
        }
    }
    sync_directory(second.parent().unwrap_or(Path::new("/")))
}

/// Puts a file or link in another's place, in one step.
///
/// # Errors
/// `FR-IO`.
pub fn move_over(path: &Path, place: &Path) -> Result<()> {
    let folder = place.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(|error| Error::io("make", folder, error))?;
    let failed = |error| Error::io("restore", place, error);
    if fs::rename(path, place).is_err() {
        let temporary = temporary_name(place);
        remove(&temporary)?;
        duplicate(path, &temporary)?;
        fs::rename(&temporary, place).map_err(failed)?;
        remove(path)?;
    }
    sync_directory(folder)
}

/// One name for all attempts, so that a killed one leaves a single file which the next one replaces.
fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.farrow-new"))
}

fn write_new(path: &Path, content: &[u8], mode: u32, owner: Option<Owner>) -> Result<()> {
    let refuse = |error| Error::io("write", path, error);
    let _ = fs::remove_file(path);
    // Nobody else may read it before it has its owner: it may hold a secret.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(refuse)?;
    file.write_all(content).map_err(refuse)?;
    set_owner_and_mode(path, mode, owner)?;
    file.sync_all().map_err(refuse)
}

fn set_owner_and_mode(path: &Path, mode: u32, owner: Option<Owner>) -> Result<bool> {
    let found = fs::metadata(path).map_err(|error| Error::io("read", path, error))?;
    let mut changed = false;
    if let Some((uid, gid)) = owner
        && (found.uid(), found.gid()) != (uid, gid)
    {
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
            .map_err(|error| Error::io("change owner of", path, error))?;
        changed = true;
    }
    // A change of owner clears setuid and setgid bits, so the mode comes last.
    if changed || found.mode() & 0o7777 != mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(|error| Error::io("change mode of", path, error))?;
        changed = true;
    }
    Ok(changed)
}

fn sync_directory(path: &Path) -> Result<()> {
    fs::File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| Error::io("sync", path, error))
}

/// What to do with a symbolic link at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// It stands for what it leads to: for directories.
    Follow,
    /// It is what gets replaced: for files and links.
    Keep,
}

/// Where an absolute path leads inside `root`: links are followed as if `root` were `/`, so that rendering into a
/// folder never writes outside it. A link at the very end is followed too if `last` says so.
///
/// # Errors
/// `FR-IO` for a chain of links without end.
pub fn inside(root: &Path, path: &str, last: Last) -> Result<PathBuf> {
    if root == Path::new("/") {
        return Ok(PathBuf::from(path));
    }
    let mut pending: Vec<String> = names(Path::new(path));
    let mut resolved: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(name) = pending.pop() {
        if name == ".." {
            resolved.pop();
            continue;
        }
        let here = root.join(resolved.join("/")).join(&name);
        let kept = pending.is_empty() && last == Last::Keep;
        let target = if kept {
            None
        } else {
            fs::read_link(&here).ok()
        };
        let Some(target) = target else {
            resolved.push(name);
            continue;
        };
        links += 1;
        if links > MAX_LINKS {
            return Err(Error::io(
                "follow",
                &here,
                std::io::Error::other("too many symbolic links"),
            ));
        }
        if target.is_absolute() {
            resolved.clear();
        }
        pending.extend(names(&target));
    }
    Ok(root.join(resolved.join("/")))
}

/// Names of a path, last first.
fn names(path: &Path) -> Vec<String> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        Component::ParentDir => Some("..".to_owned()),
        _ => None,
    });
    let mut names: Vec<String> = names.collect();
    names.reverse();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_only_what_differs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        assert!(write_if_changed(&path, b"x", 0o640, None).unwrap());
        let before = fs::metadata(&path).unwrap();
        assert_eq!(before.mode() & 0o7777, 0o640);
        assert!(!write_if_changed(&path, b"x", 0o640, None).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().ino(), before.ino());
        assert!(write_if_changed(&path, b"x", 0o600, None).unwrap());
        assert!(write_if_changed(&path, b"y", 0o600, None).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"y");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    /// A reader that looks while the file is replaced again and again never sees a mixture or nothing.
    #[test]
    fn readers_see_whole_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let texts = [vec![b'a'; 100_000], vec![b'b'; 50_000]];
        write_if_changed(&path, &texts[0], 0o644, None).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for round in 0..50 {
                    write_if_changed(&path, &texts[round % 2], 0o644, None).unwrap();
                }
            });
            while !writer.is_finished() {
                let seen = fs::read(&path).unwrap();
                assert!(texts.contains(&seen), "{} bytes", seen.len());
            }
        });
    }

    #[test]
    fn a_leftover_of_a_killed_run_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(temporary_name(&path), b"half").unwrap();
        write_if_changed(&path, b"whole", 0o644, None).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert!(!temporary_name(&path).exists());
    }

    #[test]
    fn links_in_a_root_stay_inside() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("var")).unwrap();
        for (link, target) in [
            ("data", "/var/data"),
            ("up", "../../../../etc"),
            ("loop", "loop"),
        ] {
            std::os::unix::fs::symlink(target, root.join(link)).unwrap();
        }
        for (path, last, expected) in [
            ("/data/etcd", Last::Keep, "var/data/etcd"),
            ("/up/passwd", Last::Keep, "etc/passwd"),
            ("/data", Last::Keep, "data"),
            ("/data", Last::Follow, "var/data"),
        ] {
            assert_eq!(
                inside(root, path, last).unwrap(),
                root.join(expected),
                "{path}"
            );
        }
        assert!(inside(root, "/loop/x", Last::Keep).is_err());
        assert_eq!(
            inside(Path::new("/"), "/a/b", Last::Keep).unwrap(),
            Path::new("/a/b")
        );
    }
}
