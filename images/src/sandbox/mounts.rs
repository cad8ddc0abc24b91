//! The mounts of a sandbox: its root, what is bound into it, and fresh `/proc`, `/dev`, `/run`, `/tmp`.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{chdir, pivot_root};

use super::{Bind, Ids, Layers, Root, Sandbox, emulation};
use crate::error::{Error, Result};

/// Where the host's root and the new root are while mounts are made.
const HOST: &str = "/host";
const NEW: &str = "/new";
/// A folder that exists wherever a sandbox can be started, to mount the first tmpfs on.
const SPOT: &str = "/proc";

/// Folders of the root that get a file system of their own.
const OWN: [&str; 5] = ["proc", "dev", "sys", "run", "tmp"];

/// Builds the mounts and makes them this process's whole view of the file system.
pub(super) fn enter(sandbox: &Sandbox) -> Result<()> {
    step_aside(Path::new(SPOT))?;
    match &sandbox.root {
        Root::Writable(path) => bind(&on_host(path), Path::new(NEW), false)?,
        Root::ReadOnly(path) => mount_read_only_root(&on_host(path), &sandbox.binds)?,
        Root::Layers(layers) => overlay(layers, Path::new(NEW))?,
    }
    for folder in OWN {
        make_dir(&Path::new(NEW).join(folder))?;
    }
    mount_own(sandbox)?;
    if let Some(emulator) = &sandbox.emulator {
        if sandbox.ids == Ids::Host {
            return Err(Error::sandbox("register an emulator")(
                "without a user namespace of its own it would be the host's",
            ));
        }
        let program = on_host(&emulator.program);
        emulation::enter(emulator, &program, Path::new(HOST), Path::new(NEW))?;
    }
    for bound in &sandbox.binds {
        let target = inside(&bound.target)?;
        let source = on_host(&bound.source);
        make_target(&source, &target)?;
        bind(&source, &target, bound.read_only)?;
    }
    if matches!(sandbox.root, Root::ReadOnly(_)) {
        // Only the tmpfs that holds the mount points: everything below is mounted already.
        remount_read_only(Path::new(NEW))?;
    }
    switch_to(NEW)
}

/// Moves to a tmpfs with the host's root at [`HOST`] and an empty [`NEW`]. `spot` is any folder but `/`.
fn step_aside(spot: &Path) -> Result<()> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount_fs(None, Path::new("/"), None, private, None)?;
    mount_tmpfs(spot, "mode=0755")?;
    let host = spot.join(&HOST[1..]);
    make_dir(&host)?;
    pivot_root(spot, &host).map_err(Error::sandbox("leave the host's root"))?;
    chdir("/").map_err(Error::sandbox("leave the host's root"))?;
    make_dir(Path::new(NEW))
}

/// Mounts trees as one. `userxattr` is what a user namespace may do (since Linux 5.11). `volatile`: the end of the mount
/// does not wait for the whole file system to be written out; the kernel then wants another working folder each time,
/// and trees of a run that does not end are thrown away anyway.
fn overlay(layers: &Layers, target: &Path) -> Result<()> {
    let work = tempfile::Builder::new()
        .prefix("mount-")
        .tempdir_in(on_host(&layers.work))
        .map_err(Error::io("create in", &layers.work))?
        .keep();
    let lower = layers.lower.iter();
    let lower: Vec<Vec<u8>> = lower.map(|path| option(&on_host(path), true)).collect();
    let fields = [
        b"userxattr,volatile,lowerdir=".to_vec(),
        lower.join(&b':'),
        b",upperdir=".to_vec(),
        option(&on_host(&layers.upper), false),
        b",workdir=".to_vec(),
        option(&work, false),
    ];
    let options = std::ffi::OsString::from_vec(fields.concat());
    mount(
        Some("overlay"),
        target,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_os_str()),
    )
    .map_err(Error::sandbox(format!(
        "see trees as layers below {}",
        layers.upper.display()
    )))
}

