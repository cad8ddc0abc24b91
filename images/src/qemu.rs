//! Runs machines side by side: overlays, QEMU processes, clean and unclean stops.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::accel::Accelerator;
use crate::error::{Error, Result};
use crate::process::Child;
use crate::qemu_command::{self as command, file, parse_forwards};
use crate::qemu_disks::prepare;
use crate::qemu_error::MachineError;
use crate::qemu_fleet::Guest;
use crate::qemu_machine::{Forward, Machine};
use crate::qemu_watch::{Console, NodeStatus, Tail, plain};
use crate::qmp::Qmp;
use crate::switch::Switch;
use crate::time_stamp;
use crate::tools::ToolsTree;

/// How long QEMU may take until its monitor answers; a busy host needs some seconds.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long one monitor command may take.
const MONITOR_LIMIT: Duration = Duration::from_secs(20);

/// How long QEMU may take to end after `quit`.
const QUIT_LIMIT: Duration = Duration::from_secs(5);

/// How often a process or a log is looked at.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// What all machines of a fleet share.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    /// Where QEMU comes from.
    pub tools: &'a ToolsTree,
    /// What runs the guests' instructions.
    pub accelerator: Accelerator,
    /// Folder that gets one folder for each machine.
    pub run_dir: &'a Path,
    /// The private network; `None`: the machines have no second interface.
    pub switch: Option<&'a Switch>,
}

/// One machine with its files, running or stopped.
#[derive(Debug)]
pub struct Running {
    machine: Machine,
    folder: PathBuf,
    forwards: Vec<Forward>,
    process: Option<Process>,
    console: Console,
    status: Tail,
    latest: Option<NodeStatus>,
    exited: Option<String>,
    wanted: bool,
}

#[derive(Debug)]
struct Process {
    child: Child,
    monitor: Qmp,
}

impl Running {
    /// Makes the machine's folder and starts it. An overlay that is there already is used again.
    ///
    /// # Errors
    /// [`MachineError::Start`] with QEMU's message, [`MachineError::PortInUse`], and failures of files and tools.
    pub fn start(machine: Machine, host: &Host) -> Result<Running> {
        let mut running = Running::prepare(machine, host)?;
        running.launch(host)?;
        Ok(running)
    }

    /// Makes the machine's folder; [`Running::start_again`] starts it.
    ///
    /// # Errors
    /// Failures of files and tools.
    pub fn prepare(machine: Machine, host: &Host) -> Result<Running> {
        machine.check()?;
        let folder = host.run_dir.join(&machine.name);
        prepare(&machine, &folder, host.tools)?;
        Ok(Running {
            forwards: machine.forwards.clone(),
            console: Console::from_end(folder.join(file::SERIAL)),
            status: Tail::from_end(folder.join(file::STATUS)),
            machine,
            folder,
            process: None,
            latest: None,
            exited: None,
            wanted: false,
        })
    }

    /// Starts it again, on the same disks, after it was stopped or killed. Ports that were picked stay if they are free.
    ///
    /// # Errors
    /// As [`Running::start`].
    pub fn start_again(&mut self, host: &Host) -> Result<()> {
        self.power_cut();
        (self.latest, self.exited) = (None, None);
        match self.launch(host) {
            Err(Error::Machine(MachineError::PortInUse { .. })) => {
                self.forwards = self.machine.forwards.clone();
                self.launch(host)
            }
            other => other,
        }
    }

    /// The machine's name.
    pub fn name(&self) -> &str {
        &self.machine.name
    }

    /// The folder with its disks and logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The forwards with the ports that were picked.
    pub fn forwards(&self) -> &[Forward] {
        &self.forwards
    }

    /// The host's port that leads to TCP or UDP port `guest_port`.
    pub fn host_port(&self, guest_port: u16) -> Option<u16> {
        let found = self.forwards.iter().find(|f| f.guest_port == guest_port);
        found.map(|f| f.host_port)
    }

    /// The last status document since the last start.
    pub fn latest(&self) -> Option<&NodeStatus> {
        self.latest.as_ref()
    }

    /// Its console's last lines, each indented on a line of its own.
    pub fn console_quote(&self) -> String {
        self.console.quote()
    }

    /// Whether QEMU runs.
    ///
    /// # Errors
    /// The process cannot be asked.
    pub fn is_running(&mut self) -> Result<bool> {
        let Some(process) = &mut self.process else {
            return Ok(false);
        };
        let Some(status) = process.child.try_wait()? else {
            return Ok(true);
        };
        self.exited = Some(status.to_string());
        self.process = None;
        Ok(false)
    }

