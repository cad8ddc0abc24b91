//! The optional data disk: a second, blank disk becomes the place of databases at a machine's first boot, and is found again at
//! each later one. A disk that holds anything is never formatted, and a machine whose data disk is missing starts nothing:
//! its databases would begin anew beside their data.

mod probe;

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;
use crate::mounts;
use crate::process;
use crate::tree::read_json;
use crate::upgrade::machine::Running;
pub use probe::{Content, Disk, look};

/// Label of its file system.
pub const LABEL: &str = "farrow-data";
/// Where it is mounted: databases are below `/data`, a link to this.
const TARGET: &str = "/var/data";
/// What this machine remembers of it.
const RECORD: &str = "/var/lib/farrow/data-disk.json";
/// Only there on a machine that runs from a verified root itself, and not in a container on one.
const VERIFIED_ROOT: &str = "/dev/mapper/root";
/// Making a file system takes seconds even on large disks.
const FORMAT_LIMIT: Duration = Duration::from_secs(600);

/// A data disk that was chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of the format, 1.
    pub schema: u32,
    /// UUID of its file system.
    pub uuid: String,
    /// The disk, as the kernel's tree of devices has it, and its size in bytes: which disk a format that was cut short had begun on.
    pub device: String,
    /// See `device`.
    pub bytes: u64,
    /// Whether its file system is whole.
    pub formatted: bool,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// There is none.
    Nothing,
    /// A file system is made on this disk (its kernel name), then mounted.
    Format(String, Record),
    /// This disk is mounted.
    Mount(String, Record),
}

/// Decides from what is remembered, the disks besides the image's, and whether `/var/data` is still empty.
///
/// # Errors
/// `FR-DATA-DISK`: the one that is remembered is missing.
pub fn decide(
    record: Option<&Record>,
    disks: &[Disk],
    empty: bool,
    new_uuid: &str,
) -> Result<Decision> {
    let record_of = |disk: &Disk, uuid: &str, formatted| Record {
        schema: 1,
        uuid: uuid.to_owned(),
        device: disk.device.clone(),
        bytes: disk.bytes,
        formatted,
    };
    if let Some(known) = record {
        let with_uuid = |disk: &&Disk| matches!(&disk.content, Content::Ext4 { uuid, .. } if *uuid == known.uuid);
        if let Some(disk) = disks.iter().find(with_uuid) {
            return Ok(Decision::Mount(
                disk.name.clone(),
                record_of(disk, &known.uuid, true),
            ));
        }
        let begun = |disk: &&Disk| disk.device == known.device && disk.bytes == known.bytes;
        return match disks.iter().find(begun) {
            Some(disk) if !known.formatted => {
                Ok(Decision::Format(disk.name.clone(), known.clone()))
            }
            _ => Err(missing(known)),
        };
    }
    if !empty {
        return Ok(Decision::Nothing);
    }
    let ours = |disk: &Disk| match &disk.content {
        Content::Ext4 { uuid, label } if label == LABEL => Some(uuid.clone()),
        _ => None,
    };
    let labelled: Vec<(&Disk, String)> = disks
        .iter()
        .filter_map(|disk| Some((disk, ours(disk)?)))
        .collect();
    let blank: Vec<&Disk> = disks
        .iter()
        .filter(|disk| disk.content == Content::Blank)
        .collect();
    Ok(match (&labelled[..], &blank[..]) {
        ([(disk, uuid)], _) => Decision::Mount(disk.name.clone(), record_of(disk, uuid, true)),
        ([], [disk]) => Decision::Format(disk.name.clone(), record_of(disk, new_uuid, false)),
        // Which of several is meant, nobody has said.
        _ => Decision::Nothing,
    })
}

fn missing(record: &Record) -> Error {
    Error::DataDisk {
        message: format!(
            "the data disk with the file system {} is missing, and databases would begin anew without it",
            record.uuid
        ),
    }
}

/// Finds or makes the data disk of a machine that runs from an image, and mounts it.
///
/// # Errors
/// `FR-DATA-DISK`, `FR-COMMAND`, `FR-IO`.
pub fn attach() -> Result<()> {
    if Running::probe().is_none()
        || !Path::new(VERIFIED_ROOT).exists()
        || mounts::is_mounted(TARGET)
    {
        return Ok(());
    }
    let record = read_record()?;
    let mut entries =
        fs::read_dir(TARGET).map_err(|error| Error::io("list", Path::new(TARGET), error))?;
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    let decision = decide(
        record.as_ref(),
        &look(),
        entries.next().is_none(),
        uuid.trim(),
    )?;
    let (name, record) = match decision {
        Decision::Nothing => return Ok(()),
        Decision::Mount(name, record) => (name, record),
        Decision::Format(name, record) => {
            write_record(&record)?;
            format(&name, &record.uuid)?;
            (
                name,
                Record {
                    formatted: true,
                    ..record
                },
            )
        }
    };
    mounts::mount_writable(&Path::new("/dev").join(&name), Path::new(TARGET), "ext4")?;
    write_record(&record)?;
    log::info!("mounted the data disk {name} at {TARGET}");
    Ok(())
}

