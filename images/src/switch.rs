//! A learning Ethernet switch in this process: one Unix datagram socket per port, one frame per datagram.
//!
//! The other end of a port is QEMU's `-netdev dgram` with `local.type=unix` and `remote.type=unix`.
//! Nothing leaves the host, no privilege is needed, and [`Rules`] make the network as bad as a test wants it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use nix::fcntl::OFlag;

use crate::error::Result;
use crate::qemu_error::{MachineError, check_name};
use crate::switch_table::Rules;
use crate::switch_worker::Worker;

/// What went through a port; "received" and "sent" are the switch's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Frames that came from the machine.
    pub received: u64,
    /// Frames that were handed to the machine.
    pub sent: u64,
    /// Frames to the machine that a rule took away.
    pub lost_by_rule: u64,
    /// Frames to the machine that were thrown away since it did not take them fast enough.
    pub lost_full: u64,
    /// Frames to the machine while nobody listened there.
    pub lost_absent: u64,
    /// Frames from the machine that were too short or too long.
    pub malformed: u64,
}

/// One port, as its owner and the worker see it.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) socket: UnixDatagram,
    /// Where the machine's own socket is, in a form short enough for a socket address.
    pub(crate) machine: PathBuf,
}

/// What the callers change and the worker reads.
#[derive(Debug, Default)]
pub(crate) struct Control {
    pub(crate) ports: Vec<Arc<Port>>,
    pub(crate) rules: Rules,
    pub(crate) counters: Vec<Counters>,
    pub(crate) stop: bool,
}

/// The part that callers and worker share.
#[derive(Debug)]
pub(crate) struct Shared {
    control: Mutex<Control>,
    wake: UnixDatagram,
}

impl Shared {
    pub(crate) fn control(&self) -> MutexGuard<'_, Control> {
        // The data is whole after each statement, so a panic of another holder does not spoil it.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Control) -> T) -> T {
        let value = change(&mut self.control());
        // Full means that a wake-up is pending already; gone means that there is no worker to wake.
        let _ = self.wake.send(&[1]);
        value
    }
}

/// A running switch. Dropping it stops it and removes its sockets.
#[derive(Debug)]
pub struct Switch {
    folder: PathBuf,
    handle: File,
    shared: Arc<Shared>,
    worker: Option<JoinHandle<()>>,
}

impl Switch {
    /// Starts a switch without ports; its sockets will be in `folder`, which is made (mode 0700).
    /// `seed` starts the random numbers of [`crate::switch_table::Action::Lose`].
    ///
    /// # Errors
    /// [`MachineError::Switch`] when the folder or the worker cannot be made.
    pub fn start(folder: &Path, seed: u64) -> Result<Switch> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(MachineError::switch("create", folder))?;
        let handle = open_folder(folder).map_err(MachineError::switch("open", folder))?;
        let (wake, woken) =
            wake_pair().map_err(MachineError::switch("create a wake-up for", folder))?;
        let shared = Arc::new(Shared {
            control: Mutex::default(),
            wake,
        });
        let worker = Worker::new(shared.clone(), woken, seed);
        let worker = std::thread::Builder::new()
            .name("switch".to_owned())
            .spawn(move || worker.run())
            .map_err(MachineError::switch("start a thread for", folder))?;
        Ok(Switch {
            folder: folder.to_owned(),
            handle,
            shared,
            worker: Some(worker),
        })
    }

    /// The folder with the sockets: `NAME.switch` is ours, `NAME.machine` the machine's.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Adds a port; a port of that name that exists already is kept as it is.
    ///
    /// # Errors
    /// [`MachineError::Name`] for a name that is no plain word, [`MachineError::Switch`] when its socket fails.
    pub fn add_port(&self, name: &str) -> Result<()> {
        check_name("port", name)?;
        if self.shared.control().ports.iter().any(|p| p.name == name) {
            return Ok(());
        }
        let path = self.folder.join(socket_name(name, "switch"));
        let socket =
            bind(&self.short(name, "switch")).map_err(MachineError::switch("bind", path))?;
        let port = Arc::new(Port {
            name: name.to_owned(),
            socket,
            machine: self.short(name, "machine"),
        });
        self.shared.change(|control| control.ports.push(port));
        Ok(())
    }

    /// Replaces all rules. Frames that were delayed by old ones still arrive.
    pub fn set_rules(&self, rules: Rules) {
        self.shared.change(|control| control.rules = rules);
    }

    /// What went through each port so far.
    pub fn counters(&self) -> BTreeMap<String, Counters> {
        let control = self.shared.control();
        let names = control.ports.iter().map(|p| p.name.clone());
        // A port that the worker has not seen yet has no counters there.
        let counters = control.counters.iter().copied();
        names
            .zip(counters.chain(std::iter::repeat(Counters::default())))
            .collect()
    }

    /// A socket's path through the open folder: socket addresses end at 107 bytes (unix(7)), folders do not.
    fn short(&self, name: &str, end: &str) -> PathBuf {
        let folder = PathBuf::from(format!("/proc/self/fd/{}", self.handle.as_raw_fd()));
        folder.join(socket_name(name, end))
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.shared.change(|control| control.stop = true);
        if let Some(worker) = self.worker.take() {
            // A worker that panicked has nothing left to stop.
            let _ = worker.join();
        }
        for port in &self.shared.control().ports {
            for end in ["switch", "machine"] {
                let _ = std::fs::remove_file(self.folder.join(socket_name(&port.name, end)));
            }
        }
    }
}

/// File name of one end of a port.
pub(crate) fn socket_name(port: &str, end: &str) -> String {
    format!("{port}.{end}")
}

fn open_folder(folder: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags((OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).bits())
        .open(folder)
}

fn wake_pair() -> io::Result<(UnixDatagram, UnixDatagram)> {
    let (wake, woken) = UnixDatagram::pair()?;
    wake.set_nonblocking(true)?;
    woken.set_nonblocking(true)?;
    Ok((wake, woken))
}

fn bind(path: &Path) -> io::Result<UnixDatagram> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixDatagram::bind(path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

impl AsFd for Port {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
