//! The partition table of a disk image.
//!
//! Format: GPT of the UEFI specification 2.10, chapter 5, with the partition types of the UAPI group's "Discoverable
//! Partitions" specification. Sectors are 512 bytes long. The first partition begins at 1 MiB and the table says so,
//! which leaves room for a second array of entries: the first process of a machine switches between the two arrays when it
//! grows the last partition, so that a power cut never leaves a torn table.

use std::fs::File;
use std::io::{Cursor, Read, Seek};
use std::path::Path;

use gptman::{GPT, GPTPartitionEntry};
use sha2::{Digest, Sha256};

use crate::architecture::Architecture;
use crate::error::{Error, Result};

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// Partitions begin and end on this boundary, in sectors.
const ALIGNMENT: u64 = 2048;
/// Where the first one begins, in bytes.
pub(crate) const BEGIN: u64 = ALIGNMENT * SECTOR;
/// Attribute: the file system must be mounted read-only (Discoverable Partitions).
const READ_ONLY: u64 = 1 << 60;
/// Attribute: do not mount by yourself (Discoverable Partitions).
const NO_AUTO: u64 = 1 << 63;

/// A unique or type id, in the byte order of its text form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// The id that belongs to `label`: a version 8 UUID (RFC 9562) from a SHA-256 over seed and label.
    pub fn derived(seed: &[u8; 32], label: &str) -> Self {
        Self::from_digest(
            &Sha256::new()
                .chain_update(seed)
                .chain_update(label)
                .finalize(),
        )
    }

    /// The first 16 bytes of a digest as a version 8 UUID.
    pub fn from_digest(digest: &[u8]) -> Self {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// Half of a root hash as it is.
    ///
    /// # Panics
    /// Never for 16 bytes.
    pub(crate) fn from_hash_half(half: &[u8]) -> Self {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(half);
        Self(bytes)
    }

    /// Lower-case text with dashes.
    pub fn text(self) -> String {
        let h = hex::encode(self.0);
        format!(
            "{}-{}-{}-{}-{}",
            &h[..8],
            &h[8..12],
            &h[12..16],
            &h[16..20],
            &h[20..]
        )
    }

    /// The order of bytes in a GPT: the first three groups are little-endian. Its own inverse.
    fn swapped(self) -> [u8; 16] {
        let mut bytes = self.0;
        bytes[..4].reverse();
        bytes[4..6].reverse();
        bytes[6..8].reverse();
        bytes
    }
}

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// GRUB's core image, without a file system.
    BiosBoot,
    /// EFI system partition.
    Esp,
    /// Root file system.
    Root,
    /// Hash tree of a root file system.
    Verity,
    /// Room for a later root file system or its hash tree.
    Reserved,
    /// Embedded repository.
    Repository,
    /// Writable state.
    Var,
}

impl Role {
    /// Partition type.
    fn kind(self, name: &str, architecture: Architecture) -> Guid {
        let text = match self {
            Role::BiosBoot => "21686148-6449-6e6f-744e-656564454649",
            Role::Esp => "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
            Role::Reserved if name.starts_with("verity") => architecture.verity_type(),
            Role::Root | Role::Reserved => architecture.root_type(),
            Role::Verity => architecture.verity_type(),
            Role::Repository => "0fc63daf-8483-4772-8e79-3d69d8477de4",
            Role::Var => "4d21b016-b534-45c2-a9fb-5c16e091fd2d",
        };
        let mut bytes = [0; 16];
        // The texts above are constants; their length is checked by the tests.
        let _ = hex::decode_to_slice(text.replace('-', ""), &mut bytes);
        Guid(bytes)
    }

    fn attributes(self) -> u64 {
        match self {
            Role::BiosBoot | Role::Esp => 0,
            Role::Root | Role::Verity => READ_ONLY,
            Role::Reserved | Role::Repository => READ_ONLY | NO_AUTO,
            Role::Var => NO_AUTO,
        }
    }
}

/// A partition that a disk shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Name in the table, ASCII, at most 36 characters.
    pub name: &'static str,
    /// Purpose.
    pub role: Role,
    /// Unique id (PARTUUID).
    pub unique: Guid,
    /// Size in bytes; rounded up to whole MiB.
    pub bytes: u64,
}

/// A partition with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Name in the table.
    pub name: String,
    /// Type id.
    pub kind: Guid,
    /// Unique id (PARTUUID).
    pub unique: Guid,
    /// First sector.
    pub start: u64,
    /// Length in sectors.
    pub sectors: u64,
    /// Attribute bits.
    pub attributes: u64,
}

/// A disk's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Id of the disk.
    pub disk: Guid,
    /// Partitions in their order on the disk.
    pub partitions: Vec<Partition>,
    /// Length of the disk in sectors.
    pub sectors: u64,
}

/// Places the partitions one behind the other.
pub fn lay_out(disk: Guid, architecture: Architecture, wishes: &[Wish]) -> Layout {
    let mut start = ALIGNMENT;
    let mut partitions = Vec::new();
    for wish in wishes {
        let sectors = wish
            .bytes
            .max(1)
            .div_ceil(SECTOR)
            .next_multiple_of(ALIGNMENT);
        partitions.push(Partition {
            name: wish.name.to_owned(),
            kind: wish.role.kind(wish.name, architecture),
            unique: wish.unique,
            start,
            sectors,
            attributes: wish.role.attributes(),
        });
        start += sectors;
    }
    // The last MiB holds the backup table.
    Layout {
        disk,
        partitions,
        sectors: start + ALIGNMENT,
    }
}

