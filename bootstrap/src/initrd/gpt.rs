//! Growing the last partition of a GPT disk to the disk's end: a pure function from sectors to sectors.
//!
//! Format: UEFI specification 2.10, section 5.3. Sectors are 512 bytes long, as in the images we make.
//!
//! The kernel falls back to the backup table only when told so on its command line, so the primary table must be whole
//! at every moment. Therefore the new partition entries go to a second place (the image leaves room for two entry
//! arrays before the first partition), and one write of the header's single sector switches over to them.

/// Bytes of a sector.
pub const SECTOR: usize = 512;
/// Sectors from the disk's start that [`plan`] wants to see: protective MBR, header, and two entry arrays.
pub const HEAD_SECTORS: usize = 2 + 2 * ENTRY_SECTORS;
/// Sectors of an entry array: 128 entries of 128 bytes, the only size we make and change.
const ENTRY_SECTORS: usize = 32;
const ENTRY: usize = 128;
const ENTRIES: usize = 128;
/// The two places of the primary entry array (first sector).
const PLACES: [u64; 2] = [2, 2 + ENTRY_SECTORS as u64];
/// Partitions end on such a boundary, and less than it is not worth a change: 1 MiB in sectors.
const ALIGNMENT: u64 = 2048;

/// Bytes to be written at a sector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// First sector.
    pub lba: u64,
    /// Whole sectors.
    pub bytes: Vec<u8>,
}

/// The change of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Growth {
    /// Writes in order; each must be on the disk before the next one begins.
    pub writes: Vec<Write>,
    /// Number of the grown partition, from 1.
    pub number: u32,
    /// Its first sector.
    pub start: u64,
    /// Its new length in sectors.
    pub sectors: u64,
}

/// Number (from 1) and unique id of each partition in `head`, the first [`HEAD_SECTORS`] sectors of a disk.
pub fn unique_ids(head: &[u8]) -> Result<Vec<(u32, String)>, &'static str> {
    let table = check(head)?;
    let used = |entry: &&[u8]| entry[..16].iter().any(|&b| b != 0);
    let numbered = (1..)
        .zip(table.entries.chunks_exact(ENTRY))
        .filter(|(_, entry)| used(entry));
    Ok(numbered
        .map(|(number, entry)| (number, guid_text(&entry[16..32])))
        .collect())
}

/// What makes `head` (the first [`HEAD_SECTORS`] sectors) use the whole of a disk of `disk_sectors`.
///
/// The partition `unique` (lower-case id with dashes) is grown; it must be the last one on the disk.
/// `Ok(None)`: nothing to gain. `Err`: why the table is left as it is.
pub fn plan(head: &[u8], disk_sectors: u64, unique: &str) -> Result<Option<Growth>, &'static str> {
    let Primary {
        header,
        entries,
        place,
        first_usable,
    } = check(head)?;
    let (index, start, end) = last_partition(entries)?;
    if guid_text(&entries[index * ENTRY + 16..index * ENTRY + 32]) != unique {
        return Err("another partition lies behind it");
    }
    // Behind the last usable sector: the backup entries, and the backup header in the very last sector.
    let Some(last_usable) = disk_sectors.checked_sub(ENTRY_SECTORS as u64 + 2) else {
        return Err("the disk is too small");
    };
    let new_end = (last_usable + 1) / ALIGNMENT * ALIGNMENT;
    if new_end < end + 1 + ALIGNMENT {
        return Ok(None);
    }
    let mut entries = entries.to_vec();
    entries[index * ENTRY + 40..index * ENTRY + 48].copy_from_slice(&(new_end - 1).to_le_bytes());
    let spare = PLACES[usize::from(place == PLACES[0])];
    if first_usable < spare + ENTRY_SECTORS as u64 {
        return Err("there is no room for a second array of entries");
    }
    let table = Table {
        header,
        entries: &entries,
        disk_sectors,
        last_usable,
    };
    Ok(Some(Growth {
        writes: table.writes(spare, head),
        number: index as u32 + 1,
        start,
        sectors: new_end - start,
    }))
}

/// A new table about to be laid out.
struct Table<'a> {
    header: &'a [u8],
    entries: &'a [u8],
    disk_sectors: u64,
    last_usable: u64,
}

