//! Packages → root tree: what the machine will have as `/`, as a folder with the right owners.
//!
//! The essential packages are unpacked first (side by side, in Rust), so that a shell and dpkg are there; then the
//! tree's own dpkg unpacks and configures everything in a sandbox without network; then the tree is
//! [finished](finish): nothing individual or secret is left, and the same input gives the same bytes.

mod dpkg;
mod failure;
mod finish;
mod input;
mod order;
mod policy;
mod prepare;
mod store;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use finish::{CompleteInput, FinishInput, complete, finish};
pub use input::{Content, FileEntry, Package, RootInput, Script, SystemUser};
pub(crate) use prepare::{PrepareInput, prepare};

pub(crate) use store::{FACTS, TREE, kernel_of};

use store::Lasting;

use crate::deb::{self, Owners};
use crate::elsewhere::{Cache, Kind, Wanted};
use crate::error::{Error, Result};
use crate::progress::{Progress, ProgressFn, stage};
use crate::sandbox::{self, Sandbox};

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
}

/// Makes the root tree of `input` below `cache`, or finds it there; its base may also be found elsewhere. Killed at any
/// moment, it starts anew next time.
///
/// # Errors
/// [`Error::Package`] for a damaged package, [`Error::Program`] with dpkg's last words when a package cannot be
/// configured, [`Error::Worker`] and [`Error::Sandbox`] when the host does not let the sandbox start.
pub fn build<'a>(
    input: &RootInput,
    cache: impl Into<Cache<'a>>,
    progress: ProgressFn,
) -> Result<RootTree> {
    let cache: Cache = cache.into();
    let digest = input.digest();
    // The base first, also when the tree is there: its file system is packed from it.
    let base = build_base(input, &cache, progress)?;
    let cache = cache.folder;
    let roots = store::open(cache, "roots")?;
    if let Some((tree, added)) = roots.find(&digest)? {
        progress(Progress::Finished {
            stage: "root",
            seconds: 0.0,
            reused: true,
        });
        return Ok(with_base(tree, &base, added));
    }
    let work = roots.begin()?;
    let added = stage(progress, "root/complete", || {
        complete_tree(&base, input, cache, &work)
    })?;
    let tree = stage(progress, "root/publish", || {
        let kernel = base.kernel.clone();
        roots.publish(&work, &digest, kernel, &added, Lasting::UntilBoot)
    })?;
    Ok(with_base(tree, &base, added))
}

fn with_base(tree: RootTree, base: &RootTree, added: Vec<String>) -> RootTree {
    let base = Base {
        path: base.path.clone(),
        digest: base.digest.clone(),
        added,
    };
    RootTree {
        base: Some(base),
        ..tree
    }
}

/// The tree before [`RootInput::files_after`]: most changes of an image change only those.
fn build_base(input: &RootInput, cache: &Cache, progress: ProgressFn) -> Result<RootTree> {
    let digest = input.base_digest();
    let bases = store::open(cache.folder, "bases")?;
    if let Some((tree, _)) = bases.find(&digest)? {
        progress(Progress::Finished {
            stage: "root/base",
            seconds: 0.0,
            reused: true,
        });
        return Ok(tree);
    }
    if let Some(tree) = found_elsewhere(&bases, &digest, cache, progress)? {
        return Ok(tree);
    }
    let work = bases.begin()?;
    let tree = work.join(store::TREE);
    let plan = stage(progress, "root/plan", || order::plan(&input.packages))?;
    stage(progress, "root/essential", || {
        unpack_essential(&plan, input, &tree)
    })?;
    dpkg::unpack(&plan, input, &work, progress)?;
    dpkg::configure(input, &work, progress)?;
    dpkg::run_scripts(input, &work, progress)?;
    let finished = FinishInput {
        tree,
        epoch: input.epoch,
    };
    let kernel: Option<Kernel> = stage(progress, "root/finish", || {
        sandbox::call("finish-root", &finished, &|_, _| ())
    })?;
    stage(progress, "root/sync", || {
        bases.publish(&work, &digest, kernel, &[], Lasting::Always)
    })
}

/// The base of that digest as somebody else made it.
fn found_elsewhere(
    bases: &store::Store,
    digest: &str,
    cache: &Cache,
    progress: ProgressFn,
) -> Result<Option<RootTree>> {
    let Some(find) = cache.find else {
        return Ok(None);
    };
    let kind = Kind::Base;
    let work = bases.begin()?;
    if !find(Wanted { kind, digest }, &work) {
        return Ok(None);
    }
    let Some(kernel) = kernel_of(&work) else {
        return Ok(None);
    };
    stage(progress, "root/sync", || {
        bases.publish(&work, digest, kernel, &[], Lasting::Always)
    })
    .map(Some)
}

/// Makes the whole tree from the base, and returns what was added. Files are links to the base's: nothing writes to a file
/// in place, here or later.
fn complete_tree(
    base: &RootTree,
    input: &RootInput,
    cache: &Path,
    work: &Path,
) -> Result<Vec<String>> {
    let cache = cache.canonicalize().map_err(Error::io("find", cache))?;
    // One mount for both trees: the kernel refuses links between two, even of the same file system.
    let seen = Path::new("/run/farrow/cache");
    let inside = |path: &Path| {
        let relative = path.strip_prefix(&cache).unwrap_or(path);
        seen.join(relative).to_string_lossy().into_owned()
    };
    let tree = work.join(store::TREE);
    Sandbox::new(&base.path)
        .read_only()
        .emulator(input.emulator.clone())
        .bind(&cache, seen)
        .run(
            &[
                "cp",
                "--archive",
                "--link",
                "--",
                &inside(&base.path),
                &inside(&tree),
            ],
            None,
        )?;
    let complete = CompleteInput {
        tree,
        files: input.files_after.clone(),
        users: input.users_after.clone(),
        hostname: input.hostname.clone(),
        epoch: input.epoch,
    };
    sandbox::call("complete-root", &complete, &|_, _| ())
}

/// Makes the tree with what dpkg needs to run in it.
fn unpack_essential(plan: &order::Plan, input: &RootInput, tree: &Path) -> Result<()> {
    let packages = plan
        .essential()
        .map(|package| package.path.clone())
        .collect();
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
    sandbox::call("prepare-root", &prepared, &|_, _| ())
}

/// Unpacks the essential packages and writes what must be there before any script runs. Runs with mapped ids.
fn unpack_tree(tree: &Path, packages: &[PathBuf]) -> Result<()> {
    std::fs::create_dir_all(tree).map_err(Error::io("create", tree))?;
    crate::tools::make_base(tree)?;
    deb::unpack_all(packages, tree, Owners::Package, &|_| ())
}

/// Makes `tree` this process's `/`: from then on no link in it leads elsewhere.
fn enter(tree: &Path) -> Result<()> {
    nix::unistd::chroot(tree).map_err(|errno| Error::io("change root to", tree)(errno.into()))?;
    nix::unistd::chdir("/").map_err(|errno| Error::io("enter", tree)(errno.into()))
}