fn format(name: &str, uuid: &str) -> Result<()> {
    log::info!("making a file system on the blank disk {name}");
    let device = format!("/dev/{name}");
    let words = ["mkfs.ext4", "-q", "-F", "-L", LABEL, "-U", uuid, &device];
    process::run(&words, FORMAT_LIMIT).map(|_| ())
}

fn read_record() -> Result<Option<Record>> {
    let path = Path::new(RECORD);
    match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        read => read
            .and_then(|text| read_json(&text).map_err(std::io::Error::other))
            .map(Some)
            .map_err(|error| Error::io("read", path, error)),
    }
}

fn write_record(record: &Record) -> Result<()> {
    let path = Path::new(RECORD);
    let text = serde_json::to_string(record)
        .map_err(|error| Error::io("serialise", path, error.into()))?;
    files::write_if_changed(path, text.as_bytes(), 0o644, None).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str, content: Content) -> Disk {
        Disk {
            name: name.into(),
            device: format!("pci/{name}"),
            bytes: 1 << 30,
            content,
        }
    }

    fn ext4(uuid: &str, label: &str) -> Content {
        Content::Ext4 {
            uuid: uuid.into(),
            label: label.into(),
        }
    }

    fn record(name: &str, uuid: &str, formatted: bool) -> Record {
        Record {
            schema: 1,
            uuid: uuid.into(),
            device: format!("pci/{name}"),
            bytes: 1 << 30,
            formatted,
        }
    }

    #[test]
    fn only_a_blank_disk_is_formatted_and_only_at_first() {
        let (blank, other) = (Content::Blank, Content::Other);
        let format =
            |name: &str, uuid: &str| Decision::Format(name.into(), record(name, uuid, false));
        let mount = |name: &str, uuid: &str| Decision::Mount(name.into(), record(name, uuid, true));
        for (disks, empty, expected) in [
            (vec![], true, Decision::Nothing),
            (vec![("b", blank.clone())], true, format("b", "new")),
            (vec![("b", blank.clone())], false, Decision::Nothing),
            (vec![("b", other.clone())], true, Decision::Nothing),
            (vec![("b", ext4("u", "mine"))], true, Decision::Nothing),
            (vec![("b", ext4("u", LABEL))], true, mount("b", "u")),
            (vec![("b", ext4("u", LABEL))], false, Decision::Nothing),
            (
                vec![("b", ext4("u", LABEL)), ("c", blank.clone())],
                true,
                mount("b", "u"),
            ),
            (
                vec![("b", other), ("c", blank.clone())],
                true,
                format("c", "new"),
            ),
            (
                vec![("b", blank.clone()), ("c", blank)],
                true,
                Decision::Nothing,
            ),
            (
                vec![("b", ext4("u", LABEL)), ("c", ext4("v", LABEL))],
                true,
                Decision::Nothing,
            ),
        ] {
            let disks: Vec<Disk> = disks
                .into_iter()
                .map(|(name, content)| disk(name, content))
                .collect();
            assert_eq!(
                decide(None, &disks, empty, "new").unwrap(),
                expected,
                "{disks:?} {empty}"
            );
        }
    }

    #[test]
    fn a_known_disk_is_found_again_or_missed() {
        let known = record("b", "u", true);
        let found = decide(Some(&known), &[disk("c", ext4("u", LABEL))], true, "new").unwrap();
        assert_eq!(
            found,
            Decision::Mount("c".into(), record("c", "u", true)),
            "also at another place"
        );
        // Another disk where it was, blank or not, is not formatted.
        for content in [Content::Blank, Content::Other, ext4("v", LABEL)] {
            let error = decide(Some(&known), &[disk("b", content)], true, "new").unwrap_err();
            assert_eq!(error.code(), "FR-DATA-DISK");
        }
        assert!(decide(Some(&known), &[], true, "new").is_err());
        // A format that was cut short goes on, on that disk only.
        let begun = record("b", "u", false);
        for content in [Content::Blank, Content::Other] {
            let found = decide(Some(&begun), &[disk("b", content)], true, "new").unwrap();
            assert_eq!(found, Decision::Format("b".into(), begun.clone()));
        }
        assert!(decide(Some(&begun), &[disk("c", Content::Blank)], true, "new").is_err());
    }
}
