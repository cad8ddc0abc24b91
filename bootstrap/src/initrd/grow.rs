//! Growing the partition of `/var`, and then its file system, when the disk is larger than the image.
//!
//! Neither is needed to boot: whatever goes wrong here is reported and the machine goes on with the size it has.

use super::device::Partition;
use super::log::{self, Level};
use bootstrap::gpt;
use std::fs::{File, OpenOptions};
use std::io::{Error, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

/// Grows the partition with this unique id to the end of its disk.
pub fn partition(partition: &Partition, unique: &str) {
    match try_partition(partition, unique) {
        Ok(Some(sectors)) => log::info(&format!(
            "grew {} to {} MiB",
            partition.name,
            (sectors * gpt::SECTOR as u64) >> 20
        )),
        Ok(None) => {}
        Err(e) => log::say(
            Level::Warning,
            &format!(
                "FR-INIT-GROW: cannot grow the partition {}: {e}",
                partition.name
            ),
        ),
    }
}

fn try_partition(partition: &Partition, unique: &str) -> Result<Option<u64>, Error> {
    let mut disk = OpenOptions::new()
        .read(true)
        .write(true)
        .open(Path::new("/dev").join(&partition.disk))?;
    let sectors = disk.seek(SeekFrom::End(0))? / gpt::SECTOR as u64;
    let mut head = vec![0; gpt::HEAD_SECTORS * gpt::SECTOR];
    disk.rewind()?;
    disk.read_exact(&mut head)?;
    let Some(growth) = gpt::plan(&head, sectors, unique).map_err(Error::other)? else {
        return Ok(None);
    };
    for write in &growth.writes {
        disk.seek(SeekFrom::Start(write.lba * gpt::SECTOR as u64))?;
        disk.write_all(&write.bytes)?;
        disk.sync_all()?;
    }
    tell_kernel(&disk, &growth)?;
    Ok(Some(growth.sectors))
}

/// `struct blkpg_partition` of `linux/blkpg.h`; start and length in bytes.
#[repr(C)]
struct KernelPartition {
    start: i64,
    length: i64,
    number: i32,
    names: [u8; 128],
}

/// `struct blkpg_ioctl_arg` of `linux/blkpg.h`.
#[repr(C)]
struct KernelRequest {
    operation: i32,
    flags: i32,
    length: i32,
    data: *const KernelPartition,
}

/// Tells the kernel the new size of one partition, which works while the others are in use.
#[allow(unsafe_code)]
fn tell_kernel(disk: &File, growth: &gpt::Growth) -> Result<(), Error> {
    /// `BLKPG`, `_IO(0x12, 105)`.
    const BLKPG: u64 = 0x1269;
    /// `BLKPG_RESIZE_PARTITION`.
    const RESIZE: i32 = 3;
    let partition = KernelPartition {
        start: (growth.start * gpt::SECTOR as u64) as i64,
        length: (growth.sectors * gpt::SECTOR as u64) as i64,
        number: growth.number as i32,
        names: [0; 128],
    };
    let request = KernelRequest {
        operation: RESIZE,
        flags: 0,
        length: size_of::<KernelPartition>() as i32,
        data: &raw const partition,
    };
    // SAFETY: both structures have the kernel's layout and live until the call returns; the kernel only reads them.
    let result = unsafe { nix::libc::ioctl(disk.as_raw_fd(), BLKPG, &raw const request) };
    nix::errno::Errno::result(result).map_err(Error::from)?;
    Ok(())
}

/// Grows the mounted ext4 file system at `mount_point` to the size of its device.
pub fn file_system(device: &Path, mount_point: &Path) {
    match try_file_system(device, mount_point) {
        Ok(Some(mib)) => log::info(&format!("grew /var to {mib} MiB")),
        Ok(None) => {}
        Err(e) => log::say(
            Level::Warning,
            &format!("FR-INIT-GROW: cannot grow the file system of /var: {e}"),
        ),
    }
}

fn try_file_system(device: &Path, mount_point: &Path) -> Result<Option<u64>, Error> {
    let mut disk = File::open(device)?;
    let bytes = disk.seek(SeekFrom::End(0))?;
    let mut superblock = [0; 1024];
    disk.seek(SeekFrom::Start(1024))?;
    disk.read_exact(&mut superblock)?;
    let Some((block, blocks)) = ext4_size(&superblock) else {
        return Err(Error::other("there is no ext4 superblock"));
    };
    let wanted = bytes / block;
    // Less than a MiB is the rest behind the last whole group that an earlier growth left.
    if wanted.saturating_sub(blocks) * block < 1 << 20 {
        return Ok(None);
    }
    resize(&File::open(mount_point)?, wanted)?;
    Ok(Some(bytes >> 20))
}

/// Block size in bytes and number of blocks in an ext4 superblock (`s_log_block_size`, `s_blocks_count_lo`/`_hi`).
fn ext4_size(superblock: &[u8; 1024]) -> Option<(u64, u64)> {
    let word = |at: usize| {
        superblock[at..at + 4]
            .try_into()
            .map(u32::from_le_bytes)
            .unwrap_or(0)
    };
    let magic = u16::from_le_bytes([superblock[0x38], superblock[0x39]]);
    let shift = word(0x18);
    (magic == 0xef53 && shift <= 6).then(|| {
        (
            1024 << shift,
            u64::from(word(0x4)) | u64::from(word(0x150)) << 32,
        )
    })
}

/// `EXT4_IOC_RESIZE_FS`.
#[allow(unsafe_code)]
fn resize(mount_point: &File, blocks: u64) -> Result<(), Error> {
    /// `_IOW('f', 16, __u64)`.
    const RESIZE_FS: u64 = 0x4008_6610;
    // SAFETY: the kernel reads one u64, which lives until the call returns.
    let result = unsafe { nix::libc::ioctl(mount_point.as_raw_fd(), RESIZE_FS, &raw const blocks) };
    nix::errno::Errno::result(result).map_err(Error::from)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ext4_superblocks() {
        let mut superblock = [0; 1024];
        assert_eq!(ext4_size(&superblock), None);
        superblock[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
        superblock[0x18] = 2;
        superblock[4] = 9;
        superblock[0x150] = 1;
        assert_eq!(ext4_size(&superblock), Some((4096, (1 << 32) + 9)));
        superblock[0x18] = 200;
        assert_eq!(ext4_size(&superblock), None);
    }

    #[test]
    fn kernel_structures_have_their_c_size() {
        assert_eq!(size_of::<KernelPartition>(), 152);
        assert_eq!(size_of::<KernelRequest>(), 24);
    }
}
