//! No time in the tree is later than that of its content.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use rayon::prelude::*;

use crate::error::{Error, Result};

/// Sets modification times after `epoch` (seconds since 1970) to it. Earlier ones stay: they are the packages', and
/// Python compares them with those in its compiled files.
pub(super) fn clamp(epoch: u64) -> Result<()> {
    let limit = i64::try_from(epoch).unwrap_or(i64::MAX);
    clamp_below(Path::new("/"), limit)
}

fn clamp_below(path: &Path, limit: i64) -> Result<()> {
    let metadata = path
        .symlink_metadata()
        .map_err(Error::io("inspect", path))?;
    if metadata.is_dir() {
        let entries = fs::read_dir(path).map_err(Error::io("list", path))?;
        let entries: Vec<fs::DirEntry> = entries
            .collect::<std::io::Result<_>>()
            .map_err(Error::io("list", path))?;
        let below = entries.into_par_iter();
        below.try_for_each(|entry| clamp_below(&entry.path(), limit))?;
    }
    if (metadata.mtime(), metadata.mtime_nsec()) > (limit, 0) {
        set(path, TimeSpec::new(limit, 0))?;
    }
    Ok(())
}

/// Sets the time of a change of content, also of a link. The time of the last look stays that of the making of the tree, which
/// is later than any epoch: in a file system that has such times it then becomes the epoch.
pub(crate) fn set(path: &Path, time: TimeSpec) -> Result<()> {
    utimensat(
        nix::fcntl::AT_FDCWD,
        path,
        &TimeSpec::UTIME_OMIT,
        &time,
        UtimensatFlags::NoFollowSymlink,
    )
    .map_err(|errno| Error::io("set the time of", path)(errno.into()))
}
