//! Packages → one layer, in a new tree or above other layers.

use std::cell::OnceCell;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use super::background;
use super::changes::ChangesInput;
use super::input::RootInput;
use super::layers::{Layer, OVERLAY, Step, above, can_be_seen_as_one, visible};
use super::order::Planned;
use super::plain::Ahead;
use super::store::{self, Store};
use super::unpack::Unpacked;
use super::{SealInput, dpkg};
use crate::error::{Error, Result};
use crate::progress::{Progress, ProgressFn, stage};
use crate::sandbox::{self, Sandbox};

/// dpkg is started anew after so many KiB of installed size: what follows is unpacked ahead meanwhile.
const BATCH: u64 = 96 << 10;
/// The largest script that is looked into, in bytes.
const SCRIPT_LIMIT: u64 = 1 << 20;
/// Where a tree has the scripts of packages.
const INFO: &str = "var/lib/dpkg/info";

/// What all layers of a run are made with.
pub(super) struct Maker<'a> {
    pub(super) input: &'a RootInput,
    pub(super) store: &'a Store,
    pub(super) ahead: &'a Ahead<'a>,
    /// How many layers are packed by themselves.
    pub(super) packed: usize,
    /// Whether upper layers are copies: known when the first of them is made.
    pub(super) copies: OnceCell<bool>,
    pub(super) progress: ProgressFn<'a>,
}

impl Maker<'_> {
    /// A whole tree with the packages that others may need, unpacked.
    pub(super) fn lowest(&self, planned: &[Planned], digest: &str) -> Result<Layer> {
        let work = self.store.begin()?;
        let tree = work.join(store::TREE);
        let by_dpkg = self.unpack_without_dpkg(planned, &tree)?;
        self.install(&Sandbox::new(&tree), &work, &by_dpkg, &[])?;
        self.publish(&work, digest, true, &[])
    }

    /// Makes the tree that dpkg can run in, and returns the packages that it has to unpack.
    fn unpack_without_dpkg(&self, planned: &[Planned], tree: &Path) -> Result<Vec<Planned>> {
        let mut planned = planned.to_vec();
        loop {
            let places: Vec<usize> = (0..planned.len())
                .filter(|place| planned[*place].essential || !planned[*place].by_dpkg)
                .collect();
            let packages = places.iter().map(|place| Unpacked {
                package: planned[*place].package.clone(),
                path: planned[*place].package.path.clone(),
                essential: planned[*place].essential,
                by_dpkg: planned[*place].by_dpkg,
            });
            let (stage, total) = ("root/files", Some(places.len() as u64));
            (self.progress)(Progress::Started { stage, total });
            let start = Instant::now();
            let report = |done| (self.progress)(Progress::Advanced { stage, done });
            let clashes = super::unpack(packages.collect(), self.input, tree, &report)?;
            (self.progress)(Progress::Finished {
                stage,
                seconds: start.elapsed().as_secs_f64(),
                reused: false,
            });
            if clashes.is_empty() {
                planned.retain(|planned| planned.by_dpkg);
                return Ok(planned);
            }
            // Each round leaves more to dpkg.
            for clash in clashes {
                planned[places[clash]].by_dpkg = true;
            }
            sandbox::remove_tree(tree)?;
        }
    }

    /// What a step changes in the layers below.
    pub(super) fn upper(
        &self,
        below: &[Layer],
        planned: &[Planned],
        step: &Step,
        digest: &str,
    ) -> Result<Layer> {
        let work = self.store.begin()?;
        let whole = match self.copies.get() {
            Some(&copies) => copies,
            None => {
                let copies = !can_be_seen_as_one(below, &work)?;
                *self.copies.get_or_init(|| copies)
            }
        };
        let sandbox = above(below, &work, whole, self.progress)?;
        let sandbox = postpone(sandbox, below, planned, &work)?;
        let unpacked = if step.unpack { planned } else { &[] };
        self.install(&sandbox, &work, unpacked, planned)?;
        let compared = if below.len() < self.packed {
            below
        } else {
            &[]
        };
        self.publish(&work, digest, whole, compared)
    }

    /// Has dpkg unpack packages, and configure packages.
    fn install(
        &self,
        sandbox: &Sandbox,
        work: &Path,
        unpacked: &[Planned],
        configured: &[Planned],
    ) -> Result<()> {
        let dpkg = dpkg::Dpkg::new(sandbox.clone(), self.input, work, self.progress)?;
        if !unpacked.is_empty() {
            let mut unpacking = dpkg.unpacking(self.ahead.folder(), unpacked.len());
            for batch in batches(unpacked) {
                let packages = || unpacked[batch.clone()].iter().map(|p| &p.package);
                packages().try_for_each(|package| self.ahead.wait(package))?;
                let names: Vec<String> = packages().map(Ahead::name).collect();
                unpacking.run(&names)?;
                packages().try_for_each(|package| self.ahead.remove(package))?;
            }
            unpacking.finish();
        }
        if !configured.is_empty() {
            dpkg.configure(configured)?;
        }
        // Each layer that unpacks may be the last one.
        if !unpacked.is_empty() && !configured.is_empty() {
            dpkg.list_libraries()?;
        }
        Ok(())
    }

    fn publish(&self, work: &Path, digest: &str, whole: bool, below: &[Layer]) -> Result<Layer> {
        let tree = work.join(store::TREE);
        sandbox::remove_tree(&work.join(OVERLAY))?;
        let seal = SealInput {
            tree: tree.clone(),
            epoch: self.input.epoch,
        };
        let changed: Vec<String> = stage(self.progress, "root/seal", || {
            sandbox::call::<_, ()>("seal-layer", &seal, &|_, _| ())?;
            match below {
                [] => Ok(Vec::new()),
                _ => {
                    let input = ChangesInput::new(below.to_vec(), tree);
                    sandbox::call("changes-of-layer", &input, &|_, _| ())
                }
            }
        })?;
        let kept = store::Kept {
            whole,
            added: changed.clone(),
            ..store::Kept::default()
        };
        let tree = self.store.publish(work, digest, None, kept)?;
        Ok(Layer {
            path: tree.path,
            digest: digest.to_owned(),
            whole,
            changed,
        })
    }
}

