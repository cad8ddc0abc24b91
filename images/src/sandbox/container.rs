//! A container's own side of its start: namespaces, its link to the segment, its root, and then systemd-nspawn.
//!
//! Runs in a fresh process in the fleet's process namespace, with the tools tree as `/`. Everything that is mounted here
//! is in a mount namespace of this process alone and goes with systemd-nspawn.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, umask};
use nix::unistd::setsid;
use serde::{Deserialize, Serialize};

use super::{Action, Ids, Sandbox, mounts};
use crate::error::{Error, Result};
use crate::process::Child;

/// Where things are, as the start of a container sees them.
pub(crate) mod inside {
    /// The root tree, read-only; the container's root is put together on it.
    pub(crate) const ROOT: &str = "/run/farrow/root";
    /// The machine's folder, which lasts.
    pub(crate) const MACHINE: &str = "/run/farrow/machine";
    /// The repository.
    pub(crate) const REPOSITORY: &str = "/run/farrow/repository";
    /// The machine's network namespace.
    pub(crate) const NETWORK: &str = "/run/farrow/net";
    /// What the machine writes below `/etc`; it is gone when the machine stops.
    pub(super) const ETC: &str = "/run/farrow/etc";
}

/// The machine's `/var` in its folder, and its name until it is whole.
const VAR: &str = "var";
const UNFINISHED_VAR: &str = ".unfinished-var";
/// Where a machine keeps its id, below `/var`; the image's init does the same.
const MACHINE_ID: &str = "lib/farrow/machine-id";
/// Where NoCloud metadata is below `/var`.
const SEED: &str = "lib/cloud/seed/nocloud";
/// The sandbox's `PATH` has no meaning before the program runs.
const IP: &str = "/usr/sbin/ip";

/// How to boot one container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Boot {
    /// The tools tree with the root, the machine's folder and the repository bound into it.
    pub(crate) sandbox: Sandbox,
    /// Process whose network is the segment.
    pub(crate) segment: u32,
    /// Name of its control group.
    pub(crate) group: String,
    /// Commands for `ip -batch` that link [`inside::NETWORK`] to the segment.
    pub(crate) link: String,
    /// Files that only a container needs, below `/etc`: path from there, content.
    pub(crate) etc: Vec<(String, String)>,
    /// NoCloud documents by name.
    pub(crate) seed: Vec<(String, String)>,
    /// Where the repository is to be seen, below the root.
    pub(crate) repository: Option<PathBuf>,
    /// systemd-nspawn and its arguments.
    pub(crate) argv: Vec<String>,
}

impl Boot {
    /// Starts it. systemd-nspawn is about to be executed when this returns.
    pub(crate) fn start(self, streams: [Stdio; 3]) -> Result<Child> {
        let boot = Boot {
            sandbox: self.sandbox.canonical()?,
            ..self
        };
        super::start(Ids::Host, Action::Container(boot), streams)
    }
}

/// Makes everything that the container needs; gives the program that is to replace this process.
pub(super) fn prepare(boot: &Boot) -> Result<Command> {
    // A terminal's signals are not the machine's.
    setsid().map_err(Error::sandbox("leave the terminal"))?;
    umask(Mode::from_bits_truncate(0o022));
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)
        .map_err(Error::sandbox("make namespaces"))?;
    mounts::enter(&boot.sandbox)?;
    mount_system()?;
    link(&boot.link)?;
    let root = Path::new(inside::ROOT);
    compose(root, boot)?;
    let (name, arguments) = boot
        .argv
        .split_first()
        .ok_or_else(|| Error::sandbox("run a container")("the command line is empty"))?;
    let mut program = Command::new(super::enter::find(name, &boot.sandbox.env));
    program
        .args(arguments)
        .env_clear()
        .envs(boot.sandbox.env.iter().cloned());
    Ok(program)
}

/// `/sys` with the control groups, which systemd-nspawn wants to see, as it would on a host that has only version 2.
fn mount_system() -> Result<()> {
    let flags = mounts::own_flags() | MsFlags::MS_NOEXEC;
    mounts::mount_fs(Some("sysfs"), Path::new("/sys"), Some("sysfs"), flags, None)?;
    let groups = Path::new("/sys/fs/cgroup");
    mounts::mount_fs(Some("cgroup2"), groups, Some("cgroup2"), flags, None)
}

