//! Digests of files that consist of holes for the most part.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::formats::data_ranges;

/// SHA-256 in hex and size of a file. Its holes are zeros that need not be read.
///
/// # Errors
/// When it cannot be read.
pub fn digest(path: &Path) -> Result<(String, u64)> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    let mut hash = Sha256::new();
    hash_range(&mut hash, &file, 0..size).map_err(Error::io("read", path))?;
    Ok((hex::encode(hash.finalize()), size))
}

/// Hashes a range of a file. Its holes are zeros that need not be read.
pub(crate) fn hash_range(hash: &mut Sha256, file: &File, range: Range<u64>) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = range.start;
    for data in data_ranges(file)? {
        let data = data.start.max(at)..data.end.min(range.end);
        if data.is_empty() {
            continue;
        }
        hash_zeros(hash, data.start - at);
        at = data.start;
        while at < data.end {
            let length = (data.end - at).min(1 << 20) as usize;
            file.read_exact_at(&mut buffer[..length], at)?;
            hash.update(&buffer[..length]);
            at += length as u64;
        }
    }
    hash_zeros(hash, range.end - at);
    Ok(())
}

fn hash_zeros(hash: &mut Sha256, mut left: u64) {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    while left > 0 {
        let length = left.min(ZEROS.len() as u64);
        hash.update(&ZEROS[..length as usize]);
        left -= length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_hashed_with_their_holes() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(11 << 20).unwrap();
        for at in [5, 4 << 20, (6 << 20) - 7] {
            let text = b"some text, some more text";
            file.as_file().write_all_at(text, at).unwrap();
        }
        let bytes = std::fs::read(file.path()).unwrap();
        let file = file.as_file_mut();
        let size = bytes.len() as u64;
        for range in [0..size, 7..9, 4 << 20..6 << 20, 7 << 20..9 << 20, 5..5] {
            let mut hash = Sha256::new();
            hash_range(&mut hash, file, range.clone()).unwrap();
            let expected = Sha256::digest(&bytes[range.start as usize..range.end as usize]);
            assert_eq!(hash.finalize(), expected, "{range:?}");
        }
    }
}
