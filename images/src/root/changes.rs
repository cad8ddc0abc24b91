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
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
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

/// What is to be put over the layers that were packed before to get a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// So many layers, from the lowest one on, are the beginning. Fewer than there are when one of them holds something
    /// that is not in the tree; with none, the tree is packed as one.
    pub layers: usize,
    /// Paths below the tree, sorted, of what it puts over the last of them.
    pub tree: Vec<String>,
}

/// Files of `/usr` that are in layers and in no finished tree: what keeps services from starting, and what the preinst
/// script of a kernel leaves for its postinst. A POSIX regular expression of paths below a tree.
pub(crate) const OF_THE_BUILD: &str =
    "^usr/(sbin/policy-rc\\.d|lib/modules/[^/]+/\\.fresh-install)$";

/// Whether the expression has a path.
fn is_of_the_build(path: &Path) -> bool {
    let modules = Path::new("usr/lib/modules");
    let marks = path
        .file_name()
        .is_some_and(|name| name == ".fresh-install");
    path == Path::new(&policy::POLICY_RC_D[1..])
        || marks && path.parent().and_then(Path::parent) == Some(modules)
}

/// Compares a tree with its layers.
pub(crate) fn changes(input: ChangesInput) -> Result<Changes> {
    let mut packed = Packed { layers: Vec::new() };
    for layer in &input.layers {
        if !is_within(layer, &input.tree)? {
            break;
        }
        packed.add(layer);
    }
    if packed.layers.is_empty() {
        return Ok(Changes::default());
    }
    let list = Mutex::default();
    for name in names(&input.tree)? {
        walk(&input.tree, Path::new(&name), &|path, metadata| {
            let is_packed = path.starts_with(PACKED) && packed.has(&input.tree, path, metadata)?;
            if !is_packed && !is_elsewhere(path) {
                add(&list, path);
            }
            Ok(())
        })?;
    }
    Ok(Changes {
        layers: packed.layers.len(),
        tree: texts(list),
    })
}

/// What the folder of a new layer puts over the others, below [`PACKED`].
pub(crate) fn changed(input: ChangesInput) -> Result<Vec<String>> {
    let mut packed = Packed { layers: Vec::new() };
    input.layers.iter().for_each(|layer| packed.add(layer));
    let list = Mutex::default();
    walk(&input.tree, Path::new(PACKED), &|path, metadata| {
        if !is_removed(metadata) && !packed.has(&input.tree, path, metadata)? {
            add(&list, path);
        }
        Ok(())
    })?;
    Ok(texts(list))
}

/// Whether a path of a tree is not in the root's file system.
pub(crate) fn is_elsewhere(path: &Path) -> bool {
    ELSEWHERE
        .iter()
        .any(|folder| path.starts_with(folder) && path != Path::new(folder))
}

fn add(list: &Mutex<Vec<PathBuf>>, path: &Path) {
    let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
    list.push(path.to_owned());
}

/// The paths in their order.
fn texts(list: Mutex<Vec<PathBuf>>) -> Vec<String> {
    let mut list = list.into_inner().unwrap_or_else(PoisonError::into_inner);
    list.sort();
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    list.into_iter().map(text).collect()
}

/// Whether everything of a layer that is packed is in the tree as well, folders as folders.
fn is_within(layer: &Layer, tree: &Path) -> Result<bool> {
    let missing = AtomicBool::new(false);
    walk(&layer.path, Path::new(PACKED), &|path, metadata| {
        let there = tree.join(path).symlink_metadata().ok();
        let same = there.is_some_and(|there| there.is_dir() == metadata.is_dir());
        if !(same && !is_removed(metadata) || is_of_the_build(path)) {
            missing.store(true, Ordering::Relaxed);
        }
        Ok(())
    })?;
    Ok(!missing.into_inner())
}

/// What has been packed so far: layers, the uppermost last, each with the paths that count; all of them where it is the
/// lowest.
struct Packed<'a> {
    layers: Vec<(&'a Path, Option<BTreeSet<&'a Path>>)>,
}

impl<'a> Packed<'a> {
    fn add(&mut self, layer: &'a Layer) {
        let listed = || layer.changed.iter().map(Path::new).collect();
        let counts = (!self.layers.is_empty()).then(listed);
        self.layers.push((&layer.path, counts));
    }

    /// Whether `path` is packed as it is in `tree`.
    fn has(&self, tree: &Path, path: &Path, metadata: &fs::Metadata) -> Result<bool> {
        for (place, counts) in self.layers.iter().rev() {
            if counts.as_ref().is_some_and(|counts| !counts.contains(path)) {
                continue;
            }
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

/// Calls `visit`, on all processors, for everything below a folder of a tree, and for the folder.
fn walk(
    tree: &Path,
    path: &Path,
    visit: &(dyn Fn(&Path, &fs::Metadata) -> Result<()> + Sync),
) -> Result<()> {
    let place = tree.join(path);
    let metadata = match place.symlink_metadata() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(Error::io("inspect", &place))?,
    };
    visit(path, &metadata)?;
    if !metadata.is_dir() {
        return Ok(());
    }
    let below = names(&place)?.into_par_iter();
    below.try_for_each(|name| walk(tree, &path.join(name), visit))
}

fn names(folder: &Path) -> Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(folder).map_err(Error::io("list", folder))?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
    names
        .collect::<std::io::Result<_>>()
        .map_err(Error::io("list", folder))
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

    fn layer(path: &Path, changed: &[&str]) -> Layer {
        Layer {
            path: path.to_owned(),
            digest: String::new(),
            whole: changed.is_empty(),
            changed: list(changed),
        }
    }

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn files_of_the_build_are_known() {
        for (path, known) in [
            ("usr/sbin/policy-rc.d", true),
            ("usr/lib/modules/6.12.1-amd64/.fresh-install", true),
            ("usr/lib/modules/.fresh-install", false),
            ("usr/lib/modules/a/b/.fresh-install", false),
            ("usr/sbin/policy-rc.d/x", false),
        ] {
            assert_eq!(is_of_the_build(Path::new(path)), known, "{path}");
        }
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
        let input =
            |layers: &[Layer], tree: &Path| ChangesInput::new(layers.to_vec(), tree.to_owned());
        let below = layer(&lowest, &[]);
        let changed = changed(input(std::slice::from_ref(&below), &upper)).unwrap();
        assert_eq!(changed, list(&["usr/b", "usr/c"]));
        let both = [below.clone(), layer(&upper, &["usr/b", "usr/c"])];
        let found = changes(input(&both, &tree)).unwrap();
        assert_eq!(
            (found.layers, found.tree),
            (2, list(&["boot", "etc", "etc/x", "usr/c", "var"]))
        );
        let found = changes(input(std::slice::from_ref(&below), &tree)).unwrap();
        let expected = list(&["boot", "etc", "etc/x", "usr/b", "usr/c", "var"]);
        assert_eq!((found.layers, found.tree), (1, expected));
        put(upper.join("usr/gone"), "gone");
        assert_eq!(changes(input(&both, &tree)).unwrap().layers, 1);
        put(lowest.join("usr/gone"), "gone");
        assert_eq!(changes(input(&both, &tree)).unwrap(), Changes::default());
    }
}
