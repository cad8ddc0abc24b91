//! Where things are on a machine whose root is read-only.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::error::{Error, Result};

/// Folders of `/` that machines write to: name, place, and the mode of the place.
const WRITTEN: [(&str, &str, u32); 4] = [
    ("/home", "/var/home", 0o755),
    ("/root", "/var/roothome", 0o700),
    ("/opt", "/var/opt", 0o755),
    ("/srv", "/var/srv", 0o755),
];

/// The package database describes the image, not the machine, so it is where the image is.
const DATABASE: (&str, &str) = ("/var/lib/dpkg", "/usr/lib/sysimage/dpkg");

/// What file systems are mounted on at run time, with the mode they have until then.
const MOUNT_POINTS: [(&str, u32); 10] = [
    ("/boot", 0o755),
    ("/dev", 0o755),
    ("/efi", 0o755),
    ("/media", 0o755),
    ("/mnt", 0o755),
    ("/proc", 0o555),
    ("/run", 0o755),
    ("/sys", 0o555),
    ("/tmp", 0o1777),
    ("/www", 0o755),
];

/// Moves what machines write to `/var`, and what they must not write out of it.
pub(super) fn link_folders() -> Result<()> {
    for (name, place, mode) in WRITTEN {
        move_and_link(name, place)?;
        set_mode(place, mode)?;
    }
    move_and_link(DATABASE.0, DATABASE.1)?;
    for (name, mode) in MOUNT_POINTS {
        make_folder(name)?;
        set_mode(name, mode)?;
    }
    make_folder("/var/data")?;
    replace_with_link("/data", "var/data")?;
    make_folder("/var/tmp")?;
    set_mode("/var/tmp", 0o1777)
}

/// Writes the few files of `/etc` that no package brings, or brings from the machine it is configured on.
pub(super) fn write_base_files() -> Result<()> {
    write(
        "/etc/hosts",
        "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
    )?;
    replace_with_link("/etc/mtab", "../proc/self/mounts")?;
    if !Path::new("/etc/fstab").exists() {
        write(
            "/etc/fstab",
            "# Mounts are set up by the initrd and by units.\n",
        )?;
    }
    if Path::new("/usr/lib/systemd/systemd-resolved").exists() {
        replace_with_link(
            "/etc/resolv.conf",
            "../run/systemd/resolve/stub-resolv.conf",
        )?;
    } else if !Path::new("/etc/resolv.conf").exists() {
        write("/etc/resolv.conf", "")?;
    }
    Ok(())
}

/// Tells systemd (`ConditionNeedsUpdate=`) that what it derives from `/usr` is up to date: it compares these files'
/// times with that of `/usr`, and would else rebuild caches at each boot.
pub(super) fn mark_as_updated() -> Result<()> {
    write("/etc/.updated", "")?;
    write("/var/.updated", "")
}

fn move_and_link(name: &str, place: &str) -> Result<()> {
    let old = Path::new(name);
    if old.is_symlink() {
        return Ok(());
    }
    if let Some(parent) = Path::new(place).parent() {
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    }
    if old.is_dir() {
        if Path::new(place).exists() {
            fs::remove_dir(place).map_err(Error::io("replace", place))?;
        }
        fs::rename(old, place).map_err(Error::io("move", old))?;
    } else {
        make_folder(place)?;
    }
    // Relative, so that it means the same in a tree that is mounted elsewhere.
    let up = "../".repeat(name.matches('/').count() - 1);
    symlink(format!("{up}{}", &place[1..]), old).map_err(Error::io("link", old))
}

fn replace_with_link(name: &str, target: &str) -> Result<()> {
    if Path::new(name).symlink_metadata().is_ok() {
        fs::remove_file(name).map_err(Error::io("replace", name))?;
    }
    symlink(target, name).map_err(Error::io("link", name))
}

fn make_folder(name: &str) -> Result<()> {
    fs::create_dir_all(name).map_err(Error::io("create", name))
}

fn set_mode(name: &str, mode: u32) -> Result<()> {
    fs::set_permissions(name, fs::Permissions::from_mode(mode))
        .map_err(Error::io("set the mode of", name))
}

fn write(name: &str, text: &str) -> Result<()> {
    super::replace(Path::new(name), text.as_bytes())
}