/// Makes the machine's network namespace and links it to the segment, where this process is and stays.
fn link(commands: &str) -> Result<()> {
    let own = || {
        let path = "/proc/self/ns/net";
        File::open(path).map_err(Error::io("open", path))
    };
    let segment = own()?;
    unshare(CloneFlags::CLONE_NEWNET).map_err(Error::sandbox("make a network namespace"))?;
    // What lets services send pings without a capability; each namespace starts with nobody allowed.
    let range = "/proc/sys/net/ipv4/ping_group_range";
    fs::write(range, "0 2147483647").map_err(Error::io("write", range))?;
    let target = Path::new(inside::NETWORK);
    File::create(target).map_err(Error::io("create", target))?;
    let bind = MsFlags::MS_BIND;
    mounts::mount_fs_from(Path::new("/proc/self/ns/net"), target, bind)?;
    setns(segment, CloneFlags::CLONE_NEWNET).map_err(Error::sandbox("return to the segment"))?;
    batch(commands)
}

fn batch(commands: &str) -> Result<()> {
    let mut ip = Command::new(IP)
        .args(["-batch", "-"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::io("execute", IP))?;
    if let Some(mut input) = ip.stdin.take() {
        input
            .write_all(commands.as_bytes())
            .map_err(Error::sandbox("tell ip what to do"))?;
    }
    let output = ip
        .wait_with_output()
        .map_err(Error::sandbox("wait for ip"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::sandbox("link a machine to its segment")(
        String::from_utf8_lossy(&output.stderr).trim(),
    ))
}

/// The machine's root: the tree, an `/etc` whose changes live in memory, its own `/var`, and the repository.
fn compose(root: &Path, boot: &Boot) -> Result<()> {
    let var = own_var(root)?;
    write_seed(&var, &boot.seed)?;
    mounts::bind(&var, &root.join("var"), false)?;
    let (upper, work) = (
        format!("{}/upper", inside::ETC),
        format!("{}/work", inside::ETC),
    );
    mounts::make_dir(Path::new(&upper))?;
    mounts::make_dir(Path::new(&work))?;
    let etc = root.join("etc");
    let options = format!("lowerdir={},upperdir={upper},workdir={work}", etc.display());
    mount(
        Some("overlay"),
        &etc,
        Some("overlay"),
        MsFlags::MS_NODEV,
        Some(options.as_str()),
    )
    .map_err(Error::sandbox("mount the writable layer of /etc"))?;
    for (name, content) in &boot.etc {
        write(&etc.join(name), content, 0o644)?;
    }
    write(&etc.join("machine-id"), &machine_id(&var)?, 0o444)?;
    match &boot.repository {
        Some(target) => mounts::bind(Path::new(inside::REPOSITORY), &root.join(target), true),
        None => Ok(()),
    }
}

/// The machine's `/var`: at its first boot a copy of the tree's, as in an image.
fn own_var(root: &Path) -> Result<PathBuf> {
    let folder = Path::new(inside::MACHINE);
    let var = folder.join(VAR);
    if var.exists() {
        return Ok(var);
    }
    let unfinished = folder.join(UNFINISHED_VAR);
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(Error::io("remove", &unfinished))?;
    }
    let output = Command::new("/usr/bin/cp")
        .args(["--archive", "--reflink=auto", "--"])
        .args([&root.join("var"), &unfinished])
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(Error::io("execute", "/usr/bin/cp"))?;
    if !output.status.success() {
        return Err(Error::sandbox("copy /var")(
            String::from_utf8_lossy(&output.stderr).trim(),
        ));
    }
    fs::rename(&unfinished, &var).map_err(Error::io("rename to", &var))?;
    Ok(var)
}

fn write_seed(var: &Path, seed: &[(String, String)]) -> Result<()> {
    let folder = var.join(SEED);
    mounts::make_dir(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))
        .map_err(Error::io("protect", &folder))?;
    seed.iter()
        .try_for_each(|(name, content)| write(&folder.join(name), content, 0o600))
}

/// The id that the machine made at its first boot, as machine-id(5) wants it: 32 hexadecimal digits.
fn machine_id(var: &Path) -> Result<String> {
    let path = var.join(MACHINE_ID);
    if let Ok(known) = fs::read_to_string(&path) {
        return Ok(known);
    }
    let mut bytes = [0; 16];
    let source = "/dev/urandom";
    File::open(source)
        .and_then(|mut random| random.read_exact(&mut bytes))
        .map_err(Error::io("read", source))?;
    // A version 4 UUID (RFC 9562, section 5.4).
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let id = format!("{}\n", hex::encode(bytes));
    write(&path, &id, 0o444)?;
    Ok(id)
}

/// Replaces a file.
fn write(path: &Path, content: &str, mode: u32) -> Result<()> {
    if let Some(parent) = path.parent() {
        mounts::make_dir(parent)?;
    }
    let temporary = path.with_extension("farrow-new");
    let attempt = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(content.as_bytes())?;
        fs::rename(&temporary, path)
    };
    attempt().map_err(Error::io("write", path))
}
