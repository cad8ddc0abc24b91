//! Running the built `farrow` and reading what it printed.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::world::World;

/// One call of `farrow`, with the run's cache, tools and state.
pub struct Farrow {
    command: Command,
    shown: String,
}

/// What a call printed and how it ended.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// A call that is still running.
pub struct Running {
    /// The process.
    pub child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Farrow {
    /// `farrow ARGS…` in an empty environment but for what it needs.
    pub fn new(world: &World, args: &[&str]) -> Self {
        let mut command = Command::new(&world.binary);
        command
            .args(args)
            .current_dir(&world.root)
            .env("FARROW_CACHE", world.root.join("cache"))
            .env("FARROW_TOOLS", world.root.join("tools"))
            .env("FARROW_STATE", world.root.join("state"))
            .stdin(Stdio::null());
        Self {
            command,
            shown: args.join(" "),
        }
    }

    /// `farrow ARGS…` in a network namespace with no interface but a loopback that is down. Needs root.
    pub fn without_network(world: &World, args: &[&str]) -> Self {
        Self::new(world, args).wrapped(&["unshare", "--net"])
    }

    /// The same call as the last arguments of another command.
    pub fn wrapped(self, words: &[&str]) -> Self {
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .arg(self.command.get_program())
            .args(self.command.get_args())
            .stdin(Stdio::null());
        if let Some(dir) = self.command.get_current_dir() {
            command.current_dir(dir);
        }
        for (name, value) in self.command.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        Self { command, ..self }
    }

    /// A shell script in such a network namespace, with `FARROW` as the binary. Needs root.
    pub fn in_shell_without_network(world: &World, script: &str) -> Self {
        let mut shell = Self::without_network(world, &[]);
        let mut command = Command::new("unshare");
        command
            .args(["--net", "sh", "-c", script])
            .current_dir(&world.root)
            .env("FARROW", &world.binary)
            .stdin(Stdio::null());
        for (name, value) in shell.command.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        shell.shown = "in a shell".into();
        shell.command = command;
        shell
    }

    pub(crate) fn command_mut(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working folder.
    pub fn in_dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Result<Outcome> {
        let started = Instant::now();
        let output = self.command.output().with_context(|| self.shown.clone())?;
        Ok(Outcome {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Runs it to its end; anything but success is an error that quotes what it said.
    pub fn succeed(self) -> Result<Outcome> {
        let shown = self.shown.clone();
        let outcome = self.run()?;
        ensure!(
            outcome.code == Some(0),
            "farrow {shown}: exit {:?}\n{}\n{}",
            outcome.code,
            outcome.stdout,
            outcome.stderr
        );
        Ok(outcome)
    }

    /// Runs it to its end and reads the JSON document that it printed.
    pub fn json(self) -> Result<Value> {
        let shown = self.shown.clone();
        let outcome = self.succeed()?;
        serde_json::from_str(&outcome.stdout)
            .with_context(|| format!("farrow {shown} printed:\n{}", outcome.stdout))
    }

    /// Starts it and leaves it running; its standard error goes to `log`.
    pub fn start(mut self, log: &Path) -> Result<Running> {
        let mut child = self
            .command
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(log)?)
            .spawn()
            .with_context(|| self.shown.clone())?;
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Ok(Running { child, stdout })
    }
}

impl Running {
    /// Reads one whole JSON document from its standard output; the process goes on.
    pub fn read_document(&mut self) -> Result<Value> {
        let mut text = String::new();
        loop {
            let mut line = String::new();
            if self.stdout.read_line(&mut line)? == 0 {
                bail!("it ended before its document was whole:\n{text}");
            }
            text.push_str(&line);
            if let Ok(document) = serde_json::from_str(&text) {
                return Ok(document);
            }
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            signal,
        )?)
    }

    /// Waits for its end, for at most `limit`; after that it is killed and an error returned.
    pub fn wait(mut self, limit: Duration) -> Result<(Option<i32>, String)> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                let mut rest = String::new();
                self.stdout.read_to_string(&mut rest)?;
                return Ok((status.code(), rest));
            }
            if started.elapsed() > limit {
                self.child.kill()?;
                self.child.wait()?;
                bail!("still running after {} s", limit.as_secs());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Outcome {
    /// Fails unless the call was refused with this exit code and said each of these words.
    pub fn expect_refusal(&self, code: i32, words: &[&str]) -> Result<()> {
        ensure!(
            self.code == Some(code),
            "exit {:?} instead of {code}\n{}",
            self.code,
            self.stderr
        );
        for word in words {
            ensure!(
                self.stderr.contains(word),
                "`{word}` is missing in:\n{}",
                self.stderr
            );
        }
        Ok(())
    }
}

/// Names below `dir` (to any depth) that only an unfinished run leaves.
pub fn temporaries(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if [".tmp", ".farrow-", ".unfinished"]
                .iter()
                .any(|begin| name.starts_with(begin))
                || name.contains(".partial")
            {
                found.push(entry.path());
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) && name != "trees" {
                open.push(entry.path());
            }
        }
    }
    found
}
