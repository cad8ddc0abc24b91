//! Runs machines as containers on one segment: systemd-nspawn on the same tree that images are packed from.
//!
//! A fleet has one *segment*: a process that does nothing but hold a network namespace with a switch, and a process
//! namespace in which everything of the fleet lives, so that all of it ends with this program. Each boot of a machine
//! has a network namespace, a mount namespace and a control group of its own, which go when it stops.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::container_command::{self as command, Fault};
use crate::container_ports;
use crate::error::{Error, Result};
use crate::process::{Child, Output, children};
use crate::qemu::TICK;
use crate::qemu_error::{MachineError, check_name};
use crate::qemu_fleet::Guest;
use crate::qemu_watch::{Console, NodeStatus};
use crate::sandbox::container::{Boot, inside};
use crate::sandbox::{Network, Sandbox};
use crate::seed::SeedFiles;
use crate::tools::ToolsTree;

pub use crate::sandbox::spawn_in;

/// The console's log in a machine's folder.
pub const CONSOLE: &str = "console.log";
/// What a machine tells about itself, as it sees it.
const STATUS: &str = "run/farrow/status.json";
/// More than a status document ever has, in bytes.
const MAX_STATUS: u64 = 4 << 20;
/// systemd-nspawn's exit code for a machine that wants to be started again (its `EXIT_FORCE_RESTART`).
const RESTART: i32 = 133;

/// What one machine is to be.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its name; its folder is called so.
    pub name: String,
    /// Hardware address on the segment.
    pub mac: String,
    /// Address on the segment.
    pub address: Ipv4Addr,
    /// What it may take for its own, in MiB. Programs that size themselves are told; nothing enforces it.
    pub memory_mib: u32,
    /// Processors that it may take.
    pub cpus: u32,
    /// Disk that it may take, in GiB.
    pub disk_gib: u64,
    /// Its metadata.
    pub seed: SeedFiles,
    /// TCP ports to reach from the host.
    pub ports: Vec<u16>,
    /// A repository on the host, and where the machine is to see it.
    pub repository: Option<(PathBuf, PathBuf)>,
}

/// What the machines of a fleet share.
#[derive(Debug)]
pub struct Segment {
    holder: Child,
    process: u32,
    tools: Sandbox,
    tree: PathBuf,
    run_dir: PathBuf,
}

/// One machine with its folder, on or off.
#[derive(Debug)]
pub struct Container {
    machine: Machine,
    index: usize,
    segment: Arc<Segment>,
    folder: PathBuf,
    forwards: Vec<(u16, u16)>,
    // Closing it ends the forwarding.
    _ports: io::PipeWriter,
    process: Option<Child>,
    console: Console,
    report: String,
    latest: Option<NodeStatus>,
    exited: Option<String>,
    wanted: bool,
}

impl Segment {
    /// Makes the segment of machines that boot `tree`. `address` is the host's on it. Each machine gets a folder in
    /// `run_dir`.
    ///
    /// # Errors
    /// This process is not root's, or a namespace cannot be made.
    pub fn start(
        tools: &ToolsTree,
        tree: &Path,
        run_dir: &Path,
        (address, prefix): (Ipv4Addr, u8),
    ) -> Result<Segment> {
        if !nix::unistd::geteuid().is_root() {
            return Err(MachineError::NeedsRoot.into());
        }
        let sandbox = tools.sandbox().host_ids();
        let null = || Stdio::null();
        let holder = sandbox.spawn(&["sleep", "infinity"], null(), null(), null())?;
        let process = holder
            .process()
            .ok_or_else(|| Error::sandbox("hold a segment")("its process is gone"))?;
        let segment = Segment {
            tools: sandbox.network(Network::Of(process)),
            holder,
            process,
            tree: tree.to_owned(),
            run_dir: run_dir.to_owned(),
        };
        let commands = command::switch(address, prefix);
        segment.run(&["ip", "-batch", "-"], Some(&commands))?;
        Ok(segment)
    }

