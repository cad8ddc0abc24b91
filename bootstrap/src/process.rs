//! The only place that runs programs: each with a time limit, a bounded output and, if need be, as another user.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::accounts::User;
use crate::error::{Error, Result};

/// Where programs are looked for: PostgreSQL's own are in a folder of their version.
const PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/17/bin";

/// How much output is kept, from the end.
const MAX_OUTPUT_BYTES: usize = 16 << 10;

/// How long output is waited for once the program itself has ended: a daemon it left may hold the pipe.
const OUTPUT_WAIT: Duration = Duration::from_secs(1);

/// A program to run.
#[derive(Debug, Clone)]
pub struct Program<'a> {
    /// Program and arguments.
    pub words: &'a [String],
    /// Name and user to run as; as this process when there is none.
    pub user: Option<(&'a str, &'a User)>,
    /// Standard input.
    pub stdin: Option<&'a str>,
    /// Environment besides PATH, LANG and the user's.
    pub env: Vec<(&'a str, &'a str)>,
    /// Time limit.
    pub limit: Duration,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Exit status; none when the time was over.
    pub status: Option<ExitStatus>,
    /// End of its standard output.
    pub stdout: String,
    /// End of its standard error.
    pub stderr: String,
}

impl Outcome {
    /// Whether it ended well.
    pub fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// Exit code; 128 and the signal's number when it was killed, 124 when the time was over (as timeout(1) has it).
    pub fn code(&self) -> i32 {
        match self.status {
            None => 124,
            Some(status) => status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        }
    }

    /// One line on how it ended.
    pub fn describe(&self) -> String {
        let mut text = match self.status {
            None => "took too long".to_owned(),
            Some(status) => status.to_string(),
        };
        let said = if self.stderr.trim().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        let last: Vec<&str> = said
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        if !last.is_empty() {
            let _ = write!(
                text,
                ": {}",
                last[last.len().saturating_sub(3)..].join("; ")
            );
        }
        text
    }
}

/// Runs `words` as this process's user, and fails unless it ends well.
///
/// # Errors
/// `FR-COMMAND`.
pub fn run(words: &[&str], limit: Duration) -> Result<Outcome> {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let program = Program {
        words: &words,
        user: None,
        stdin: None,
        env: Vec::new(),
        limit,
    };
    let outcome = program.run()?;
    if outcome.success() {
        Ok(outcome)
    } else {
        Err(program.failed(outcome.describe()))
    }
}

/// Makes this process another program, with all that it has open. Returns only when that fails.
pub fn replace_self(program: &std::path::Path, arguments: &[String]) -> Error {
    let error = Command::new(program).args(arguments).exec();
    let words = [program.display().to_string()];
    let program = Program {
        words: &words,
        user: None,
        stdin: None,
        env: Vec::new(),
        limit: Duration::ZERO,
    };
    program.failed(error.to_string())
}

/// Runs this program itself with other arguments; what it says goes where this process's does. Gives the exit code, none
/// when the time was over or it was killed.
///
/// # Errors
/// `FR-COMMAND`.
pub fn run_self(arguments: &[String], limit: Duration) -> Result<Option<i32>> {
    let program = Program {
        words: arguments,
        user: None,
        stdin: None,
        env: Vec::new(),
        limit,
    };
    let mut command = Command::new("/proc/self/exe");
    command
        .args(arguments)
        .stdin(Stdio::null())
        .process_group(0);
    command
        .spawn()
        .and_then(|mut child| program.wait(&mut child))
        .map(|status| status.and_then(|status| status.code()))
        .map_err(|error| program.failed(error.to_string()))
}

