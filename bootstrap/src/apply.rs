//! Puts a plan's files on a machine. What is there already and right is left alone, and the caller learns what was not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::accounts::Accounts;
use crate::error::Result;
use crate::files::{self, Last, Owner};
use crate::plan::{File, Plan};

/// Folders of unit files.
const UNIT_FOLDERS: [&str; 2] = ["/etc/systemd/system/", "/run/systemd/system/"];

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Paths.
    pub paths: Vec<String>,
    /// systemd units whose files are among the paths.
    pub units: BTreeSet<String>,
}

/// Writes below a root folder; `/` on the machine itself.
#[derive(Debug)]
pub struct Applier {
    root: PathBuf,
    accounts: Accounts,
    /// Owners are set by root only; a rehearsal by somebody else leaves them.
    owners: bool,
}

impl Applier {
    /// Prepares to write below `root`, with the users and groups of that root.
    ///
    /// # Errors
    /// `FR-IO` when root's users cannot be read.
    pub fn new(root: &Path) -> Result<Self> {
        let owners = nix::unistd::geteuid().is_root();
        let accounts = match Accounts::load(root) {
            Err(_) if !owners => Accounts::default(),
            other => other?,
        };
        Ok(Applier {
            root: root.to_owned(),
            accounts,
            owners,
        })
    }

    /// Users and groups of the root.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Writes the network files; they come first, since waiting for an address takes longest.
    ///
    /// # Errors
    /// `FR-IO`, `FR-ACCOUNT`.
    pub fn write_network(&self, plan: &Plan) -> Result<Changes> {
        self.write_files(&plan.network)
    }

    /// Makes the directories, writes all services' files and links.
    ///
    /// # Errors
    /// `FR-IO`, `FR-ACCOUNT`.
    pub fn write_services(&self, plan: &Plan) -> Result<Changes> {
        for directory in &plan.directories {
            let owner = self.owner(&directory.owner, &directory.group)?;
            let path = files::inside(&self.root, &directory.path, Last::Follow)?;
            files::make_directory(&path, directory.mode.0, owner)?;
        }
        let mut changes = self.write_files(&plan.files)?;
        for link in &plan.links {
            if files::link_if_changed(
                &files::inside(&self.root, &link.path, Last::Keep)?,
                &link.target,
            )? {
                changes.paths.push(link.path.clone());
                changes.units.extend(unit_of(&link.path));
            }
        }
        Ok(changes)
    }

    fn write_files(&self, list: &[File]) -> Result<Changes> {
        let mut changes = Changes::default();
        for file in list {
            let owner = self.owner(&file.owner, &file.group)?;
            let path = files::inside(&self.root, &file.path, Last::Keep)?;
            if !files::write_if_changed(&path, file.content.text.as_bytes(), file.mode.0, owner)? {
                continue;
            }
            changes.paths.push(file.path.clone());
            changes.units.extend(unit_of(&file.path));
        }
        Ok(changes)
    }

    fn owner(&self, user: &str, group: &str) -> Result<Option<Owner>> {
        if self.owners {
            self.accounts.owner(user, group).map(Some)
        } else {
            Ok(None)
        }
    }
}

/// The unit that a unit file or drop-in belongs to.
fn unit_of(path: &str) -> Option<String> {
    let rest = UNIT_FOLDERS
        .iter()
        .find_map(|folder| path.strip_prefix(folder))?;
    let name = rest.split('/').next()?;
    Some(name.strip_suffix(".d").unwrap_or(name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_paths() {
        for (path, unit) in [
            ("/etc/systemd/system/a.service", Some("a.service")),
            ("/etc/systemd/system/a.service.d/x.conf", Some("a.service")),
            ("/etc/a.service", None),
        ] {
            assert_eq!(unit_of(path).as_deref(), unit, "{path}");
        }
    }
}