impl Table<'_> {
    /// Backup first, then the spare entries, then the switch, and last the size in the protective MBR, which nobody
    /// relies on.
    fn writes(&self, spare: u64, head: &[u8]) -> Vec<Write> {
        let end = self.disk_sectors - 1;
        let mut backup = self.entries.to_vec();
        backup.extend(self.new_header(end, 1, self.last_usable + 1));
        let mut mbr = head[..SECTOR].to_vec();
        let size = u32::try_from(end).unwrap_or(u32::MAX);
        mbr[446 + 12..446 + 16].copy_from_slice(&size.to_le_bytes());
        let bytes = |lba, bytes| Write { lba, bytes };
        vec![
            bytes(self.last_usable + 1, backup),
            bytes(spare, self.entries.to_vec()),
            bytes(1, self.new_header(1, end, spare)),
            bytes(0, mbr),
        ]
    }

    fn new_header(&self, my: u64, alternate: u64, entries: u64) -> Vec<u8> {
        let mut header = self.header.to_vec();
        header[24..32].copy_from_slice(&my.to_le_bytes());
        header[32..40].copy_from_slice(&alternate.to_le_bytes());
        header[48..56].copy_from_slice(&self.last_usable.to_le_bytes());
        header[72..80].copy_from_slice(&entries.to_le_bytes());
        header[88..92].copy_from_slice(&crc32(self.entries).to_le_bytes());
        let sum = header_sum(&header);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        header
    }
}

/// A primary table whose checksums are right.
struct Primary<'a> {
    header: &'a [u8],
    entries: &'a [u8],
    /// First sector of the entries, one of [`PLACES`].
    place: u64,
    first_usable: u64,
}

fn check(head: &[u8]) -> Result<Primary<'_>, &'static str> {
    if head.len() < HEAD_SECTORS * SECTOR {
        return Err("the disk's head is cut short");
    }
    let header = &head[SECTOR..2 * SECTOR];
    let (place, first_usable) = check_header(header)?;
    let from = place as usize * SECTOR;
    let entries = &head[from..from + ENTRY_SECTORS * SECTOR];
    if read32(header, 88) != crc32(entries) {
        return Err("the partition entries do not match their checksum");
    }
    Ok(Primary {
        header,
        entries,
        place,
        first_usable,
    })
}

/// Checks a primary header; gives the place of its entries and the first usable sector.
fn check_header(header: &[u8]) -> Result<(u64, u64), &'static str> {
    if &header[..8] != b"EFI PART" || read32(header, 12) != 92 {
        return Err("there is no GPT header");
    }
    if read32(header, 16) != header_sum(header) || read64(header, 24) != 1 {
        return Err("the GPT header does not match its checksum");
    }
    if read32(header, 80) != ENTRIES as u32 || read32(header, 84) != ENTRY as u32 {
        return Err("the GPT has an unusual number of entries");
    }
    let place = read64(header, 72);
    if !PLACES.contains(&place) {
        return Err("the partition entries are in an unusual place");
    }
    Ok((place, read64(header, 40)))
}

/// Index, first and last sector of the partition that ends last.
fn last_partition(entries: &[u8]) -> Result<(usize, u64, u64), &'static str> {
    let last = entries
        .chunks_exact(ENTRY)
        .enumerate()
        .filter(|(_, entry)| entry[..16].iter().any(|&b| b != 0))
        .map(|(index, entry)| (index, read64(entry, 32), read64(entry, 40)))
        .max_by_key(|&(_, _, end)| end)
        .ok_or("the GPT has no partition")?;
    if last.1 > last.2 || last.2 > u64::MAX / 1024 {
        return Err("the last partition has impossible bounds");
    }
    Ok(last)
}

/// The header's own checksum: over its 92 bytes with the checksum field zero.
fn header_sum(header: &[u8]) -> u32 {
    let mut bytes = header[..92].to_vec();
    bytes[16..20].fill(0);
    crc32(&bytes)
}

