//! Changes of a GPT: growing the last partition to the disk's end, and giving partitions other ids. Pure functions from
//! sectors to sectors.
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

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Number, from 1.
    pub number: u32,
    /// Name.
    pub name: String,
    /// Unique id, lower case with dashes.
    pub unique: String,
    /// First sector.
    pub start: u64,
    /// Length in sectors.
    pub sectors: u64,
}

/// The partitions in `head`, the first [`HEAD_SECTORS`] sectors of a disk.
///
/// # Errors
/// Why there is no table.
pub fn partitions(head: &[u8]) -> Result<Vec<Partition>, &'static str> {
    let table = check(head)?;
    let used = |entry: &&[u8]| entry[..16].iter().any(|&b| b != 0);
    let numbered = (1..)
        .zip(table.entries.chunks_exact(ENTRY))
        .filter(|(_, entry)| used(entry));
    let read = |(number, entry): (u32, &[u8])| {
        let (start, end) = (read64(entry, 32), read64(entry, 40));
        let sectors = end
            .checked_sub(start)
            .and_then(|length| length.checked_add(1));
        Ok(Partition {
            number,
            name: name(entry),
            unique: guid_text(&entry[16..32]),
            start,
            sectors: sectors.ok_or("a partition has impossible bounds")?,
        })
    };
    numbered.map(read).collect()
}

/// The name in an entry, UTF-16.
fn name(entry: &[u8]) -> String {
    let units = entry[56..ENTRY].chunks_exact(2);
    let units = units.map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let units: Vec<u16> = units.take_while(|&unit| unit != 0).collect();
    String::from_utf16_lossy(&units)
}

/// What gives partitions (by number) other unique ids, each in the order of its text form. The table's size and the
/// partitions' places stay as they are, so the kernel need not be told.
///
/// # Errors
/// Why the table is left as it is.
pub fn with_ids(head: &[u8], ids: &[(u32, [u8; 16])]) -> Result<Vec<Write>, &'static str> {
    let Primary {
        header,
        entries,
        place,
        first_usable,
    } = check(head)?;
    let (end, last_usable) = (read64(header, 32), read64(header, 48));
    if last_usable.checked_add(1 + ENTRY_SECTORS as u64) != Some(end) {
        return Err("the backup table is in an unusual place");
    }
    let mut entries = entries.to_vec();
    for (number, id) in ids {
        let at = (*number as usize).wrapping_sub(1).wrapping_mul(ENTRY);
        let entry = entries
            .get_mut(at..at.wrapping_add(ENTRY))
            .ok_or("there is no such partition")?;
        if entry[..16].iter().all(|&b| b == 0) {
            return Err("there is no such partition");
        }
        entry[16..32].copy_from_slice(&swapped(*id));
    }
    let table = Table {
        header,
        entries: &entries,
        disk_sectors: end
            .checked_add(1)
            .ok_or("the backup table is in an unusual place")?,
        last_usable,
    };
    let mut writes = table.writes(spare(place, first_usable)?, head);
    // The protective MBR, which is the last, stays as it is.
    writes.pop();
    Ok(writes)
}

/// Text order to the table's order, in which the first three groups are little-endian.
fn swapped(mut id: [u8; 16]) -> [u8; 16] {
    id[..4].reverse();
    id[4..6].reverse();
    id[6..8].reverse();
    id
}

/// The place of the entries that is not in use.
fn spare(place: u64, first_usable: u64) -> Result<u64, &'static str> {
    let spare = PLACES[usize::from(place == PLACES[0])];
    if first_usable < spare + ENTRY_SECTORS as u64 {
        return Err("there is no room for a second array of entries");
    }
    Ok(spare)
}

/// Number (from 1) and unique id of each partition in `head`, the first [`HEAD_SECTORS`] sectors of a disk.
///
/// # Errors
/// Why there is no table.
pub fn unique_ids(head: &[u8]) -> Result<Vec<(u32, String)>, &'static str> {
    let ids = |partition: Partition| (partition.number, partition.unique);
    Ok(partitions(head)?.into_iter().map(ids).collect())
}

/// What makes `head` (the first [`HEAD_SECTORS`] sectors) use the whole of a disk of `disk_sectors`.
///
/// The partition `unique` (lower-case id with dashes) is grown; it must be the last one on the disk.
/// `Ok(None)`: nothing to gain.
///
/// # Errors
/// Why the table is left as it is.
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
    let spare = spare(place, first_usable)?;
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
mod tests;
