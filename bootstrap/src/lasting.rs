//! On a machine whose `/etc` lasts, because it was not booted from an image: which files are the bootstrap's, and what they
//! replaced. What it no longer wants goes, and what was there before comes back, with its owner and mode.
//!
//! The order of effects is what makes it safe to be killed at any moment: the backup is made, then recorded, then the file
//! is replaced; the backup is put back, then forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;
use crate::networkd;
use crate::plan::Plan;
use crate::tree::read_json;

/// The bootstrap's files, and whether each replaced one.
const RECORD: &str = "var/lib/farrow/owned.json";

/// What they replaced, below this folder by their path.
const REPLACED: &str = "var/lib/farrow/replaced";

/// Makes the bootstrap run at each boot: what images have from the bake.
pub const WANTS: &str = "/etc/systemd/system/multi-user.target.wants/farrow-bootstrap.service";

/// What it leads to.
pub const UNIT: &str = "/usr/lib/systemd/system/farrow-bootstrap.service";

/// The record of one machine.
#[derive(Debug, Clone)]
pub struct Ledger {
    root: PathBuf,
}

/// Paths of a plan that are on disk and not in `/run`. The address that a machine asks for where nothing is said about its
/// network is not among them: it must not lose that, and the plan has it only until the machine has an address.
pub fn paths(plan: &Plan) -> BTreeSet<String> {
    let asked = networkd::dhcp_everywhere().0;
    let files = plan.all_files().map(|file| &file.path);
    let all = files.chain(plan.links.iter().map(|link| &link.path));
    let lasting = all.filter(|path| !path.starts_with("/run/") && **path != asked);
    lasting.cloned().chain([WANTS.to_owned()]).collect()
}

impl Ledger {
    /// The record below a root folder; `/` on the machine itself.
    pub fn new(root: &Path) -> Self {
        Ledger {
            root: root.to_owned(),
        }
    }

    /// Makes these paths the bootstrap's, before it writes them. What is there is kept aside, once.
    ///
    /// # Errors
    /// `FR-IO`.
    pub fn claim(&self, paths: &BTreeSet<String>) -> Result<()> {
        let mut owned = self.load()?;
        let new: Vec<&String> = paths
            .iter()
            .filter(|path| !owned.contains_key(*path))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        for path in new {
            owned.insert(path.clone(), self.keep_aside(path)?);
        }
        self.store(&owned)
    }

    /// Gives up all paths but these; returns those that were removed or restored.
    ///
    /// # Errors
    /// `FR-IO`.
    pub fn release(&self, keep: &BTreeSet<String>) -> Result<Vec<String>> {
        let mut owned = self.load()?;
        let gone = owned.iter().filter(|(path, _)| !keep.contains(*path));
        let gone: BTreeMap<String, bool> = gone
            .map(|(path, replaced)| (path.clone(), *replaced))
            .collect();
        if gone.is_empty() {
            return Ok(Vec::new());
        }
        for (path, replaced) in &gone {
            if *replaced {
                self.restore(path)?;
            } else {
                files::remove(&self.at(path))?;
            }
        }
        owned.retain(|path, _| !gone.contains_key(path));
        self.store(&owned)?;
        Ok(gone.into_keys().collect())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn backup_of(&self, path: &str) -> PathBuf {
        self.root.join(REPLACED).join(path.trim_start_matches('/'))
    }

    /// Keeps a file or link under another name; false when there is none.
    fn keep_aside(&self, path: &str) -> Result<bool> {
        let (found, backup) = (self.at(path), self.backup_of(path));
        match fs::symlink_metadata(&found) {
            Ok(metadata) if !metadata.is_dir() => {}
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Error::io("read", &found, error)),
        }
        let folder = backup.parent().unwrap_or(Path::new("/"));
        files::make_directory(folder, 0o700, None)?;
        // Of a run that was killed before it was recorded.
        files::remove(&backup)?;
        files::duplicate(&found, &backup)?;
        Ok(true)
    }