    /// Replaces what is wrong with the segment; machines are given by number, `number` finds that of a name.
    ///
    /// # Errors
    /// nft refuses: the host's kernel lacks `nf_tables` for bridges.
    pub fn set_faults(
        &self,
        faults: &[(usize, Fault)],
        number: &dyn Fn(&str) -> Option<usize>,
    ) -> Result<()> {
        let rules = command::faults(faults, number);
        self.run(&["nft", "-f", "-"], Some(&rules)).map(drop)
    }

    /// Runs a program of the tools tree on the segment.
    fn run(&self, argv: &[&str], input: Option<&str>) -> Result<Output> {
        self.tools.run(argv, input.map(str::as_bytes))
    }

    fn network(&self) -> Result<File> {
        let path = format!("/proc/{}/ns/net", self.process);
        File::open(&path).map_err(Error::io("open", path))
    }

    /// Whether the segment is still there.
    ///
    /// # Errors
    /// Its process cannot be asked.
    pub fn is_there(&mut self) -> Result<bool> {
        Ok(self.holder.try_wait()?.is_none())
    }
}

impl Container {
    /// Makes the machine's folder and its ports on the host; it is off.
    ///
    /// # Errors
    /// A name that is no folder's, no free port, failures of files.
    pub fn new(machine: Machine, index: usize, segment: &Arc<Segment>) -> Result<Container> {
        check_name("machine", &machine.name)?;
        let folder = segment.run_dir.join(&machine.name);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(Error::io("create", &folder))?;
        let targets: Vec<SocketAddrV4> = machine
            .ports
            .iter()
            .map(|port| SocketAddrV4::new(machine.address, *port))
            .collect();
        let forwarded = |stop| {
            container_ports::forward(&targets, segment.network()?, stop)
                .map_err(Error::io("forward ports of", &folder))
        };
        let (stop, ports) = io::pipe().map_err(Error::io("make a pipe for", &folder))?;
        let forwards = machine
            .ports
            .iter()
            .copied()
            .zip(forwarded(stop)?)
            .collect();
        Ok(Container {
            console: Console::from_end(folder.join(CONSOLE)),
            segment: Arc::clone(segment),
            forwards,
            machine,
            index,
            folder,
            _ports: ports,
            process: None,
            report: String::new(),
            latest: None,
            exited: None,
            wanted: false,
        })
    }

    /// Switches it on; on the same `/var` when it ran before.
    ///
    /// # Errors
    /// Namespaces, mounts or files cannot be made.
    pub fn power_on(&mut self) -> Result<()> {
        if self.process.is_some() {
            return Ok(());
        }
        self.unplug();
        self.poll();
        (self.latest, self.exited) = (None, None);
        self.report.clear();
        let path = self.folder.join(CONSOLE);
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        let errors = log.try_clone().map_err(Error::io("open", &path))?;
        let process = self
            .boot()
            .start([Stdio::null(), log.into(), errors.into()])?;
        self.process = Some(process);
        self.wanted = true;
        Ok(())
    }

    fn boot(&self) -> Boot {
        let machine = &self.machine;
        let mut sandbox = self
            .segment
            .tools
            .clone()
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
            .bind_ro(&self.segment.tree, inside::ROOT)
            .bind(&self.folder, inside::MACHINE);
        if let Some((source, _)) = &machine.repository {
            sandbox = sandbox.bind_ro(source, inside::REPOSITORY);
        }
        let limits = serde_json::json!({
            "memory_mib": machine.memory_mib,
            "cpus": machine.cpus,
            "data_mib": machine.disk_gib * 1024,
        });
        let own = command::ETC.map(|(path, content)| (path.to_owned(), content.to_owned()));
        let mut etc = Vec::from(own);
        etc.push(("farrow/limits.json".to_owned(), format!("{limits}\n")));
        let seed = machine.seed.files().into_iter();
        Boot {
            sandbox,
            segment: self.segment.process,
            group: format!("farrow-{}-{}", std::process::id(), machine.name),
            link: command::link(self.index, &machine.mac),
            etc,
            seed: seed
                .map(|(name, text)| (name.to_owned(), text.to_owned()))
                .collect(),
            repository: machine
                .repository
                .as_ref()
                .map(|(_, target)| target.strip_prefix("/").unwrap_or(target).to_owned()),
            argv: command::nspawn(&machine.name),
        }
    }