impl Program<'_> {
    /// Runs the program to its end or its time limit.
    ///
    /// # Errors
    /// `FR-COMMAND` when it cannot be started; how it ends is for the caller to judge.
    pub fn run(&self) -> Result<Outcome> {
        let mut child = self
            .spawn()
            .map_err(|error| self.failed(error.to_string()))?;
        let stdout = child.stdout.take().map(collect);
        let stderr = child.stderr.take().map(collect);
        if let (Some(mut pipe), Some(text)) = (child.stdin.take(), self.stdin) {
            let text = text.to_owned();
            // A program that ends without reading is no error here: its exit status tells.
            thread::spawn(move || pipe.write_all(text.as_bytes()));
        }
        let status = self
            .wait(&mut child)
            .map_err(|error| self.failed(error.to_string()))?;
        let end = Instant::now() + OUTPUT_WAIT;
        Ok(Outcome {
            status,
            stdout: text_of(stdout, end),
            stderr: text_of(stderr, end),
        })
    }

    /// An error about this program, named without its arguments' values.
    pub fn failed(&self, message: String) -> Error {
        let shown = &self.words[..self.words.len().min(4)];
        Error::Command {
            command: shown.join(" "),
            message,
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        let (program, arguments) = self
            .words
            .split_first()
            .ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", PATH)
            .env("LANG", "C.UTF-8")
            .current_dir("/");
        command.stdin(if self.stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, so that what it started ends with it.
        command.process_group(0);
        if let Some((name, user)) = self.user {
            command
                .env("USER", name)
                .env("LOGNAME", name)
                .env("HOME", &user.home)
                .env("SHELL", &user.shell);
            if nix::unistd::geteuid().as_raw() != user.uid {
                // std drops the supplementary groups when root changes the user.
                command.uid(user.uid).gid(user.gid);
            }
        } else {
            command.env("HOME", "/root");
        }
        command.envs(self.env.iter().copied());
        command.spawn()
    }

    fn wait(&self, child: &mut Child) -> io::Result<Option<ExitStatus>> {
        let end = Instant::now() + self.limit;
        let mut pause = Duration::from_millis(2);
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= end {
                let group = i32::try_from(child.id()).map_err(io::Error::other)?;
                let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
                child.wait()?;
                return Ok(None);
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

type Collected = (Arc<Mutex<Vec<u8>>>, thread::JoinHandle<()>);

fn collect(mut pipe: impl Read + Send + 'static) -> Collected {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let target = Arc::clone(&kept);
    let reader = thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            let mut kept = target.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend_from_slice(&buffer[..count]);
            let excess = kept.len().saturating_sub(MAX_OUTPUT_BYTES);
            kept.drain(..excess);
        }
    });
    (kept, reader)
}

fn text_of(collected: Option<Collected>, end: Instant) -> String {
    let Some((kept, reader)) = collected else {
        return String::new();
    };
    while !reader.is_finished() && Instant::now() < end {
        thread::sleep(Duration::from_millis(2));
    }
    let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, stdin: Option<&str>, limit_ms: u64) -> (Outcome, Duration) {
        let words = ["sh", "-c", script].map(str::to_owned);
        let limit = Duration::from_millis(limit_ms);
        let program = Program {
            words: &words,
            user: None,
            stdin,
            env: vec![("X", "y")],
            limit,
        };
        let start = Instant::now();
        (program.run().unwrap(), start.elapsed())
    }

    #[test]
    fn ends() {
        let (outcome, _) = shell("cat; echo $X >&2; exit 3", Some("in"), 5000);
        assert_eq!(
            (
                outcome.code(),
                outcome.stdout.as_str(),
                outcome.stderr.as_str()
            ),
            (3, "in", "y\n")
        );
        assert_eq!(outcome.describe(), "exit status: 3: y");
        let (outcome, _) = shell("kill -TERM $$", None, 5000);
        assert_eq!(outcome.code(), 143);
    }

    #[test]
    fn time_limits_end_grandchildren_too() {
        let (outcome, time) = shell("sleep 60 & sleep 60", None, 200);
        assert_eq!(outcome.code(), 124);
        assert!(time < Duration::from_secs(5), "{time:?}");
    }

    #[test]
    fn a_daemon_that_keeps_the_pipe_is_not_waited_for() {
        let (outcome, time) = shell("setsid sleep 5 & echo done", None, 60_000);
        assert_eq!((outcome.code(), outcome.stdout.as_str()), (0, "done\n"));
        assert!(time < Duration::from_secs(4), "{time:?}");
    }

    #[test]
    fn output_is_bounded() {
        let (outcome, _) = shell("yes | head -c 1000000; echo end", None, 60_000);
        assert!(outcome.stdout.len() <= MAX_OUTPUT_BYTES && outcome.stdout.ends_with("end\n"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = run(&["/no/such/program", "x"], Duration::from_secs(1)).unwrap_err();
        assert!(
            error.to_string().starts_with("/no/such/program x: "),
            "{error}"
        );
    }
}
