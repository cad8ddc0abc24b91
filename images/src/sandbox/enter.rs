//! The sandbox's own side: supervisor, process 1, program.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe2, sethostname};

use super::groups::Group;
use super::{
    Action, Ids, Message, Network, Sandbox, Spec, container, filter, ids, join, mounts, verbs,
};
use crate::error::{Error, Result};

/// Exit code when the sandbox itself failed (the caller reads the reason from the socket).
const FAILED: i32 = 125;
/// A task is a few paths; more than this is not from us. In bytes.
const TASK_LIMIT: u64 = 64 << 20;

/// Runs the task that comes through `socket` and exits with the program's exit code.
pub(super) fn main(mut socket: UnixStream) -> ! {
    let code = supervise(&mut socket).unwrap_or_else(|error| {
        // The caller may be gone; there is nobody else to tell.
        let _ = send(&mut socket, &Message::failed(&error));
        FAILED
    });
    std::process::exit(code)
}

/// Enters the namespaces, starts process 1 and waits for its end, or for the caller's.
fn supervise(socket: &mut UnixStream) -> Result<i32> {
    fcntl(socket.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
        .map_err(Error::sandbox("guard the socket"))?;
    let spec = receive(socket)?;
    ids::enter(spec.ids)?;
    // Its folder goes when this value does, after the last process in it.
    let group = enter_namespaces(&spec.action)?;
    // Held by process 1 alone: its end of file is the news of that process's end.
    let (ended, alive) = pipe2(OFlag::O_CLOEXEC).map_err(Error::sandbox("make a pipe"))?;
    // SAFETY: this process has one thread.
    #[allow(unsafe_code)]
    match unsafe { fork() }.map_err(Error::sandbox("fork"))? {
        ForkResult::Child => {
            drop(ended);
            let code = follow(&alive)
                .and_then(|()| work(socket, spec.action, group.as_ref()))
                .unwrap_or_else(|error| {
                    let _ = send(socket, &Message::failed(&error));
                    FAILED
                });
            std::process::exit(code)
        }
        ForkResult::Parent { child } => {
            drop(alive);
            // systemd-nspawn closes descriptors that it does not know, the pipe's end too.
            let ended = match &group {
                Some(_) => process_file(child)?,
                None => ended,
            };
            watch(child, socket, ended.as_fd(), group.as_ref())
        }
    }
}

/// A descriptor that can be read from when a child has ended (pidfd_open(2), since Linux 5.3).
fn process_file(child: Pid) -> Result<OwnedFd> {
    // SAFETY: the call takes two numbers.
    #[allow(unsafe_code)]
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.as_raw(), 0) };
    match RawFd::try_from(fd) {
        // SAFETY: the kernel has just made it, and nothing else knows of it.
        #[allow(unsafe_code)]
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(Error::sandbox("watch a process")(
            std::io::Error::last_os_error(),
        )),
    }
}

/// Makes or enters the namespaces that the action's process shall be born in.
fn enter_namespaces(action: &Action) -> Result<Option<Group>> {
    match action {
        Action::Execute { sandbox, .. } => {
            if let Network::Of(pid) = sandbox.network {
                join::segment(pid)?;
            }
            unshare(namespaces(sandbox)).map_err(Error::sandbox("make namespaces"))?;
        }
        Action::Container(boot) => {
            let group = Group::make(&boot.group)?;
            join::segment(boot.segment)?;
            return Ok(Some(group));
        }
        Action::Enter(entry) => join::everything(entry.pid)?,
        Action::Verb { .. } => {}
    }
    Ok(None)
}

/// Everything but the user namespace, which exists already and owns these.
fn namespaces(sandbox: &Sandbox) -> CloneFlags {
    let own = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    match sandbox.network {
        Network::None => own | CloneFlags::CLONE_NEWNET,
        Network::Host => own,
        Network::Of(_) => own - CloneFlags::CLONE_NEWPID,
    }
}

/// Ties this process's life to the supervisor's.
fn follow(alive: &OwnedFd) -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(Error::sandbox("follow the supervisor"))?;
    // Had the supervisor died before that call, its end of the pipe would be closed.
    let mut fds = [PollFd::new(alive.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).map_err(Error::sandbox("watch the supervisor"))?;
    if fds[0]
        .revents()
        .is_some_and(|events| events.contains(PollFlags::POLLERR))
    {
        std::process::exit(FAILED);
    }
    Ok(())
}

