//! Entering namespaces that exist: those of a fleet's segment, or all of a container's.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns};
use nix::unistd::{Pid, chroot, fchdir, setgroups};
use serde::{Deserialize, Serialize};

use super::{Action, Ids, enter};
use crate::error::{Error, Result};
use crate::process::Child;

/// Namespaces by their file in `/proc/PID/ns` (namespaces(7)), in the order in which they are entered: the mounts last,
/// since the others are looked up on the host.
const ALL: [(&str, CloneFlags); 6] = [
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// A program to execute in all namespaces of a process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) pid: u32,
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
}

impl Entry {
    /// Executes the program; the namespaces have been entered.
    pub(super) fn start(&self) -> Result<Pid> {
        setgroups(&[]).map_err(Error::sandbox("drop groups"))?;
        let (name, arguments) = self
            .argv
            .split_first()
            .ok_or_else(|| Error::sandbox("run a program")("the command line is empty"))?;
        let child = Command::new(enter::find(name, &self.env))
            .args(arguments)
            .env_clear()
            .envs(self.env.iter().cloned())
            .spawn()
            .map_err(Error::sandbox(format!("execute {name} in the container")))?;
        Ok(Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX)))
    }
}

/// Runs a program in the container whose first process has this id on the host. It has been executed when this returns.
///
/// # Errors
/// [`Error::Worker`] when the container is gone or has no such program.
pub fn spawn_in(
    pid: u32,
    argv: &[String],
    env: &[(&str, &str)],
    streams: [Stdio; 3],
) -> Result<Child> {
    let env = env
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()));
    let entry = Entry {
        pid,
        argv: argv.to_owned(),
        env: env.collect(),
    };
    super::start(Ids::Host, Action::Enter(entry), streams)
}

/// Enters the network of a fleet's segment; children are born in its process namespace.
pub(super) fn segment(pid: u32) -> Result<()> {
    let wanted = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID;
    enter_some(pid, |flag| wanted.contains(flag))
}

/// Enters everything that a container has of its own, its root folder too.
pub(super) fn everything(pid: u32) -> Result<()> {
    let root = open(&proc_path(pid, "root"))?;
    enter_some(pid, |_| true)?;
    fchdir(root.as_fd())
        .and_then(|()| chroot("."))
        .map_err(Error::sandbox("enter a container's root"))
}

fn enter_some(pid: u32, wanted: impl Fn(CloneFlags) -> bool) -> Result<()> {
    let chosen = ALL.into_iter().filter(|(_, flag)| wanted(*flag));
    // All are opened before any is entered: they belong to one process, and are found on the host.
    let files = chosen
        .map(|(name, flag)| Ok((name, flag, open(&proc_path(pid, &format!("ns/{name}")))?)))
        .collect::<Result<Vec<_>>>()?;
    for (name, flag, file) in files {
        setns(file, flag).map_err(Error::sandbox(format!("enter a namespace ({name})")))?;
    }
    Ok(())
}

fn proc_path(pid: u32, name: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join(name)
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(Error::io("open", path))
}
