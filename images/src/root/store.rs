//! Where finished trees are kept: `CACHE/{roots,bases,layers}/DIGEST/{tree, root.json, dpkg.log}`.
//!
//! A tree gets its name, by one rename, when it is complete; until then it is under a temporary name that the next run
//! removes. One process makes trees at a time. A tree is trusted until the machine is booted again, and longer when it has
//! been written out: syncing waits for whatever else the machine writes, so that is done beside other work, and only for
//! trees that take long to make.

use std::fs;
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};

use super::changes::Changes;
use super::layers::Layer;
use super::{Kernel, RootTree};
use crate::error::{Error, Result};
use crate::sandbox;
use crate::tools;

/// The folder of the tree below its work folder.
pub(crate) const TREE: &str = "tree";
/// The file of [`Facts`] beside a finished tree.
pub(crate) const FACTS: &str = "root.json";
/// No larger file of facts is read from another builder's tree, in bytes.
const FACTS_LIMIT: u64 = 16 << 20;
/// How the names of unfinished trees begin.
const UNFINISHED: &str = ".unfinished-";
/// Finished trees that are kept.
const KEPT: usize = 3;
/// Layers of a tree, at most: as many more of them are kept.
const LAYERS: usize = 4;

/// Changes with each boot (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What is known about a finished tree.
#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    kernel: Option<Kernel>,
    /// The boot after which it is not trusted.
    boot: Option<String>,
    kept: Kept,
}

/// What is kept about a tree beside its kernel; each kind of tree has its own part of it.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// What was added to the tree's base; what a layer puts over those below.
    pub(super) added: Vec<String>,
    /// The layers that a base was made from, the lowest first.
    pub(super) layers: Vec<Layer>,
    /// What a base has beyond its layers.
    pub(super) changes: Changes,
    /// Whether a layer is a whole tree.
    pub(super) whole: bool,
}

/// The folder of trees, locked.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    kept: usize,
    _lock: Flock<fs::File>,
}

/// Waits for its turn and opens the folder of trees.
pub(super) fn open(cache: &Path, kind: &str) -> Result<Store> {
    let folder = cache.join(kind);
    fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    let folder = folder.canonicalize().map_err(Error::io("find", &folder))?;
    let lock = tools::lock(&folder)?;
    let kept = match kind {
        "layers" => KEPT * LAYERS,
        _ => KEPT,
    };
    Ok(Store {
        folder,
        kept,
        _lock: lock,
    })
}

impl Store {
    /// The tree of that digest, if it has been finished, and what is kept about it.
    pub(super) fn find(&self, digest: &str) -> Result<Option<(RootTree, Kept)>> {
        let Some(Facts { kernel, kept, .. }) = self.trusted(digest) else {
            return Ok(None);
        };
        let place = self.folder.join(digest);
        // The time of last use decides which trees are kept.
        let folder = fs::File::open(&place).map_err(Error::io("open", &place))?;
        folder
            .set_modified(SystemTime::now())
            .map_err(Error::io("mark as used", &place))?;
        let tree = RootTree {
            path: place.join(TREE),
            digest: digest.to_owned(),
            kernel,
            base: None,
        };
        Ok(Some((tree, kept)))
    }

    /// Removes trees that are not trusted any more. What names a tree by its place, as a base does its layers, then finds a
    /// whole one there or none.
    pub(super) fn forget_untrusted(&self) -> Result<()> {
        for (_, place) in self.list()? {
            let digest = place.file_name().unwrap_or_default().to_string_lossy();
            if !digest.starts_with('.') && self.trusted(&digest).is_none() {
                sandbox::remove_tree(&place)?;
            }
        }
        Ok(())
    }

    /// Whether a tree is trusted after the next boot as well.
    pub(super) fn lasts(&self, digest: &str) -> bool {
        self.facts(digest).is_some_and(|facts| facts.boot.is_none())
    }

