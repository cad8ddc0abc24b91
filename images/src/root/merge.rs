//! Layers → one tree. Files are links to those of the layers: nothing writes to a file of a tree in place.
//!
//! What overlayfs leaves in an upper folder is read as its documentation has it (Documentation/filesystems/overlayfs.rst):
//! a character device 0/0 stands for something that was removed, and a folder with the attribute `opaque` hides what is
//! below it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::sys::time::TimeSpec;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::finish::times;
use super::layers::{Layer, visible};
use crate::error::{Error, Result};

/// How the names of overlayfs's own attributes begin when a user namespace mounted it.
const ATTRIBUTES: &str = "user.overlay.";
/// Attribute of a folder that hides what is below it, and its value.
const OPAQUE: (&str, &[u8]) = ("user.overlay.opaque", b"y");

/// What [`merge`] is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MergeInput {
    /// Folders of layers, the lowest first.
    layers: Vec<PathBuf>,
    tree: PathBuf,
    /// Whether files are copied, so that they can be written to.
    copy: bool,
}

impl MergeInput {
    /// The tree that layers make together.
    pub(super) fn new(layers: &[Layer], tree: &Path, copy: bool) -> Self {
        let layers = visible(layers).iter().map(|layer| layer.path.clone());
        Self {
            layers: layers.collect(),
            tree: tree.to_owned(),
            copy,
        }
    }

    /// A tree of links to another one's files.
    pub(super) fn of_tree(one: &Path, tree: &Path) -> Self {
        Self {
            layers: vec![one.to_owned()],
            tree: tree.to_owned(),
            copy: false,
        }
    }

    /// The same with a folder above all.
    pub(super) fn with(mut self, upper: PathBuf) -> Self {
        self.layers.push(upper);
        self
    }
}

/// Makes the tree, which is not there yet.
pub(crate) fn merge(input: MergeInput) -> Result<()> {
    let copies = Copies::default();
    for layer in &input.layers {
        match input.copy {
            true => apply(layer, &input.tree, &|from, to| copies.copy(from, to))?,
            false => apply(layer, &input.tree, &link)?,
        }
    }
    Ok(())
}

/// Whether what is at a path stands for something that was removed.
pub(super) fn is_removed(metadata: &fs::Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

/// Puts a file or link where there is none.
type Place<'a> = &'a (dyn Fn(&Path, &Path) -> Result<()> + Sync);

/// Puts a folder over another one, which is made when there is none.
fn apply(source: &Path, target: &Path, place: Place) -> Result<()> {
    let metadata = look(source)?;
    let is_opaque =
        xattr::get(source, OPAQUE.0).is_ok_and(|value| value.as_deref() == Some(OPAQUE.1));
    let there = target.symlink_metadata().ok();
    if there
        .as_ref()
        .is_some_and(|there| is_opaque || !there.is_dir())
    {
        remove(target)?;
    }
    if !target.is_dir() {
        fs::create_dir(target).map_err(Error::io("create", target))?;
    }
    let entries = fs::read_dir(source).map_err(Error::io("list", source))?;
    let entries: Vec<fs::DirEntry> = entries
        .collect::<std::io::Result<_>>()
        .map_err(Error::io("list", source))?;
    entries.into_par_iter().try_for_each(|entry| {
        let (from, to) = (entry.path(), target.join(entry.file_name()));
        let found = look(&from)?;
        if found.is_dir() {
            return apply(&from, &to, place);
        }
        if to.symlink_metadata().is_ok() {
            remove(&to)?;
        }
        match is_removed(&found) {
            true => Ok(()),
            false => place(&from, &to),
        }
    })?;
    copy_attributes(source, target)?;
    chown(target, Some(metadata.uid()), Some(metadata.gid()))
        .map_err(Error::io("set the owner of", target))?;
    fs::set_permissions(target, fs::Permissions::from_mode(metadata.mode() & 0o7777))
        .map_err(Error::io("set the mode of", target))?;
    set_time(target, &metadata)
}

fn link(from: &Path, to: &Path) -> Result<()> {
    fs::hard_link(from, to).map_err(Error::io("link to", to))
}

/// Where the files are that have been copied, by device and inode: several names of one file are that again.
#[derive(Debug, Default)]
struct Copies(Mutex<BTreeMap<(u64, u64), PathBuf>>);

impl Copies {
    fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        let metadata = look(from)?;
        if !metadata.is_file() || metadata.nlink() == 1 {
            return copy(from, to);
        }
        // Held until the copy is whole.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let inode = (metadata.dev(), metadata.ino());
        match known.get(&inode) {
            Some(first) => link(first, to),
            None => {
                copy(from, to)?;
                known.insert(inode, to.to_owned());
                Ok(())
            }
        }
    }
}

