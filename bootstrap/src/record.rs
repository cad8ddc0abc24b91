//! What this machine remembers until it goes down, in /run/farrow: who else is there, the facts that the plan was made
//! with, which files were made one for each of something, and the lock for those who change configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::files;
use crate::members::Members;
use crate::plan::{File, Plan};
use crate::tree::read_json;

/// Who else is there, as last seen.
pub const MEMBERS: &str = "/run/farrow/members.json";

/// Facts of the last plan: another look may find more memory, and a database must not be restarted for that.
pub const FACTS: &str = "/run/farrow/facts.json";

/// Files of the last plan, with their services.
pub const OWNED: &str = "/run/farrow/owned.json";

/// Units of the last plan.
const UNITS: &str = "/run/farrow/units.json";

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

/// Removes files that an earlier plan had and this one has not, if they were made one for each of something or their
/// service is gone; gives their paths.
///
/// # Errors
/// `FR-IO`.
pub fn remove_what_is_gone(plan: &Plan, record: &Path) -> Result<Vec<String>> {
    let owner = |file: &File| {
        let service = file.service.clone().filter(|_| !file.each);
        (file.path.clone(), service.unwrap_or_default())
    };
    let services = plan.services.iter().map(|service| service.name.as_str());
    remove_others(
        plan.files.iter().map(owner).collect(),
        &services.collect(),
        record,
    )
}

/// Paths by service; those made one for each of something have none. Files go before the record does, so that a run after a
/// kill finds those that are left.
fn remove_others(
    owned: BTreeMap<String, String>,
    services: &BTreeSet<&str>,
    record: &Path,
) -> Result<Vec<String>> {
    let text = fs::read_to_string(record).unwrap_or_default();
    let before: BTreeMap<String, String> = read_json(&text).unwrap_or_default();
    let mut removed = Vec::new();
    for (path, service) in &before {
        let stays = owned.contains_key(path) || services.contains(service.as_str());
        if !stays && files::remove(Path::new(path))? {
            removed.push(path.clone());
        }
    }
    write(&record.to_string_lossy(), &owned)?;
    Ok(removed)
}

/// Units that an earlier plan had and this one has not; from now on this one's are those of the earlier.
///
/// # Errors
/// `FR-IO`.
pub fn units_that_are_gone(plan: &Plan) -> Result<Vec<String>> {
    let text = fs::read_to_string(UNITS).unwrap_or_default();
    let before: BTreeSet<String> = read_json(&text).unwrap_or_default();
    let units = plan
        .services
        .iter()
        .filter_map(|service| service.unit.clone());
    let units: BTreeSet<String> = units.collect();
    let gone = before.difference(&units).cloned().collect();
    write(UNITS, &units)?;
    Ok(gone)
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
        let owned = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
            let pairs = list.iter();
            pairs
                .map(|(name, service)| (path(name), (*service).to_owned()))
                .collect()
        };
        for name in ["a", "b", "conf", "vip"] {
            fs::write(path(name), "x").unwrap();
        }
        let remove = |list: &[(&str, &str)], services: &[&str]| {
            let services = services.iter().copied().collect();
            remove_others(owned(list), &services, &record).unwrap()
        };
        let all = [("a", ""), ("b", ""), ("conf", "dns"), ("vip", "vip")];
        let none: [String; 0] = [];
        assert_eq!(remove(&all, &["dns", "vip"]), none);
        assert_eq!(remove(&all[1..], &["dns", "vip"]), [path("a")]);
        assert_eq!(remove(&all[1..], &["dns", "vip"]), none);
        // A service that has one file less keeps what it wrote; one that is gone takes its files with it.
        assert_eq!(remove(&[("b", "")], &["dns"]), [path("vip")]);
        assert!(Path::new(&path("conf")).exists() && Path::new(&path("b")).exists());
    }
}
