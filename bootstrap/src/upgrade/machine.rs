//! Where this machine runs from, and where another version can go: the slots of its own disk.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::gpt::{self, HEAD_SECTORS, Partition, SECTOR};

/// A partition, or a part of a file in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Device or file.
    pub path: PathBuf,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Number in the partition table.
    pub number: u32,
}

/// A place for a root file system and its hash tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// `a` or `b`.
    pub letter: char,
    /// Root file system.
    pub root: Region,
    /// Hash tree.
    pub verity: Region,
}

/// The disk that this machine runs from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The whole disk.
    pub path: PathBuf,
    /// Slot of the running root.
    pub running: char,
    /// The other one.
    pub other: Slot,
    /// EFI system partition.
    pub esp: Region,
}

/// What the kernel's command line says of the running root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Partition id of the root.
    pub root: String,
    /// Root hash, hex.
    pub root_hash: String,
}

impl Running {
    /// From the kernel's command line; none on a machine that does not run from an image.
    pub fn parse(command_line: &str) -> Option<Self> {
        let value = |key: &str| {
            let mut words = command_line.split_ascii_whitespace();
            let found = words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            found.map(str::to_ascii_lowercase)
        };
        Some(Running {
            root: value("farrow.root")?,
            root_hash: value("farrow.roothash")?,
        })
    }

    /// Of this machine.
    pub fn probe() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default())
    }
}

impl Disk {
    /// This machine's disk: the first one that has the running root.
    ///
    /// # Errors
    /// `FR-UPGRADE-MACHINE`: it does not run from an image with two slots.
    pub fn find(running: &Running) -> Result<Self> {
        let mut names: Vec<String> = fs::read_dir("/sys/class/block")
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| !entry.path().join("partition").exists())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        let mut reason = "no disk has the running root";
        for name in names {
            let path = Path::new("/dev").join(&name);
            let Some(partitions) = read_partitions(&path) else {
                continue;
            };
            let node = |partition: &Partition| Region {
                path: node(&name, partition.number),
                offset: 0,
                length: partition.sectors * SECTOR as u64,
                number: partition.number,
            };
            match Self::new(&path, &partitions, &running.root, node) {
                Ok(disk) => return Ok(disk),
                Err(because) => reason = because,
            }
        }
        Err(not_an_image(reason))
    }

    /// A disk with these partitions; `region` is where each of them is written.
    ///
    /// # Errors
    /// Why it is not the running one's, or has no second slot.
    pub fn new(
        path: &Path,
        partitions: &[Partition],
        root: &str,
        region: impl Fn(&Partition) -> Region,
    ) -> std::result::Result<Self, &'static str> {
        let running = partitions.iter().find(|partition| partition.unique == root);
        let running = running.ok_or("no disk has the running root")?;
        let (running, other) = match running.name.as_str() {
            "root-a" => ('a', 'b'),
            "root-b" => ('b', 'a'),
            _ => return Err("the running root is in no slot"),
        };
        let named = |name: String| {
            let found = partitions.iter().find(|partition| partition.name == name);
            found.map(&region)
        };
        let both = named(format!("root-{other}")).zip(named(format!("verity-{other}")));
        let (root, verity) = both.ok_or("the disk has no second slot")?;
        Ok(Disk {
            path: path.to_owned(),
            running,
            other: Slot {
                letter: other,
                root,
                verity,
            },
            esp: named("esp".into()).ok_or("the disk has no EFI system partition")?,
        })
    }
}

/// The refusal for a machine that cannot be upgraded this way.
pub fn not_an_image(reason: &str) -> Error {
    Error::upgrade(
        "FR-UPGRADE-MACHINE",
        format!("this machine cannot be upgraded as a whole: {reason}"),
        "it must run from a disk image; a machine with packages is upgraded with `farrow repo install`",
    )
}

fn read_partitions(disk: &Path) -> Option<Vec<Partition>> {
    let mut head = vec![0; HEAD_SECTORS * SECTOR];
    File::open(disk).ok()?.read_exact(&mut head).ok()?;
    gpt::partitions(&head).ok()
}

/// Device node of a partition, by what the kernel says of the disk: names differ (`vda2`, `nvme0n1p2`).
fn node(disk: &str, number: u32) -> PathBuf {
    let folder = Path::new("/sys/class/block").join(disk);
    let is_wanted = |path: &Path| {
        let text = fs::read_to_string(path.join("partition")).unwrap_or_default();
        text.trim().parse() == Ok(number)
    };
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
    let found = entries.into_iter().find(|entry| is_wanted(&entry.path()));
    let name = found
        .map(|entry| entry.file_name())
        .unwrap_or_else(|| disk.into());
    Path::new("/dev").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn partition(number: u32, name: &str, unique: &str) -> Partition {
        Partition {
            number,
            name: name.to_owned(),
            unique: unique.to_owned(),
            start: u64::from(number) * 10,
            sectors: 8,
        }
    }

    fn region(partition: &Partition) -> Region {
        Region {
            path: "disk".into(),
            offset: partition.start * SECTOR as u64,
            length: partition.sectors * SECTOR as u64,
            number: partition.number,
        }
    }

    #[test]
    fn the_other_slot_is_found() {
        let all = ["esp", "root-a", "verity-a", "root-b", "verity-b", "var"];
        let disk = |names: &[&str], root: &str| {
            let partitions: Vec<Partition> = (1..)
                .zip(names)
                .map(|(number, name)| partition(number, name, &format!("id-{name}")))
                .collect();
            Disk::new(Path::new("disk"), &partitions, root, region)
        };
        let found = disk(&all, "id-root-a").unwrap();
        assert_eq!((found.running, found.other.letter), ('a', 'b'));
        assert_eq!(
            (
                found.other.root.number,
                found.other.verity.number,
                found.esp.number
            ),
            (4, 5, 1)
        );
        let found = disk(&all, "id-root-b").unwrap();
        assert_eq!(
            (found.running, found.other.letter, found.other.root.number),
            ('b', 'a', 2)
        );
        for (names, root) in [
            (&all[..], "id-none"),
            (&all[..], "id-var"),
            (&all[..4], "id-root-a"),
            (&all[1..], "id-root-a"),
            (&["esp", "root-a", "verity-a", "var"][..], "id-root-a"),
        ] {
            assert!(disk(names, root).is_err(), "{names:?} {root}");
        }
    }

    #[test]
    fn command_lines() {
        let line = "quiet farrow.root=AB-1 farrow.verity=x farrow.roothash=Cd panic=10\n";
        let running = Running::parse(line).unwrap();
        assert_eq!(
            (running.root.as_str(), running.root_hash.as_str()),
            ("ab-1", "cd")
        );
        assert_eq!(Running::parse("root=/dev/vda1"), None);
    }
}
