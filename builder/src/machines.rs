//! Machines of a deployment, in QEMU or as containers: planned as values, started side by side, awaited, reported.

pub mod containers;
pub mod joining;
mod node;
pub mod orders;
pub mod qemu;
mod result;

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bootstrap::Deployment;
use bootstrap::deployment::Machine;
use bootstrap::values::Role;
use images::qemu_fleet::{Event, Fleet, Guest};
use images::qemu_watch::NodeStatus;
use images::seed::SeedFiles;
use serde_json::Value;

use crate::deployment::{Macs, Seed};
use crate::diagnostic::{Diagnostic, Result};
use crate::session::Stage;
use containers::Containers;
use node::Node;
use qemu::Qemu;
use result::node_json;

/// How often machines are looked at.
pub const TICK: Duration = Duration::from_millis(50);

/// What one machine is to be.
pub struct Planned {
    /// Its name.
    pub name: String,
    /// Whether it is a meta node.
    pub meta: bool,
    /// Address on the private network.
    pub address: String,
    /// Size of memory in MiB, processors, size of the disk in GiB.
    pub size: (u32, u32, u64),
    /// Hardware addresses.
    pub macs: Macs,
    /// Services with the ports that are forwarded from the host.
    pub ports: Vec<ServicePort>,
    /// Its metadata.
    pub seed: SeedFiles,
    /// Checks that it runs once it is ready.
    pub checks: Vec<String>,
}

/// A TCP port of a service.
#[derive(Debug, Clone)]
pub struct ServicePort {
    /// The service.
    pub service: String,
    /// The port's name in the catalogue.
    pub name: String,
    /// The number inside the machine.
    pub number: u16,
}

/// When a machine is switched on, counted from the start of the fleet.
pub type Delays = [(String, Duration)];

/// What runs the machines.
enum Backend {
    Qemu(Qemu),
    Containers(Containers),
}

/// Machines that run, and what runs them.
pub struct Machines {
    fleet: Fleet<Node>,
    planned: Vec<Planned>,
    // Machines that are to be switched on later.
    waiting: Vec<(Instant, usize)>,
    // When each machine was switched on.
    on: Vec<(usize, Instant)>,
    // Dropped after the fleet, which uses it.
    backend: Backend,
}

/// The plan of each machine of a deployment.
pub fn plan(
    deployment: &Deployment,
    catalogue: &bootstrap::Catalogue,
    seeds: Vec<Seed>,
    checks: &[(String, String)],
) -> Vec<Planned> {
    let machines = deployment.machines();
    machines
        .iter()
        .zip(seeds)
        .map(|(machine, seed)| Planned {
            checks: checks
                .iter()
                .filter(|(node, _)| *node == machine.name.to_string())
                .map(|(_, command)| command.clone())
                .collect(),
            ..plan_one(deployment, catalogue, machine, seed)
        })
        .collect()
}

/// The plan of one machine, without checks.
fn plan_one(
    deployment: &Deployment,
    catalogue: &bootstrap::Catalogue,
    machine: &Machine,
    seed: Seed,
) -> Planned {
    let name = machine.name.to_string();
    let size = deployment.qemu_size(&name);
    Planned {
        meta: machine.role == Role::Meta,
        address: machine.address.to_string(),
        size: (size.memory_mib, size.cpus, u64::from(size.disk_gib)),
        macs: Macs::of(deployment, machine),
        ports: ports(catalogue, machine),
        seed: SeedFiles {
            user_data: seed.user_data,
            meta_data: seed.meta_data,
            network_config: seed.network_config,
        },
        checks: Vec::new(),
        name,
    }
}

/// The TCP ports of the services that a machine runs, from the catalogue.
fn ports(catalogue: &bootstrap::Catalogue, machine: &Machine) -> Vec<ServicePort> {
    let runs = |role: &Role| match role {
        Role::Meta => machine.role == Role::Meta,
        Role::Database => machine.member.is_some(),
    };
    let services = catalogue
        .services
        .values()
        .map(|service| &service.file)
        .filter(|file| file.roles.iter().any(runs));
    let mut found: Vec<ServicePort> = services
        .flat_map(|file| file.port.iter().map(move |port| (file, port)))
        .filter(|(_, port)| port.protocol == bootstrap::service::Protocol::Tcp)
        .map(|(file, port)| ServicePort {
            service: file.name.to_string(),
            name: port.name.clone(),
            number: port.number,
        })
        .collect();
    found.sort_by_key(|port| port.number);
    found.dedup_by_key(|port| port.number);
    found
}