/// Text form of a GUID: the first three groups are little-endian.
fn guid_text(b: &[u8]) -> String {
    format!(
        "{:08x}-{:04x}-{:04x}-{:02x}{:02x}-{:02x}{:02x}{:02x}{:02x}{:02x}{:02x}",
        read32(b, 0),
        u16::from_le_bytes([b[4], b[5]]),
        u16::from_le_bytes([b[6], b[7]]),
        b[8],
        b[9],
        b[10],
        b[11],
        b[12],
        b[13],
        b[14],
        b[15]
    )
}

fn read32(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn read64(b: &[u8], at: usize) -> u64 {
    u64::from(read32(b, at)) | u64::from(read32(b, at + 4)) << 32
}

/// CRC-32 as in Ethernet and zlib (reflected polynomial 0xedb88320), bit by bit: 16 KiB per boot need no table.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIQUE: &str = "03020100-0504-0706-0809-0a0b0c0d0e0f";

    /// A disk of 8192 sectors with one partition from sector 2048 to 4095.
    fn head() -> Vec<u8> {
        let mut entries = vec![0; ENTRY_SECTORS * SECTOR];
        entries[..16].fill(1);
        for i in 0..16 {
            entries[16 + i] = i as u8;
        }
        entries[32..40].copy_from_slice(&2048u64.to_le_bytes());
        entries[40..48].copy_from_slice(&4095u64.to_le_bytes());
        let mut header = vec![0; SECTOR];
        header[..8].copy_from_slice(b"EFI PART");
        header[12] = 92;
        header[40..48].copy_from_slice(&2048u64.to_le_bytes());
        header[80] = 128;
        header[84] = 128;
        let table = Table {
            header: &header,
            entries: &entries,
            disk_sectors: 8192,
            last_usable: 8158,
        };
        let mut head = vec![0; HEAD_SECTORS * SECTOR];
        head[SECTOR..2 * SECTOR].copy_from_slice(&table.new_header(1, 8191, 2));
        head[2 * SECTOR..][..entries.len()].copy_from_slice(&entries);
        head
    }

    #[test]
    fn crc_of_the_standard_check_string() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    /// After any prefix of the writes, a reader finds a whole primary table, old or new.
    #[test]
    fn every_prefix_of_the_writes_leaves_a_whole_table() {
        let head = head();
        let growth = plan(&head, 100_000, UNIQUE).unwrap().unwrap();
        assert_eq!((growth.number, growth.start), (1, 2048));
        assert_eq!((growth.start + growth.sectors) % ALIGNMENT, 0);
        for done in 0..=growth.writes.len() {
            let mut disk = head.clone();
            disk.resize(100_000 * SECTOR, 0);
            for write in &growth.writes[..done] {
                let at = write.lba as usize * SECTOR;
                disk[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
            }
            let again = plan(&disk, 100_000, UNIQUE).unwrap();
            assert_eq!(again.is_none(), done >= 3, "after {done} writes");
        }
    }

    #[test]
    fn ids_by_number() {
        assert_eq!(unique_ids(&head()).unwrap(), [(1, UNIQUE.to_owned())]);
        assert!(unique_ids(&[0; HEAD_SECTORS * SECTOR]).is_err());
    }

    #[test]
    fn a_second_growth_uses_the_first_place_again() {
        let mut head = head();
        for (disk, place) in [
            (100_000, PLACES[1]),
            (200_000, PLACES[0]),
            (300_000, PLACES[1]),
        ] {
            let growth = plan(&head, disk, UNIQUE).unwrap().unwrap();
            assert_eq!(growth.writes[1].lba, place);
            for write in &growth.writes[1..] {
                let at = write.lba as usize * SECTOR;
                head[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
            }
        }
    }

    #[test]
    fn nothing_to_gain_or_not_ours() {
        let head = head();
        assert_eq!(plan(&head, 6000, UNIQUE), Ok(None));
        assert!(plan(&head, 33, UNIQUE).is_err());
        assert!(plan(&head, 100_000, &UNIQUE.replace('f', "0")).is_err());
        assert!(plan(&head[..1000], 100_000, UNIQUE).is_err());
        for at in [SECTOR, SECTOR + 40, SECTOR + 73, 2 * SECTOR + 40] {
            let mut damaged = head.clone();
            damaged[at] ^= 1;
            assert!(plan(&damaged, 100_000, UNIQUE).is_err(), "byte {at}");
        }
    }
}
