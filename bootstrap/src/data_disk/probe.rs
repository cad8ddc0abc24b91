//! What is on the disks that the image is not on.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Smaller disks are something else, such as a seed.
const SMALLEST: u64 = 1 << 30;
/// Devices that are no disks: device-mapper, loop devices, memory, optical and floppy drives, arrays.
const NOT_DISKS: [&str; 7] = ["dm-", "loop", "ram", "zram", "sr", "fd", "md"];
/// Read from beginning and end: every partition table, volume manager and file system leaves something there.
const EDGE: u64 = 4 << 20;
/// Places between them that are looked at, and bytes of each.
const SAMPLES: u64 = 64;
const SAMPLE: u64 = 64 << 10;

/// What a disk holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Nothing but zeros wherever it was looked at.
    Blank,
    /// An ext4 file system that begins at its first byte.
    Ext4 {
        /// UUID, lower case with dashes.
        uuid: String,
        /// Label.
        label: String,
    },
    /// Something else.
    Other,
}

/// A whole disk that nothing uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The kernel's name.
    pub name: String,
    /// Its path in the kernel's tree of devices.
    pub device: String,
    /// Size.
    pub bytes: u64,
    /// What it holds.
    pub content: Content,
}

/// The disks that have no partitions, can be written and are used by nothing. One that cannot be read is left out.
pub fn look() -> Vec<Disk> {
    let entries = fs::read_dir("/sys/class/block")
        .into_iter()
        .flatten()
        .flatten();
    let mut disks: Vec<Disk> = entries.filter_map(|entry| look_at(&entry.path())).collect();
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    disks
}

fn look_at(folder: &Path) -> Option<Disk> {
    let name = folder.file_name()?.to_str()?.to_owned();
    let number = |file: &str| -> Option<u64> {
        fs::read_to_string(folder.join(file))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    let has = |inside: &str| {
        fs::read_dir(folder.join(inside)).is_ok_and(|mut entries| entries.next().is_some())
    };
    let mut entries = fs::read_dir(folder).ok()?.flatten();
    let partitioned = entries.any(|entry| entry.path().join("partition").exists());
    let no_disk = NOT_DISKS.iter().any(|prefix| name.starts_with(prefix))
        || folder.join("partition").exists();
    if no_disk
        || partitioned
        || has("holders")
        || number("ro") != Some(0)
        || number("removable") != Some(0)
    {
        return None;
    }
    // The kernel counts sectors of 512 bytes here, whatever the disk's are.
    let bytes = number("size")?.checked_mul(512)?;
    let file = File::open(Path::new("/dev").join(&name)).ok()?;
    Some(Disk {
        device: fs::canonicalize(folder).ok()?.to_str()?.to_owned(),
        content: content(&file, bytes).ok().filter(|_| bytes >= SMALLEST)?,
        name,
        bytes,
    })
}

/// What a disk of this size holds.
///
/// # Errors
/// It cannot be read.
pub fn content(mut file: &File, bytes: u64) -> io::Result<Content> {
    // A size that is not the kernel's is no reason to guess.
    if file.seek(SeekFrom::End(0))? != bytes {
        return Ok(Content::Other);
    }
    let mut head = vec![0; 4096.min(bytes as usize)];
    file.read_exact_at(&mut head, 0)?;
    if let Some(found) = ext4(&head) {
        return Ok(found);
    }
    let edge = EDGE.min(bytes);
    let mut places = vec![(0, edge), (bytes - edge, edge)];
    let step = bytes / SAMPLES;
    places.extend((1..SAMPLES).map(|n| (n * step, SAMPLE.min(bytes - n * step))));
    let mut buffer = vec![0; SAMPLE as usize];
    for (start, length) in places {
        for at in (start..start + length).step_by(buffer.len()) {
            let piece = &mut buffer[..SAMPLE.min(start + length - at) as usize];
            file.read_exact_at(piece, at)?;
            if piece.iter().any(|&b| b != 0) {
                return Ok(Content::Other);
            }
        }
    }
    Ok(Content::Blank)
}

/// UUID and label in an ext4 superblock, which begins at byte 1024 (`s_magic`, `s_uuid`, `s_volume_name`; the kernel's
/// `Documentation/filesystems/ext4/super.rst`).
fn ext4(head: &[u8]) -> Option<Content> {
    let superblock = head.get(1024..2048)?;
    if superblock[0x38..0x3a] != [0x53, 0xef] {
        return None;
    }
    let h = hex::encode(&superblock[0x68..0x78]);
    let label = superblock[0x78..0x88]
        .split(|&b| b == 0)
        .next()
        .unwrap_or_default();
    Some(Content::Ext4 {
        uuid: format!(
            "{}-{}-{}-{}-{}",
            &h[..8],
            &h[8..12],
            &h[12..16],
            &h[16..20],
            &h[20..]
        ),
        label: String::from_utf8_lossy(label).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 256 << 20;

    fn with(writes: &[(u64, &[u8])]) -> Content {
        let file = tempfile::tempfile().unwrap();
        file.set_len(BYTES).unwrap();
        for (at, bytes) in writes {
            file.write_all_at(bytes, *at).unwrap();
        }
        content(&file, BYTES).unwrap()
    }

    #[test]
    fn blank_is_only_what_holds_nothing() {
        assert_eq!(with(&[]), Content::Blank);
        for at in [
            0,
            510,
            512,
            32 << 10,
            64 << 10,
            EDGE - 1,
            BYTES / 64,
            BYTES / 2 + 5,
            BYTES - EDGE,
            BYTES - 512,
            BYTES - 1,
        ] {
            assert_eq!(with(&[(at, b"x")]), Content::Other, "byte {at}");
        }
        let file = tempfile::tempfile().unwrap();
        file.set_len(BYTES).unwrap();
        assert_eq!(
            content(&file, BYTES - 512).unwrap(),
            Content::Other,
            "another size"
        );
    }

    #[test]
    fn ext4_is_known() {
        let mut superblock = [0; 1024];
        superblock[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
        superblock[0x68..0x78].fill(0xab);
        superblock[0x78..0x83].copy_from_slice(b"farrow-data");
        let expected = Content::Ext4 {
            uuid: "abababab-abab-abab-abab-abababababab".into(),
            label: "farrow-data".into(),
        };
        assert_eq!(with(&[(1024, &superblock)]), expected);
    }
}
