//! The image that Google Compute Engine imports: a file `disk.raw` in a gzip-compressed tar archive.
//!
//! Google, "Manually import boot disks": the archive has GNU tar's old format, may be sparse, and the disk's size is a
//! multiple of 1 GiB. GNU tar's manual, "Basic Tar Format" and "Storing Sparse Files"; gzip: RFC 1952. The archive is one
//! gzip member whose blocks are compressed side by side.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;

use flate2::{Compress, Compression, Crc, FlushCompress};
use rayon::prelude::*;
use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::Identity;
use super::sparse::Disk;
use crate::error::{Error, Result};

/// The file's name is fixed.
const NAME: &str = "disk.raw";
/// Sizes are multiples of this.
const STEP: u64 = 1 << 30;
/// Holes are looked for in steps of this many bytes.
const GRANULE: usize = 64 << 10;
/// Bytes that are compressed as one.
const BLOCK: u64 = 1 << 20;
/// Blocks in memory at a time.
const BATCH: usize = 32;
const TAR_BLOCK: usize = 512;
/// zlib's level.
const LEVEL: u32 = 6;
/// Deflate, no flags, no time, no extra flags, unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// An empty last block of deflate.
const DEFLATE_END: [u8; 2] = [3, 0];

/// A part of the archive.
#[derive(Clone)]
enum Part {
    Bytes(Vec<u8>),
    Disk(Range<u64>),
}

/// Writes the disk to a new file.
pub(super) fn write(disk: &Disk, identity: &Identity, path: &Path) -> Result<()> {
    let io = |what| Error::io(what, path);
    let filled = disk.filled(GRANULE)?;
    let size = disk.size().next_multiple_of(STEP);
    let data: u64 = filled.iter().map(|range| range.end - range.start).sum();
    let start = headers(&filled, size, data, identity.epoch).map_err(io("write"))?;
    let mut parts = vec![Part::Bytes(start)];
    for range in filled {
        let starts = range.clone().step_by(BLOCK as usize);
        parts.extend(starts.map(|at| Part::Disk(at..range.end.min(at + BLOCK))));
    }
    // The last block is filled up; two empty ones end the archive.
    let padding = (data.next_multiple_of(TAR_BLOCK as u64) - data) as usize;
    parts.push(Part::Bytes(vec![0; padding + 2 * TAR_BLOCK]));
    let file = File::create_new(path).map_err(io("create"))?;
    let mut output = BufWriter::new(file);
    gzip(disk, &parts, &mut output, path)?;
    let file = output
        .into_inner()
        .map_err(|e| io("write")(e.into_error()))?;
    file.sync_all().map_err(io("flush"))
}

/// The file's header, with the map of what is not a hole.
fn headers(filled: &[Range<u64>], size: u64, data: u64, epoch: u64) -> std::io::Result<Vec<u8>> {
    let mut map: Vec<(u64, u64)> = filled
        .iter()
        .map(|range| (range.start, range.end - range.start))
        .collect();
    // GNU tar marks a hole at the end so.
    if filled.last().is_none_or(|last| last.end < size) {
        map.push((size, 0));
    }
    let mut header = Header::new_gnu();
    header.set_path(NAME)?;
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(epoch);
    header.set_size(data);
    header.set_entry_type(EntryType::GNUSparse);
    let Some(gnu) = header.as_gnu_mut() else {
        return Err(std::io::Error::other("not a GNU header"));
    };
    number(&mut gnu.realsize, size);
    let here = map.len().min(gnu.sparse.len());
    let (first, mut rest) = map.split_at(here);
    describe(&mut gnu.sparse, first);
    gnu.isextended = [u8::from(!rest.is_empty())];
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    while !rest.is_empty() {
        let mut more = GnuExtSparseHeader::new();
        let (some, others) = rest.split_at(rest.len().min(more.sparse.len()));
        describe(&mut more.sparse, some);
        rest = others;
        more.isextended = [u8::from(!rest.is_empty())];
        bytes.extend(more.as_bytes());
    }
    Ok(bytes)
}

