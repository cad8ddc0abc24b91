//! Packages → layers: trees that are seen as one, each with what its packages add to those below it.
//!
//! The first layer is a whole tree. The packages of the others are unpacked and configured in a view of all layers so
//! far (overlayfs), so that what the kernel put into the uppermost folder is all that they changed. A layer depends on the packages
//! in it and below it alone: when one package changes, the layers below its own are found in the cache. An image from an
//! empty cache is made of the same layers, so what was cached does not show in its bytes.
//!
//! Where overlayfs cannot be mounted (in a container whose own root is one), the upper layers are copies of all that is
//! below them. That is slower, and the tree is the same.

use std::cell::OnceCell;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Base;
use super::input::{Package, RootInput};
use super::maker::Maker;
use super::merge::MergeInput;
use super::order::{self, Planned};
use super::plain::Ahead;
use super::store::{self, Store};
use crate::error::{Error, Result};
use crate::progress::{ProgressFn, stage};
use crate::sandbox::{self, Layers, Sandbox};

/// The folder of the store of layers in the cache.
pub(super) const KIND: &str = "layers";
/// The kernel's own folder beside an upper tree.
pub(super) const OVERLAY: &str = "overlay";
/// When it is set, layers are copies, as on a host without overlayfs.
const COPIES: &str = "FARROW_NO_OVERLAY";

/// What can be packed while the rest of a tree is made.
pub enum Made<'a> {
    /// Layers up to the one that was just made.
    Layers(&'a [Layer]),
    /// The tree that they make.
    Base(&'a Base),
}

/// What is told of it.
pub type MadeFn<'a> = &'a (dyn Fn(Made) + Sync);

/// A layer in the cache. Its files belong to mapped ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The folder: a whole tree, or what differs from the layers below.
    pub path: PathBuf,
    /// SHA-256 in hex over everything that it and the layers below it were made from.
    pub digest: String,
    /// Whether it is a whole tree.
    pub whole: bool,
    /// Below `/usr`, what it puts over the layers below it; nothing for the lowest one, and for one that is not packed.
    pub changed: Vec<String>,
}

/// What is done for a layer: packages, by their places in the order in which they are unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) packages: Range<usize>,
    pub(super) unpack: bool,
    configure: bool,
}

/// How many of so many layers are packed by themselves, from the lowest on. The uppermost one is small and is packed with
/// what finishes the tree, unless it is that of the packages which others may need.
pub(super) fn packed(layers: usize) -> usize {
    layers.saturating_sub(1).max(2)
}

/// The packages that others may need are unpacked for the lowest layer and configured for the next: the first is packed
/// while the second is made, for which one processor is enough.
fn steps(parts: &[Vec<Planned>]) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut start = 0;
    for (index, part) in parts.iter().enumerate() {
        let packages = start..start + part.len();
        start = packages.end;
        let step = |unpack, configure| Step {
            packages: packages.clone(),
            unpack,
            configure,
        };
        match index {
            0 => steps.extend([step(true, false), step(false, true)]),
            _ => steps.push(step(true, true)),
        }
    }
    steps
}

/// Makes the layers of an input's packages, the lowest first, or finds them in the cache. `tell` is told, and does not wait,
/// of those that are packed by themselves, each time that there are more of them.
pub(super) fn build(
    input: &RootInput,
    cache: &Path,
    progress: ProgressFn,
    tell: &dyn Fn(&[Layer]),
) -> Result<Vec<Layer>> {
    let plan = stage(progress, "root/plan", || order::plan(&input.packages))?;
    let store = store::open(cache, KIND)?;
    let parts = plan.layers();
    let steps = steps(&parts);
    let packages: Vec<Planned> = parts.into_iter().flatten().collect();
    let digests = digests(input, &packages, &steps);
    let mut layers = find(&store, &digests)?;
    let missing = &steps[layers.len()..];
    // Of the lowest layer dpkg unpacks little itself, for which it waits. From then on one processor is its.
    let by_dpkg = |step: &Step| {
        let lowest = step.packages.start == 0;
        let planned = packages[step.packages.clone()].iter();
        planned.filter(move |planned| !lowest || planned.by_dpkg)
    };
    let wanted = missing.iter().filter(|step| step.unpack).flat_map(by_dpkg);
    let wanted = wanted.map(|planned| &planned.package).collect();
    let urgent = match missing.first() {
        Some(step) if layers.is_empty() => by_dpkg(step).count(),
        _ => usize::MAX,
    };
    let ahead = &Ahead::new(wanted, cache)?;
    let maker = Maker {
        input,
        store: &store,
        ahead,
        packed: packed(steps.len()),
        copies: OnceCell::new(),
        progress,
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    // The file systems of layers that were found are put together meanwhile.
    let known = layers.len().min(maker.packed);
    if known > 0 && !missing.is_empty() {
        tell(&layers[..known]);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| ahead.work(usize::MAX));
        for worker in 1..processors {
            let end = if worker == 1 { urgent } else { usize::MAX };
            scope.spawn(move || ahead.work(end));
        }
        let mut work = missing.iter().zip(&digests[layers.len()..]);
        let result = work.try_for_each(|(step, digest)| {
            let planned = &packages[step.packages.clone()];
            let layer = match layers.is_empty() {
                true => maker.lowest(planned, digest)?,
                false => maker.upper(&layers, planned, step, digest)?,
            };
            layers.push(layer);
            if layers.len() <= maker.packed {
                tell(&layers);
            }
            Ok::<_, Error>(())
        });
        ahead.stop();
        result
    })?;
    Ok(layers)
}