    /// The facts of a tree that was written out, or made since the last boot. Those that cannot be read are of one that was
    /// neither.
    fn trusted(&self, digest: &str) -> Option<Facts> {
        let current = |boot: &String| Some(boot) == boot_id().as_ref();
        let facts = self.facts(digest)?;
        facts.boot.as_ref().is_none_or(current).then_some(facts)
    }

    fn facts(&self, digest: &str) -> Option<Facts> {
        let text = fs::read(self.folder.join(digest).join(FACTS)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Says of a tree that was to be trusted until the next boot that it is on the disk by now. One that is gone is left
    /// alone.
    pub(super) fn last(&self, digest: &str) -> Result<()> {
        let path = self.folder.join(digest).join(FACTS);
        let Some(facts) = self.facts(digest).filter(|facts| facts.boot.is_some()) else {
            return Ok(());
        };
        let facts = Facts {
            boot: None,
            ..facts
        };
        let text = serde_json::to_vec(&facts).unwrap_or_default();
        let new = path.with_extension("new");
        fs::File::create(&new)
            .and_then(|mut file| {
                file.write_all(&text)?;
                file.sync_all()
            })
            .map_err(Error::io("write", &new))?;
        fs::rename(&new, &path).map_err(Error::io("rename to", &path))
    }

    /// Makes an empty work folder. What interrupted runs left is removed first; old trees go when the new one is
    /// finished, because ext4 searches long for inodes right after many have been freed.
    pub(super) fn begin(&self) -> Result<PathBuf> {
        for place in leftovers(self.list()?, usize::MAX) {
            sandbox::remove_tree(&place)?;
        }
        let work = self
            .folder
            .join(format!("{UNFINISHED}{}", std::process::id()));
        fs::create_dir(&work).map_err(Error::io("create", &work))?;
        Ok(work)
    }

    /// Gives a finished tree its name. After a power cut it may be damaged: it is trusted until the next boot, and longer
    /// once it was [written out](Store::last).
    pub(super) fn publish(
        &self,
        work: &Path,
        digest: &str,
        kernel: Option<Kernel>,
        kept: Kept,
    ) -> Result<RootTree> {
        let boot = Some(boot_id().unwrap_or_default());
        let facts = Facts { kernel, boot, kept };
        let text = serde_json::to_vec(&facts).unwrap_or_default();
        let path = work.join(FACTS);
        fs::write(&path, text).map_err(Error::io("write", &path))?;
        let place = self.folder.join(digest);
        sandbox::remove_tree(&place)?;
        fs::rename(work, &place).map_err(Error::io("rename to", &place))?;
        for old in leftovers(self.list()?, self.kept) {
            sandbox::remove_tree(&old)?;
        }
        Ok(RootTree {
            path: place.join(TREE),
            digest: digest.to_owned(),
            kernel: facts.kernel,
            base: None,
        })
    }

    fn list(&self) -> Result<Vec<(SystemTime, PathBuf)>> {
        let mut places = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(Error::io("list", &self.folder))? {
            let entry = entry.map_err(Error::io("list", &self.folder))?;
            let metadata = entry
                .metadata()
                .map_err(Error::io("inspect", entry.path()))?;
            if metadata.is_dir() {
                let used = metadata
                    .modified()
                    .map_err(Error::io("inspect", entry.path()))?;
                places.push((used, entry.path()));
            }
        }
        Ok(places)
    }
}

/// The kernel of a base below `place`, which need not be of this cache, if it has one; `None` when no finished base that
/// lasts is there.
pub(crate) fn kernel_of(place: &Path) -> Option<Option<Kernel>> {
    of_another(place, place).map(|(kernel, _)| kernel)
}

/// What is known about a base below `place` that another builder made, for use with this `cache`. Paths that lead out of
/// the tree are refused. Layers are where they would be here.
pub(super) fn of_another(place: &Path, cache: &Path) -> Option<(Option<Kernel>, Kept)> {
    let path = place.join(FACTS);
    let found = fs::symlink_metadata(&path).ok()?;
    if !found.is_file() || found.len() > FACTS_LIMIT {
        return None;
    }
    let facts: Facts = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
    let Facts {
        kernel,
        boot: None,
        mut kept,
    } = facts
    else {
        return None;
    };
    let normal = |path: &Path| {
        let mut parts = path.components();
        parts.all(|part| matches!(part, Component::Normal(_)))
    };
    let inside = |kernel: &Kernel| normal(&kernel.image) && normal(&kernel.modules);
    let layers = kept.layers.iter();
    let listed = layers
        .flat_map(|layer| &layer.changed)
        .chain(&kept.changes.tree);
    let all = listed.map(Path::new).all(normal) && kernel.as_ref().is_none_or(inside);
    let digest = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let named = kept.layers.iter().all(|layer| digest(&layer.digest));
    if !all || !named || !kept.added.is_empty() {
        return None;
    }
    for layer in &mut kept.layers {
        layer.path = cache
            .join(super::layers::KIND)
            .join(&layer.digest)
            .join(TREE);
    }
    Some((kernel, kept))
}

fn boot_id() -> Option<String> {
    let id = fs::read_to_string(BOOT_ID).ok()?;
    Some(id.trim().to_owned())
}

/// What to remove: everything unfinished, and all but the `keep` finished trees that were used last.
fn leftovers(mut places: Vec<(SystemTime, PathBuf)>, keep: usize) -> Vec<PathBuf> {
    places.sort_by(|a, b| b.cmp(a));
    let unfinished = |path: &Path| {
        path.file_name()
            .is_none_or(|name| name.to_string_lossy().starts_with('.'))
    };
    let (mut remove, finished): (Vec<_>, Vec<_>) = places
        .into_iter()
        .map(|(_, path)| path)
        .partition(|path| unfinished(path));
    remove.extend(finished.into_iter().skip(keep));
    remove
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_another_builder_stay_inside_the_tree() {
        let folder = tempfile::tempdir().unwrap();
        let facts = |image: &str, listed: &str| {
            let kernel = format!(r#"{{"image": "{image}", "version": "6", "modules": "usr/lib"}}"#);
            let digest = "0a".repeat(32);
            let layer = format!(
                r#"{{"path": "/elsewhere", "digest": "{digest}", "whole": true, "changed": []}}"#
            );
            let kept = format!(
                r#"{{"added": [], "layers": [{layer}], "changes": {{"layers": 1, "tree": ["{listed}"]}}, "whole": false}}"#
            );
            let text = format!(r#"{{"kernel": {kernel}, "boot": null, "kept": {kept}}}"#);
            fs::write(folder.path().join(FACTS), text).unwrap();
            of_another(folder.path(), Path::new("/cache"))
        };
        assert!(kernel_of(folder.path()).is_none());
        let (kernel, kept) = facts("boot/vmlinuz", "etc/x").unwrap();
        assert!(kernel.is_some());
        let place = Path::new("/cache/layers").join("0a".repeat(32)).join(TREE);
        assert_eq!(kept.layers[0].path, place);
        assert!(facts("../vmlinuz", "etc/x").is_none());
        assert!(facts("/boot/vmlinuz", "etc/x").is_none());
        assert!(facts("boot/vmlinuz", "../x").is_none());
    }

    #[test]
    fn unfinished_and_old_trees_go() {
        let at = |seconds, name: &str| {
            (
                SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds),
                name.into(),
            )
        };
        let places = vec![
            at(1, "/r/old"),
            at(9, "/r/.unfinished-7"),
            at(3, "/r/new"),
            at(2, "/r/middle"),
        ];
        let expected: Vec<PathBuf> = vec!["/r/.unfinished-7".into(), "/r/old".into()];
        assert_eq!(leftovers(places, 2), expected);
    }
}
