//! The user namespace: which ids exist inside, and who may write that down.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{ForkResult, Pid, User, fork, getegid, geteuid, getpid, pipe2, setgroups};

use super::{Ids, enter};
use crate::error::{Error, Result};

/// Ids that exist inside, from 0: all that Debian uses, with `nobody` (65534).
const IDS: u32 = 65536;

const HINT: &str = "check `sysctl user.max_user_namespaces kernel.unprivileged_userns_clone kernel.apparmor_restrict_unprivileged_userns`, or run as root";

/// A line of a map file: `inside outside count`.
type Extent = (u32, u32, u32);

/// Who writes the maps.
#[derive(Debug)]
enum Mapper {
    /// The caller is root and may write any.
    Root,
    /// The host's set-uid programs, for a plain user.
    Programs {
        newuidmap: PathBuf,
        newgidmap: PathBuf,
        uids: Vec<Extent>,
        gids: Vec<Extent>,
    },
}

/// Enters a new user namespace, unless the host's ids are wanted.
pub(super) fn enter(ids: Ids) -> Result<()> {
    match ids {
        Ids::Mapped => enter_range(),
        Ids::Own => enter_own(),
        Ids::Host => Ok(()),
    }
}

fn enter_own() -> Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    make_namespace()?;
    // The kernel asks for this before an unprivileged process may map its group.
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/gid_map", &format!("0 {gid} 1"))?;
    write("/proc/self/uid_map", &format!("0 {uid} 1"))
}

/// A process cannot map more than its own id by itself, so a helper that stays outside does it.
fn enter_range() -> Result<()> {
    let mapper = plan()?;
    let (entered_read, entered) = pipe2(OFlag::O_CLOEXEC).map_err(Error::sandbox("make a pipe"))?;
    let (answer, answer_write) = pipe2(OFlag::O_CLOEXEC).map_err(Error::sandbox("make a pipe"))?;
    let target = getpid();
    // SAFETY: this process has one thread.
    #[allow(unsafe_code)]
    let helper = match unsafe { fork() }.map_err(Error::sandbox("fork"))? {
        ForkResult::Child => {
            drop((entered, answer));
            help(&mapper, target, entered_read, answer_write)
        }
        ForkResult::Parent { child } => child,
    };
    drop((entered_read, answer_write));
    make_namespace()?;
    fs::File::from(entered)
        .write_all(b"1")
        .map_err(Error::sandbox("call the id mapper"))?;
    let mut reason = String::new();
    fs::File::from(answer)
        .read_to_string(&mut reason)
        .map_err(Error::sandbox("hear from the id mapper"))?;
    enter::wait(helper)?;
    if reason != "done" {
        return Err(Error::Sandbox {
            what: "map user ids".to_owned(),
            reason,
            hint: Some(HINT.to_owned()),
        });
    }
    setgroups(&[]).map_err(Error::sandbox("drop groups"))
}

fn make_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|errno| Error::Sandbox {
        what: "make a user namespace".to_owned(),
        reason: errno.to_string(),
        hint: Some(HINT.to_owned()),
    })
}

/// The helper's life: wait until `target` is in its namespace, map, answer `done` or the reason.
fn help(mapper: &Mapper, target: Pid, entered: OwnedFd, answer: OwnedFd) -> ! {
    let mut byte = [0];
    if fs::File::from(entered).read_exact(&mut byte).is_ok() {
        let text = match map(mapper, target) {
            Ok(()) => "done".to_owned(),
            Err(error) => error.to_string(),
        };
        let _ = fs::File::from(answer).write_all(text.as_bytes());
    }
    std::process::exit(0)
}

fn map(mapper: &Mapper, target: Pid) -> Result<()> {
    match mapper {
        Mapper::Root => {
            write(&format!("/proc/{target}/gid_map"), &format!("0 0 {IDS}"))?;
            write(&format!("/proc/{target}/uid_map"), &format!("0 0 {IDS}"))
        }
        Mapper::Programs {
            newuidmap,
            newgidmap,
            uids,
            gids,
        } => {
            run_mapper(newgidmap, target, gids)?;
            run_mapper(newuidmap, target, uids)
        }
    }
}

fn run_mapper(program: &Path, target: Pid, extents: &[Extent]) -> Result<()> {
    let numbers = extents
        .iter()
        .flat_map(|&(inside, outside, count)| [inside, outside, count]);
    let output = Command::new(program)
        .arg(target.to_string())
        .args(numbers.map(|number| number.to_string()))
        .stdin(Stdio::null())
        .output()
        .map_err(Error::io("run", program))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::sandbox(format!("run {}", program.display()))(
        message,
    ))
}

/// Finds out, before anything is entered, how the ids can be mapped.
fn plan() -> Result<Mapper> {
    let uid = geteuid();
    if uid.is_root() {
        return Ok(Mapper::Root);
    }
    let user = User::from_uid(uid)
        .ok()
        .flatten()
        .map_or_else(|| uid.to_string(), |user| user.name);
    let newuidmap = find_program("newuidmap")?;
    let newgidmap = find_program("newgidmap")?;
    let range = |file: &'static str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        subordinate_range(&text, &user, uid.as_raw()).ok_or_else(|| Error::MissingIdRange {
            file,
            user: user.clone(),
        })
    };
    let extents = |own: u32, start: u32| vec![(0, own, 1), (1, start, IDS - 1)];
    let uids = extents(uid.as_raw(), range("/etc/subuid")?);
    let gids = extents(getegid().as_raw(), range("/etc/subgid")?);
    Ok(Mapper::Programs {
        newuidmap,
        newgidmap,
        uids,
        gids,
    })
}

/// First id of the user's first range in `/etc/subuid` (format: subuid(5)) that is large enough.
fn subordinate_range(text: &str, user: &str, uid: u32) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let start: u32 = fields.next()?.trim().parse().ok()?;
        let count: u32 = fields.next()?.trim().parse().ok()?;
        let mine = name == user || name.parse() == Ok(uid);
        (mine && count >= IDS - 1).then_some(start)
    })
}

fn find_program(name: &'static str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .ok_or(Error::MissingHostProgram { name })
}

fn write(path: &str, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_user() {
        let cases = [
            ("ann:100000:65536\n", Some(100_000)),
            ("bob:100000:65536\nann:165536:65536\n", Some(165_536)),
            ("1000:200000:65536\n", Some(200_000)),
            ("ann:100000:1000\nann:300000:65536\n", Some(300_000)),
            ("ann:100000:65535\n", Some(100_000)),
            ("ann:100000:65534\n", None),
            ("annabel:100000:65536\n", None),
            ("ann:x:65536\n# ann\n\n", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(subordinate_range(text, "ann", 1000), expected, "{text:?}");
        }
    }
}
