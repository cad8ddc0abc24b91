//! What a finished tree has beyond the layers that it was made from, so that each layer is packed once.
//!
//! Only `/usr` of a layer is packed with it: the rest is small, and finishing a tree moves it about. Whether something
//! changed is asked of owners, modes, times and content, not of how layers were kept, so that the answer is a function
//! of the packages.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::layers::Layer;
use super::merge::is_removed;
use super::policy;
use crate::error::{Error, Result};

/// The folder of a layer that is packed.
pub(crate) const PACKED: &str = "usr";
/// What is not in the root's file system: the kernel is in the ESP, `/var` in its own partition.
const ELSEWHERE: [&str; 2] = ["boot", "var"];

/// What [`changes`] is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ChangesInput {
    layers: Vec<Layer>,
    tree: PathBuf,
}

impl ChangesInput {
    /// A tree, and the layers that are packed by themselves, the lowest first.
    pub(super) fn new(layers: Vec<Layer>, tree: PathBuf) -> Self {
        Self { layers, tree }
    }
}

/// Paths below the tree, sorted, of what is to be put over what was packed before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Of each layer above the lowest one, what it puts over those below. Fewer than layers when a layer removes
    /// something: then it is not packed by itself.
    pub layers: Vec<Vec<String>>,
    /// What the tree puts over the last of them. None when not even the lowest layer can be the beginning, because
    /// something of it is not in the tree: the tree is then packed as one.
    pub tree: Option<Vec<String>>,
}

/// Path of a file of the building only, which is in layers and in no finished tree.
pub(crate) fn of_the_build() -> &'static str {
    &policy::POLICY_RC_D[1..]
}

/// Compares a tree with its layers.
pub(crate) fn changes(input: ChangesInput) -> Result<Changes> {
    let mut found = Changes::default();
    let Some((lowest, uppers)) = input.layers.split_first() else {
        return Ok(found);
    };
    if !is_within(&lowest.path, &input.tree)? {
        return Ok(found);
    }
    let mut packed = Packed {
        places: vec![(lowest.path.clone(), None)],
    };
    for upper in uppers {
        if !is_within(&upper.path, &input.tree)? {
            break;
        }
        let mut list = Vec::new();
        walk(&upper.path, Path::new(PACKED), &mut |path, metadata| {
            if !packed.has(&upper.path, path, metadata)? {
                list.push(path.to_owned());
            }
            Ok(())
        })?;
        let known: BTreeSet<PathBuf> = list.iter().cloned().collect();
        packed.places.push((upper.path.clone(), Some(known)));
        found.layers.push(texts(list));
    }
    let mut list = Vec::new();
    for name in names(&input.tree)? {
        walk(&input.tree, Path::new(&name), &mut |path, metadata| {
            let is_packed = path.starts_with(PACKED) && packed.has(&input.tree, path, metadata)?;
            if !is_packed && !is_elsewhere(path) {
                list.push(path.to_owned());
            }
            Ok(())
        })?;
    }
    found.tree = Some(texts(list));
    Ok(found)
}

fn is_elsewhere(path: &Path) -> bool {
    ELSEWHERE
        .iter()
        .any(|folder| path.starts_with(folder) && path != Path::new(folder))
}

fn texts(mut list: Vec<PathBuf>) -> Vec<String> {
    list.sort();
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    list.into_iter().map(text).collect()
}

/// Whether everything of a layer that is packed is in the tree as well, folders as folders.
fn is_within(layer: &Path, tree: &Path) -> Result<bool> {
    let mut within = true;
    walk(layer, Path::new(PACKED), &mut |path, metadata| {
        let there = tree.join(path).symlink_metadata().ok();
        let same = there.is_some_and(|there| there.is_dir() == metadata.is_dir());
        within &= (same && !is_removed(metadata)) || path == Path::new(of_the_build());
        Ok(())
    })?;
    Ok(within)
}

/// What has been packed so far: trees, the uppermost last, each with the paths that count; all of them where there is no
/// list.
struct Packed {
    places: Vec<(PathBuf, Option<BTreeSet<PathBuf>>)>,
}

impl Packed {
    /// Whether `path` is packed as it is in `tree`.
    fn has(&self, tree: &Path, path: &Path, metadata: &fs::Metadata) -> Result<bool> {
        let counts = |list: &Option<BTreeSet<PathBuf>>| list.as_ref().is_none_or(|list| list.contains(path));
        for (place, _) in self.places.iter().rev().filter(|(_, list)| counts(list)) {
            let other = place.join(path);
            if let Ok(packed) = other.symlink_metadata() {
                return same((&tree.join(path), metadata), (&other, &packed));
            }
        }
        Ok(false)
    }
}

