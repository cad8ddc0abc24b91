//! What this machine remembers until it goes down, in /run/farrow: who else is there, the facts that the plan was made
//! with, which files were made one for each of something, and the lock for those who change configuration.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::files;
use crate::members::Members;
use crate::plan::Plan;
use crate::tree::read_json;

/// Who else is there, as last seen.
pub const MEMBERS: &str = "/run/farrow/members.json";

/// Facts of the last plan: another look may find more memory, and a database must not be restarted for that.
pub const FACTS: &str = "/run/farrow/facts.json";

/// Files of the last plan that come and go with members.
pub const OWNED: &str = "/run/farrow/owned.json";

/// Held by whoever writes configuration.
const LOCK: &str = "/run/farrow/lock";

/// Reads the members; a missing or broken record is nothing known, and the next look at Patroni mends it.
pub fn members() -> Members {
    let text = fs::read_to_string(MEMBERS).unwrap_or_default();
    read_json(&text).unwrap_or_default()
}

/// Facts of the last plan, if one was made since the machine came up.
pub fn facts() -> Option<Facts> {
    Facts::load(Path::new(FACTS)).ok()
}

/// Writes a record.
///
/// # Errors
/// `FR-IO`.
pub fn write(path: &str, value: &impl Serialize) -> Result<bool> {
    let path = Path::new(path);
    let text =
        serde_json::to_string(value).map_err(|error| Error::io("serialise", path, error.into()))?;
    files::write_if_changed(path, text.as_bytes(), 0o600, None)
}

/// Removes files that an earlier plan made one for each of something and this one does not have; gives their paths.
///
/// # Errors
/// `FR-IO`.
pub fn remove_what_is_gone(plan: &Plan, record: &Path) -> Result<Vec<String>> {
    let present = plan.all_files().map(|file| file.path.clone()).collect();
    let each = plan.files.iter().filter(|file| file.each);
    remove_others(
        &present,
        each.map(|file| file.path.clone()).collect(),
        record,
    )
}

/// Files go before the record does, so that a run after a kill finds those that are left.
fn remove_others(
    present: &BTreeSet<String>,
    owned: BTreeSet<String>,
    record: &Path,
) -> Result<Vec<String>> {
    let text = fs::read_to_string(record).unwrap_or_default();
    let before: BTreeSet<String> = read_json(&text).unwrap_or_default();
    let mut removed = Vec::new();
    for path in before.difference(present) {
        if files::remove(Path::new(path))? {
            removed.push(path.clone());
        }
    }
    let text = serde_json::to_string(&owned)
        .map_err(|error| Error::io("serialise", record, error.into()))?;
    files::write_if_changed(record, text.as_bytes(), 0o600, None)?;
    Ok(removed)
}

/// Takes the lock if nobody has it. It is let go when the value is dropped, or its owner ends in any way.
///
/// # Errors
/// `FR-IO`.
pub fn try_lock() -> Result<Option<Flock<fs::File>>> {
    let path = Path::new(LOCK);
    files::make_directory(path.parent().unwrap_or(Path::new("/")), 0o755, None)?;
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| Error::io("open", path, error))?;
    Ok(Flock::lock(file, FlockArg::LockExclusiveNonblock).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let record = folder.path().join("owned.json");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let set =
            |names: &[&str]| -> BTreeSet<String> { names.iter().map(|name| path(name)).collect() };
        for name in ["a", "b", "c"] {
            fs::write(path(name), "x").unwrap();
        }
        let all = set(&["a", "b", "c"]);
        assert!(
            remove_others(&all, set(&["a", "b"]), &record)
                .unwrap()
                .is_empty()
        );
        let less = set(&["b", "c"]);
        assert_eq!(
            remove_others(&less, set(&["b"]), &record).unwrap(),
            [path("a")]
        );
        assert!(
            remove_others(&less, set(&["b"]), &record)
                .unwrap()
                .is_empty()
        );
        // What was never made one for each of something stays.
        assert_eq!(
            remove_others(&set(&[]), set(&[]), &record).unwrap(),
            [path("b")]
        );
        assert!(!Path::new(&path("a")).exists() && Path::new(&path("c")).exists());
    }
}
