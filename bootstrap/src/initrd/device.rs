//! Block devices as the kernel shows them below `/sys/class/block`, and the partition ids that it does not show there.

use super::failure::{Failure, Step};
use super::log::{self, Level};
use super::modules::Modules;
use bootstrap::gpt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long disks may take to appear.
const PATIENCE: Duration = Duration::from_secs(30);
/// After this time without the root partition every driver is tried.
const DOUBT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Kernel name, as in `vda3`.
    pub name: String,
    /// `major:minor`.
    pub number: String,
    /// Kernel name of its disk, as in `vda`.
    pub disk: String,
}

impl Partition {
    /// Device node.
    pub fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }
}

/// The partitions that this boot needs, all on one disk.
#[derive(Debug)]
pub struct Partitions {
    /// Root file system.
    pub root: Partition,
    /// Its hash tree.
    pub verity: Partition,
    /// Writable state.
    pub var: Partition,
}

/// Waits for the partitions with the unique ids `[root, verity, var]`, loading drivers as devices appear.
pub fn wait(ids: [&str; 3], modules: &mut Modules) -> Step<Partitions> {
    let start = Instant::now();
    let mut everything = false;
    loop {
        // One driver at a time: the likely ones come first, and the rest need not be loaded once the root is there.
        while modules.load_next_for_devices() {
            if let Some(found) = find(ids) {
                return Ok(found);
            }
        }
        // Between two looks at all devices, some looks at the block devices alone.
        for _ in 0..5 {
            if let Some(found) = find(ids) {
                return Ok(found);
            }
            std::thread::sleep(PAUSE);
        }
        if start.elapsed() > DOUBT && !everything {
            everything = true;
            log::say(Level::Warning, "no root partition yet, trying every driver");
            modules.load_everything();
        }
        if start.elapsed() > PATIENCE {
            return Err(missing(ids));
        }
    }
}

fn missing(ids: [&str; 3]) -> Failure {
    let seen: Vec<String> = block_devices().into_iter().map(|d| d.name).collect();
    let message = format!(
        "no disk has the partitions {} within {} s; block devices: {}",
        ids.join(", "),
        PATIENCE.as_secs(),
        if seen.is_empty() {
            "none".to_owned()
        } else {
            seen.join(" ")
        }
    );
    Failure::new(
        "FR-INIT-PARTITION",
        message,
        "attach the image's disk through virtio, NVMe, SCSI or SATA",
    )
}

/// The three partitions on the first disk that has them all: a second disk may be a copy of the first.
fn find(ids: [&str; 3]) -> Option<Partitions> {
    let devices = block_devices();
    let mut disks: Vec<&str> = devices
        .iter()
        .filter(|d| d.partition.is_some())
        .map(|d| &d.disk[..])
        .collect();
    disks.sort_unstable();
    disks.dedup();
    disks.into_iter().find_map(|disk| {
        let unique_ids = read_unique_ids(disk)?;
        let with = |id: &str| {
            let (number, _) = unique_ids.iter().find(|(_, unique)| unique == id)?;
            let on_disk = |d: &&Device| d.disk == disk && d.partition == Some(*number);
            devices.iter().find(on_disk).map(Device::partition)
        };
        Some(Partitions {
            root: with(ids[0])?,
            verity: with(ids[1])?,
            var: with(ids[2])?,
        })
    })
}

/// Number and unique id of each partition. The kernel knows the ids but tells them in uevents only since 6.14.
fn read_unique_ids(disk: &str) -> Option<Vec<(u32, String)>> {
    let mut head = vec![0; gpt::HEAD_SECTORS * gpt::SECTOR];
    let mut file = File::open(Path::new("/dev").join(disk)).ok()?;
    file.read_exact(&mut head).ok()?;
    gpt::unique_ids(&head).ok()
}

struct Device {
    name: String,
    number: String,
    /// Number of the partition; none: a whole disk.
    partition: Option<u32>,
    disk: String,
}

impl Device {
    fn partition(&self) -> Partition {
        Partition {
            name: self.name.clone(),
            number: self.number.clone(),
            disk: self.disk.clone(),
        }
    }
}

fn block_devices() -> Vec<Device> {
    let Ok(dir) = std::fs::read_dir("/sys/class/block") else {
        return Vec::new();
    };
    dir.flatten()
        .filter_map(|entry| read_device(&entry.path()))
        .collect()
}

fn read_device(path: &Path) -> Option<Device> {
    let uevent = std::fs::read_to_string(path.join("uevent")).ok()?;
    let value = |key: &str| uevent_value(&uevent, key);
    // The entry is a link to …/block/DISK/PARTITION.
    let target = std::fs::read_link(path).ok()?;
    let disk = target.parent()?.file_name()?.to_str()?;
    Some(Device {
        name: value("DEVNAME")?.to_owned(),
        number: format!("{}:{}", value("MAJOR")?, value("MINOR")?),
        partition: value("PARTN").and_then(|number| number.parse().ok()),
        disk: disk.to_owned(),
    })
}

fn uevent_value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uevent_values() {
        let text = "MAJOR=254\nMINOR=2\nDEVNAME=vda2\nPARTN=2\nPARTUUID=ab-CD\nPARTNAME=root-a\n";
        assert_eq!(uevent_value(text, "PARTN"), Some("2"));
        assert_eq!(uevent_value(text, "PARTUUID"), Some("ab-CD"));
        assert_eq!(uevent_value(text, "PART"), None);
    }
}
