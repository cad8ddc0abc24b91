//! Python's compiled modules, on a root that nobody writes to.
//!
//! A reproducible build compiles them with a hash of their source (PEP 552), and Python then reads and hashes the source
//! at each import to see whether it changed. Here it cannot have changed: telling Python so halves what it reads.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Where packages have modules.
const FOLDERS: [&str; 2] = ["/usr/lib", "/usr/share"];

/// Folder of compiled modules beside their sources (PEP 3147).
const CACHE: &str = "__pycache__";

/// Offset and values of the flags, 32 bits in little-endian order (PEP 552).
const FLAGS: std::ops::Range<usize> = 4..8;
const CHECKED_HASH: [u8; 4] = [0b11, 0, 0, 0];
const UNCHECKED_HASH: [u8; 4] = [0b01, 0, 0, 0];

/// Marks every module that was compiled with a hash as one whose source needs no look.
pub(super) fn trust() -> Result<()> {
    let mut open: Vec<PathBuf> = FOLDERS.map(PathBuf::from).into();
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        let cache = folder.file_name().is_some_and(|name| name == CACHE);
        for entry in entries.flatten() {
            let kind = entry
                .file_type()
                .map_err(Error::io("look at", entry.path()))?;
            if kind.is_dir() {
                open.push(entry.path());
            } else if cache && kind.is_file() {
                trust_one(&entry.path())?;
            }
        }
    }
    Ok(())
}

/// The file is replaced, not written to: it may be shared with other trees.
fn trust_one(path: &Path) -> Result<()> {
    let content = fs::read(path).map_err(Error::io("read", path))?;
    let Some(content) = unchecked(content) else {
        return Ok(());
    };
    super::replace(path, &content)
}

/// The module with other flags; none when it has no checked hash.
fn unchecked(mut content: Vec<u8>) -> Option<Vec<u8>> {
    let flags = content.get_mut(FLAGS)?;
    if *flags != CHECKED_HASH {
        return None;
    }
    flags.copy_from_slice(&UNCHECKED_HASH);
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_modules_with_a_checked_hash_change() {
        let module =
            |flags: u8| [&b"\xf3\x0d\r\n"[..], &[flags, 0, 0, 0], b"hash----code"].concat();
        assert_eq!(unchecked(module(3)), Some(module(1)));
        for other in [
            module(0),
            module(1),
            b"\xf3\x0d\r\n\x03".to_vec(),
            Vec::new(),
        ] {
            assert_eq!(unchecked(other), None);
        }
    }
}
