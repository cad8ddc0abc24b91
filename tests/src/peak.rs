//! Largest memory of a program, measured from outside by a helper process that starts nothing else.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};

const PROGRAM: &str = "FARROW_MEASURED_PROGRAM";

/// Largest resident set, in MB (10^6 bytes), of a program or one of its children.
///
/// The helper is this program itself, whose `main` begins with [`measure_if_requested`].
pub fn of(command: &Command) -> Result<f64> {
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

/// When this process was started by [`of`]: runs the program, prints the peak in bytes, and is done.
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
