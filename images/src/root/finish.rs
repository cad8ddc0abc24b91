//! From "all packages are configured" to a tree that many machines can share.
//!
//! Runs in the mapped namespace with the tree as `/`. Nothing that belongs to one machine, or to the moment of the
//! build, may be left; what machines write goes to `/var`.

mod accounts;
mod bytecode;
mod clean;
mod layout;
pub(super) mod times;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Kernel;
use super::input::{Content, FileEntry, SystemUser};
use super::prepare::write_entry;
use crate::error::{Error, Result};

/// What [`finish`] is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FinishInput {
    pub(crate) tree: PathBuf,
    pub(crate) epoch: u64,
}

/// What [`complete`] is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CompleteInput {
    pub(crate) tree: PathBuf,
    pub(crate) files: Vec<FileEntry>,
    pub(crate) users: Vec<SystemUser>,
    pub(crate) hostname: String,
    pub(crate) epoch: u64,
}

/// What [`seal`] is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SealInput {
    pub(crate) tree: PathBuf,
    pub(crate) epoch: u64,
}

/// Makes of what packages wrote a layer that others are built on and that is packed as it is. The calling process ends up
/// inside it.
pub(crate) fn seal(input: SealInput) -> Result<()> {
    super::enter(&input.tree)?;
    super::merge::strip(Path::new("/"))?;
    bytecode::trust()?;
    times::clamp(input.epoch)
}

/// Finishes a tree whose packages are configured. Its files are shared with layers: they are replaced, never written to. The calling process ends up inside it.
pub(crate) fn finish(input: FinishInput) -> Result<Option<Kernel>> {
    super::enter(&input.tree)?;
    clean::remove_individual()?;
    clean::remove_traces()?;
    bytecode::trust()?;
    layout::link_folders()?;
    layout::write_base_files()?;
    accounts::normalise(input.epoch)?;
    let kernel = find_kernel()?;
    layout::mark_as_updated()?;
    times::clamp(input.epoch)?;
    Ok(kernel)
}

/// Adds what is not from packages, and returns where: paths below the tree, no part of which is a link. Files of the tree
/// are shared with other trees: they are replaced, never written to.
pub(crate) fn complete(input: CompleteInput) -> Result<Vec<String>> {
    super::enter(&input.tree)?;
    let hostname = FileEntry {
        path: "/etc/hostname".to_owned(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        kind: Content::File(format!("{}\n", input.hostname).into_bytes()),
    };
    let accounts = accounts::with_users(&input.users, input.epoch)?;
    let entries = || accounts.iter().chain([&hostname]).chain(&input.files);
    entries().try_for_each(write_entry)?;
    times::clamp(input.epoch)?;
    entries()
        .map(|entry| place(Path::new(&entry.path)))
        .collect()
}

/// Where a path of the tree that this process is in really is, without the leading slash.
fn place(path: &Path) -> Result<String> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::Tree {
            reason: format!("{} cannot be replaced", path.display()),
        });
    };
    let folder = fs::canonicalize(folder).map_err(Error::io("find", folder))?;
    let place = folder.join(name);
    let place = place.strip_prefix("/").unwrap_or(&place);
    Ok(place.to_string_lossy().into_owned())
}

/// Puts a new file with this content in the place of one, with its owner and mode, or those of a new file of root's.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let failed = || Error::io("replace", path);
    let mut new = tempfile::NamedTempFile::new_in(folder).map_err(failed())?;
    new.write_all(content).map_err(failed())?;
    let (mode, owner, group) = match fs::metadata(path) {
        Ok(old) => (old.mode() & 0o7777, old.uid(), old.gid()),
        Err(_) => (0o644, 0, 0),
    };
    fchown(new.as_file(), Some(owner), Some(group)).map_err(failed())?;
    let permissions = fs::Permissions::from_mode(mode);
    new.as_file()
        .set_permissions(permissions)
        .map_err(failed())?;
    new.persist(path).map_err(|error| failed()(error.error))?;
    Ok(())
}

/// The newest kernel in `/boot` that has modules.
fn find_kernel() -> Result<Option<Kernel>> {
    let entries = fs::read_dir("/boot").map_err(Error::io("list", "/boot"))?;
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let versions = names.filter_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned));
    let newest = versions.max_by_key(|version| numbers(version));
    let Some(version) = newest else {
        return Ok(None);
    };
    let modules = PathBuf::from(format!("usr/lib/modules/{version}"));
    if !Path::new("/").join(&modules).join("modules.dep").exists() {
        return Err(Error::Tree {
            reason: format!(
                "kernel {version} has no module list in /{}",
                modules.display()
            ),
        });
    }
    Ok(Some(Kernel {
        image: format!("boot/vmlinuz-{version}").into(),
        version,
        modules,
    }))
}

/// `6.12.107+deb13` → `[6, 12, 107, 13]`, which compares as a version should.
fn numbers(version: &str) -> Vec<u64> {
    let parts = version
        .split(|c: char| !c.is_ascii_digit())
        .filter(|part| !part.is_empty());
    parts.map(|part| part.parse().unwrap_or(u64::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(numbers("6.12.107+deb13-amd64") > numbers("6.12.48+deb13-amd64"));
        assert!(numbers("6.2.0-1") < numbers("6.12.0-1"));
    }
}
