//! Runs the node fragment's checks once the machine is ready; their results are part of the status.

use std::time::{Duration, Instant};

use crate::fragment::Check;
use crate::process::Program;
use crate::status::{CheckStatus, Publisher, Status};

/// Runs all checks, one after another, publishing after each.
pub fn run_all(checks: &[Check], status: &mut Status, publisher: &Publisher) {
    for (index, check) in checks.iter().enumerate() {
        status.checks[index] = run(check);
        publisher.publish(status);
    }
}

/// A check that has not run.
pub fn pending(check: &Check) -> CheckStatus {
    CheckStatus {
        name: check.name.clone(),
        exit: None,
        stdout: String::new(),
        stderr: String::new(),
        seconds: 0.0,
    }
}

fn run(check: &Check) -> CheckStatus {
    let words = ["sh", "-c", &check.command].map(str::to_owned);
    let limit = Duration::from_secs(check.timeout_seconds);
    let program = Program {
        words: &words,
        user: None,
        stdin: None,
        env: Vec::new(),
        limit,
    };
    let start = Instant::now();
    let done = program.run();
    let seconds = (start.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
    let (exit, stdout, stderr) = match done {
        Ok(outcome) => (outcome.code(), outcome.stdout, outcome.stderr),
        // 127 is what a shell says of a command that is not there.
        Err(error) => (127, String::new(), error.to_string()),
    };
    log::info!("check {} ended with {exit}", check.name);
    CheckStatus {
        name: check.name.clone(),
        exit: Some(exit),
        stdout,
        stderr,
        seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results() {
        for (command, exit, stdout) in [
            ("echo a; exit 3", 3, "a\n"),
            ("sleep 9", 124, ""),
            ("no-such-thing", 127, ""),
        ] {
            let check = Check {
                name: "c".into(),
                command: command.into(),
                timeout_seconds: 1,
            };
            let status = run(&check);
            assert_eq!(
                (status.exit, status.stdout.as_str()),
                (Some(exit), stdout),
                "{command}"
            );
        }
    }
}