fn describe(places: &mut [GnuSparseHeader], map: &[(u64, u64)]) {
    for (place, (offset, length)) in places.iter_mut().zip(map) {
        number(&mut place.offset, *offset);
        number(&mut place.numbytes, *length);
    }
}

/// A number in eleven octal digits, or, when it needs more, in base 256.
fn number(field: &mut [u8; 12], value: u64) {
    let octal = format!("{value:011o}\0");
    if octal.len() == field.len() {
        field.copy_from_slice(octal.as_bytes());
    } else {
        *field = [0; 12];
        field[0] = 0x80;
        field[4..].copy_from_slice(&value.to_be_bytes());
    }
}

/// Compresses the parts as one gzip member. Each block ends at a whole byte (a "sync flush"), so they can be joined.
fn gzip(disk: &Disk, parts: &[Part], output: &mut impl Write, path: &Path) -> Result<()> {
    let io = |what| Error::io(what, path);
    output.write_all(&GZIP_HEADER).map_err(io("write"))?;
    let mut sum = Crc::new();
    for batch in parts.chunks(BATCH) {
        let packed: Result<Vec<_>> = batch.par_iter().map(|part| pack(disk, part)).collect();
        for (bytes, own) in packed? {
            sum.combine(&own);
            output.write_all(&bytes).map_err(io("write"))?;
        }
    }
    let mut end = DEFLATE_END.to_vec();
    end.extend(sum.sum().to_le_bytes());
    end.extend(sum.amount().to_le_bytes());
    output.write_all(&end).map_err(io("write"))
}

fn pack(disk: &Disk, part: &Part) -> Result<(Vec<u8>, Crc)> {
    let plain = match part {
        Part::Bytes(bytes) => bytes.clone(),
        Part::Disk(range) => {
            let length = (range.end - range.start) as usize;
            let read = disk.read(range.start, length)?;
            read.unwrap_or_else(|| vec![0; length])
        }
    };
    let mut sum = Crc::new();
    sum.update(&plain);
    let mut packed = Vec::with_capacity(plain.len() + plain.len() / 64 + 1024);
    let mut deflate = Compress::new(Compression::new(LEVEL), false);
    loop {
        let rest = &plain[deflate.total_in() as usize..];
        let before = packed.len();
        deflate
            .compress_vec(rest, &mut packed, FlushCompress::Sync)
            .map_err(|e| Error::Image {
                reason: format!("cannot compress: {e}"),
            })?;
        // Room that was left says that nothing is held back.
        if packed.len() < packed.capacity() && deflate.total_in() as usize == plain.len() {
            return Ok((packed, sum));
        }
        packed.reserve((packed.len() - before).max(4096));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::tests::{assert_same, identity, sample};

    #[test]
    fn read_back_by_tar_and_the_same_each_time() {
        let (folder, disk) = sample();
        let paths = [folder.path().join("one"), folder.path().join("two")];
        for path in &paths {
            write(&disk, &identity(), path).unwrap();
        }
        let bytes = std::fs::read(&paths[0]).unwrap();
        assert!(bytes == std::fs::read(&paths[1]).unwrap());
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&bytes[..]));
        let mut entries = archive.entries().unwrap();
        let mut entry = entries.next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap(), Path::new(NAME));
        assert_eq!(entry.header().as_gnu().unwrap().real_size().unwrap(), STEP);
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        assert_same(&disk, &content);
        drop(entry);
        assert!(entries.next().is_none());
    }

    #[test]
    fn long_maps_and_large_sizes_are_read_back() {
        let filled: Vec<Range<u64>> = (0..60).map(|n| n << 20..(n << 20) + 512).collect();
        let data = 60 * 512;
        let mut archive = headers(&filled, 16 << 30, data, 7).unwrap();
        archive.resize(archive.len() + data as usize + 2 * TAR_BLOCK, 0);
        let mut archive = tar::Archive::new(&archive[..]);
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.size(), 16 << 30);
    }
}
