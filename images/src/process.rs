//! Starts this binary as a sandbox and talks to it; the only place of the crate that spawns host processes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::error::{Error, Result};
use crate::sandbox::{ARGV0, Message, Spec};

/// How much of a failed program's standard error goes into the message, in bytes.
const STDERR_TAIL: usize = 2000;

/// What a program wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

/// A running sandbox. Dropping it kills everything inside, as the end of this process does.
#[derive(Debug)]
pub struct Child {
    child: std::process::Child,
    socket: BufReader<UnixStream>,
}

impl Child {
    /// The supervisor's process id on the host (not the program's).
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks the program for an orderly end (SIGTERM).
    pub fn ask_to_stop(&self) {
        // A failure means that the other side is gone already.
        let mut socket = self.socket.get_ref();
        let _ = socket.write_all(&[0]);
    }

    /// The id on the host of the process that the supervisor started: process 1 of a sandbox, systemd-nspawn of a
    /// container. `None` once it is gone.
    pub(crate) fn process(&self) -> Option<u32> {
        children(self.child.id()).into_iter().next()
    }

    /// The program's standard input, if it was piped; can be taken once.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// The program's standard output, if it was piped; can be taken once.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// The program's standard error, if it was piped; can be taken once.
    pub fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Kills everything inside. The next [`Child::wait`] returns when all of it is gone.
    pub fn kill(&self) {
        // A failure means that the other side is gone already.
        let _ = self.socket.get_ref().shutdown(Shutdown::Both);
    }

    /// Waits for the program's end. A program that died of signal N is reported as exit code 128 + N.
    ///
    /// # Errors
    /// [`Error::Sandbox`] when waiting fails.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.child
            .wait()
            .map_err(Error::sandbox("wait for a program"))
    }

    /// The program's exit status if it has ended.
    ///
    /// # Errors
    /// [`Error::Sandbox`] when asking fails.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .map_err(Error::sandbox("ask for a program's end"))
    }

    /// Reads messages until the program is known to have been executed.
    pub(crate) fn wait_started(&mut self) -> Result<()> {
        match self.receive()? {
            Message::Started => Ok(()),
            other => Err(Error::sandbox("start a program")(format!(
                "unexpected answer {other:?}"
            ))),
        }
    }

    /// Reads messages until a verb's result.
    pub(crate) fn wait_result(mut self, progress: &dyn Fn(u64, u64)) -> Result<serde_json::Value> {
        loop {
            match self.receive()? {
                Message::Progress(done, total) => progress(done, total),
                Message::Done(value) => {
                    self.wait()?;
                    return Ok(value);
                }
                other => {
                    return Err(Error::sandbox("run a worker")(format!(
                        "unexpected answer {other:?}"
                    )));
                }
            }
        }
    }

    fn receive(&mut self) -> Result<Message> {
        let mut line = String::new();
        self.socket
            .read_line(&mut line)
            .map_err(Error::sandbox("hear from the sandbox"))?;
        if line.is_empty() {
            let status = self.wait()?;
            return Err(Error::sandbox("hear from the sandbox")(format!(
                "it ended early with {status}"
            )));
        }
        match serde_json::from_str(&line).map_err(Error::sandbox("read the sandbox's answer"))? {
            Message::Failed {
                code,
                message,
                hint,
            } => {
                self.wait()?;
                Err(Message::into_error(&code, message, hint))
            }
            message => Ok(message),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

/// Starts this binary again as a sandbox and sends it its task.
pub(crate) fn launch(spec: &Spec, stdin: Stdio, stdout: Stdio, stderr: Stdio) -> Result<Child> {
    let (ours, theirs) = UnixStream::pair().map_err(Error::sandbox("make a socket pair"))?;
    let fd = theirs.as_raw_fd();
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(ARGV0)
        .arg(fd.to_string())
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr);
    inherit(&mut command, fd);
    let child = command
        .spawn()
        .map_err(Error::sandbox("start this program again (/proc/self/exe)"))?;
    drop(theirs);
    let mut child = Child {
        child,
        socket: BufReader::new(ours),
    };
    let task = serde_json::to_vec(spec).map_err(Error::sandbox("encode the task"))?;
    let length = (task.len() as u64).to_le_bytes();
    let socket = child.socket.get_mut();
    socket.write_all(&length).and_then(|()| socket.write_all(&task)).map_err(Error::sandbox(
        "send the task to the new process (does this binary call run_if_requested first in main?)",
    ))?;
    Ok(child)
}

/// Lets the new process keep `fd`, and only that one: it is marked there, so no other process started at the same
/// time can get it.
#[allow(unsafe_code)]
fn inherit(command: &mut Command, fd: RawFd) {
    let keep = move || {
        // SAFETY: the descriptor stays open until the process has been started.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(())
    };
    // SAFETY: the closure makes one async-signal-safe system call and allocates nothing.
    unsafe { command.pre_exec(keep) };
}

/// The processes that a process started and has not buried, from the list that its first thread has in `/proc`
/// (proc_pid_task(5); kernels for general use are built with it).
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let list = list.unwrap_or_default();
    list.split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// Feeds a program, collects what it writes, and turns a failure into an error.
pub(crate) fn finish(mut child: Child, argv: &[&str], stdin: Option<&[u8]>) -> Result<Output> {
    let mut input = child.take_stdin();
    let mut out = child.take_stdout();
    let mut err = child.take_stderr();
    let mut output = Output {
        stdout: Vec::new(),
        stderr: Vec::new(),
    };
    let read = std::thread::scope(|scope| {
        scope.spawn(move || {
            // A program that does not read all of its input is not an error by itself.
            let _ = input
                .take()
                .zip(stdin)
                .map(|(mut pipe, bytes)| pipe.write_all(bytes));
        });
        let stderr = &mut output.stderr;
        let errors =
            scope.spawn(move || err.as_mut().map_or(Ok(0), |pipe| pipe.read_to_end(stderr)));
        let read = out
            .as_mut()
            .map_or(Ok(0), |pipe| pipe.read_to_end(&mut output.stdout));
        errors.join().unwrap_or(Ok(0)).and(read)
    });
    read.map_err(Error::sandbox("read what a program writes"))?;
    let status = child.wait()?;
    if status.success() {
        return Ok(output);
    }
    Err(Error::Program {
        program: argv.join(" "),
        status: describe(status),
        stderr: tail(&output.stderr),
    })
}

/// `exit code 3` or `signal 9`.
pub(crate) fn describe(status: ExitStatus) -> String {
    match status.code() {
        Some(code) if code > 128 => format!("signal {}", code - 128),
        Some(code) => format!("exit code {code}"),
        None => status.to_string(),
    }
}

/// The end of a program's messages, from the start of a line when possible.
fn tail(bytes: &[u8]) -> String {
    let start = bytes.len().saturating_sub(STDERR_TAIL);
    let text = String::from_utf8_lossy(&bytes[start..]);
    let text = if start > 0 {
        text.split_once('\n').map_or(&*text, |(_, rest)| rest)
    } else {
        &text
    };
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_keeps_the_end_and_whole_lines() {
        assert_eq!(tail(b" one\ntwo\n"), "one\ntwo");
        let long = format!("{}\nlast", "x".repeat(3000));
        assert_eq!(tail(long.as_bytes()), "last");
        assert_eq!(tail("y".repeat(3000).as_bytes()).len(), STDERR_TAIL);
    }
}