impl Machines {
    /// Starts all machines in QEMU, side by side.
    pub fn in_qemu(boot: qemu::Boot, planned: Vec<Planned>, delays: &Delays) -> Result<Self> {
        prepare_run_dir(&boot.run_dir, boot.keep_disks, &planned)?;
        Self::start(Backend::Qemu(Qemu::prepare(boot)?), planned, delays)
    }

    /// Starts all machines as containers, side by side.
    pub fn in_containers(
        boot: containers::Boot,
        planned: Vec<Planned>,
        delays: &Delays,
    ) -> Result<Self> {
        prepare_run_dir(&boot.run_dir, boot.keep_disks, &planned)?;
        let containers = Containers::prepare(boot)?;
        Self::start(Backend::Containers(containers), planned, delays)
    }

    /// Goes on waiting when a boot fails: the machine may try another version, or the same once more.
    pub fn tolerate_failures(&mut self) {
        self.fleet.tolerant = true;
    }

    fn start(backend: Backend, planned: Vec<Planned>, delays: &Delays) -> Result<Self> {
        let nodes = planned
            .iter()
            .enumerate()
            .map(|(index, machine)| backend.machine(index, machine))
            .collect::<Result<_>>()?;
        let now = Instant::now();
        let delay = |machine: &Planned| {
            let found = delays.iter().find(|(name, _)| *name == machine.name);
            found.map_or(Duration::ZERO, |(_, delay)| *delay)
        };
        let waiting = planned
            .iter()
            .enumerate()
            .map(|(index, machine)| (now + delay(machine), index))
            .collect();
        let mut machines = Self {
            fleet: Fleet {
                machines: nodes,
                // A machine that was started before the one it needs fails at first, and tries again.
                tolerant: !delays.is_empty(),
            },
            planned,
            waiting,
            on: Vec::new(),
            backend,
        };
        machines.switch_on_due()?;
        Ok(machines)
    }

    /// Switches on the machines whose time has come, side by side.
    fn switch_on_due(&mut self) -> Result<()> {
        let now = Instant::now();
        let due: Vec<usize> = self
            .waiting
            .extract_if(.., |(start, _)| *start <= now)
            .map(|(_, index)| index)
            .collect();
        self.on.extend(due.iter().map(|&index| (index, now)));
        let backend = &self.backend;
        let nodes = self.fleet.machines.iter_mut().enumerate();
        std::thread::scope(|scope| {
            let starts: Vec<_> = nodes
                .filter(|(index, _)| due.contains(index))
                .map(|(_, node)| scope.spawn(|| backend.power_on(node)))
                .collect();
            starts
                .into_iter()
                .try_for_each(|start| start.join().unwrap_or(Ok(())))
        })
    }

    /// Each machine that was switched on, and when.
    pub fn switched_on(&self) -> impl Iterator<Item = (&str, Instant)> {
        let name = |index: usize| self.planned[index].name.as_str();
        self.on
            .iter()
            .map(move |&(index, time)| (name(index), time))
    }

    /// Looks at every machine once; true when all are ready and have run their checks.
    fn step(&mut self, report: &mut dyn FnMut(Event)) -> Result<bool> {
        self.switch_on_due()?;
        let planned = &self.planned;
        let done = |name: &str, status: &NodeStatus| is_done(planned, name, status);
        Ok(self.fleet.step(report, &done)? && self.waiting.is_empty())
    }

    fn not_ready(&self, limit: Duration) -> Diagnostic {
        let done = |name: &str, status: &NodeStatus| is_done(&self.planned, name, status);
        images::error::Error::from(self.fleet.not_ready(limit, &done)).into()
    }

    /// `nodes` of the JSON result.
    pub fn to_json(&self) -> Vec<Value> {
        let machines = self.fleet.machines.iter().zip(&self.planned);
        machines
            .map(|(running, planned)| node_json(running, planned))
            .collect()
    }

    /// One line per endpoint, for people.
    pub fn table(&self) -> String {
        let mut lines = vec![format!(
            "{:<12} {:<9} {:<20} {:<18} {}",
            "NODE", "ROLE", "SERVICE", "ADDRESS", "FROM THE HOST"
        )];
        for (running, planned) in self.fleet.machines.iter().zip(&self.planned) {
            let role = running
                .latest()
                .and_then(|status| status.node.as_ref())
                .map(|node| node.role.clone())
                .unwrap_or_default();
            for port in &planned.ports {
                if let Some(host) = running.host_port(port.number) {
                    let service = format!("{} ({})", port.service, port.name);
                    let inside = format!("{}:{}", planned.address, port.number);
                    lines.push(format!(
                        "{:<12} {role:<9} {service:<32} {inside:<18} 127.0.0.1:{host}",
                        planned.name
                    ));
                }
            }
        }
        lines.join("\n")
    }

