//! Packages → layers: trees that are seen as one, each with what its packages add to those below it.
//!
//! The first layer is a whole tree. The packages of the others are unpacked and configured in a view of all layers so
//! far (overlayfs), so that what the kernel put into the uppermost folder is all that they changed. A layer depends on the packages
//! in it and below it alone: when one package changes, the layers below its own are found in the cache. An image from an
//! empty cache is made of the same layers, so what was cached does not show in its bytes.
//!
//! Where overlayfs cannot be mounted (in a container whose own root is one), the upper layers are copies of all that is
//! below them. That is slower, and the tree is the same.

use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::input::{Package, RootInput};
use super::merge::MergeInput;
use super::order::{self, Planned};
use super::plain::Ahead;
use super::store::{self, Lasting, Store};
use super::{SealInput, dpkg, unpack_essential};
use crate::error::{Error, Result};
use crate::progress::{ProgressFn, stage};
use crate::sandbox::{self, Layers, Sandbox};

/// The folder of the store of layers in the cache.
pub(super) const KIND: &str = "layers";
/// So many of them are packed by themselves. The uppermost one is small: it is packed with what finishes the tree.
pub(super) const PACKED: usize = 2;
/// dpkg is started anew after so many KiB of installed size: what follows is unpacked ahead meanwhile.
const BATCH: u64 = 96 << 10;
/// When it is set, layers are copies, as on a host without overlayfs.
const COPIES: &str = "FARROW_NO_OVERLAY";
/// Unpacking is waited for by so many threads at least.
const LEAST_WORKERS: usize = 2;

/// What is told of the lowest layer as soon as it is there, beside the making of the others.
pub type LayerFn<'a> = &'a (dyn Fn(&Layer) + Sync);

/// A layer in the cache. Its files belong to mapped ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The folder: a whole tree, or what differs from the layers below.
    pub path: PathBuf,
    /// SHA-256 in hex over everything that it and the layers below it were made from.
    pub digest: String,
    /// Whether it is a whole tree.
    pub whole: bool,
}

/// Makes the layers of an input's packages, the lowest first, or finds them in the cache.
pub(super) fn build(
    input: &RootInput,
    cache: &Path,
    progress: ProgressFn,
    lowest: LayerFn,
) -> Result<Vec<Layer>> {
    let plan = stage(progress, "root/plan", || order::plan(&input.packages))?;
    let store = store::open(cache, KIND)?;
    let parts = plan.layers();
    let digests = digests(input, &parts);
    let mut layers = Vec::new();
    for digest in &digests {
        match store.find(digest)? {
            Some((tree, kept)) => layers.push(Layer {
                path: tree.path,
                digest: digest.clone(),
                whole: kept.whole,
            }),
            None => break,
        }
    }
    let missing = &parts[layers.len()..];
    let missing_digests = &digests[layers.len()..];
    let packages = missing.iter().flatten().map(|planned| &planned.package);
    let ahead = Ahead::new(packages.collect(), cache)?;
    let workers = std::thread::available_parallelism().map_or(LEAST_WORKERS, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers.max(LEAST_WORKERS) {
            scope.spawn(|| ahead.work());
        }
        let mut start = 0;
        let mut make = |part: &[Planned], digest: &str| -> Result<()> {
            if let [first] = &layers[..] {
                let first = first.clone();
                scope.spawn(move || lowest(&first));
            }
            let maker = Maker {
                input,
                ahead: &ahead,
                below: &layers,
                progress,
            };
            let range = start..start + part.len();
            start = range.end;
            let layer = match layers.is_empty() {
                true => maker.lowest(&store, &plan, part, range, digest)?,
                false => maker.upper(&store, part, range, digest)?,
            };
            layers.push(layer);
            Ok(())
        };
        let mut work = missing.iter().zip(missing_digests);
        let result = work.try_for_each(|(part, digest)| make(part, digest));
        ahead.stop();
        result
    })?;
    Ok(layers)
}