/// The sandbox with scripts of packages that layers hold in which some work is left for [later](background::postponed).
fn postpone(
    mut sandbox: Sandbox,
    below: &[Layer],
    planned: &[Planned],
    work: &Path,
) -> Result<Sandbox> {
    let folder = work.join("postponed");
    fs::create_dir(&folder).map_err(Error::io("create", &folder))?;
    for name in planned.iter().map(|planned| &planned.package.name) {
        let place = format!("{INFO}/{name}.postinst");
        let paths = visible(below)
            .iter()
            .rev()
            .map(|layer| layer.path.join(&place));
        let is_script = |found: fs::Metadata| found.is_file() && found.len() <= SCRIPT_LIMIT;
        let found = paths
            .into_iter()
            .find(|path| path.symlink_metadata().is_ok_and(is_script));
        let text = found.and_then(|path| fs::read_to_string(path).ok());
        let Some(changed) = text.and_then(|text| background::postponed(&text)) else {
            continue;
        };
        let script = folder.join(name);
        fs::write(&script, changed)
            .and_then(|()| fs::set_permissions(&script, fs::Permissions::from_mode(0o755)))
            .map_err(Error::io("write", &script))?;
        sandbox = sandbox.bind_ro(script, Path::new("/").join(place));
    }
    Ok(sandbox)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dpkg_gets_so_many_packages_at_a_time() {
        let packages = ["a", "b", "c"].map(|name| Planned::plain(name, 50 << 10));
        assert_eq!(batches(&packages), [0..2, 2..3]);
    }
}
