//! The root tree of a recipe, whose layers are packed while it is made.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use images::elsewhere::Cache;
use images::emulation::Emulator;
use images::pack::{self, WorkingImage};
use images::progress::Progress;
use images::root::{self, Made, RootInput, RootTree};
use images::tools::ToolsTree;
use offline_repo::repository::ClosurePackage;

use super::{Source, finder, image_progress, open, root_input};
use crate::diagnostic::Result;
use crate::interrupt;
use crate::machine_programs::MachinePrograms;
use crate::recipe::Recipe;
use crate::session::{Done, Session};

/// A root tree, and what it was made of.
pub(super) struct Rooted {
    pub(super) source: Source,
    pub(super) closure: Vec<ClosurePackage>,
    pub(super) tree: RootTree,
    pub(super) input: RootInput,
}

impl Rooted {
    /// Begins to write the tree's base out, so that the next boot trusts it as well. It ends beside other work.
    pub(super) fn settle(&self, session: &Session) -> JoinHandle<images::error::Result<()>> {
        let (base, cache) = (self.tree.base.clone(), session.paths.cache.clone());
        std::thread::spawn(move || base.map_or(Ok(()), |base| root::settle(&base, &cache)))
    }
}

/// The root tree of a recipe. For a disk image there is a working image, and layers and the tree of all packages are packed as
/// soon as they are there: while packages are configured, all processors but one have nothing to do.
pub(super) fn root_tree(
    session: &Session,
    recipe: &Recipe,
    repository: &Path,
    tools: &ToolsTree,
    programs: &MachinePrograms,
    working: Option<&WorkingImage>,
) -> Result<Rooted> {
    let source = open(repository, recipe)?;
    let shared = session.shared()?;
    interrupt::clean_on_interrupt(&session.paths.cache);
    let closure = source.repository.closure(&recipe.roots(), true)?;
    let emulator = Emulator::find(recipe.processor()?, tools);
    let input = root_input::root_input(recipe, &source, &closure, &programs.bootstrap, emulator)?;
    let tree = session.stage("root", |stage| {
        let report = image_progress(stage);
        let reused = AtomicBool::new(false);
        let watch = |event: Progress| {
            if is_reused(&event) {
                reused.store(true, Ordering::Relaxed);
            }
            report(event);
        };
        let find = finder(shared, tools, stage);
        let cache = Cache {
            folder: &session.paths.cache,
            find: Some(&find),
        };
        let context = working.map(|working| pack::Context {
            tools,
            cache,
            epoch: input.epoch,
            working,
            progress: &watch,
        });
        let compression = recipe.image.root_compression.unwrap_or_default();
        let made = |made: Made| {
            // What went wrong here goes wrong again, and is told, when the image is made.
            let _ = context.as_ref().map(|context| match made {
                Made::Layers(layers) => pack::layers(context, layers, compression),
                Made::Base(base) => pack::base(context, base, compression),
            });
        };
        let tree = root::build(&input, cache, &watch, &made)?;
        Ok(Done {
            value: tree,
            reused: reused.into_inner(),
        })
    })?;
    Ok(Rooted {
        source,
        closure,
        tree,
        input,
    })
}

/// Whether a report says that the whole tree was there.
fn is_reused(event: &Progress) -> bool {
    matches!(
        event,
        Progress::Finished {
            stage: "root",
            reused: true,
            ..
        }
    )
}