/// Says of layers that they are on the disk, after everything has been synced.
pub(super) fn keep(cache: &Path, layers: &[Layer]) -> Result<()> {
    let store = store::open(cache, KIND)?;
    layers.iter().try_for_each(|layer| store.last(&layer.digest))
}

/// A layer's digest is over all that decides what it and those below it hold.
fn digests(input: &RootInput, parts: &[Vec<Planned>]) -> Vec<String> {
    let mut below = input.beginning_digest();
    let digest = |part: &Vec<Planned>| {
        let mut packages: Vec<&Package> = part.iter().map(|planned| &planned.package).collect();
        packages.sort_by(|a, b| (&a.name, &a.architecture).cmp(&(&b.name, &b.architecture)));
        below = super::input::digest_of(&(&below, packages));
        below.clone()
    };
    parts.iter().map(digest).collect()
}

/// What all layers of a run are made with.
struct Maker<'a> {
    input: &'a RootInput,
    ahead: &'a Ahead<'a>,
    below: &'a [Layer],
    progress: ProgressFn<'a>,
}

impl Maker<'_> {
    /// A whole tree with the packages that others may need.
    fn lowest(
        &self,
        store: &Store,
        plan: &order::Plan,
        part: &[Planned],
        range: Range<usize>,
        digest: &str,
    ) -> Result<Layer> {
        let work = store.begin()?;
        let tree = work.join(store::TREE);
        stage(self.progress, "root/essential", || {
            unpack_essential(plan, self.input, &tree)
        })?;
        self.install(&Sandbox::new(&tree), &work, part, range)?;
        self.publish(store, &work, digest, true)
    }

    /// What packages add to the layers below.
    fn upper(
        &self,
        store: &Store,
        part: &[Planned],
        range: Range<usize>,
        digest: &str,
    ) -> Result<Layer> {
        let work = store.begin()?;
        let whole = !can_be_seen_as_one(self.below, &work)?;
        let sandbox = above(self.below, &work, whole, self.progress)?;
        self.install(&sandbox, &work, part, range)?;
        self.publish(store, &work, digest, whole)
    }

    /// Unpacks and configures packages, which are a range of those that are unpacked ahead.
    fn install(
        &self,
        sandbox: &Sandbox,
        work: &Path,
        part: &[Planned],
        range: Range<usize>,
    ) -> Result<()> {
        let dpkg = dpkg::Dpkg::new(sandbox.clone(), self.input, work, self.progress)?;
        let mut unpacking = dpkg.unpacking(self.ahead.folder(), part.len());
        for batch in batches(part) {
            let ready = range.start + batch.start..range.start + batch.end;
            self.ahead.wait(ready.clone())?;
            let names = part[batch].iter();
            let names: Vec<String> = names.map(|planned| Ahead::name(&planned.package)).collect();
            unpacking.run(&names)?;
            self.ahead.remove(ready)?;
        }
        unpacking.finish();
        dpkg.configure(part.len())
    }

    fn publish(&self, store: &Store, work: &Path, digest: &str, whole: bool) -> Result<Layer> {
        let tree = work.join(store::TREE);
        let seal = SealInput {
            tree,
            epoch: self.input.epoch,
        };
        stage(self.progress, "root/seal", || {
            sandbox::call::<_, ()>("seal-layer", &seal, &|_, _| ())
        })?;
        let kept = store::Kept {
            whole,
            ..store::Kept::default()
        };
        let tree = store.publish(work, digest, None, kept, Lasting::UntilBoot)?;
        Ok(Layer {
            path: tree.path,
            digest: digest.to_owned(),
            whole,
        })
    }
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
    overlay(below, &tree, &work.join("overlay"))
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

/// Ranges of packages that are unpacked by one start of dpkg.
fn batches(part: &[Planned]) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let (mut start, mut size) = (0, 0);
    for (index, planned) in part.iter().enumerate() {
        size += planned.size;
        if size >= BATCH || index + 1 == part.len() {
            ranges.push(start..index + 1);
            (start, size) = (index + 1, 0);
        }
    }
    ranges
}
