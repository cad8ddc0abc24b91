//! What can go wrong with a virtual machine, its switch and its seed.

use std::io;
use std::path::PathBuf;

/// A failure of the QEMU runner.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A socket of the switch could not be made or used.
    #[error("switch: cannot {what} {}: {source}", path.display())]
    Switch {
        /// The verb, as in "cannot WHAT PATH".
        what: &'static str,
        /// The socket or its folder.
        path: PathBuf,
        /// The reason the kernel gave.
        source: io::Error,
    },
    /// A name that is used for files and QEMU options has other characters than allowed.
    #[error("{what} `{name}` must be 1 to 63 of the characters a-z, 0-9, `-` and `_`")]
    Name {
        /// What kind of name: machine or port.
        what: &'static str,
        /// The refused name.
        name: String,
    },
    /// A path cannot be written in a QEMU option.
    #[error("path {} is not UTF-8, or has no file name", path.display())]
    Path {
        /// The refused path.
        path: PathBuf,
    },
    /// The machine protocol (QMP) gave an error or an unexpected answer.
    #[error("machine {machine}: QEMU monitor: {message}")]
    Monitor {
        /// The machine's name.
        machine: String,
        /// What was said, or why nothing was.
        message: String,
    },
    /// QEMU did not start.
    #[error("machine {machine}: QEMU did not start: {message}")]
    Start {
        /// The machine's name.
        machine: String,
        /// The last lines of QEMU's own messages.
        message: String,
    },
    /// A host port that the deployment asks for is taken.
    #[error("machine {machine}: port {port} of 127.0.0.1 is in use")]
    PortInUse {
        /// The machine's name.
        machine: String,
        /// The host port.
        port: u16,
    },
    /// QEMU ended although the machine was wanted.
    #[error("machine {machine}: ended early with {status}{tail}")]
    Ended {
        /// The machine's name.
        machine: String,
        /// Exit code or signal.
        status: String,
        /// QEMU's messages and the console's last lines, each line indented.
        tail: String,
    },
    /// The console shows that the boot cannot succeed.
    #[error("machine {machine}: boot failed: {line}{tail}")]
    Boot {
        /// The machine's name.
        machine: String,
        /// The line of the console that says so.
        line: String,
        /// The console's last lines, each line indented.
        tail: String,
    },
    /// The machine itself says that it failed or refuses its configuration.
    #[error("machine {machine}: {state}: {message}")]
    Node {
        /// The machine's name.
        machine: String,
        /// `failed` or `refused`.
        state: String,
        /// Code, message and place from the status document.
        message: String,
        /// The hint from the status document.
        hint: Option<String>,
    },
    /// Not all machines were ready in time.
    #[error("not ready after {seconds} s: {waiting}{tail}")]
    NotReady {
        /// The limit, in seconds.
        seconds: u64,
        /// The machines and what each of them waits for.
        waiting: String,
        /// The consoles' last lines, each line indented.
        tail: String,
    },
    /// Containers were asked for by somebody else than root.
    #[error("only root can run machines as containers")]
    NeedsRoot,
    /// A seed document is larger than a machine would read.
    #[error("seed: {name} has {size} bytes, the limit is {limit}")]
    SeedSize {
        /// `user-data`, `meta-data` or `network-config`.
        name: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
}

impl MachineError {
    /// Stable identifier for scripts and documentation.
    pub fn code(&self) -> &'static str {
        match self {
            MachineError::Switch { .. } => "FR-SWITCH",
            MachineError::Name { .. } => "FR-MACHINE-NAME",
            MachineError::Path { .. } => "FR-MACHINE-PATH",
            MachineError::Monitor { .. } => "FR-MACHINE-MONITOR",
            MachineError::Start { .. } => "FR-MACHINE-START",
            MachineError::PortInUse { .. } => "FR-MACHINE-PORT",
            MachineError::Ended { .. } => "FR-MACHINE-ENDED",
            MachineError::Boot { .. } => "FR-MACHINE-BOOT",
            MachineError::Node { .. } => "FR-MACHINE-NODE",
            MachineError::NotReady { .. } => "FR-MACHINE-TIMEOUT",
            MachineError::NeedsRoot => "FR-CONTAINER-ROOT",
            MachineError::SeedSize { .. } => "FR-SEED-SIZE",
        }
    }

    /// What the user can do about it, when there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            MachineError::PortInUse { port, .. } => Some(format!(
                "stop the program that listens on {port} (`ss -ltnp`), or let a free port be picked"
            )),
            MachineError::NeedsRoot => {
                Some("run it as root, or leave out --containers: QEMU needs no root".to_owned())
            }
            MachineError::Node { hint, .. } => hint.clone(),
            MachineError::NotReady { .. } => {
                Some("allow more time; without KVM a boot takes minutes".to_owned())
            }
            _ => None,
        }
    }

    /// Closure for `map_err` on socket calls of the switch.
    pub(crate) fn switch(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> MachineError {
        move |source| MachineError::Switch {
            what,
            path: path.into(),
            source,
        }
    }
}

/// Refuses names that would need quoting in a QEMU option or leave their folder.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), MachineError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    if (1..=63).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(MachineError::Name {
        what,
        name: name.to_owned(),
    })
}