/// Whether two files, links or folders look the same to whoever uses them.
fn same(one: (&Path, &fs::Metadata), other: (&Path, &fs::Metadata)) -> Result<bool> {
    let (a, b) = (one.1, other.1);
    let facts = |m: &fs::Metadata| (m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec());
    if facts(a) != facts(b) || (!a.is_dir() && a.len() != b.len()) {
        return Ok(false);
    }
    if a.is_dir() || (a.dev(), a.ino()) == (b.dev(), b.ino()) {
        return Ok(true);
    }
    if a.is_symlink() {
        let read = |path: &Path| fs::read_link(path).map_err(Error::io("read", path));
        return Ok(read(one.0)? == read(other.0)?);
    }
    Ok(a.is_file() && same_content(one.0, other.0)? && same_attributes(one.0, other.0))
}

fn same_content(one: &Path, other: &Path) -> Result<bool> {
    let open = |path: &Path| File::open(path).map_err(Error::io("open", path));
    let mut one_bytes = BufReader::new(open(one)?).bytes();
    let mut other_bytes = BufReader::new(open(other)?).bytes();
    loop {
        match (one_bytes.next(), other_bytes.next()) {
            (None, None) => return Ok(true),
            (Some(Ok(a)), Some(Ok(b))) if a == b => {}
            (Some(Err(e)), _) => return Err(Error::io("read", one)(e)),
            (_, Some(Err(e))) => return Err(Error::io("read", other)(e)),
            _ => return Ok(false),
        }
    }
}

fn same_attributes(one: &Path, other: &Path) -> bool {
    let of = |path: &Path| {
        let names = xattr::list(path).into_iter().flatten();
        let pairs = names.map(|name| (name.clone(), xattr::get(path, &name).ok().flatten()));
        pairs.collect::<BTreeSet<_>>()
    };
    of(one) == of(other)
}

/// Calls `visit` for everything below a folder of a tree, and for the folder.
fn walk(
    tree: &Path,
    path: &Path,
    visit: &mut dyn FnMut(&Path, &fs::Metadata) -> Result<()>,
) -> Result<()> {
    let place = tree.join(path);
    let metadata = match place.symlink_metadata() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(Error::io("inspect", &place))?,
    };
    visit(path, &metadata)?;
    if metadata.is_dir() {
        for name in names(&place)? {
            walk(tree, &path.join(name), visit)?;
        }
    }
    Ok(())
}

fn names(folder: &Path) -> Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(folder).map_err(Error::io("list", folder))?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
    let mut names: Vec<_> = names.collect::<std::io::Result<_>>().map_err(Error::io("list", folder))?;
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        old(&path);
    }

    /// Folders and files of one time.
    fn old(path: &Path) {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
        for path in path.ancestors().take(3) {
            File::open(path).unwrap().set_modified(time).unwrap();
        }
    }

    fn layer(path: &Path, whole: bool) -> Layer {
        Layer {
            path: path.to_owned(),
            digest: String::new(),
            whole,
        }
    }

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_tree_is_what_its_layers_are_and_some_more() {
        let work = tempfile::tempdir().unwrap();
        let (lowest, upper, tree) = (
            work.path().join("lowest"),
            work.path().join("upper"),
            work.path().join("tree"),
        );
        for (place, text) in [("usr/a", "a"), ("usr/b", "b"), ("etc/x", "x")] {
            put(lowest.join(place), text);
        }
        for (place, text) in [("usr/b", "other"), ("usr/c", "c"), ("var/y", "y")] {
            put(upper.join(place), text);
        }
        for (place, text) in [
            ("usr/a", "a"),
            ("usr/b", "other"),
            ("usr/c", "finished"),
            ("etc/x", "x"),
            ("var/y", "y"),
            ("boot/z", "z"),
        ] {
            put(tree.join(place), text);
        }
        let input = |layers: &[&Path]| ChangesInput {
            layers: layers.iter().map(|path| layer(path, *path == lowest)).collect(),
            tree: tree.clone(),
        };
        let found = changes(input(&[&lowest, &upper])).unwrap();
        assert_eq!(found.layers, [list(&["usr/b", "usr/c"])]);
        assert_eq!(found.tree, Some(list(&["boot", "etc", "etc/x", "usr/c", "var"])));
        let found = changes(input(&[&lowest])).unwrap();
        assert_eq!(found.tree, Some(list(&["boot", "etc", "etc/x", "usr/b", "usr/c", "var"])));
        put(lowest.join("usr/gone"), "gone");
        let found = changes(input(&[&lowest, &upper])).unwrap();
        assert_eq!(found, Changes::default());
        fs::remove_file(lowest.join("usr/gone")).unwrap();
        old(&lowest.join("usr/a"));
        put(upper.join("usr/gone"), "gone");
        let found = changes(input(&[&lowest, &upper])).unwrap();
        assert!(found.layers.is_empty() && found.tree.is_some());
    }
}