    /// New console lines and status documents. Does not wait.
    pub fn poll(&mut self) -> (Vec<String>, Vec<NodeStatus>) {
        let was_reset = self.was_reset();
        let console = self.console.lines();
        let lines = self.status.lines();
        let statuses: Vec<_> = lines.iter().filter_map(|l| NodeStatus::parse(l)).collect();
        if let Some(last) = statuses.last() {
            self.latest = Some(last.clone());
        }
        if was_reset {
            // No machine reports between its reset and the next look at it: all of this is from before.
            self.latest = None;
        }
        (console, statuses)
    }

    /// Whether the machine was reset, by itself or by [`Running::reset`], since the last call.
    fn was_reset(&mut self) -> bool {
        let events = self.process.as_mut().map(|p| p.monitor.events());
        // A monitor that fails belongs to a QEMU that ends, which `is_running` reports.
        let events = events.and_then(std::result::Result::ok).unwrap_or_default();
        events.iter().any(|event| event.name == "RESET")
    }

    /// The error for a machine that ended although it was wanted.
    pub(crate) fn ended(&mut self) -> MachineError {
        self.poll();
        let log = log_tail(&self.folder);
        let log: String = log.lines().map(|line| format!("\n    {line}")).collect();
        MachineError::Ended {
            machine: self.machine.name.clone(),
            status: self.exited.clone().unwrap_or_default(),
            tail: log + &self.console.quote(),
        }
    }

    /// The QEMU monitor, for whatever has no method here.
    ///
    /// # Errors
    /// [`MachineError::Monitor`] when the machine is stopped or the command fails.
    pub fn monitor(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let result = match &mut self.process {
            Some(process) => process.monitor.execute(command, arguments),
            None => Err("the machine is stopped".to_owned()),
        };
        Ok(result.map_err(|message| monitor_error(&self.machine.name, message))?)
    }

    /// Presses the reset button; what the machine reported before is forgotten.
    ///
    /// # Errors
    /// [`MachineError::Monitor`].
    pub fn reset(&mut self) -> Result<()> {
        self.monitor("system_reset", Value::Null)?;
        self.poll();
        self.latest = None;
        Ok(())
    }

    /// Presses the power button (ACPI); [`Running::wait_stopped`] tells whether the machine obeys.
    ///
    /// # Errors
    /// [`MachineError::Monitor`].
    pub fn press_power(&mut self) -> Result<()> {
        self.wanted = false;
        self.monitor("system_powerdown", Value::Null).map(drop)
    }

    /// Waits until QEMU has ended; false: it still runs after `limit`.
    ///
    /// # Errors
    /// The process cannot be asked.
    pub fn wait_stopped(&mut self, limit: Duration) -> Result<bool> {
        let start = Instant::now();
        while self.is_running()? {
            if start.elapsed() >= limit {
                return Ok(false);
            }
            std::thread::sleep(TICK);
        }
        Ok(true)
    }

    /// Shuts the machine down: power button, `limit` to obey, then QEMU's `quit`, then the end of its process.
    /// True: it went down by itself.
    ///
    /// # Errors
    /// The process cannot be asked.
    pub fn power_off(&mut self, limit: Duration) -> Result<bool> {
        let pressed = self.press_power().is_ok();
        let obeyed = pressed && self.wait_stopped(limit)?;
        if !obeyed {
            self.end();
        }
        Ok(obeyed)
    }

    /// Ends QEMU without asking the guest; what the guest flushed is on the overlay.
    pub(crate) fn end(&mut self) {
        let asked = self.monitor("quit", Value::Null).is_ok();
        if !asked || !self.wait_stopped(QUIT_LIMIT).unwrap_or(false) {
            self.power_cut();
        }
    }

    /// Kills QEMU at once, as if the power failed.
    pub fn power_cut(&mut self) {
        // Dropping the child kills everything in its sandbox and waits for it.
        self.process = None;
        self.wanted = false;
    }

    fn launch(&mut self, host: &Host) -> Result<()> {
        self.poll();
        let name = &self.machine.name;
        if let Some(switch) = host.switch {
            switch.add_port(name)?;
        }
        let words = self.machine.command_line(
            host.accelerator,
            time_stamp::khz(),
            &self.forwards,
            host.switch.is_some(),
        );
        let argv: Vec<_> = words.iter().map(String::as_str).collect();
        let _ = fs::remove_file(self.folder.join(file::MONITOR));
        let log = self.folder.join(file::LOG);
        let log = fs::File::create(&log).map_err(Error::io("create", &log))?;
        let errors = log.try_clone().map_err(Error::io("open", &self.folder))?;
        let sandbox = sandbox(&self.machine, &self.folder, host);
        let mut child = sandbox.spawn(&argv, Stdio::null(), log.into(), errors.into())?;
        let mut monitor = self.connect(&mut child)?;
        let forwards = monitor
            .human("info usernet")
            .map_err(|message| monitor_error(name, message))?;
        self.forwards = parse_forwards(&forwards);
        self.process = Some(Process { child, monitor });
        self.wanted = true;
        Ok(())
    }