/// Waits for the end of `child`, and kills it (and with process 1 its whole pid namespace, or its control group) when the
/// caller hangs up.
fn watch(
    child: Pid,
    socket: &mut UnixStream,
    ended: BorrowedFd,
    group: Option<&Group>,
) -> Result<i32> {
    loop {
        let mut fds = [
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(ended, PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other.map_err(Error::sandbox("watch the program"))?,
        };
        if fds[1].any().unwrap_or(true) {
            break;
        }
        // After the task the caller sends single bytes that ask for an orderly end, or hangs up.
        if fds[0].any().unwrap_or(true) {
            if socket.read_exact(&mut [0]).is_ok() {
                kill(child, Signal::SIGTERM).map_err(Error::sandbox("stop the program"))?;
                continue;
            }
            kill(child, Signal::SIGKILL).map_err(Error::sandbox("kill the program"))?;
            break;
        }
    }
    // What a container left running must not outlive it.
    group.map_or(Ok(()), Group::kill)?;
    wait(child)
}

/// What process 1 does.
fn work(socket: &mut UnixStream, action: Action, group: Option<&Group>) -> Result<i32> {
    match action {
        Action::Container(boot) => {
            group.map_or(Ok(()), Group::enter)?;
            let mut program = container::prepare(&boot)?;
            send(socket, &Message::Started)?;
            Err(Error::sandbox("execute systemd-nspawn")(program.exec()))
        }
        Action::Enter(entry) => {
            let program = entry.start()?;
            send(socket, &Message::Started)?;
            reap_until(program)
        }
        Action::Execute { sandbox, argv } => {
            mounts::enter(&sandbox)?;
            let program = start(&sandbox, &argv)?;
            send(socket, &Message::Started)?;
            reap_until(program)
        }
        Action::Verb { name, input } => {
            umask(Mode::from_bits_truncate(0o022));
            let reporter = std::sync::Mutex::new(
                socket
                    .try_clone()
                    .map_err(Error::sandbox("copy the socket"))?,
            );
            let value = verbs::run(&name, input, &|done, total| {
                if let Ok(mut socket) = reporter.lock() {
                    let _ = send(&mut socket, &Message::Progress(done, total));
                }
            })?;
            send(socket, &Message::Done(value))?;
            Ok(0)
        }
    }
}

/// Executes the program; its process id is that inside the new namespace.
fn start(sandbox: &Sandbox, argv: &[String]) -> Result<Pid> {
    sethostname("farrow").map_err(Error::sandbox("set the host name"))?;
    umask(Mode::from_bits_truncate(0o022));
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(Error::sandbox("turn off core dumps"))?;
    if sandbox.ids != Ids::Host {
        prctl::set_no_new_privs().map_err(Error::sandbox("give up set-uid programs"))?;
    }
    if sandbox.ignore_sync {
        filter::ignore_sync()?;
    }
    let (name, arguments) = argv
        .split_first()
        .ok_or_else(|| Error::sandbox("run a program")("the command line is empty"))?;
    let child = Command::new(find(name, &sandbox.env))
        .args(arguments)
        .env_clear()
        .envs(sandbox.env.iter().cloned())
        .current_dir(&sandbox.workdir)
        .spawn()
        .map_err(Error::sandbox(format!(
            "execute {name} in {}",
            sandbox.root
        )))?;
    Ok(Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX)))
}

/// Looks a bare name up in the sandbox's own `PATH`.
pub(super) fn find(name: &str, env: &[(String, String)]) -> String {
    let path = env
        .iter()
        .find(|(key, _)| key == "PATH")
        .map_or("", |(_, value)| value);
    let candidates = path.split(':').map(|folder| format!("{folder}/{name}"));
    let found = candidates
        .into_iter()
        .find(|candidate| Path::new(candidate).is_file());
    found
        .filter(|_| !name.contains('/'))
        .unwrap_or_else(|| name.to_owned())
}

/// Reaps orphans until the program ends. What it left running dies with process 1.
fn reap_until(program: Pid) -> Result<i32> {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == program => return Ok(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == program => {
                return Ok(128 + signal as i32);
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(Error::sandbox("wait for the program")(error)),
        }
    }
}

/// The end of one process as an exit code.
pub(super) fn wait(child: Pid) -> Result<i32> {
    loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(Error::sandbox("wait for process 1")(error)),
        }
    }
}

fn receive(socket: &mut UnixStream) -> Result<Spec> {
    let mut length = [0; 8];
    socket
        .read_exact(&mut length)
        .map_err(Error::sandbox("read the task"))?;
    let length = u64::from_le_bytes(length).min(TASK_LIMIT);
    let mut task = Vec::new();
    socket
        .take(length)
        .read_to_end(&mut task)
        .map_err(Error::sandbox("read the task"))?;
    serde_json::from_slice(&task).map_err(Error::sandbox("understand the task"))
}

fn send(socket: &mut UnixStream, message: &Message) -> Result<()> {
    let mut line = serde_json::to_vec(message).map_err(Error::sandbox("encode an answer"))?;
    line.push(b'\n');
    socket.write_all(&line).map_err(Error::sandbox("answer"))
}
