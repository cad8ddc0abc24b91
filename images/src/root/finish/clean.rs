//! Removes what belongs to one machine or to the moment of the build.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::root::policy;

/// Secrets and identities that packages make when they are configured. A `*` stands for any characters of a name.
const INDIVIDUAL: [&str; 16] = [
    "/etc/machine-id",
    "/etc/bind/rndc.key",
    "/etc/ipsec.d/private/*",
    "/etc/munge/munge.key",
    "/etc/nsd/nsd_*",
    "/etc/ssh/ssh_host_*",
    "/etc/ssl/private/*",
    "/etc/ssl/certs/ssl-cert-snakeoil.pem",
    "/etc/hostid",
    "/etc/iscsi/initiatorname.iscsi",
    "/etc/nvme/host*",
    "/var/lib/dbus/machine-id",
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/credential.secret",
    "/var/lib/urandom/*",
    "/boot/loader/random-seed",
];

/// State of tools that cannot run on a read-only root, indexes made from what is in the tree, and backups.
const TRACES: [&str; 24] = [
    policy::POLICY_RC_D,
    "/initrd.img*",
    "/vmlinuz*",
    "/boot/initrd*",
    "/etc/apt/apt.conf.d/*.dpkg-*",
    "/var/backups/*",
    "/var/cache/*/*",
    "/var/lib/apt/*",
    "/var/lib/dpkg/*-old",
    "/var/lib/dpkg/available",
    "/var/lib/dpkg/lock*",
    "/var/lib/dpkg/parts/*",
    "/var/lib/dpkg/updates/*",
    "/var/lib/dpkg/triggers/Lock",
    "/var/lib/initramfs-tools",
    "/var/lib/python",
    "/var/lib/systemd/catalog/*",
    "/var/lib/systemd/deb-systemd-helper-*",
    "/var/lib/systemd/deb-systemd-user-helper-*",
    "/var/lib/ucf/*.[0-9]",
    "/run/*",
    "/tmp/*",
    "/var/tmp/*",
    "/etc/.updated",
];

/// Below it packages have folders in which there are traces.
const VARIABLE: &str = "/var";
/// Where dpkg keeps lists of what packages have.
const LISTS: &str = "/var/lib/dpkg/info";

/// Removes secrets and identities. `/etc/machine-id` becomes an empty file: the place where each machine gets its own.
pub(super) fn remove_individual() -> Result<()> {
    for pattern in INDIVIDUAL {
        remove_matches(pattern)?;
    }
    remove_broken_links(Path::new("/etc/ssl/certs"))?;
    super::replace(Path::new("/etc/machine-id"), b"")?;
    let dbus = Path::new("/var/lib/dbus");
    if dbus.is_dir() {
        let link = dbus.join("machine-id");
        symlink("/etc/machine-id", &link).map_err(Error::io("link", &link))?;
    }
    Ok(())
}

/// Removes caches, logs and the state of tools that only the build uses, but not the folders for them that packages have.
pub(super) fn remove_traces() -> Result<()> {
    let packaged = packaged_below(Path::new(VARIABLE))?;
    for pattern in TRACES {
        remove_unless(&packaged, find(pattern)?)?;
    }
    remove_written_logs(Path::new("/var/log"))
}

/// Paths below a folder that packages have.
fn packaged_below(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut paths = BTreeSet::new();
    for path in list(Path::new(LISTS))? {
        if path.extension().is_some_and(|ending| ending == "list") {
            let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
            let lines = bytes.split(|byte| *byte == b'\n');
            let below = lines.map(|line| Path::new(OsStr::from_bytes(line)));
            let below = below.filter(|path| path.starts_with(folder));
            paths.extend(below.map(Path::to_owned));
        }
    }
    Ok(paths)
}

/// Removes files and folders but for those to be kept: programs miss a folder that their package brings.
fn remove_unless(kept: &BTreeSet<PathBuf>, paths: Vec<PathBuf>) -> Result<()> {
    for path in paths {
        match kept.contains(&path) {
            true => remove_unless(kept, list(&path)?)?,
            false => remove(&path)?,
        }
    }
    Ok(())
}

/// Links by hash to certificates that are gone.
fn remove_broken_links(folder: &Path) -> Result<()> {
    for path in list(folder)? {
        if path.is_symlink() && !path.exists() {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Logs of the build. Empty files stay: packages make them for the owner and mode.
fn remove_written_logs(folder: &Path) -> Result<()> {
    for path in list(folder)? {
        let metadata = path
            .symlink_metadata()
            .map_err(Error::io("inspect", &path))?;
        if metadata.is_dir() {
            remove_written_logs(&path)?;
        } else if metadata.len() > 0 {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Removes what matches an absolute pattern; folders with all that is in them.
fn remove_matches(pattern: &str) -> Result<()> {
    find(pattern)?.iter().try_for_each(|path| remove(path))
}

/// What matches an absolute pattern.
fn find(pattern: &str) -> Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::from("/")];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        let mut next = Vec::new();
        for folder in &found {
            next.extend(list(folder)?.into_iter().filter(|path| {
                path.file_name()
                    .is_some_and(|name| matches(part.as_bytes(), name.as_encoded_bytes()))
            }));
        }
        found = next;
    }
    Ok(found)
}

/// Entries of a folder; none if it is no folder. Links to folders are not followed.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder
        .symlink_metadata()
        .is_ok_and(|metadata| metadata.is_dir())
    {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder).map_err(Error::io("list", folder))?;
    entries
        .map(|entry| {
            entry
                .map(|entry| entry.path())
                .map_err(Error::io("list", folder))
        })
        .collect()
}

fn remove(path: &Path) -> Result<()> {
    let metadata = path
        .symlink_metadata()
        .map_err(Error::io("inspect", path))?;
    let removed = if metadata.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.map_err(Error::io("remove", path))
}

/// Whether a name matches a pattern in which `*` stands for any characters and `[0-9]` for a digit.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=name.len()).any(|skipped| matches(rest, &name[skipped..])),
        ([b'[', b'0', b'-', b'9', b']', rest @ ..], [digit, name @ ..]) => {
            digit.is_ascii_digit() && matches(rest, name)
        }
        ([wanted, rest @ ..], [found, name @ ..]) => wanted == found && matches(rest, name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_packages_bring_stays_in_caches() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["web/uploads/of-today", "web/made", "index"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        for name in ["web/uploads/x", "web/tag", "file"] {
            fs::write(path(name), "").unwrap();
        }
        let kept = ["web", "web/uploads", "web/tag"].map(path).into();
        remove_unless(&kept, list(folder.path()).unwrap()).unwrap();
        assert_eq!(list(folder.path()).unwrap(), [path("web")]);
        let mut left = list(&path("web")).unwrap();
        left.sort();
        assert_eq!(left, [path("web/tag"), path("web/uploads")]);
        assert!(list(&path("web/uploads")).unwrap().is_empty());
    }

    #[test]
    fn patterns() {
        let cases = [
            ("*", "x", true),
            ("ssh_host_*", "ssh_host_rsa_key.pub", true),
            ("ssh_host_*", "sshd_config", false),
            ("*-old", "status-old", true),
            ("*-old", "status-older", false),
            ("*.[0-9]", "hashfile.0", true),
            ("*.[0-9]", "hashfile", false),
            ("lock*", "lock", true),
            ("", "x", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }
}
