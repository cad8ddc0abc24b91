//! The status document: what a machine says of itself, on disk, to the host of a virtual machine, and on the console.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::context::Image;
use crate::error::{Error, Result};
use crate::files;
use crate::tree::read_json;
use crate::upgrade::UpgradeStatus;
use crate::values::Role;

/// Where the status is.
pub const STATUS_FILE: &str = "/run/farrow/status.json";

/// Name of the virtio-serial port to the host of a virtual machine.
const PORT_NAME: &str = "farrow.status";

/// How long the console and the port may block: a status that nobody reads must not stop a boot.
const WRITE_TRIES: u32 = 50;

/// What is happening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Files are written, services are started.
    Configuring,
    /// All services are healthy.
    Ready,
    /// Something did not work; it is tried again.
    Failed,
    /// The metadata is missing or wrong; nothing was started.
    Refused,
}

/// The status document, schema 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Format version.
    pub schema: u32,
    /// What is happening.
    pub state: State,
    /// Whether `state` is ready.
    pub ready: bool,
    /// Who the machine is; none until that is known.
    pub node: Option<NodeStatus>,
    /// What it was booted from.
    pub image: Image,
    /// Its slot, and what came of upgrades.
    #[serde(default)]
    pub upgrade: UpgradeStatus,
    /// Digest of the plan.
    pub plan_digest: Option<String>,
    /// Services in start order.
    pub services: Vec<ServiceStatus>,
    /// Checks, once the machine was ready; `exit` is none for those that are still to run.
    pub checks: Vec<CheckStatus>,
    /// What went wrong.
    pub error: Option<ErrorStatus>,
    /// Seconds since boot.
    pub uptime_seconds: f64,
}

/// Who a machine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Machine name.
    pub name: String,
    /// Role.
    pub role: Role,
    /// Cluster.
    pub cluster: Option<String>,
    /// Instance.
    pub instance: Option<String>,
    /// Address.
    pub address: Ipv4Addr,
}

/// What a service is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    /// Others must be healthy first.
    Waiting,
    /// It is being started.
    Starting,
    /// It works, and its tasks are done.
    Healthy,
    /// It does not work.
    Failed,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Name.
    pub name: String,
    /// systemd unit.
    pub unit: Option<String>,
    /// What it is doing.
    pub state: ServiceState,
    /// How long that took since it was started.
    pub seconds: f64,
    /// Why it failed, or what is waited for.
    pub message: String,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// Name.
    pub name: String,
    /// Exit code; none before it ran, 124 when it took too long.
    pub exit: Option<i32>,
    /// End of its output.
    pub stdout: String,
    /// End of its errors.
    pub stderr: String,
    /// How long it took.
    pub seconds: f64,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorStatus {
    /// Stable code.
    pub code: String,
    /// What, in words.
    pub message: String,
    /// Field of a document, when one is wrong.
    #[serde(rename = "where")]
    pub place: String,
    /// What to do.
    pub hint: Option<String>,
}

impl From<&Error> for ErrorStatus {
    fn from(error: &Error) -> Self {
        ErrorStatus {
            code: error.code().to_owned(),
            message: error.to_string(),
            place: error.field().to_owned(),
            hint: error.hint(),
        }
    }
}

impl Status {
    /// Reads a document that a machine wrote.
    ///
    /// # Errors
    /// `FR-IO`: there is none, or it is none.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
        read_json(&text).map_err(|error| Error::io("read", path, io::Error::other(error)))
    }

    /// A machine that has just begun.
    pub fn new(image: Image) -> Self {
        Status {
            schema: 1,
            state: State::Configuring,
            ready: false,
            node: None,
            image,
            upgrade: UpgradeStatus::default(),
            plan_digest: None,
            services: Vec::new(),
            checks: Vec::new(),
            error: None,
            uptime_seconds: 0.0,
        }
    }

    /// Changes the state.
    pub fn enter(&mut self, state: State) {
        self.state = state;
        self.ready = state == State::Ready;
    }

    /// Ends with an error.
    pub fn fail(&mut self, state: State, error: &Error) {
        self.enter(state);
        self.error = Some(ErrorStatus::from(error));
    }

    /// The console card: a few lines that answer who, what, and what is wrong.
    pub fn card(&self) -> String {
        let mut text = String::from("\n");
        let image = format!("{} {}", self.image.name, self.image.version);
        let state = format!("{:?}", self.state).to_lowercase();
        let _ = match &self.node {
            Some(node) => {
                let instance = node.instance.as_deref().unwrap_or("no cluster");
                writeln!(
                    text,
                    "  {} ({}, {instance})  {}  {image}",
                    node.name, node.role, node.address
                )
            }
            None => writeln!(text, "  {image}"),
        };
        let healthy = self
            .services
            .iter()
            .filter(|service| service.state == ServiceState::Healthy)
            .count();
        let _ = writeln!(
            text,
            "  {state} after {:.0} s, {healthy} of {} services healthy",
            self.uptime_seconds,
            self.services.len()
        );
        for service in &self.services {
            if service.state == ServiceState::Failed {
                let _ = writeln!(text, "  {}: {}", service.name, service.message);
            }
        }
        if let Some(error) = &self.error {
            let _ = writeln!(text, "  error[{}]: {}", error.code, error.message);
            if let Some(hint) = &error.hint {
                let _ = writeln!(text, "  hint: {hint}");
            }
        }
        text + "\n"
    }
}

/// Writes the status wherever somebody may look for it.
#[derive(Debug, Clone)]
pub struct Publisher {
    file: PathBuf,
}

impl Publisher {
    /// Publishes to the machine's own places.
    pub fn new(file: &Path) -> Self {
        Publisher {
            file: file.to_owned(),
        }
    }

    /// Writes the document. A place that cannot be written is logged and no reason to stop.
    pub fn publish(&self, status: &mut Status) {
        status.uptime_seconds = uptime();
        let Ok(mut line) = serde_json::to_string(status) else {
            return;
        };
        line.push('\n');
        if let Some(folder) = self.file.parent() {
            let _ = fs::create_dir_all(folder);
        }
        if let Err(error) = files::write_if_changed(&self.file, line.as_bytes(), 0o644, None) {
            log::warn!("{error}");
        }
        if let Some(port) = status_port()
            && let Err(error) = write_patiently(&port, &line)
        {
            log::warn!("cannot write {}: {error}", port.display());
        }
    }

    /// Shows the card on the console.
    pub fn show_card(&self, status: &Status) {
        if let Err(error) = write_patiently(Path::new("/dev/console"), &status.card()) {
            log::warn!("cannot write /dev/console: {error}");
        }
    }
}

/// Seconds since boot.
pub(crate) fn uptime() -> f64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(0.0)
}

/// The port's device, found by its name in sysfs: udev's link may not be there yet.
fn status_port() -> Option<PathBuf> {
    let entries = fs::read_dir("/sys/class/virtio-ports").ok()?.flatten();
    let entry = entries.into_iter().find(|entry| {
        fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == PORT_NAME)
    })?;
    Some(Path::new("/dev").join(entry.file_name()))
}

/// Writes to a device without waiting for a reader for ever.
fn write_patiently(path: &Path, text: &str) -> io::Result<()> {
    let flags = nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_NOCTTY;
    let mut file = OpenOptions::new()
        .write(true)
        .custom_flags(flags.bits())
        .open(path)?;
    let mut rest = text.as_bytes();
    let mut tries = 0;
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries < WRITE_TRIES => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