    /// Puts back what was there before; a run that was killed may have done so already.
    fn restore(&self, path: &str) -> Result<()> {
        let (place, backup) = (self.at(path), self.backup_of(path));
        let Ok(kept) = fs::symlink_metadata(&backup) else {
            return Ok(());
        };
        // Two names of one file, when a run was killed before it replaced it: renaming one to the other does nothing.
        let same = |found: fs::Metadata| (found.dev(), found.ino()) == (kept.dev(), kept.ino());
        if fs::symlink_metadata(&place).is_ok_and(same) {
            return files::remove(&backup).map(|_| ());
        }
        files::move_over(&backup, &place)
    }

    /// A broken record is an error: without it, nobody knows what is whose.
    fn load(&self) -> Result<BTreeMap<String, bool>> {
        let path = self.root.join(RECORD);
        match fs::read_to_string(&path) {
            Ok(text) => read_json(&text).map_err(|error| {
                let error = std::io::Error::other(format!("{}: {}", error.field, error.message));
                Error::io("read", &path, error)
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(Error::io("read", &path, error)),
        }
    }

    fn store(&self, owned: &BTreeMap<String, bool>) -> Result<()> {
        let path = self.root.join(RECORD);
        let text = serde_json::to_string(owned)
            .map_err(|error| Error::io("serialise", &path, error.into()))?;
        files::make_directory(path.parent().unwrap_or(Path::new("/")), 0o700, None)?;
        files::write_if_changed(&path, text.as_bytes(), 0o600, None).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn set(paths: &[&str]) -> BTreeSet<String> {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }

    /// Writes as the bootstrap does: the file is replaced by another one.
    fn replace(path: &Path, text: &str) {
        files::write_if_changed(path, text.as_bytes(), 0o644, None).unwrap();
    }

    fn text(path: &Path) -> Option<String> {
        fs::read_to_string(path).ok()
    }

    #[test]
    fn what_was_replaced_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let (hosts, new, link) = (
            root.join("etc/hosts"),
            root.join("etc/new"),
            root.join("etc/link"),
        );
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(&hosts, "mine").unwrap();
        fs::set_permissions(&hosts, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink("elsewhere", &link).unwrap();
        let ledger = Ledger::new(root);
        let all = set(&["/etc/hosts", "/etc/new", "/etc/link"]);
        for round in ["first", "second"] {
            ledger.claim(&all).unwrap();
            for path in [&hosts, &new, &link] {
                replace(path, round);
            }
        }
        assert_eq!(ledger.release(&all).unwrap(), [""; 0]);
        assert_eq!(
            ledger.release(&set(&["/etc/new"])).unwrap(),
            ["/etc/hosts", "/etc/link"]
        );
        assert_eq!(text(&hosts).as_deref(), Some("mine"));
        assert_eq!(
            fs::metadata(&hosts).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("elsewhere"));
        assert_eq!(ledger.release(&set(&[])).unwrap(), ["/etc/new"]);
        assert_eq!(text(&new), None);
        assert_eq!(text(&hosts).as_deref(), Some("mine"));
    }

    /// The states that a kill leaves, each followed by a run that wants the file no more.
    #[test]
    fn killed_between_two_steps() {
        for step in ["backup", "record", "write", "restore"] {
            let folder = tempfile::tempdir().unwrap();
            let root = folder.path();
            let hosts = root.join("etc/hosts");
            fs::create_dir_all(root.join("etc")).unwrap();
            fs::write(&hosts, "mine").unwrap();
            let ledger = Ledger::new(root);
            let paths = set(&["/etc/hosts"]);
            if step == "backup" {
                assert!(ledger.keep_aside("/etc/hosts").unwrap());
            } else {
                ledger.claim(&paths).unwrap();
            }
            if matches!(step, "write" | "restore") {
                replace(&hosts, "ours");
            }
            if step == "restore" {
                ledger.restore("/etc/hosts").unwrap();
            }
            ledger.release(&set(&[])).unwrap();
            assert_eq!(text(&hosts).as_deref(), Some("mine"), "{step}");
            // And one that wants it again keeps what was there.
            ledger.claim(&paths).unwrap();
            replace(&hosts, "ours");
            ledger.release(&set(&[])).unwrap();
            assert_eq!(text(&hosts).as_deref(), Some("mine"), "{step}");
        }
    }
}
