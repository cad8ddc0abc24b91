//! apt and dpkg of this machine, told to use one source only. The only place that starts them to change something.
//!
//! Their output goes to a file: were it a pipe to this program, they would fail half-way when it is killed.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::diagnostic::{Diagnostic, Result};
use crate::install::quiet::{self, Quiet};
use crate::session::Stage;

/// Everything that apt and dpkg said in the last run.
const LOG: &str = "/var/log/farrow-install.log";
/// How often their progress is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How much of the log is searched for the reason of a failure, in bytes.
const TAIL: u64 = 16 << 10;
/// How many lines of it are shown.
const SHOWN: usize = 6;

/// Settings of every call. Files of `/etc` that the administrator changed stay; no question is asked; what else is
/// configured as a source is not looked at, and its lists are kept.
const OPTIONS: [&str; 10] = [
    "--quiet",
    "--assume-yes",
    "--no-install-recommends",
    "--option=Dir::Etc::sourceparts=-",
    "--option=APT::Get::List-Cleanup=0",
    "--option=APT::Status-Fd=3",
    "--option=Dpkg::Use-Pty=0",
    "--option=Dpkg::Options::=--force-confdef",
    "--option=Dpkg::Options::=--force-confold",
    "--option=DPkg::Lock::Timeout=300",
];

/// The environment of every call: nothing of the caller's decides what a package does.
const ENVIRONMENT: [(&str, &str); 7] = [
    (
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("HOME", "/root"),
    ("LC_ALL", "C.UTF-8"),
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("APT_LISTCHANGES_FRONTEND", "none"),
    // It would restart services that use a library that was replaced.
    ("NEEDRESTART_SUSPEND", "1"),
    ("UCF_FORCE_CONFFOLD", "1"),
];

/// apt with one source, while it is [`Quiet`].
pub struct Apt<'a> {
    source: &'a Path,
    status: PathBuf,
    keeps_all: bool,
    _quiet: &'a Quiet,
}

impl<'a> Apt<'a> {
    /// apt with this source entry. With `keeps_all` it may remove nothing.
    pub fn new(source: &'a Path, quiet: &'a Quiet, keeps_all: bool) -> Self {
        // What an earlier run said is of no use any more.
        let _ = fs::remove_file(LOG);
        Apt {
            source,
            status: Path::new(quiet::RUN).join("install.status"),
            keeps_all,
            _quiet: quiet,
        }
    }

    /// Reads the repository's index. A warning, as about a signature, is an error.
    pub fn update(&self, stage: &Stage<'_>) -> Result<()> {
        self.apt(&["update".into(), "--error-on=any".into()], stage)
    }

    /// Configures what an interrupted run has unpacked, as far as everything that it needs is there; without this, apt
    /// refuses to do anything. What is left is for [`Apt::install`], which brings the rest.
    pub fn configure(&self, stage: &Stage<'_>) {
        let words = [
            "dpkg",
            "--force-confdef",
            "--force-confold",
            "--configure",
            "--pending",
        ];
        let _ = self.run(&words.map(str::to_owned), stage);
    }

    /// Installs packages, and mends what an interrupted run has left.
    pub fn install(&self, names: &[String], stage: &Stage<'_>) -> Result<()> {
        let verb = ["install", "--fix-broken", "--allow-downgrades"].map(str::to_owned);
        // What was proved holds for apt, too.
        let strict = self.keeps_all.then(|| "--no-remove".to_owned());
        let words = verb.into_iter().chain(strict).chain(names.iter().cloned());
        self.apt(&words.collect::<Vec<_>>(), stage)
    }

    fn apt(&self, words: &[String], stage: &Stage<'_>) -> Result<()> {
        let source = format!("--option=Dir::Etc::sourcelist={}", self.source.display());
        let program = ["apt-get".to_owned()].into_iter();
        let options = OPTIONS.map(str::to_owned).into_iter().chain([source]);
        let line: Vec<String> = program
            .chain(options)
            .chain(words.iter().cloned())
            .collect();
        self.run(&line, stage)
    }

