//! Running a program and what it cost; the table of ratios.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// Runs per measurement; the fastest counts, since whatever else the machine does only adds.
pub const RUNS: usize = 3;

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

    /// Whether every bar was met.
    pub fn is_met(&self) -> bool {
        self.met
    }

    fn line(&mut self, name: &str, figures: &str, met: bool) {
        self.met &= met;
        println!("{name:<34} {figures}{}", if met { "" } else { "  MISSED" });
    }
}