    /// Whether all that are wanted still run; the error names the one that ended.
    pub fn check_running(&mut self) -> Result<()> {
        self.switch_on_due()?;
        for machine in &mut self.fleet.machines {
            machine.poll();
            if !machine.is_running()? && machine.is_wanted() {
                let message = format!(
                    "machine {} ended by itself{}",
                    machine.name(),
                    machine.console_quote()
                );
                return Err(
                    Diagnostic::failed("FR-QEMU-ENDED", message).with_hint(format!(
                        "its serial log is in {}",
                        machine.folder().display()
                    )),
                );
            }
        }
        Ok(())
    }

    /// Shuts all down in order, so that their disks can be booted again.
    pub fn stop(&mut self) -> Result<()> {
        // The databases need the meta nodes' store to hand over and to leave.
        let planned = &self.planned;
        let databases = |name: &str| {
            let found = planned.iter().find(|planned| planned.name == name);
            found.is_some_and(|planned| !planned.meta)
        };
        self.fleet.stop(&databases)?;
        Ok(())
    }
}

impl Backend {
    /// Makes a machine that is off, with a number that no other has.
    fn machine(&self, index: usize, planned: &Planned) -> Result<Node> {
        Ok(match self {
            Backend::Qemu(qemu) => Node::Qemu(Box::new(qemu.machine(planned)?)),
            Backend::Containers(containers) => {
                Node::Container(Box::new(containers.machine(index, planned)?))
            }
        })
    }

    fn run_dir(&self) -> &Path {
        match self {
            Backend::Qemu(qemu) => qemu.run_dir(),
            Backend::Containers(containers) => containers.run_dir(),
        }
    }

    fn power_on(&self, node: &mut Node) -> Result<()> {
        match (self, node) {
            (Backend::Qemu(qemu), Node::Qemu(machine)) => qemu.power_on(machine),
            (_, Node::Container(machine)) => Ok(machine.power_on()?),
            (Backend::Containers(_), Node::Qemu(_)) => Ok(()),
        }
    }
}

/// Waits until all machines are ready and have run their checks; `note` is told what they say. Others may use them meanwhile.
pub fn wait_ready(
    machines: &Mutex<Machines>,
    limit: Duration,
    stage: &Stage<'_>,
    note: &mut dyn FnMut(Event<'_>),
) -> Result<()> {
    let start = Instant::now();
    let lock = || machines.lock().expect("no panic holds it");
    let names: Vec<String> = lock()
        .planned
        .iter()
        .map(|planned| planned.name.clone())
        .collect();
    let mut states = vec![String::from("booting"); names.len()];
    let mut report = |event: Event<'_>| {
        note(event);
        if let Event::Status { machine, status } = event
            && let Some(index) = names.iter().position(|name| name == machine)
        {
            states[index] = progress(status);
            let text: Vec<String> = names
                .iter()
                .zip(&states)
                .map(|(name, state)| format!("{name}: {state}"))
                .collect();
            stage.step(&text.join("   "));
        }
    };
    while !lock().step(&mut report)? {
        if start.elapsed() >= limit {
            return Err(lock().not_ready(limit));
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}

fn progress(status: &NodeStatus) -> String {
    let services = &status.services;
    let healthy = services.iter().filter(|service| service.state == "healthy");
    format!("{} {}/{}", status.state, healthy.count(), services.len())
}

fn is_done(planned: &[Planned], name: &str, status: &NodeStatus) -> bool {
    let checks = planned
        .iter()
        .find(|planned| planned.name == name)
        .map_or(0, |planned| planned.checks.len());
    status.ready
        && status.checks.len() >= checks
        && status.checks.iter().all(|check| check.exit.is_some())
}

/// An own folder for each machine, private since seeds hold secrets; a fresh run starts from the image.
fn prepare_run_dir(run_dir: &Path, keep_disks: bool, planned: &[Planned]) -> Result<()> {
    if !keep_disks {
        for machine in planned {
            let folder = run_dir.join(&machine.name);
            if folder.exists() {
                fs::remove_dir_all(&folder).map_err(|e| Diagnostic::io("remove", &folder, e))?;
            }
        }
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(run_dir)
        .map_err(|e| Diagnostic::io("create", run_dir, e))
}
