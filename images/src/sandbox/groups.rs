//! Control groups of containers: one each, made on the host's version 2 hierarchy wherever that is.
//!
//! A hierarchy can be mounted any number of times, so it is mounted once more, for the supervisor alone. That works
//! alike on hosts that have only version 2, both versions, or have mounted neither.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::mounts;
use crate::error::{Error, Result};

/// Where the hierarchy is mounted for the supervisor; any folder that each host has.
const MOUNT: &str = "/sys";
/// How the names of groups begin, before the process id of the program that made them.
pub(crate) const PREFIX: &str = "farrow-";
/// How often a group is looked at while its last processes end, and for how long.
const END_TICK: Duration = Duration::from_millis(5);
const END_TICKS: u32 = 1000;

/// A control group and what it holds. Dropping it in the process that made it removes its folders.
#[derive(Debug)]
pub(super) struct Group {
    path: PathBuf,
    /// Open before the mounts change.
    entrance: File,
    owner: u32,
}

impl Group {
    /// Makes a group beside this process, in a mount namespace of its own.
    pub(super) fn make(name: &str) -> Result<Group> {
        unshare(CloneFlags::CLONE_NEWNS).map_err(Error::sandbox("make a mount namespace"))?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mounts::mount_fs(None, Path::new("/"), None, private, None)?;
        mount(
            Some("cgroup2"),
            MOUNT,
            Some("cgroup2"),
            MsFlags::empty(),
            None::<&str>,
        )
        .map_err(Error::sandbox("mount the control groups (version 2)"))?;
        let own = fs::read_to_string("/proc/self/cgroup")
            .map_err(Error::io("read", "/proc/self/cgroup"))?;
        let parent = Path::new(MOUNT).join(own_group(&own));
        remove_left_behind(&parent);
        let path = parent.join(name);
        fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        let entrance = path.join("cgroup.procs");
        let entrance = OpenOptions::new()
            .write(true)
            .open(&entrance)
            .map_err(Error::io("open", &entrance))?;
        Ok(Group {
            path,
            entrance,
            owner: std::process::id(),
        })
    }

    /// Moves this process into the group. systemd-nspawn hides the rest from the machine; it needs itself to see the
    /// group of its own process 1.
    pub(super) fn enter(&self) -> Result<()> {
        (&self.entrance)
            .write_all(b"0")
            .map_err(Error::io("enter", &self.path))
    }

    /// Kills everything in the group.
    pub(super) fn kill(&self) -> Result<()> {
        // Since Linux 5.14 (cgroups.7: "cgroup.kill"); else one by one, until none is left.
        let at_once = fs::write(self.path.join("cgroup.kill"), "1").is_ok();
        for _ in 0..END_TICKS {
            let left = processes(&self.path);
            if left.is_empty() {
                break;
            }
            for pid in left.iter().filter(|_| !at_once) {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            std::thread::sleep(END_TICK);
        }
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.owner == std::process::id() {
            remove(&self.path);
        }
    }
}

/// This process's group in the version 2 hierarchy: the line `0::/PATH` of `/proc/self/cgroup` (cgroups(7)).
fn own_group(text: &str) -> &str {
    text.lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap_or("")
}

/// The processes of a group and all below it, without those that are only waited for.
fn processes(group: &Path) -> Vec<i32> {
    let mut text = String::new();
    let _ =
        File::open(group.join("cgroup.procs")).and_then(|mut file| file.read_to_string(&mut text));
    let below = folders(group);
    let inner = below.iter().flat_map(|folder| processes(folder));
    text.lines()
        .filter_map(|line| line.parse().ok())
        .chain(inner)
        .collect()
}

fn folders(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Removes an empty group. The kernel refuses for a moment after the last process ended.
fn remove(group: &Path) {
    folders(group).iter().for_each(|folder| remove(folder));
    for _ in 0..END_TICKS {
        match fs::remove_dir(group) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => {
                std::thread::sleep(END_TICK);
            }
            _ => return,
        }
    }
}

/// Removes groups whose supervisor was killed before it could do so: their program is gone, and nothing runs in them.
fn remove_left_behind(parent: &Path) {
    for folder in folders(parent) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let maker = maker(&name).filter(|pid| !Path::new("/proc").join(pid.to_string()).exists());
        if maker.is_some() && processes(&folder).is_empty() {
            remove(&folder);
        }
    }
}

/// The process id in the name `farrow-PID-MACHINE`.
fn maker(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_group_of_each_kind_of_host() {
        for (text, expected) in [
            (
                "0::/user.slice/user-0.slice/session-3.scope\n",
                "user.slice/user-0.slice/session-3.scope",
            ),
            ("9:name=systemd:/\n4:memory:/x/y\n0::/\n", ""),
            ("4:memory:/x\n", ""),
        ] {
            assert_eq!(own_group(text), expected);
        }
    }

    #[test]
    fn makers_of_groups() {
        for (name, expected) in [
            ("farrow-12-pg-test-1", Some(12)),
            ("farrow-x-meta", None),
            ("system.slice", None),
        ] {
            assert_eq!(maker(name), expected, "{name}");
        }
    }
}
