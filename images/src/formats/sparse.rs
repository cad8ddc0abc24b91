//! Reading a raw disk without its holes, and converting it piece by piece on all processors.
//!
//! Which pieces count is decided by their content. The holes that a file system reports only save reading them: file
//! systems keep holes of different sizes, and the same disk must give the same bytes on each.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Whence, lseek};
use rayon::prelude::*;

use crate::error::{Error, Result};

/// Pieces in memory at a time, in bytes: enough for all processors, little beside what compressing needs.
const BATCH: usize = 32 << 20;

/// A raw disk image.
#[derive(Debug)]
pub(super) struct Disk {
    file: File,
    path: PathBuf,
    size: u64,
    /// Where the file system holds data, in order.
    data: Vec<Range<u64>>,
}

impl Disk {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let size = file.metadata().map_err(Error::io("read", path))?.len();
        let data = data_ranges(&file).map_err(Error::io("read", path))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            size,
            data,
        })
    }

    /// Bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a piece; `None` when it has nothing but zeros. Behind the disk's end there are zeros.
    pub(super) fn read(&self, offset: u64, length: usize) -> Result<Option<Vec<u8>>> {
        let there = self.size.saturating_sub(offset).min(length as u64);
        let mut bytes = vec![0; length];
        self.file
            .read_exact_at(&mut bytes[..there as usize], offset)
            .map_err(Error::io("read", &self.path))?;
        Ok(bytes.iter().any(|&byte| byte != 0).then_some(bytes))
    }

    /// Numbers of the pieces of `length` bytes that may hold data.
    fn pieces(&self, length: usize) -> Vec<u64> {
        let length = length as u64;
        let mut pieces = Vec::new();
        for range in &self.data {
            let first = range.start / length;
            let next = pieces.last().map_or(0, |last| last + 1);
            pieces.extend(first.max(next)..range.end.div_ceil(length));
        }
        pieces
    }

    /// Converts each piece of `length` bytes that has data, several at a time, and hands over the results in order, with
    /// the pieces' numbers.
    pub(super) fn convert<T: Send>(
        &self,
        length: usize,
        convert: impl Fn(&[u8]) -> Result<T> + Sync,
        mut take: impl FnMut(u64, T) -> Result<()>,
    ) -> Result<()> {
        let one = |&number: &u64| -> Result<Option<(u64, T)>> {
            match self.read(number * length as u64, length)? {
                Some(bytes) => Ok(Some((number, convert(&bytes)?))),
                None => Ok(None),
            }
        };
        let batch = (BATCH / length).max(rayon::current_num_threads());
        for numbers in self.pieces(length).chunks(batch) {
            let converted: Result<Vec<_>> = numbers.par_iter().map(one).collect();
            for (number, result) in converted?.into_iter().flatten() {
                take(number, result)?;
            }
        }
        Ok(())
    }

    /// The ranges that have data, in steps of `length` bytes; neighbours are one.
    pub(super) fn filled(&self, length: usize) -> Result<Vec<Range<u64>>> {
        let mut filled: Vec<Range<u64>> = Vec::new();
        self.convert(
            length,
            |_| Ok(()),
            |number, ()| {
                let start = number * length as u64;
                let end = (start + length as u64).min(self.size);
                match filled.last_mut() {
                    Some(last) if last.end == start => last.end = end,
                    _ => filled.push(start..end),
                }
                Ok(())
            },
        )?;
        Ok(filled)
    }
}

/// Where a file has data, as lseek(2) tells; all of it on a file system that does not know.
pub(crate) fn data_ranges(file: &File) -> std::io::Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut from = 0;
    loop {
        let start = match lseek(file, from, Whence::SeekData) {
            Ok(start) => start,
            Err(nix::errno::Errno::ENXIO) => return Ok(ranges),
            Err(other) => return Err(other.into()),
        };
        let end = lseek(file, start, Whence::SeekHole)?;
        ranges.push(start as u64..end as u64);
        from = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pieces_with_data_are_converted_and_in_order() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(10 << 20).unwrap();
        for (at, bytes) in [
            (5, &b"a"[..]),
            (3 << 20, b"b"),
            ((10 << 20) - 1, b"c"),
            // Written zeros are no data.
            (7 << 20, &[0; 4096]),
        ] {
            file.as_file_mut().write_all_at(bytes, at).unwrap();
        }
        let disk = Disk::open(file.path()).unwrap();
        let mut seen = Vec::new();
        disk.convert(
            1 << 20,
            |piece| Ok(piece.iter().filter(|&&byte| byte != 0).count()),
            |number, count| {
                seen.push((number, count));
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(seen, [(0, 1), (3, 1), (9, 1)]);
        let filled = disk.filled(512 << 10).unwrap();
        assert_eq!(
            filled,
            [
                0..512 << 10,
                3 << 20..(3 << 20) + (512 << 10),
                (9 << 20) + (512 << 10)..10 << 20
            ]
        );
    }

    #[test]
    fn a_piece_at_the_end_is_filled_up_with_zeros() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all_at(b"x", 1000).unwrap();
        let disk = Disk::open(file.path()).unwrap();
        let piece = disk.read(1000, 100).unwrap().unwrap();
        assert_eq!((piece.len(), piece[0]), (100, b'x'));
        assert_eq!(disk.read(1001, 100).unwrap(), None);
    }
}
