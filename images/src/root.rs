//! Packages → root tree: what the machine will have as `/`, as a folder with the right owners.
//!
//! Packages are installed in [layers]. Those that others may need are unpacked first, [side by side](unpack), so that a shell and
//! dpkg are there; then the tree's own dpkg unpacks and configures the rest in sandboxes without network. The layers
//! together are [finished](finish): nothing individual or secret is left, and the same input gives the same bytes.

mod background;
mod changes;
mod dpkg;
mod failure;
mod filter;
mod finish;
mod input;
mod layers;
mod maker;
mod merge;
mod order;
mod plain;
mod policy;
mod prepare;
mod record;
mod store;
mod unpack;

use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;

use serde::{Deserialize, Serialize};

pub use changes::Changes;
pub(crate) use changes::{OF_THE_BUILD, PACKED, changed, changes, is_elsewhere};
pub(crate) use finish::{CompleteInput, FinishInput, SealInput, complete, finish, seal};
pub use input::{Content, FileEntry, Package, RootInput, Script, SystemUser};
pub use layers::{Layer, Made, MadeFn};
pub(crate) use merge::merge;
pub(crate) use prepare::{PrepareInput, prepare};
pub(crate) use store::{FACTS, TREE, kernel_of};

use changes::ChangesInput;
use merge::MergeInput;
use store::Kept;
use unpack::Unpacked;

use crate::elsewhere::{Cache, Kind, Wanted};
use crate::error::{Error, Result};
use crate::progress::{Progress, ProgressFn, stage};
use crate::sandbox;
use crate::unfinished;

/// The kernel that a tree's packages brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Path of the image below the tree, for example `boot/vmlinuz-6.12.1-amd64`.
    pub image: PathBuf,
    /// As `uname -r` prints it.
    pub version: String,
    /// Path of its modules below the tree, for example `usr/lib/modules/6.12.1-amd64`.
    pub modules: PathBuf,
}

/// A finished root tree in the cache. Its files belong to mapped ids: read and pack it in a sandbox with `map_ids`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootTree {
    /// The folder that is to be `/`.
    pub path: PathBuf,
    /// SHA-256 in hex over everything it was made from.
    pub digest: String,
    /// Its newest kernel, if it has one.
    pub kernel: Option<Kernel>,
    /// What it was made from; none for such a base itself.
    pub base: Option<Base>,
}

/// The tree that packages make, from which a root tree differs by some files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The folder.
    pub path: PathBuf,
    /// SHA-256 in hex over everything it was made from.
    pub digest: String,
    /// What was added or replaced: paths below the tree, no part of which is a link.
    pub added: Vec<String>,
    /// What it was made from, the lowest first. A base may outlive its layers in the cache: see [`remake_layers`].
    pub layers: Vec<Layer>,
    /// What it has beyond them.
    pub changes: Changes,
}

/// Makes the root tree of `input` below `cache`, or finds it there; its base may also be found elsewhere. Killed at any
/// moment, it starts anew next time.
/// `made` gets layers and the base as soon as they have been made, beside the making of the rest.
///
/// # Errors
/// [`Error::Package`] for a damaged package, [`Error::Program`] with dpkg's last words when a package cannot be
/// configured, [`Error::Worker`] and [`Error::Sandbox`] when the host does not let the sandbox start.
pub fn build<'a>(
    input: &RootInput,
    cache: impl Into<Cache<'a>>,
    progress: ProgressFn,
    made: MadeFn,
) -> Result<RootTree> {
    let cache: Cache = cache.into();
    let digest = input.digest();
    store::open(cache.folder, layers::KIND)?.forget_untrusted()?;
    // A killed run may have left something where nothing has to be made any more. What is another user's stays.
    let _ = unfinished::sweep(cache.folder);
    // The base first, also when the tree is there: its file system is packed from it.
    let (base, facts) = build_base(input, &cache, progress, made)?;
    let cache = cache.folder;
    let of_base = |added| Base {
        path: base.path.clone(),
        digest: base.digest.clone(),
        added,
        layers: facts.layers.clone(),
        changes: facts.changes.clone(),
    };
    let roots = store::open(cache, "roots")?;
    if let Some((tree, kept)) = roots.find(&digest)? {
        progress(Progress::Finished {
            stage: "root",
            seconds: 0.0,
            reused: true,
        });
        let base = Some(of_base(kept.added));
        return Ok(RootTree { base, ..tree });
    }
    let work = roots.begin()?;
    let (added, ()) = rayon::join(
        || {
            stage(progress, "root/complete", || {
                complete_tree(&base, input, &work)
            })
        },
        || made(Made::Base(&of_base(Vec::new()))),
    );
    let added = added?;
    let kept = Kept {
        added: added.clone(),
        ..Kept::default()
    };
    let tree = stage(progress, "root/publish", || {
        let kernel = base.kernel.clone();
        roots.publish(&work, &digest, kernel, kept)
    })?;
    let base = Some(of_base(added));
    Ok(RootTree { base, ..tree })
}

