//! Stream-optimised VMDK, as VMware imports it: grains compressed one by one, tables behind them.
//!
//! Format: VMware, "Virtual Disk Format 5.0", chapters "Hosted Sparse Extents" and "Stream-Optimized Compressed Sparse
//! Extents". All integers are little-endian, all offsets count sectors of 512 bytes.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use sha2::{Digest, Sha256};

use super::sparse::Disk;
use crate::error::{Error, Result};

/// How the file begins: `KDMV`.
pub(super) const MAGIC: &[u8; 4] = b"KDMV";
const SECTOR: u64 = 512;
/// A grain, sectors and bytes.
const GRAIN_SECTORS: u64 = 128;
const GRAIN: usize = (GRAIN_SECTORS * SECTOR) as usize;
/// Grains in a table.
const TABLE: u64 = 512;
/// Sectors of a table: four bytes an entry.
const TABLE_SECTORS: u64 = TABLE * 4 / SECTOR;
/// Where the descriptor lies and how much room it has, sectors.
const DESCRIPTOR: (u64, u64) = (1, 20);
/// Where the grains begin, sectors.
const OVERHEAD: u64 = 128;
/// Version of extents with compressed grains.
const VERSION: u32 = 3;
/// Line ends can be checked; grains are compressed; markers tell what follows.
const FLAGS: u32 = 1 | 1 << 16 | 1 << 17;
/// In the first header: the directory is named by the footer.
const DIRECTORY_AT_END: u64 = u64::MAX;
/// Compression: deflate, in zlib's form.
const DEFLATE: u16 = 1;
/// Kinds of markers: end of stream, table, directory, footer.
const MARK_END: u32 = 0;
const MARK_TABLE: u32 = 1;
const MARK_DIRECTORY: u32 = 2;
const MARK_FOOTER: u32 = 3;
/// zlib's level. The highest is a twentieth slower on grains that are mostly packed already, and no smaller.
const LEVEL: u32 = 6;

/// Writes the disk to a new file, whose descriptor calls it `name`.
pub(super) fn write(disk: &Disk, name: &str, path: &Path) -> Result<()> {
    let io = |what| Error::io(what, path);
    let sectors = disk.size().div_ceil(GRAIN as u64) * GRAIN_SECTORS;
    let tables = sectors.div_ceil(GRAIN_SECTORS * TABLE);
    let file = File::create_new(path).map_err(io("create"))?;
    let mut extent = Extent {
        output: BufWriter::new(file),
        at: 0,
        hash: Sha256::new(),
        table: Vec::new(),
        current: 0,
        directory: vec![0; tables as usize],
    };
    let start = vec![0; (OVERHEAD * SECTOR) as usize];
    extent.put(&start).map_err(io("write"))?;
    disk.convert(GRAIN, deflate, |number, bytes| {
        extent.grain(number, &bytes).map_err(io("write"))
    })?;
    let hash = extent.finish(sectors).map_err(io("write"))?;
    let file = extent
        .output
        .into_inner()
        .map_err(|e| io("write")(e.into_error()))?;
    // The content is known now, and with it the id.
    let mut start = header(sectors, DIRECTORY_AT_END);
    start.extend(descriptor(sectors, name, &hash));
    file.write_all_at(&start, 0)
        .and_then(|()| file.sync_all())
        .map_err(io("write"))
}

fn deflate(grain: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(LEVEL));
    let packed = encoder.write_all(grain).and_then(|()| encoder.finish());
    packed.map_err(|e| Error::Image {
        reason: format!("cannot compress: {e}"),
    })
}

/// An extent that is being written.
struct Extent {
    output: BufWriter<File>,
    /// Sectors written.
    at: u64,
    /// Over everything behind the descriptor.
    hash: Sha256,
    /// Entries of the table that is being filled; empty when it has no grain.
    table: Vec<u32>,
    /// Its number.
    current: u64,
    directory: Vec<u32>,
}

impl Extent {
    /// Appends bytes, filled up to a whole sector.
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let sectors = (bytes.len() as u64).div_ceil(SECTOR);
        let padding = vec![0; (sectors * SECTOR) as usize - bytes.len()];
        for part in [bytes, &padding] {
            self.hash.update(part);
            self.output.write_all(part)?;
        }
        self.at += sectors;
        if self.at > u64::from(u32::MAX) {
            return Err(std::io::Error::other("a VMDK cannot be larger than 2 TiB"));
        }
        Ok(())
    }

    fn mark(&mut self, kind: u32, sectors: u64) -> std::io::Result<()> {
        let mut marker = sectors.to_le_bytes().to_vec();
        marker.extend([0; 4]);
        marker.extend(kind.to_le_bytes());
        self.put(&marker)
    }

    /// Appends a grain: its first sector on the disk, its length, its data.
    fn grain(&mut self, number: u64, packed: &[u8]) -> std::io::Result<()> {
        if number / TABLE != self.current {
            self.end_table()?;
            self.current = number / TABLE;
        }
        self.table.resize(TABLE as usize, 0);
        self.table[(number % TABLE) as usize] = self.at as u32;
        let mut bytes = (number * GRAIN_SECTORS).to_le_bytes().to_vec();
        bytes.extend((packed.len() as u32).to_le_bytes());
        bytes.extend(packed);
        self.put(&bytes)
    }

    /// Appends the table of the grains so far.
    fn end_table(&mut self) -> std::io::Result<()> {
        if self.table.is_empty() {
            return Ok(());
        }
        self.mark(MARK_TABLE, TABLE_SECTORS)?;
        self.directory[self.current as usize] = self.at as u32;
        let table = little_endian(&std::mem::take(&mut self.table));
        self.put(&table)
    }

    /// Appends the last table, the directory, the footer and the end; the digest of the content.
    fn finish(&mut self, sectors: u64) -> std::io::Result<[u8; 32]> {
        self.end_table()?;
        let directory = little_endian(&self.directory);
        self.mark(MARK_DIRECTORY, (directory.len() as u64).div_ceil(SECTOR))?;
        let at = self.at;
        self.put(&directory)?;
        self.mark(MARK_FOOTER, 1)?;
        self.put(&header(sectors, at))?;
        self.mark(MARK_END, 0)?;
        Ok(self.hash.clone().finalize().into())
    }
}

