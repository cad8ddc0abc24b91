//! Running a program and what it cost; the table of ratios.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::resource::{UsageWho, getrusage};

/// Runs per measurement; the fastest counts, since whatever else the machine does only adds.
pub const RUNS: usize = 3;

const PROGRAM: &str = "FARROW_MEASURED_PROGRAM";

/// Whether the host has a program.
pub fn has(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok()
}

/// Runs a program to its end and returns wall-clock seconds; what it printed is part of the error.
pub fn timed(command: &mut Command) -> Result<f64> {
    let started = Instant::now();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?}"))?;
    let seconds = started.elapsed().as_secs_f64();
    ensure!(
        output.status.success(),
        "{:.200}\n{}{}",
        format!("{command:?}"),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(seconds)
}

/// The fastest of some runs, with `before` done ahead of each and not counted.
pub fn fastest(
    mut before: impl FnMut() -> Result<()>,
    mut measured: impl FnMut() -> Result<f64>,
) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        before()?;
        best = best.min(measured()?);
    }
    Ok(best)
}

/// Largest resident set, in MB (10^6 bytes), of a program or one of its children: a helper process that starts nothing
/// else reports it.
pub fn peak_mb(command: &Command) -> Result<f64> {
    let own = std::env::current_exe()?;
    let mut helper = Command::new(own);
    helper
        .args(command.get_args())
        .env(PROGRAM, command.get_program());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            helper.env(name, value);
        }
    }
    if let Some(dir) = command.get_current_dir() {
        helper.current_dir(dir);
    }
    let output = helper.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let bytes: f64 = text.trim().parse().with_context(|| {
        format!(
            "{command:?}\n{text}{}",
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    Ok(bytes / 1e6)
}

/// When this process was started by [`peak_mb`]: runs the program, prints the peak in bytes, and is done.
pub fn measure_if_requested() -> bool {
    let Some(program) = std::env::var_os(PROGRAM) else {
        return false;
    };
    let ran = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env_remove(PROGRAM)
        .stdout(Stdio::null())
        .status();
    if let (Ok(status), Ok(usage)) = (ran, getrusage(UsageWho::RUSAGE_CHILDREN))
        && status.success()
    {
        // Linux counts in KiB, getrusage(2).
        println!("{}", usage.max_rss() * 1024);
    }
    true
}

/// Takes everything below a folder out of the page cache, as after a reboot.
pub fn evict(dir: &Path) -> Result<()> {
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else if let Ok(file) = std::fs::File::open(entry.path()) {
                file.sync_all()?;
                posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
            }
        }
    }
    Ok(())
}

/// Prints a line for each measurement and remembers whether all bars were met.
pub struct Table {
    met: bool,
}

impl Table {
    /// Prints the heading.
    pub fn new() -> Self {
        println!(
            "{:<34} {:>9} {:>9}  {:>7}  {:<9}",
            "", "farrow", "yardstick", "ratio", "bar"
        );
        Table { met: true }
    }

    /// Seconds beside a yardstick's: at most `bar` times as many.
    pub fn ratio(&mut self, name: &str, ours: f64, yardstick: f64, bar: f64) {
        let ratio = ours / yardstick;
        let met = ratio <= bar;
        self.line(
            name,
            &format!(
                "{ours:>7.2} s {yardstick:>7.2} s  {ratio:>7.2}  {:<9}",
                format!("<= {bar}")
            ),
            met,
        );
    }

    /// A figure by itself, with its largest value.
    pub fn bound(&mut self, name: &str, value: f64, unit: &str, bar: f64) {
        let text = format!(
            "{value:>7.2} {unit:<2}{:>18}  {:<9}",
            "",
            format!("<= {bar} {unit}")
        );
        self.line(name, &text, value <= bar);
    }

    /// Something that was not measured.
    pub fn skipped(&mut self, name: &str, why: &str) {
        println!("{name:<34} SKIPPED: {why}");
    }

    /// Whether every bar was met.
    pub fn is_met(&self) -> bool {
        self.met
    }

    fn line(&mut self, name: &str, figures: &str, met: bool) {
        self.met &= met;
        println!("{name:<34} {figures}{}", if met { "" } else { "  MISSED" });
    }
}