/// Writes a base and its layers out, so that they are trusted after the next boot as well. It may run beside what is made
/// from them.
///
/// # Errors
/// When the file system cannot be written.
pub fn settle(base: &Base, cache: &Path) -> Result<()> {
    let bases = store::open(cache, "bases")?;
    if bases.lasts(&base.digest) {
        return Ok(());
    }
    crate::tools::sync_file_system(&base.path)?;
    bases.last(&base.digest)?;
    layers::keep(cache, &base.layers)
}

/// Makes the layers of a tree that are not in the cache any more, so that it can be packed.
///
/// # Errors
/// As [`build`].
pub fn remake_layers(input: &RootInput, cache: &Path, progress: ProgressFn) -> Result<()> {
    layers::build(input, cache, progress, &|_| ()).map(drop)
}

/// The tree before [`RootInput::files_after`]: most changes of an image change only those.
fn build_base(
    input: &RootInput,
    cache: &Cache,
    progress: ProgressFn,
    made: MadeFn,
) -> Result<(RootTree, Kept)> {
    let digest = input.base_digest();
    let bases = store::open(cache.folder, "bases")?;
    if let Some(found) = bases.find(&digest)? {
        progress(Progress::Finished {
            stage: "root/base",
            seconds: 0.0,
            reused: true,
        });
        return Ok(found);
    }
    if let Some(found) = found_elsewhere(&bases, &digest, cache)? {
        return Ok(found);
    }
    let (tell, told) = std::sync::mpsc::channel::<Vec<Layer>>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            told.into_iter()
                .for_each(|layers| made(Made::Layers(&layers)))
        });
        // Nobody listens any more only when the listener has failed, which is told when it is waited for.
        let tell = move |layers: &[Layer]| drop(tell.send(layers.to_vec()));
        make_base(input, &bases, cache.folder, progress, tell)
    })
}

/// Makes the layers and the tree that they are together. `tell` gets what is told of the layers; what that leads to may go on
/// beside the rest.
fn make_base(
    input: &RootInput,
    bases: &store::Store,
    cache: &Path,
    progress: ProgressFn,
    tell: impl Fn(&[Layer]),
) -> Result<(RootTree, Kept)> {
    let work = bases.begin()?;
    let tree = work.join(store::TREE);
    let (layers, merged) = std::thread::scope(|scope| {
        let (send, sent) = std::sync::mpsc::channel::<Vec<Layer>>();
        let merging = scope.spawn(|| merge_lower(sent, &tree));
        let layers = layers::build(input, cache, progress, &move |layers| {
            tell(layers);
            // Nobody listens any more only when merging has failed.
            drop(send.send(layers.to_vec()));
        })?;
        let merged = merging
            .join()
            .unwrap_or_else(|p| std::panic::resume_unwind(p));
        Ok::<_, Error>((layers, merged?))
    })?;
    merge_layers(input, &layers, merged, &work, progress)?;
    let finished = FinishInput {
        tree: tree.clone(),
        epoch: input.epoch,
    };
    let kernel: Option<Kernel> = stage(progress, "root/finish", || {
        sandbox::call("finish-root", &finished, &|_, _| ())
    })?;
    let packed = &layers[..layers::packed(layers.len())];
    let changes: Changes = stage(progress, "root/changes", || {
        let input = ChangesInput::new(packed.to_vec(), tree);
        sandbox::call("changes-of-tree", &input, &|_, _| ())
    })?;
    let kept = Kept {
        layers: layers.clone(),
        changes,
        ..Kept::default()
    };
    let tree = bases.publish(&work, &input.base_digest(), kernel, kept.clone())?;
    Ok((tree, kept))
}

