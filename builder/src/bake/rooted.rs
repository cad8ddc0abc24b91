//! The root tree of a recipe, whose layers are packed while it is made.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use images::elsewhere::{Cache, Wanted};
use images::emulation::Emulator;
use images::pack;
use images::progress::Progress;
use images::root::{self, Layer, RootInput, RootTree};
use images::tools::ToolsTree;
use offline_repo::repository::ClosurePackage;

use super::{Source, image_progress, open, root_input};
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

/// The root tree of a recipe. For a disk image, layers are packed as soon as they are there: while packages are
/// configured, all processors but one have nothing to do.
pub(super) fn root_tree(
    session: &Session,
    recipe: &Recipe,
    repository: &Path,
    tools: &ToolsTree,
    programs: &MachinePrograms,
    packed: bool,
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
        let find = |wanted: Wanted<'_>, path: &Path| {
            shared.is_some_and(|shared| shared.find(wanted, path, tools, &|note| stage.note(note)))
        };
        let cache = Cache {
            folder: &session.paths.cache,
            find: Some(&find),
        };
        let context = pack::Context {
            tools,
            cache,
            epoch: input.epoch,
            progress: &watch,
        };
        let compression = recipe.image.root_compression.unwrap_or_default();
        let made = |layers: &[Layer]| {
            // What went wrong here goes wrong again, and is told, when the image is made.
            let _ = packed.then(|| pack::layers(&context, layers, compression));
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
    let is_root = |stage: &str| stage == "root";
    matches!(event, Progress::Finished { stage, reused: true, .. } if is_root(stage))
}
