//! Mounts: the kernel's file systems, the root, `/var` and the overlay of `/etc`.

use super::failure::{Failure, Step};
use nix::mount::{MsFlags, mount};
use std::fs;
use std::path::Path;

/// Where the root is put together.
pub const ROOT: &str = "/sysroot";

const HINT: &str = "the image is damaged or its kernel lacks a file system: boot another version, or write the image anew";

/// Mounts `/dev`, `/proc`, `/sys` and `/run`.
pub fn kernel_file_systems() -> Step<()> {
    let strict = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let table = [
        ("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=0755"),
        ("proc", "/proc", strict | MsFlags::MS_NOEXEC, ""),
        ("sysfs", "/sys", strict | MsFlags::MS_NOEXEC, ""),
        ("tmpfs", "/run", strict, "mode=0755"),
    ];
    for (kind, target, flags, options) in table {
        attach(kind, kind, target, flags, options)?;
    }
    Ok(())
}

/// Mounts the verified root, read-only.
pub fn root(device: &Path) -> Step<()> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    attach("erofs", device, ROOT, flags, "")
}

/// Mounts `/var`; ext4 replays its journal by itself after a power cut.
pub fn var(device: &Path, target: &Path) -> Step<()> {
    attach("ext4", device, target, MsFlags::MS_NODEV, "")
}

/// Keeps systemd from unmounting `/var` among the other mounts when the machine stops: the journal still writes to it, and
/// the attempt would end in an error on every console. It is unmounted at the very end, like the root.
pub fn keep_var() -> Step<()> {
    let folder = "/run/systemd/system/var.mount.d";
    make_directory(folder)?;
    let path = format!("{folder}/50-farrow-init.conf");
    fs::write(&path, "[Unit]\nDefaultDependencies=no\n")
        .map_err(|e| Failure::new("FR-INIT-MOUNT", format!("cannot write {path}: {e}"), HINT))
}

/// Puts a writable layer over `/etc` that lasts until the machine stops.
pub fn etc(target: &Path) -> Step<()> {
    let (upper, work) = ("/run/farrow/etc/upper", "/run/farrow/etc/work");
    for path in [upper, work] {
        make_directory(path)?;
    }
    let options = format!(
        "lowerdir={},upperdir={upper},workdir={work}",
        target.display()
    );
    attach("overlay", "overlay", target, MsFlags::MS_NODEV, &options)
}

fn make_directory(path: &str) -> Step<()> {
    fs::create_dir_all(path).map_err(|e| {
        Failure::new(
            "FR-INIT-MOUNT",
            format!("cannot make the directory {path}: {e}"),
            HINT,
        )
    })
}

fn attach(
    kind: &str,
    source: impl AsRef<Path>,
    target: impl AsRef<Path>,
    flags: MsFlags,
    options: &str,
) -> Step<()> {
    let (source, target) = (source.as_ref(), target.as_ref());
    mount(Some(source), target, Some(kind), flags, Some(options)).map_err(|e| {
        let message = format!(
            "cannot mount {} ({kind}) at {}: {e}",
            source.display(),
            target.display()
        );
        Failure::new("FR-INIT-MOUNT", message, HINT)
    })
}