    fn run(&self, line: &[String], stage: &Stage<'_>) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(LOG)
            .map_err(|e| Diagnostic::io("write", Path::new(LOG), e))?;
        let errors = log
            .try_clone()
            .map_err(|e| Diagnostic::io("write", Path::new(LOG), e))?;
        fs::write(&self.status, "").map_err(|e| Diagnostic::io("write", &self.status, e))?;
        // The shell opens descriptor 3, where apt tells how far it is.
        let mut child = Command::new("/bin/sh")
            .args(["-c", "exec 3>>\"$0\"; exec \"$@\""])
            .arg(&self.status)
            .args(line)
            .env_clear()
            .envs(ENVIRONMENT)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|e| Diagnostic::io("execute", Path::new(&line[0]), e))?;
        let mut progress = Progress::open(&self.status)?;
        let status = loop {
            let ended = child.try_wait();
            if let Some(status) =
                ended.map_err(|e| Diagnostic::io("wait for", Path::new(&line[0]), e))?
            {
                break status;
            }
            progress.show(stage);
            std::thread::sleep(TICK);
        };
        if status.success() {
            return Ok(());
        }
        Err(failed(&line[0], status, &tail(Path::new(LOG))))
    }
}

/// The failure of a program of apt, with what it said last.
fn failed(program: &str, status: ExitStatus, said: &str) -> Diagnostic {
    let message = format!("{program} ended with {status}:\n{}", reasons(said));
    Diagnostic::failed("FR-INSTALL-APT", message).with_hint(format!(
        "{LOG} has all of its output; run the same command again when the cause is gone"
    ))
}

/// Follows the lines `pmstatus:PACKAGE:PERCENT:WHAT` (apt's progress reporting).
struct Progress {
    file: File,
    rest: String,
}

impl Progress {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Diagnostic::io("open", path, e))?;
        let rest = String::new();
        Ok(Progress { file, rest })
    }

    fn show(&mut self, stage: &Stage<'_>) {
        let mut bytes = Vec::new();
        if self.file.read_to_end(&mut bytes).is_err() {
            return;
        }
        self.rest.push_str(&String::from_utf8_lossy(&bytes));
        let end = self.rest.rfind('\n').map_or(0, |at| at + 1);
        let lines: String = self.rest.drain(..end).collect();
        if let Some((percent, what)) = lines.lines().rev().find_map(parse) {
            stage.items(percent, 100, &what);
        }
    }
}

/// Percent and what is being done.
fn parse(line: &str) -> Option<(u64, String)> {
    let mut parts = line.strip_prefix("pmstatus:")?.splitn(3, ':').skip(1);
    let percent: f64 = parts.next()?.parse().ok()?;
    Some((percent as u64, parts.next()?.to_owned()))
}

fn tail(path: &Path) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        std::io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

/// The lines that say why: apt's and dpkg's own, or else the last ones.
fn reasons(text: &str) -> String {
    let starts = ["E:", "W:", "dpkg: error", "dpkg: dependency"];
    let says = |line: &&str| starts.iter().any(|start| line.starts_with(start));
    let mut lines: Vec<&str> = text.lines().filter(says).collect();
    if lines.is_empty() {
        lines = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
    }
    lines[lines.len().saturating_sub(SHOWN)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_of_dpkg() {
        for (line, expected) in [
            (
                "pmstatus:nginx:42.8571:Unpacking nginx (amd64)",
                Some((42, "Unpacking nginx (amd64)")),
            ),
            ("dlstatus:1:20.9:Retrieving file 1 of 2", None),
            ("pmstatus:nginx", None),
        ] {
            let expected = expected.map(|(percent, what): (u64, &str)| (percent, what.to_owned()));
            assert_eq!(parse(line), expected, "{line}");
        }
    }

    #[test]
    fn a_failure_as_printed() {
        use std::os::unix::process::ExitStatusExt;
        let said = "Reading\nE: Could not get lock /var/lib/dpkg/lock-frontend\n";
        let error = failed("apt-get", ExitStatus::from_raw(100 << 8), said);
        crate::golden::golden("FR-INSTALL-APT", &error.render(false));
    }

    #[test]
    fn reasons_of_a_failure() {
        for (text, expected) in [
            (
                "Reading\nE: Unable to locate package x\n",
                "E: Unable to locate package x",
            ),
            ("one\n\ntwo\n", "one\ntwo"),
            ("", ""),
        ] {
            assert_eq!(reasons(text), expected);
        }
    }
}