/// Writes the table into a disk image, which gets the layout's size.
///
/// # Errors
/// When the file cannot be written.
pub fn write(layout: &Layout, file: &mut File, path: &Path) -> Result<()> {
    let io = |what| Error::io(what, path);
    file.set_len(layout.sectors * SECTOR)
        .map_err(io("resize"))?;
    let table = |e: gptman::Error| Error::Table {
        path: path.to_owned(),
        reason: e.to_string(),
    };
    let mut gpt = GPT::new_from(file, SECTOR, layout.disk.swapped()).map_err(table)?;
    gpt.header.first_usable_lba = ALIGNMENT;
    for (number, partition) in (1..).zip(&layout.partitions) {
        gpt[number] = GPTPartitionEntry {
            partition_type_guid: partition.kind.swapped(),
            unique_partition_guid: partition.unique.swapped(),
            starting_lba: partition.start,
            ending_lba: partition.start + partition.sectors - 1,
            attribute_bits: partition.attributes,
            partition_name: partition.name.as_str().into(),
        };
    }
    GPT::write_protective_mbr_into(file, SECTOR).map_err(table)?;
    gpt.write_into(file).map_err(table)?;
    Ok(())
}

/// Reads the table of a raw disk image.
///
/// # Errors
/// When there is no valid table.
pub fn read(file: &mut File, path: &Path) -> Result<Layout> {
    let sectors = file.metadata().map_err(Error::io("read", path))?.len() / SECTOR;
    parse(file, sectors, path)
}

/// Reads the table of a disk from the disk's first MiB.
///
/// # Errors
/// When there is no valid table.
pub fn read_start(start: &[u8], path: &Path) -> Result<Layout> {
    parse(&mut Cursor::new(start), u64::MAX, path)
}

fn parse(disk: &mut (impl Read + Seek), sectors: u64, path: &Path) -> Result<Layout> {
    let table = |reason: String| Error::Table {
        path: path.to_owned(),
        reason,
    };
    let gpt = GPT::read_from(disk, SECTOR).map_err(|e| table(e.to_string()))?;
    let mut partitions = Vec::new();
    for (_, entry) in gpt.iter().filter(|(_, entry)| entry.is_used()) {
        let length = entry.size().map_err(|e| table(e.to_string()))?;
        if entry.ending_lba >= sectors {
            return Err(table("a partition lies outside of the file".to_owned()));
        }
        partitions.push(Partition {
            name: entry.partition_name.as_str().to_owned(),
            kind: Guid(Guid(entry.partition_type_guid).swapped()),
            unique: Guid(Guid(entry.unique_partition_guid).swapped()),
            start: entry.starting_lba,
            sectors: length,
            attributes: entry.attribute_bits,
        });
    }
    partitions.sort_by_key(|partition| partition.start);
    Ok(Layout {
        disk: Guid(Guid(gpt.header.disk_guid).swapped()),
        partitions,
        sectors,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Layout {
        let seed = [7; 32];
        let wish = |name, role, mib: u64| Wish {
            name,
            role,
            unique: Guid::derived(&seed, name),
            bytes: (mib << 20) - 5,
        };
        let wishes = [
            wish("esp", Role::Esp, 3),
            wish("root-a", Role::Root, 5),
            wish("verity-a", Role::Verity, 1),
            wish("var", Role::Var, 2),
        ];
        lay_out(Guid::derived(&seed, "disk"), Architecture::Arm64, &wishes)
    }

    #[test]
    fn what_is_written_is_read_again() {
        let layout = sample();
        let starts: Vec<u64> = layout
            .partitions
            .iter()
            .map(|p| p.start / ALIGNMENT)
            .collect();
        assert_eq!(starts, [1, 4, 9, 10]);
        assert_eq!(layout.sectors, 13 * ALIGNMENT);
        let mut file = tempfile::tempfile().unwrap();
        write(&layout, &mut file, Path::new("disk")).unwrap();
        assert_eq!(read(&mut file, Path::new("disk")).unwrap(), layout);
        let mut start = vec![0; 1 << 20];
        file.rewind().unwrap();
        file.read_exact(&mut start).unwrap();
        let layout = read_start(&start, Path::new("disk")).unwrap();
        assert_eq!(Architecture::of_disk(&layout), Some(Architecture::Arm64));
        assert!(read_start(&start[..1000], Path::new("disk")).is_err());
    }

    #[test]
    fn ids_are_in_text_order() {
        for architecture in Architecture::ALL {
            let kind = |role: Role, name| role.kind(name, architecture);
            assert_eq!(
                kind(Role::Esp, "").text(),
                "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
            );
            assert_eq!(
                kind(Role::BiosBoot, "").text(),
                "21686148-6449-6e6f-744e-656564454649"
            );
            assert_eq!(kind(Role::Root, "").text(), architecture.root_type());
            assert_eq!(
                kind(Role::Reserved, "verity-b"),
                kind(Role::Verity, "verity-a")
            );
        }
        let id = Guid::derived(&[0; 32], "x").text();
        assert_eq!((id.len(), &id[14..15]), (36, "8"));
        assert_eq!(
            Guid(Guid([1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0, 0, 0, 0, 0]).swapped()).swapped()[..4],
            [1, 2, 3, 4]
        );
    }

    #[test]
    fn damaged_tables_are_refused() {
        use std::os::unix::fs::FileExt;
        let mut file = tempfile::tempfile().unwrap();
        assert!(read(&mut file, Path::new("disk")).is_err());
        write(&sample(), &mut file, Path::new("disk")).unwrap();
        let end = file.metadata().unwrap().len();
        for at in [512 + 60, end - 512 + 60] {
            file.write_all_at(&[0xff], at).unwrap();
        }
        assert!(read(&mut file, Path::new("disk")).is_err());
    }
}
