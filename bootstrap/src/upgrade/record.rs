//! What a machine remembers of an upgrade in `/var`, which all versions share: what is on trial, and what came of the last
//! one.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;
use crate::tree::read_json;

/// Folder of the records.
pub const FOLDER: &str = "/var/lib/farrow/upgrade";
/// The version on trial; while there is none, nothing of this starts at boot.
const TRIAL: &str = "trial.json";
/// The last one that was kept or given up.
const LAST: &str = "last.json";

/// A version that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Version.
    pub version: String,
    /// dm-verity root hash, hex.
    pub root_hash: String,
}

/// How far a version has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is tried at the next boot, or runs and is not ready yet.
    Trying,
    /// It became ready and stays.
    Kept,
    /// It did not, and the version before runs again.
    Failed,
}

/// An upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of the format, 1.
    pub schema: u32,
    /// How far it has come.
    pub outcome: Outcome,
    /// The version that wrote it.
    pub from: Version,
    /// The version that was written.
    pub to: Version,
    /// Its slot.
    pub slot: String,
    /// The boot during which it was written.
    pub boot_id: String,
    /// How long a boot may take until it is ready, in seconds.
    pub ready_within_seconds: u64,
    /// Why it failed.
    #[serde(default)]
    pub reason: Option<String>,
}

/// The folder of the records.
#[derive(Debug, Clone)]
pub struct Records(PathBuf);

impl Records {
    /// Records in `folder`.
    pub fn new(folder: &Path) -> Self {
        Records(folder.to_owned())
    }

    /// The version on trial.
    ///
    /// # Errors
    /// `FR-IO`: the record cannot be read.
    pub fn trial(&self) -> Result<Option<Record>> {
        read(&self.0.join(TRIAL))
    }

    /// The version on trial, or else the last one.
    ///
    /// # Errors
    /// `FR-IO`.
    pub fn latest(&self) -> Result<Option<Record>> {
        match self.trial()? {
            Some(record) => Ok(Some(record)),
            None => read(&self.0.join(LAST)),
        }
    }

    /// Writes the record of a trial.
    ///
    /// # Errors
    /// `FR-IO`.
    pub fn write(&self, record: &Record) -> Result<()> {
        write(&self.0.join(TRIAL), record)
    }

    /// Ends the trial.
    ///
    /// # Errors
    /// `FR-IO`.
    pub fn finish(&self, record: &Record) -> Result<()> {
        write(&self.0.join(LAST), record)?;
        self.withdraw()
    }

    /// Forgets the trial.
    ///
    /// # Errors
    /// `FR-IO`.
    pub fn withdraw(&self) -> Result<()> {
        files::remove(&self.0.join(TRIAL)).map(|_| ())
    }
}

fn read(path: &Path) -> Result<Option<Record>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| Error::io("read", path, error))?,
    };
    let record =
        read_json(&text).map_err(|error| Error::io("read", path, std::io::Error::other(error)));
    record.map(Some)
}

fn write(path: &Path, record: &Record) -> Result<()> {
    let text = serde_json::to_string(record)
        .map_err(|error| Error::io("serialise", path, error.into()))?;
    files::write_if_changed(path, text.as_bytes(), 0o644, None).map(|_| ())
}

/// The kernel's id of this boot.
pub fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// A record for tests.
#[cfg(test)]
pub(crate) fn sample() -> Record {
    let version = |version: &str| Version {
        version: version.to_owned(),
        root_hash: version.repeat(64),
    };
    Record {
        schema: 1,
        outcome: Outcome::Trying,
        from: version("1"),
        to: version("2"),
        slot: "b".to_owned(),
        boot_id: "one".to_owned(),
        ready_within_seconds: 600,
        reason: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_and_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::new(folder.path());
        assert_eq!(records.latest().unwrap(), None);
        records.write(&sample()).unwrap();
        assert_eq!(records.trial().unwrap(), Some(sample()));
        let kept = Record {
            outcome: Outcome::Kept,
            ..sample()
        };
        records.finish(&kept).unwrap();
        assert_eq!(
            (records.trial().unwrap(), records.latest().unwrap()),
            (None, Some(kept))
        );
        fs::write(folder.path().join(TRIAL), "{").unwrap();
        assert_eq!(records.latest().unwrap_err().code(), "FR-IO");
        records.withdraw().unwrap();
        records.withdraw().unwrap();
    }
}