/// The base of that digest as somebody else made it.
fn found_elsewhere(
    bases: &store::Store,
    digest: &str,
    cache: &Cache,
) -> Result<Option<(RootTree, Kept)>> {
    let Some(find) = cache.find else {
        return Ok(None);
    };
    let kind = Kind::Base;
    let work = bases.begin()?;
    if !find(Wanted { kind, digest }, &work) {
        return Ok(None);
    }
    let Some((kernel, kept)) = store::of_another(&work, cache.folder) else {
        return Ok(None);
    };
    let tree = bases.publish(&work, digest, kernel, kept.clone())?;
    Ok(Some((tree, kept)))
}

/// Puts layers into a tree while those above them are made, and returns how many.
fn merge_lower(told: Receiver<Vec<Layer>>, tree: &Path) -> Result<usize> {
    let mut merged = 0;
    for layers in told {
        if !are_copies(&layers) && layers.len() > merged {
            let more = MergeInput::new(&layers[merged..], tree, false);
            sandbox::call::<_, ()>("merge-layers", &more, &|_, _| ())?;
            merged = layers.len();
        }
    }
    Ok(merged)
}

/// Whether upper layers hold all that is below them.
fn are_copies(layers: &[Layer]) -> bool {
    layers.iter().skip(1).any(|layer| layer.whole)
}

/// Makes one tree of layers, of which it has some already, after the scripts that were asked for have run in them.
fn merge_layers(
    input: &RootInput,
    layers: &[Layer],
    mut merged: usize,
    work: &Path,
    progress: ProgressFn,
) -> Result<()> {
    let tree = work.join(store::TREE);
    if are_copies(layers) {
        sandbox::remove_tree(&tree)?;
        merged = 0;
    }
    let mut merge = MergeInput::new(&layers[merged..], &tree, false);
    let scripts = work.join("scripts");
    if !input.scripts.is_empty() {
        std::fs::create_dir(&scripts).map_err(Error::io("create", &scripts))?;
        let whole = !layers::can_be_seen_as_one(layers, &scripts)?;
        let sandbox = layers::above(layers, &scripts, whole, progress)?;
        dpkg::Dpkg::new(sandbox, input, work, progress)?.run_scripts()?;
        let seal = SealInput {
            tree: scripts.join(store::TREE),
            epoch: input.epoch,
        };
        sandbox::call::<_, ()>("seal-layer", &seal, &|_, _| ())?;
        if whole {
            sandbox::remove_tree(&tree)?;
            merge = MergeInput::new(&[], &tree, false);
        }
        merge = merge.with(seal.tree);
    }
    stage(progress, "root/merge", || {
        sandbox::call::<_, ()>("merge-layers", &merge, &|_, _| ())
    })?;
    sandbox::remove_tree(&scripts)
}

/// Makes the whole tree from the base, and returns what was added. Files are links to the base's: nothing writes to a file
/// in place, here or later.
fn complete_tree(base: &RootTree, input: &RootInput, work: &Path) -> Result<Vec<String>> {
    let tree = work.join(store::TREE);
    let links = MergeInput::of_tree(&base.path, &tree);
    sandbox::call::<_, ()>("merge-layers", &links, &|_, _| ())?;
    let complete = CompleteInput {
        tree,
        files: input.files_after.clone(),
        users: input.users_after.clone(),
        hostname: input.hostname.clone(),
        epoch: input.epoch,
    };
    sandbox::call("complete-root", &complete, &|_, _| ())
}

/// Makes the tree with what dpkg needs to run in it, and with the packages that dpkg need not unpack. Returns the places of those
/// that it must unpack after all; then the tree is to be made anew.
fn unpack(
    packages: Vec<Unpacked>,
    input: &RootInput,
    tree: &Path,
    report: &dyn Fn(u64),
) -> Result<Vec<usize>> {
    let prepared = PrepareInput {
        tree: tree.to_owned(),
        packages,
        files: policy::files()
            .into_iter()
            .chain(input.files_before.iter().cloned())
            .collect(),
        users: input.users.clone(),
        exclude_documentation: input.exclude_documentation,
    };
    sandbox::call("prepare-root", &prepared, &|done, _| report(done))
}

/// Makes `tree` this process's `/`: from then on no link in it leads elsewhere.
fn enter(tree: &Path) -> Result<()> {
    nix::unistd::chroot(tree).map_err(|errno| Error::io("change root to", tree)(errno.into()))?;
    nix::unistd::chdir("/").map_err(|errno| Error::io("enter", tree)(errno.into()))
}
