//! The only place that mounts.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::error::{Error, Result};
use crate::files;
use crate::plan::Mount;

/// Mounts a device read-only.
///
/// # Errors
/// `FR-IO`.
pub fn mount_read_only(device: &Path, target: &Path, kind: &str) -> Result<()> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    mount(Some(device), target, Some(kind), flags, None::<&str>)
        .map_err(|error| Error::io("mount", device, error.into()))
}

/// Mounts a device for writing.
///
/// # Errors
/// `FR-IO`.
pub fn mount_writable(device: &Path, target: &Path, kind: &str) -> Result<()> {
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    mount(Some(device), target, Some(kind), flags, None::<&str>)
        .map_err(|error| Error::io("mount", device, error.into()))
}

/// Whether something is mounted at a path.
pub fn is_mounted(target: &str) -> bool {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    table
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(target))
}

/// Mounts a FAT file system for writing, for nobody but root.
///
/// # Errors
/// `FR-IO`.
pub fn mount_fat(device: &Path, target: &Path) -> Result<()> {
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(
        Some(device),
        target,
        Some("vfat"),
        flags,
        Some("umask=0077"),
    )
    .map_err(|error| Error::io("mount", device, error.into()))
}

/// Unmounts.
///
/// # Errors
/// `FR-IO`.
pub fn unmount(target: &Path) -> Result<()> {
    umount2(target, MntFlags::MNT_DETACH)
        .map_err(|error| Error::io("unmount", target, error.into()))
}

/// Mounts what the plan wants and is there; returns the targets that were mounted now.
///
/// # Errors
/// `FR-IO`.
pub fn mount_all(mounts: &[Mount]) -> Result<Vec<String>> {
    let mut done = Vec::new();
    for wanted in mounts {
        let mounted = is_mounted(&wanted.target);
        let Some(device) = partition(&wanted.partition).filter(|_| !mounted) else {
            continue;
        };
        let target = Path::new(&wanted.target);
        // The mount point is part of a read-only image where there is one.
        if !target.is_dir() {
            files::make_directory(target, 0o755, None)?;
        }
        mount_read_only(&device, target, &wanted.kind)?;
        done.push(wanted.target.clone());
    }
    Ok(done)
}

/// Device of the partition with a GPT name, from the kernel rather than udev, which may not be done yet.
fn partition(name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir("/sys/class/block").ok()?.flatten();
    let mut found: Vec<String> = entries
        .filter(|entry| {
            let text = fs::read_to_string(entry.path().join("uevent")).unwrap_or_default();
            text.lines()
                .any(|line| line.strip_prefix("PARTNAME=") == Some(name))
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    found.first().map(|name| Path::new("/dev").join(name))
}