    /// Takes its cable out.
    fn unplug(&self) {
        // Most often there is none: it goes with the machine's network, a moment after the machine.
        let port = command::port(self.index);
        let _ = self.segment.run(&["ip", "link", "delete", &port], None);
    }

    /// The id on the host of the machine's first process, from the moment it exists.
    pub fn first_process(&self) -> Option<u32> {
        let nspawn = self.process.as_ref()?.process()?;
        children(nspawn).into_iter().find(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            is_first(&status)
        })
    }

    /// The status document as the machine has it now.
    fn read_status(&self) -> Option<String> {
        use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
        let root = File::open(format!("/proc/{}/root", self.first_process()?)).ok()?;
        // Whatever links the machine makes, they lead nowhere outside of it.
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT);
        let file = File::from(openat2(root, STATUS, how).ok()?);
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(file, MAX_STATUS), &mut text).ok()?;
        Some(text)
    }
}

impl Guest for Container {
    fn name(&self) -> &str {
        &self.machine.name
    }

    fn latest(&self) -> Option<&NodeStatus> {
        self.latest.as_ref()
    }

    fn console_quote(&self) -> String {
        self.console.quote()
    }

    fn is_wanted(&self) -> bool {
        self.wanted
    }

    fn is_running(&mut self) -> Result<bool> {
        let Some(process) = &mut self.process else {
            return Ok(false);
        };
        let Some(status) = process.try_wait()? else {
            return Ok(true);
        };
        self.process = None;
        if status.code() == Some(RESTART) && self.wanted {
            self.power_on()?;
            return Ok(true);
        }
        self.exited = Some(status.to_string());
        Ok(false)
    }

    fn poll(&mut self) -> (Vec<String>, Vec<NodeStatus>) {
        let lines = self.console.lines();
        let report = self.read_status().filter(|text| *text != self.report);
        let status = report.as_deref().and_then(NodeStatus::parse);
        if let (Some(report), Some(status)) = (report, &status) {
            self.report = report;
            self.latest = Some(status.clone());
        }
        (lines, status.into_iter().collect())
    }

    fn ended(&mut self) -> MachineError {
        self.poll();
        MachineError::Ended {
            machine: self.machine.name.clone(),
            status: self.exited.clone().unwrap_or_default(),
            tail: self.console.quote(),
        }
    }

    fn press_power(&mut self) {
        (self.wanted, self.latest) = (false, None);
        if let Some(process) = &self.process {
            process.ask_to_stop();
        }
    }

    fn wait_stopped(&mut self, limit: Duration) -> Result<bool> {
        let start = Instant::now();
        while self.is_running()? {
            if start.elapsed() >= limit {
                return Ok(false);
            }
            std::thread::sleep(TICK);
        }
        Ok(true)
    }

    fn end(&mut self) {
        // Dropping it kills its control group and waits for that.
        self.process = None;
        (self.wanted, self.latest) = (false, None);
    }

    fn power_cut(&mut self) {
        // First of all nobody on the segment may hear its last words.
        if self.process.is_some() {
            self.unplug();
        }
        self.end();
    }

    fn host_port(&self, port: u16) -> Option<u16> {
        let found = self.forwards.iter().find(|(inside, _)| *inside == port);
        found.map(|(_, host)| *host)
    }

    fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Whether a process is the first of its namespace: the last number of `NSpid:` (proc_pid_status(5)).
fn is_first(status: &str) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    line.is_some_and(|ids| ids.split_whitespace().next_back() == Some("1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_processes() {
        for (status, expected) in [
            ("Name:\tsystemd\nNSpid:\t210\t9\t1\n", true),
            ("Name:\t(sd-stub)\nNSpid:\t210\t9\n", false),
            ("", false),
        ] {
            assert_eq!(is_first(status), expected, "{status}");
        }
    }
}
