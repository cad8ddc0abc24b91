//! Debian binary packages: control members, and unpacking confined to a folder.
//!
//! Format: deb(5): an `ar` archive of `debian-binary`, `control.tar[.gz|.xz|.zst]` and `data.tar[.gz|.xz|.zst]`.
//! Names in the archive are hostile: they must be relative and without `..`, folders are opened with `openat2` so
//! that no symbolic link (the merged-/usr ones must be followed) leads out of the folder, nothing is written through
//! a link, and devices are refused.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::{Error, Result};
pub(crate) use extract::{Attributes, Extractor, PackedFile, relative};

mod extract;
mod members;
pub(crate) mod plain;

/// Largest control member that is read, in bytes. The largest in Debian 13 are lists of a few megabytes.
const CONTROL_LIMIT: u64 = 64 << 20;
/// Largest unpacked content of one package, in bytes.
const DATA_LIMIT: u64 = 8 << 30;
/// Memory a decoder may take, in bytes: `xz -9` needs 65 MiB, `zstd --long=27` 128 MiB.
const DECODER_MEMORY: u64 = 256 << 20;
/// Base-2 logarithm of the largest zstd window, see [`DECODER_MEMORY`].
const ZSTD_WINDOW_LOG: u32 = 27;

/// How to unpack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Owners {
    /// Files get the owner and the whole mode that the package says; needs mapped ids.
    Package,
    /// Files belong to the caller, set-id bits are dropped and the owner can always read: for trees of tools.
    Caller,
}

/// A file of a package's control archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlMember {
    /// The bytes.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Seconds since 1970.
    pub modified: u64,
}

/// Reads the control members of a package: `control`, `md5sums`, `postinst` and so on.
///
/// # Errors
/// [`Error::Package`] when the file is not a package, [`Error::Io`] when it cannot be read.
pub fn control_members(package: &Path) -> Result<BTreeMap<String, ControlMember>> {
    let mut members = BTreeMap::new();
    with_member(package, "control.tar", CONTROL_LIMIT, |archive| {
        for entry in archive.entries()? {
            let mut entry = entry?;
            let name = String::from_utf8_lossy(&entry.path_bytes())
                .trim_start_matches("./")
                .to_owned();
            if entry.header().entry_type().is_file() {
                let mut content = Vec::new();
                entry.read_to_end(&mut content)?;
                let member = ControlMember {
                    content,
                    mode: entry.header().mode()? & 0o777,
                    modified: entry.header().mtime()?,
                };
                members.insert(name, member);
            }
        }
        Ok(())
    })?;
    Ok(members)
}

/// Unpacks a package's files into the existing folder `target`.
///
/// # Errors
/// [`Error::Package`] naming the entry that is refused or could not be written.
pub fn unpack(package: &Path, target: &Path, owners: Owners) -> Result<()> {
    for_each_file(package, target, owners, &mut |extractor, file| {
        extractor.extract(file)
    })
}

/// Gives every entry of a package's data archive to `work`, with what writes it, or does not, into the existing folder `target`.
///
/// # Errors
/// As [`unpack`].
pub(crate) fn for_each_file(
    package: &Path,
    target: &Path,
    owners: Owners,
    work: &mut dyn FnMut(&mut Extractor, &mut PackedFile) -> io::Result<()>,
) -> Result<()> {
    let mut extractor = Extractor::new(target, owners).map_err(Error::io("open", target))?;
    with_member(package, "data.tar", DATA_LIMIT, |archive| {
        for entry in archive.entries()? {
            let mut entry = entry?;
            work(&mut extractor, &mut PackedFile::new(&mut entry, owners)?)?;
        }
        Ok(())
    })
}

/// Unpacks packages side by side. They must not have files in common, folders aside: the result would depend on chance.
/// `report` gets the number of packages done.
///
/// # Errors
/// As [`unpack`]; a file that is in two packages is refused.
pub fn unpack_all(
    packages: &[PathBuf],
    target: &Path,
    owners: Owners,
    report: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let done = std::sync::atomic::AtomicU64::new(0);
    let size = |path: &PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
    let mut order: Vec<&PathBuf> = packages.iter().collect();
    // Large ones first, or one of them would be left alone at the end.
    order.sort_by_cached_key(|path| std::cmp::Reverse(size(path)));
    order
        .into_par_iter()
        .with_max_len(1)
        .try_for_each(|package| {
            unpack(package, target, owners)?;
            report(done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1);
            Ok(())
        })
}

/// Finds the member `NAME[.compression]` and gives its tar archive to `read`.
fn with_member(
    package: &Path,
    name: &str,
    limit: u64,
    read: impl FnOnce(&mut tar::Archive<Box<dyn Read + '_>>) -> io::Result<()>,
) -> Result<()> {
    let refuse = |reason: String| Error::Package {
        path: package.to_owned(),
        reason,
    };
    let file = File::open(package).map_err(Error::io("open", package))?;
    let input = BufReader::with_capacity(1 << 17, file);
    let member = members::find(input, name)
        .map_err(|error| refuse(format!("not a Debian package: {error}")))?;
    let Some((full, member)) = member else {
        return Err(refuse(format!("not a Debian package: no member {name}")));
    };
    let damaged = |error: io::Error| match error.kind() {
        // Not the package's fault.
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem => {
            Error::io("unpack", package)(error)
        }
        _ => refuse(format!("{full}: {error}")),
    };
    let compression = full.strip_prefix(name).unwrap_or_default();
    let decoder = decode(compression, member).map_err(damaged)?;
    let bounded: Box<dyn Read + '_> = Box::new(Bounded {
        inner: decoder,
        left: limit,
    });
    read(&mut tar::Archive::new(bounded)).map_err(damaged)
}

fn decode<'a>(compression: &str, member: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        "" => Box::new(member),
        ".gz" => Box::new(flate2::read::GzDecoder::new(member)),
        ".xz" => {
            let stream = liblzma::stream::Stream::new_stream_decoder(DECODER_MEMORY, 0)?;
            Box::new(liblzma::read::XzDecoder::new_stream(member, stream))
        }
        ".zst" => {
            let mut decoder = zstd::Decoder::new(member)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        other => return Err(io::Error::other(format!("unknown compression {other}"))),
    })
}

/// A reader that fails, rather than ends, after so many bytes.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| io::Error::other("unpacks to too much"))?;
        Ok(count)
    }
}
