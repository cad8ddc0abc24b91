//! systemd's units, through systemctl.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::Result;
use crate::process;

/// Limit for commands that do not wait for a service: generous, since an emulated machine at its first boot is slow.
const SHORT: Duration = Duration::from_secs(300);

/// What systemd says of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitState {
    /// ActiveState: active, inactive, activating, failed…
    pub active: String,
    /// Result of the last run: success, exit-code…
    pub result: String,
    /// LoadState: loaded, not-found…
    pub load: String,
    /// Whether its files changed since systemd read them.
    pub stale: bool,
}

/// Makes systemd read its unit files again.
///
/// # Errors
/// `FR-COMMAND`.
pub fn daemon_reload() -> Result<()> {
    process::run(&["systemctl", "daemon-reload"], SHORT).map(|_| ())
}

/// Starts a unit and waits until it is up.
///
/// # Errors
/// `FR-COMMAND`.
pub fn start(unit: &str, limit: Duration) -> Result<()> {
    process::run(&["systemctl", "start", "--no-ask-password", unit], limit).map(|_| ())
}

/// Stops a unit and waits until it is down.
///
/// # Errors
/// `FR-COMMAND`.
pub fn stop(unit: &str, limit: Duration) -> Result<()> {
    process::run(&["systemctl", "stop", "--no-ask-password", unit], limit).map(|_| ())
}

/// Queues a job ("start", "restart") for each unit.
///
/// # Errors
/// `FR-COMMAND`.
pub fn queue(verb: &str, units: &[&str]) -> Result<()> {
    let mut words = vec!["systemctl", verb, "--no-ask-password", "--no-block"];
    words.extend(units);
    process::run(&words, SHORT).map(|_| ())
}

/// Restarts a unit and waits until it is up.
///
/// # Errors
/// `FR-COMMAND`.
pub fn restart(unit: &str, limit: Duration) -> Result<()> {
    process::run(&["systemctl", "restart", "--no-ask-password", unit], limit).map(|_| ())
}

/// Queues the start of a failed unit, forgetting how often it failed.
///
/// # Errors
/// `FR-COMMAND`.
pub fn start_again(unit: &str) -> Result<()> {
    process::run(&["systemctl", "reset-failed", unit], SHORT)?;
    queue("start", &[unit])
}

/// States of units, by the names given.
///
/// # Errors
/// `FR-COMMAND`.
pub fn states(units: &[&str]) -> Result<BTreeMap<String, UnitState>> {
    if units.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut words = vec![
        "systemctl",
        "show",
        "--property=ActiveState,Result,LoadState,NeedDaemonReload",
    ];
    words.extend(units);
    let text = process::run(&words, SHORT)?.stdout;
    let states = parse(&text);
    Ok(units
        .iter()
        .map(|unit| (*unit).to_owned())
        .zip(states)
        .collect())
}

/// Reads `systemctl show` of several units: one block each, in order, separated by blank lines.
fn parse(text: &str) -> Vec<UnitState> {
    let block = |block: &str| {
        let value = |key: &str| {
            let line = block
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().to_owned()
        };
        UnitState {
            active: value("ActiveState"),
            result: value("Result"),
            load: value("LoadState"),
            stale: value("NeedDaemonReload") == "yes",
        }
    };
    text.trim().split("\n\n").map(block).collect()
}

/// The last lines a unit wrote to the journal.
pub fn last_words(unit: &str) -> String {
    let words = ["journalctl", "-b", "-q", "-n", "3", "-o", "cat", "-u", unit];
    let said = process::run(&words, SHORT)
        .map(|outcome| outcome.stdout)
        .unwrap_or_default();
    said.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn show() {
        let text = "Result=success\nLoadState=loaded\nActiveState=active\n\nResult=exit-code\nLoadState=loaded\nActiveState=failed\nNeedDaemonReload=yes\n";
        let states = parse(text);
        assert_eq!(states[0].active, "active");
        assert!(states[1].stale && !states[0].stale);
        assert_eq!(
            (states[1].active.as_str(), states[1].result.as_str()),
            ("failed", "exit-code")
        );
    }
}