    /// Waits for the monitor of a QEMU that was just started.
    fn connect(&self, child: &mut Child) -> Result<Qmp> {
        let start = Instant::now();
        loop {
            let attempt = Qmp::connect(&self.folder, file::MONITOR, MONITOR_LIMIT);
            if let Some(status) = child.try_wait()? {
                return Err(self.start_error(&status.to_string()).into());
            }
            match attempt {
                Ok(monitor) => return Ok(monitor),
                Err(message) if start.elapsed() > START_LIMIT => {
                    return Err(monitor_error(&self.machine.name, message).into());
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// QEMU's last words as an error: the taken port if that is what they are about.
    fn start_error(&self, status: &str) -> MachineError {
        let machine = self.machine.name.clone();
        let log = log_tail(&self.folder);
        if let Some(port) = taken_port(&log) {
            return MachineError::PortInUse { machine, port };
        }
        let message = match log.trim() {
            "" => format!("it ended with {status}"),
            text => text.to_owned(),
        };
        MachineError::Start { machine, message }
    }
}

impl Guest for Running {
    fn name(&self) -> &str {
        self.name()
    }

    fn latest(&self) -> Option<&NodeStatus> {
        self.latest()
    }

    fn console_quote(&self) -> String {
        self.console_quote()
    }

    fn is_wanted(&self) -> bool {
        self.wanted
    }

    fn is_running(&mut self) -> Result<bool> {
        self.is_running()
    }

    fn poll(&mut self) -> (Vec<String>, Vec<NodeStatus>) {
        self.poll()
    }

    fn ended(&mut self) -> MachineError {
        self.ended()
    }

    fn press_power(&mut self) {
        // A machine that is stopped has no button; whether it obeys is seen when it is waited for.
        let _ = self.press_power();
    }

    fn wait_stopped(&mut self, limit: Duration) -> Result<bool> {
        self.wait_stopped(limit)
    }

    fn end(&mut self) {
        self.end();
    }

    fn power_cut(&mut self) {
        self.power_cut();
    }

    fn host_port(&self, port: u16) -> Option<u16> {
        self.host_port(port)
    }

    fn folder(&self) -> &Path {
        self.folder()
    }
}

fn monitor_error(machine: &str, message: String) -> MachineError {
    let machine = machine.to_owned();
    MachineError::Monitor { machine, message }
}

/// The port in QEMU's message `Could not set up host forwarding rule 'tcp:127.0.0.1:5432-:5432'`.
fn taken_port(log: &str) -> Option<u16> {
    let (_, rule) = log.split_once("Could not set up host forwarding rule '")?;
    rule.split(['-', '\''])
        .next()?
        .rsplit(':')
        .next()?
        .parse()
        .ok()
}

/// The last lines of QEMU's own messages.
fn log_tail(folder: &Path) -> String {
    let bytes = fs::read(folder.join(file::LOG)).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(4096)..]).into_owned();
    let lines: Vec<_> = text.lines().map(plain).collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

/// Large pages for what QEMU allocates: a translated guest's processor time goes to a fifth into looking up translated
/// code in a table of many megabytes ("Memory Related Tunables" in the GNU C Library's manual).
const HUGE_PAGES: &str = "glibc.malloc.hugetlb=1";

fn sandbox(machine: &Machine, folder: &Path, host: &Host) -> crate::sandbox::Sandbox {
    let sandbox = host
        .tools
        .sandbox()
        .map_ids(false)
        .network(crate::sandbox::Network::Host)
        .bind(folder, command::MACHINE_DIR)
        .bind_ro(&machine.image, command::IMAGE_FILE);
    let sandbox = match host.switch {
        Some(switch) => sandbox.bind(switch.folder(), command::SWITCH_DIR),
        None => sandbox,
    };
    match host.accelerator {
        Accelerator::Kvm => sandbox.kvm(),
        Accelerator::Tcg => sandbox.env("GLIBC_TUNABLES", HUGE_PAGES),
    }
}