/// A copy with owner, mode and time. Packages have no devices.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let metadata = look(from)?;
    if metadata.is_symlink() {
        let link = fs::read_link(from).map_err(Error::io("read", from))?;
        std::os::unix::fs::symlink(link, to).map_err(Error::io("link", to))?;
    } else if metadata.is_file() {
        fs::copy(from, to).map_err(Error::io("copy to", to))?;
        copy_attributes(from, to)?;
    } else {
        return link(from, to);
    }
    lchown(to, Some(metadata.uid()), Some(metadata.gid()))
        .map_err(Error::io("set the owner of", to))?;
    if metadata.is_file() {
        // After the owner, whose change clears the set-id bits and capabilities.
        fs::set_permissions(to, fs::Permissions::from_mode(metadata.mode() & 0o7777))
            .map_err(Error::io("set the mode of", to))?;
        copy_attributes(from, to)?;
    }
    set_time(to, &metadata)
}

/// Copies extended attributes but overlayfs's own. A file system without them has none to copy.
fn copy_attributes(from: &Path, to: &Path) -> Result<()> {
    for name in xattr::list(from).into_iter().flatten() {
        if name.to_string_lossy().starts_with(ATTRIBUTES) {
            continue;
        }
        if let Some(value) = xattr::get(from, &name).map_err(Error::io("read", from))? {
            xattr::set(to, &name, &value).map_err(Error::io("set an attribute of", to))?;
        }
    }
    Ok(())
}

/// Takes overlayfs's own attributes off the files below a folder; those of folders are needed to merge them.
pub(super) fn strip(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let path = entry.map_err(Error::io("list", folder))?.path();
        let metadata = look(&path)?;
        if metadata.is_dir() {
            strip(&path)?;
        } else if metadata.is_file() {
            let names = xattr::list(&path).into_iter().flatten();
            for name in names.filter(|name| name.to_string_lossy().starts_with(ATTRIBUTES)) {
                xattr::remove(&path, &name).map_err(Error::io("take an attribute off", &path))?;
            }
        }
    }
    Ok(())
}

fn set_time(path: &Path, metadata: &fs::Metadata) -> Result<()> {
    times::set(path, TimeSpec::new(metadata.mtime(), metadata.mtime_nsec()))
}

fn look(path: &Path) -> Result<fs::Metadata> {
    path.symlink_metadata().map_err(Error::io("inspect", path))
}

fn remove(path: &Path) -> Result<()> {
    let removed = match look(path)?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    removed.map_err(Error::io("replace", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(path: &Path, files: &[(&str, &str)]) -> PathBuf {
        fs::create_dir_all(path).unwrap();
        for (name, text) in files {
            let place = path.join(name);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, text).unwrap();
        }
        path.to_owned()
    }

    #[test]
    fn upper_folders_win_and_opaque_ones_hide() {
        let work = tempfile::tempdir().unwrap();
        let work = work.path();
        let lower = folder(
            &work.join("lower"),
            &[
                ("a", "old"),
                ("kept", "kept"),
                ("d/below", "x"),
                ("e/stays", "y"),
                ("f/x", "z"),
            ],
        );
        fs::hard_link(lower.join("kept"), lower.join("e/same")).unwrap();
        let upper = folder(
            &work.join("upper"),
            &[("a", "new"), ("d/g", "g"), ("e/h", "h"), ("f", "file")],
        );
        let hides = xattr::set(upper.join("d"), OPAQUE.0, OPAQUE.1).is_ok();
        xattr::set(upper.join("e/h"), "user.overlay.origin", b"x").ok();
        strip(&upper).unwrap();
        let tree = work.join("tree");
        for copy in [false, true] {
            let layers = vec![lower.clone(), upper.clone()];
            let input = MergeInput {
                layers,
                tree: tree.clone(),
                copy,
            };
            merge(input).unwrap();
            let read = |name: &str| fs::read_to_string(tree.join(name)).unwrap();
            assert_eq!(
                (read("a"), read("kept"), read("f")),
                ("new".into(), "kept".into(), "file".into())
            );
            assert_eq!((read("e/stays"), read("e/h")), ("y".into(), "h".into()));
            assert_eq!(tree.join("d/below").exists(), !hides);
            assert_eq!(xattr::list(tree.join("e/h")).unwrap().count(), 0);
            let inode = |path: &Path| path.symlink_metadata().unwrap().ino();
            assert_eq!(inode(&tree.join("kept")), inode(&tree.join("e/same")));
            assert_eq!(
                inode(&tree.join("kept")) == inode(&lower.join("kept")),
                !copy
            );
            fs::remove_dir_all(&tree).unwrap();
        }
    }
}
