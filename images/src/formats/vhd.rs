//! Fixed VHD, as Azure and Hyper-V take it: the disk, and a footer.
//!
//! Format: Microsoft, "Virtual Hard Disk Image Format Specification", version 1.0. All integers are big-endian. Azure asks
//! for a size in whole MiB.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::Identity;
use super::sparse::Disk;
use crate::assemble::copy_data;
use crate::error::{Error, Result};
use crate::partitions::Guid;

/// Bytes of the footer.
pub(super) const FOOTER: usize = 512;
/// How it begins.
pub(super) const COOKIE: &[u8; 8] = b"conectix";
/// Sizes are multiples of this.
const STEP: u64 = 1 << 20;
/// Times count from 2000-01-01 00:00:00 UTC, seconds since 1970.
const EPOCH: u64 = 946_684_800;
/// Who made the file. Readers, QEMU among them, take the size field of this one as it is; of others they compute the size
/// from the geometry, which is rounded down.
const CREATOR: &[u8; 4] = b"win ";
/// The version that goes with it: 10.0.
const CREATOR_VERSION: u32 = 0x000a_0000;
/// The host system: Windows.
const HOST: &[u8; 4] = b"Wi2k";
/// A disk of fixed size.
const FIXED: u32 = 2;

/// Writes the disk to a new file.
pub(super) fn write(disk: &Disk, identity: &Identity, path: &Path) -> Result<()> {
    let io = |what| Error::io(what, path);
    let size = disk.size().next_multiple_of(STEP);
    let file = File::create_new(path).map_err(io("create"))?;
    file.set_len(size).map_err(io("resize"))?;
    copy_data(disk.path(), &file, 0).map_err(Error::io("copy", disk.path()))?;
    file.write_all_at(&footer(size, identity), size)
        .and_then(|()| file.sync_all())
        .map_err(io("write"))
}

fn footer(size: u64, identity: &Identity) -> [u8; FOOTER] {
    let (cylinders, heads, sectors) = geometry(size / 512);
    let time = identity.epoch.saturating_sub(EPOCH) as u32;
    let mut footer = [0; FOOTER];
    let mut put = |at: usize, bytes: &[u8]| footer[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, COOKIE);
    // Features: a bit that is always set; format version 1.0; nothing else lies in the file.
    put(8, &2u32.to_be_bytes());
    put(12, &0x0001_0000u32.to_be_bytes());
    put(16, &u64::MAX.to_be_bytes());
    put(24, &time.to_be_bytes());
    put(28, CREATOR);
    put(32, &CREATOR_VERSION.to_be_bytes());
    put(36, HOST);
    // Original and current size.
    put(40, &size.to_be_bytes());
    put(48, &size.to_be_bytes());
    put(56, &cylinders.to_be_bytes());
    put(58, &[heads, sectors]);
    put(60, &FIXED.to_be_bytes());
    put(68, &Guid::derived(&identity.seed, "vhd").0);
    let sum: u32 = footer.iter().map(|&byte| u32::from(byte)).sum();
    footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
    footer
}

/// Cylinders, heads and sectors per track of a disk of that many sectors: the specification's appendix "CHS Calculation".
fn geometry(sectors: u64) -> (u16, u8, u8) {
    let total = sectors.min(65535 * 16 * 255);
    let (track, heads) = if total >= 65535 * 16 * 63 {
        (255, 16)
    } else {
        let heads = (total / 17).div_ceil(1024).max(4);
        if heads <= 16 && total / 17 < heads * 1024 {
            (17, heads)
        } else if total / 31 < 16 * 1024 {
            (31, 16)
        } else {
            (63, 16)
        }
    };
    ((total / track / heads) as u16, heads as u8, track as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::tests::{assert_same, identity, sample};

    #[test]
    fn the_disk_and_a_footer_that_adds_up() {
        let (folder, disk) = sample();
        let paths = [folder.path().join("one"), folder.path().join("two")];
        for path in &paths {
            write(&disk, &identity(), path).unwrap();
        }
        let bytes = std::fs::read(&paths[0]).unwrap();
        assert!(bytes == std::fs::read(&paths[1]).unwrap());
        let (content, footer) = bytes.split_at(bytes.len() - FOOTER);
        assert_eq!(content.len() % (1 << 20), 0);
        assert_same(&disk, content);
        assert_eq!(&footer[..8], COOKIE);
        let stored = u32::from_be_bytes(footer[64..68].try_into().unwrap());
        let sum: u32 = footer.iter().map(|&b| u32::from(b)).sum();
        let own: u32 = footer[64..68].iter().map(|&b| u32::from(b)).sum();
        assert_eq!(stored, !(sum - own));
        let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&paths[0]).unwrap());
        assert!(blocks * 512 < bytes.len() as u64 / 2, "holes stay holes");
    }

    #[test]
    fn geometries_of_the_specification() {
        for (mib, expected) in [
            (1, (30, 4, 17)),
            (100, (1003, 12, 17)),
            (500, (1015, 16, 63)),
            (1024, (2080, 16, 63)),
            (1 << 20, (65535, 16, 255)),
        ] {
            assert_eq!(geometry(mib << 11), expected, "{mib} MiB");
        }
    }
}