fn little_endian(entries: &[u32]) -> Vec<u8> {
    entries.iter().flat_map(|n| n.to_le_bytes()).collect()
}

/// A sparse extent's header, one sector.
fn header(sectors: u64, directory: u64) -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    header.extend(VERSION.to_le_bytes());
    header.extend(FLAGS.to_le_bytes());
    for field in [sectors, GRAIN_SECTORS, DESCRIPTOR.0, DESCRIPTOR.1] {
        header.extend(field.to_le_bytes());
    }
    header.extend((TABLE as u32).to_le_bytes());
    // No second directory; the directory; where the grains begin.
    for field in [0, directory, OVERHEAD] {
        header.extend(field.to_le_bytes());
    }
    // Shut down cleanly; the line ends by which damage of a transfer as text is noticed.
    header.extend(b"\0\n \r\n");
    header.extend(DEFLATE.to_le_bytes());
    header.resize(SECTOR as usize, 0);
    header
}

/// The text that describes the disk. Its content id is from the content: other content, other id.
fn descriptor(sectors: u64, name: &str, hash: &[u8; 32]) -> Vec<u8> {
    // Ids with the highest bit have a meaning: ffffffff is "no parent".
    let id = u32::from_be_bytes([hash[0] & 0x7f, hash[1], hash[2], hash[3]]);
    let cylinders = (sectors / (255 * 63)).min(65535);
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID={id:08x}\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n\
         # Extent description\nRW {sectors} SPARSE \"{name}\"\n\n\
         # The Disk Data Base\n#DDB\n\nddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"255\"\nddb.geometry.sectors = \"63\"\nddb.virtualHWVersion = \"13\"\n"
    );
    let mut bytes = text.into_bytes();
    bytes.resize((DESCRIPTOR.1 * SECTOR) as usize, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::tests::{assert_same, sample};

    fn word(bytes: &[u8], at: u64) -> u64 {
        u32::from_le_bytes(bytes[at as usize..at as usize + 4].try_into().unwrap()).into()
    }

    fn long(bytes: &[u8], at: u64) -> u64 {
        u64::from_le_bytes(bytes[at as usize..at as usize + 8].try_into().unwrap())
    }

    /// Reads a file back as the format's description has it: by the footer's directory.
    fn read(bytes: &[u8]) -> Vec<u8> {
        let footer = bytes.len() as u64 - 2 * SECTOR;
        assert_eq!(&bytes[footer as usize..][..4], MAGIC);
        let sectors = long(bytes, footer + 12);
        let directory = long(bytes, footer + 56) * SECTOR;
        let mut disk = vec![0; (sectors * SECTOR) as usize];
        for (number, target) in (0..).zip(disk.chunks_mut(GRAIN)) {
            let table = word(bytes, directory + number / TABLE * 4) * SECTOR;
            if table == 0 {
                continue;
            }
            let grain = word(bytes, table + number % TABLE * 4) * SECTOR;
            if grain == 0 {
                continue;
            }
            assert_eq!(long(bytes, grain), number * GRAIN_SECTORS);
            let length = word(bytes, grain + 8) as usize;
            let packed = &bytes[grain as usize + 12..][..length];
            let mut decoder = flate2::read::ZlibDecoder::new(packed);
            std::io::Read::read_exact(&mut decoder, target).unwrap();
        }
        disk
    }

    #[test]
    fn read_back_and_the_same_each_time() {
        let (folder, disk) = sample();
        let paths = [folder.path().join("one"), folder.path().join("two")];
        for path in &paths {
            write(&disk, "sample.vmdk", path).unwrap();
        }
        let bytes = std::fs::read(&paths[0]).unwrap();
        assert!(bytes == std::fs::read(&paths[1]).unwrap());
        assert_same(&disk, &read(&bytes));
    }

    #[test]
    fn other_content_has_another_id() {
        let id = |hash: [u8; 32]| {
            let text = String::from_utf8(descriptor(1, "a", &hash)).unwrap();
            let line = text.lines().find(|line| line.starts_with("CID="));
            line.unwrap().to_owned()
        };
        assert_eq!(id([0xff; 32]), "CID=7fffffff");
        assert_eq!(id([1; 32]), "CID=01010101");
    }
}