/// A path as overlayfs takes it: separators in names are escaped.
fn option(path: &Path, is_list: bool) -> Vec<u8> {
    let separators: &[u8] = if is_list { b"\\,:" } else { b"\\," };
    let mut escaped = Vec::new();
    for &byte in path.as_os_str().as_encoded_bytes() {
        if separators.contains(&byte) {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    escaped
}

/// A tmpfs with the tree's entries bound into it, so that mount points can be made without touching the tree.
fn mount_read_only_root(root: &Path, binds: &[Bind]) -> Result<()> {
    mount_tmpfs(Path::new(NEW), "mode=0755")?;
    let missing: Vec<&Path> = binds
        .iter()
        .filter_map(|bound| bound.target.strip_prefix("/").ok())
        .filter(|target| !root.join(target).exists())
        .collect();
    expose(root, Path::new(""), &missing)
}

/// Binds the entries of one folder; of a folder below which a mount point is missing, the entries are bound in turn.
fn expose(root: &Path, folder: &Path, missing: &[&Path]) -> Result<()> {
    let source = root.join(folder);
    for entry in fs::read_dir(&source).map_err(Error::io("list", &source))? {
        let entry = entry.map_err(Error::io("list", &source))?;
        let relative = folder.join(entry.file_name());
        let target = Path::new(NEW).join(&relative);
        let kind = entry
            .file_type()
            .map_err(Error::io("inspect", entry.path()))?;
        if OWN.iter().any(|own| relative == Path::new(own)) {
            continue;
        }
        if kind.is_symlink() {
            let link = fs::read_link(entry.path()).map_err(Error::io("read", entry.path()))?;
            symlink(link, &target).map_err(Error::io("link", &target))?;
        } else if kind.is_dir() && missing.iter().any(|path| path.starts_with(&relative)) {
            make_dir(&target)?;
            expose(root, &relative, missing)?;
        } else {
            make_target(&entry.path(), &target)?;
            bind(&entry.path(), &target, true)?;
        }
    }
    Ok(())
}

/// `/proc`, `/dev`, `/run`, `/tmp`.
fn mount_own(sandbox: &Sandbox) -> Result<()> {
    let new = Path::new(NEW);
    let proc = new.join("proc");
    mount(
        Some("proc"),
        &proc,
        Some("proc"),
        own_flags() | MsFlags::MS_NOEXEC,
        None::<&str>,
    )
    .map_err(|errno| Error::Sandbox {
        what: "mount /proc".to_owned(),
        reason: errno.to_string(),
        hint: Some(
            "a container that hides parts of /proc forbids this: start it with unmasked /proc"
                .to_owned(),
        ),
    })?;
    // Root's own id is the host's inside: these files would let a maintainer script change the running kernel.
    let guarded = ["sys", "sysrq-trigger", "irq", "bus"];
    for name in guarded.iter().filter(|_| sandbox.ids != Ids::Host) {
        let path = proc.join(name);
        if path.exists() {
            bind(&path, &path, true)?;
        }
    }
    mount_tmpfs(&new.join("run"), "mode=0755")?;
    mount_tmpfs(&new.join("tmp"), "mode=1777")?;
    mount_dev(&new.join("dev"), sandbox.kvm)
}

fn mount_dev(dev: &Path, kvm: bool) -> Result<()> {
    mount_tmpfs(dev, "mode=0755")?;
    let wanted = ["null", "zero", "full", "random", "urandom", "tty"]
        .into_iter()
        .chain(kvm.then_some("kvm"));
    for name in wanted {
        let source = Path::new(HOST).join("dev").join(name);
        if source.exists() {
            make_target(&source, &dev.join(name))?;
            bind(&source, &dev.join(name), false)?;
        }
    }
    for (name, link) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(link, dev.join(name)).map_err(Error::io("link", dev.join(name)))?;
    }
    make_dir(&dev.join("pts"))?;
    let options = Some("newinstance,ptmxmode=0666,mode=0620");
    mount_fs(
        Some("devpts"),
        &dev.join("pts"),
        Some("devpts"),
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
        options,
    )?;
    make_dir(&dev.join("shm"))?;
    mount_tmpfs(&dev.join("shm"), "mode=1777")
}

/// Makes `new` the root and lets go of everything else.
fn switch_to(new: &str) -> Result<()> {
    chdir(new).map_err(Error::sandbox("enter the new root"))?;
    // The old root is stacked on the new one, from where it is taken off: no folder is needed for it.
    pivot_root(".", ".").map_err(Error::sandbox("enter the new root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(Error::sandbox("let go of the old root"))?;
    chdir("/").map_err(Error::sandbox("enter the new root"))
}

pub(super) fn bind(source: &Path, target: &Path, read_only: bool) -> Result<()> {
    // Recursive: a part of a locked mount tree cannot be bound without what is mounted below it.
    mount(
        Some(source),
        target,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .map_err(Error::sandbox(format!(
        "bind {} to {}",
        source.display(),
        target.display()
    )))?;
    if read_only {
        remount_read_only(target)
    } else {
        Ok(())
    }
}

/// A user namespace may add restrictions to a mount but must repeat those it already has.
fn remount_read_only(target: &Path) -> Result<()> {
    let known = [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ];
    let present = statvfs(target)
        .map_err(Error::sandbox(format!(
            "inspect the mount {}",
            target.display()
        )))?
        .flags();
    let flags = known
        .into_iter()
        .filter(|(flag, _)| present.contains(*flag))
        .fold(
            MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY,
            |all, (_, flag)| all | flag,
        );
    mount_fs(None, target, None, flags, None)
}

/// A mount that a path is the source of.
pub(super) fn mount_fs_from(source: &Path, target: &Path, flags: MsFlags) -> Result<()> {
    mount(Some(source), target, None::<&str>, flags, None::<&str>).map_err(Error::sandbox(format!(
        "bind {} to {}",
        source.display(),
        target.display()
    )))
}

pub(super) fn mount_tmpfs(target: &Path, options: &str) -> Result<()> {
    mount_fs(
        Some("tmpfs"),
        target,
        Some("tmpfs"),
        own_flags(),
        Some(options),
    )
}

pub(super) fn own_flags() -> MsFlags {
    MsFlags::MS_NOSUID | MsFlags::MS_NODEV
}

pub(super) fn mount_fs(
    source: Option<&str>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    options: Option<&str>,
) -> Result<()> {
    mount(source, target, kind, flags, options).map_err(Error::sandbox(format!(
        "mount {} ({})",
        target.display(),
        kind.unwrap_or("bind")
    )))
}

/// A path of the host, as seen while mounts are made. Callers pass canonical paths.
fn on_host(path: &Path) -> PathBuf {
    Path::new(HOST).join(path.strip_prefix("/").unwrap_or(path))
}

/// A path inside, as seen while mounts are made.
fn inside(target: &Path) -> Result<PathBuf> {
    let plain = target
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    match target.strip_prefix("/") {
        Ok(relative) if plain && relative != Path::new("") => Ok(Path::new(NEW).join(relative)),
        _ => Err(Error::sandbox(format!("bind to {}", target.display()))(
            "not a plain absolute path",
        )),
    }
}

/// Makes what `source` can be mounted on: a folder, or an empty file.
fn make_target(source: &Path, target: &Path) -> Result<()> {
    let metadata = fs::metadata(source).map_err(Error::io("find", source))?;
    if metadata.is_dir() {
        return make_dir(target);
    }
    if let Some(parent) = target.parent() {
        make_dir(parent)?;
    }
    if target.exists() {
        return Ok(());
    }
    fs::File::create(target)
        .map(drop)
        .map_err(Error::io("create", target))
}

pub(super) fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io("create", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_of_mount_options_are_escaped() {
        assert_eq!(option(Path::new("/a:b,c"), true), b"/a\\:b\\,c");
        assert_eq!(option(Path::new("/a:b,c"), false), b"/a:b\\,c");
    }
}
