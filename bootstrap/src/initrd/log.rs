//! Messages to the kernel log, which reaches every console and later the journal.

use std::fs::OpenOptions;
use std::io::Write;

/// Kernel log level of a message (`KERN_*`).
#[derive(Clone, Copy, Debug)]
pub enum Level {
    /// Printed even on a quiet boot.
    Error = 3,
    /// Something to look at later.
    Warning = 4,
    /// The course of the boot.
    Info = 6,
}

/// Writes one message with the time since the kernel started.
///
/// The log is opened for each message: the kernel rate-limits each open file to ten messages in five seconds.
/// A machine without a working log still boots, so an error here is dropped.
pub fn say(level: Level, message: &str) {
    if let Ok(mut log) = OpenOptions::new().write(true).open("/dev/kmsg") {
        let line = format!(
            "<{}>farrow-init: [{:.3} s] {message}\n",
            level as u8,
            uptime()
        );
        let _ = log.write_all(line.as_bytes());
    }
}

/// Writes one message of level [`Level::Info`].
pub fn info(message: &str) {
    say(Level::Info, message);
}

/// Seconds since the kernel started.
pub fn uptime() -> f64 {
    use nix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0.0, |t| {
        t.tv_sec() as f64 + t.tv_nsec() as f64 / 1_000_000_000.0
    })
}