/// The layers that are in the cache, from the lowest one on.
fn find(store: &Store, digests: &[String]) -> Result<Vec<Layer>> {
    let mut layers = Vec::new();
    for digest in digests {
        let Some((tree, kept)) = store.find(digest)? else {
            break;
        };
        layers.push(Layer {
            path: tree.path,
            digest: digest.clone(),
            whole: kept.whole,
            changed: kept.added,
        });
    }
    Ok(layers)
}

/// Says of layers that they are on the disk, after everything has been synced.
pub(super) fn keep(cache: &Path, layers: &[Layer]) -> Result<()> {
    let store = store::open(cache, KIND)?;
    layers
        .iter()
        .try_for_each(|layer| store.last(&layer.digest))
}

/// A layer's digest is over all that decides what it and those below it hold.
fn digests(input: &RootInput, packages: &[Planned], steps: &[Step]) -> Vec<String> {
    let mut below = input.beginning_digest();
    let digest = |step: &Step| {
        let planned = packages[step.packages.clone()].iter();
        let mut packages: Vec<&Package> = planned.map(|planned| &planned.package).collect();
        packages.sort_by(|a, b| (&a.name, &a.architecture).cmp(&(&b.name, &b.architecture)));
        let done = (step.unpack, step.configure);
        below = super::input::digest_of(&(&below, packages, done));
        below.clone()
    };
    steps.iter().map(digest).collect()
}

/// A sandbox in which what is written goes to the folder of a tree in `work`, above the layers; or, as a copy, in a whole
/// tree there.
pub(super) fn above(
    below: &[Layer],
    work: &Path,
    whole: bool,
    progress: ProgressFn,
) -> Result<Sandbox> {
    let tree = work.join(store::TREE);
    if whole {
        let merge = MergeInput::new(below, &tree, true);
        stage(progress, "root/copy", || {
            sandbox::call::<_, ()>("merge-layers", &merge, &|_, _| ())
        })?;
        return Ok(Sandbox::new(tree));
    }
    overlay(below, &tree, &work.join(OVERLAY))
}

fn overlay(below: &[Layer], upper: &Path, work: &Path) -> Result<Sandbox> {
    for folder in [upper, work] {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    }
    // The uppermost folder's owner and mode are those of the whole; its owner is root, as a mapped id.
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(upper, mode).map_err(Error::io("set the mode of", upper))?;
    let lower = visible(below).iter().rev().map(|layer| layer.path.clone());
    Ok(Sandbox::layered(Layers {
        lower: lower.collect(),
        upper: upper.to_owned(),
        work: work.to_owned(),
    }))
}

/// The layers from the last whole one on: what is below it is in it.
pub(super) fn visible(layers: &[Layer]) -> &[Layer] {
    let start = layers.iter().rposition(|layer| layer.whole).unwrap_or(0);
    &layers[start..]
}

/// Whether this host shows layers as one, by trying it in `work`.
pub(super) fn can_be_seen_as_one(below: &[Layer], work: &Path) -> Result<bool> {
    if std::env::var_os(COPIES).is_some() {
        return Ok(false);
    }
    let trial = work.join("trial");
    let (upper, folder) = (trial.join("upper"), trial.join("work"));
    let seen = overlay(below, &upper, &folder)?.run(&["true"], None);
    sandbox::remove_tree(&trial)?;
    Ok(seen.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_that_others_need_make_two_layers() {
        let planned = |name: &str| Planned::plain(name, 50 << 10);
        let parts = vec![
            vec![planned("a"), planned("b"), planned("c")],
            vec![planned("d")],
            vec![planned("e")],
        ];
        let found = steps(&parts);
        let done: Vec<_> = found
            .iter()
            .map(|step| (step.packages.clone(), step.unpack, step.configure))
            .collect();
        let expected = [
            (0..3, true, false),
            (0..3, false, true),
            (3..4, true, true),
            (4..5, true, true),
        ];
        assert_eq!(done, expected);
        assert_eq!([2, 3, 4].map(packed), [2, 2, 3]);
    }
}
