//! What a root tree is made of: the closure's packages, the recipe's files, users and scripts, and the bootstrap.

use images::emulation::Emulator;
use images::root::{Content, FileEntry, Package, RootInput, Script, SystemUser};
use offline_repo::repository::ClosurePackage;

use super::Source;
use crate::boot_masks;
use crate::diagnostic::Result;
use crate::embedded;
use crate::machine_files::{self, Origin};
use crate::recipe::{Phase, Recipe};
use crate::stages;
use crate::upgrade;

/// The service that keeps the whole set of what starts by itself.
const WANTS: &str = "/etc/systemd/system/multi-user.target.wants/farrow-bootstrap.service";

/// The same for the unit that keeps or gives up a version on trial.
const TRIAL_WANTS: &str = "/etc/systemd/system/sysinit.target.wants/farrow-trial.service";

/// What the root tree of a recipe is made of.
pub(super) fn root_input(
    recipe: &Recipe,
    source: &Source,
    closure: &[ClosurePackage],
    bootstrap: &[u8],
    emulator: Option<Emulator>,
) -> Result<RootInput> {
    let (before, after): (Vec<_>, Vec<_>) = recipe
        .files
        .iter()
        .partition(|file| file.phase == Phase::BeforePackages);
    let entry = |file: &crate::recipe::File| recipe_file(recipe, file);
    let mut files_after: Vec<FileEntry> = after.into_iter().map(entry).collect();
    if closure
        .iter()
        .any(|chosen| chosen.package.name == "systemd")
    {
        files_after.extend(bootstrap_files(recipe, source, bootstrap)?);
    }
    let (users, users_after) = recipe
        .users
        .iter()
        .partition::<Vec<_>, _>(|user| user.phase == Phase::BeforePackages);
    Ok(RootInput {
        packages: closure.iter().map(root_package).collect(),
        files_before: before.into_iter().map(entry).collect(),
        files_after,
        users: users.into_iter().map(system_user).collect(),
        users_after: users_after.into_iter().map(system_user).collect(),
        scripts: recipe.scripts.iter().map(root_script).collect(),
        hostname: "localhost".into(),
        epoch: stages::epoch(&source.lock),
        exclude_documentation: true,
        emulator,
    })
}

fn root_package(chosen: &ClosurePackage) -> Package {
    let package = &chosen.package;
    Package {
        name: package.name.clone(),
        version: package.version.clone(),
        architecture: package.architecture.clone(),
        path: package.path.clone(),
        sha256: package.sha256.to_string(),
    }
}

fn recipe_file(recipe: &Recipe, file: &crate::recipe::File) -> FileEntry {
    let owner = recipe.owner(file);
    let content = match &file.link {
        Some(target) => Content::Symlink(target.clone()),
        None => Content::File(file.bytes().to_vec()),
    };
    FileEntry {
        path: file.path.clone(),
        mode: file.mode(),
        uid: owner,
        gid: owner,
        kind: content,
    }
}

fn regular(path: &str, mode: u32, content: &[u8]) -> FileEntry {
    FileEntry {
        path: path.into(),
        mode,
        uid: 0,
        gid: 0,
        kind: Content::File(content.to_vec()),
    }
}

fn link(path: &str, target: &str) -> FileEntry {
    FileEntry {
        path: path.into(),
        mode: 0o777,
        uid: 0,
        gid: 0,
        kind: Content::Symlink(target.into()),
    }
}

fn root_script(script: &crate::recipe::Script) -> Script {
    Script {
        name: script.name.clone(),
        text: script.run.clone(),
    }
}

fn system_user(user: &crate::recipe::User) -> SystemUser {
    SystemUser {
        name: user.name.clone(),
        uid: user.uid,
        gid: user.uid,
        comment: user.comment.clone(),
        home: user.home.clone(),
        shell: user.shell.clone(),
        groups: user.groups.clone(),
    }
}

/// The bootstrap, its unit, the catalogue, and what the machine can say about its image.
fn bootstrap_files(recipe: &Recipe, source: &Source, bootstrap: &[u8]) -> Result<Vec<FileEntry>> {
    let common = machine_files::of_every_machine(recipe, &source.lock, Origin::Image, bootstrap)?;
    let common = common.iter();
    let mut files: Vec<FileEntry> = common
        .map(|file| regular(&file.path, file.mode, &file.content))
        .collect();
    files.extend([
        regular(
            "/usr/lib/systemd/system/systemd-udev-trigger.service.d/farrow.conf",
            0o644,
            embedded::COLDPLUG.as_bytes(),
        ),
        regular(
            "/usr/lib/systemd/system.conf.d/farrow.conf",
            0o644,
            embedded::SYSTEM_CONF.as_bytes(),
        ),
        regular(
            "/usr/lib/systemd/system/farrow-trial.service",
            0o644,
            embedded::TRIAL_UNIT.as_bytes(),
        ),
        link(TRIAL_WANTS, "/usr/lib/systemd/system/farrow-trial.service"),
        // The mount point of the embedded repository; the root is read-only when it is mounted.
        FileEntry {
            path: format!("/www/{}", recipe.repository),
            mode: 0o755,
            uid: 0,
            gid: 0,
            kind: Content::Directory,
        },
        link(WANTS, "/usr/lib/systemd/system/farrow-bootstrap.service"),
    ]);
    if let Some(key) = upgrade::trusted_key(source.repository.path())? {
        let text = format!("{}\n", hex::encode(key));
        files.push(regular(
            bootstrap::upgrade::KEY_FILE,
            0o644,
            text.as_bytes(),
        ));
    }
    files.extend(boot_masks::links());
    Ok(files)
}
