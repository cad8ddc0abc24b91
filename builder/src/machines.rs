//! Machines of a deployment in QEMU: planned as values, started side by side, awaited, reported.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bootstrap::Deployment;
use bootstrap::deployment::Machine;
use bootstrap::values::Role;
use images::accel::Accelerator;
use images::qemu::Host;
use images::qemu_command::{self, Forward, ImageFormat, Protocol};
use images::qemu_fleet::{Event, Fleet};
use images::seed::SeedFiles;
use images::switch::Switch;
use images::tools::ToolsTree;
use serde_json::{Value, json};

use crate::deployment::{Macs, Seed};
use crate::diagnostic::{Diagnostic, Result};
use crate::session::Stage;

/// What one machine is to be.
pub struct Planned {
    /// Its name.
    pub name: String,
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

/// What the machines boot from.
pub struct Boot<'a> {
    /// Where QEMU comes from.
    pub tools: &'a ToolsTree,
    /// The image; never written to.
    pub image: PathBuf,
    /// Its format.
    pub format: ImageFormat,
    /// Folder for disks and logs, one folder a machine.
    pub run_dir: PathBuf,
    /// Where it is remembered whether KVM works.
    pub cache: PathBuf,
    /// Whether the last run's disks are used again.
    pub keep_disks: bool,
}

/// Machines that run, and the switch between them.
pub struct Machines {
    fleet: Fleet,
    planned: Vec<Planned>,
    // Dropped after the fleet, which uses it.
    _switch: Switch,
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
        .map(|(machine, seed)| {
            let name = machine.name.to_string();
            let size = deployment.qemu_size(&name);
            Planned {
                address: machine.address.to_string(),
                size: (size.memory_mib, size.cpus, u64::from(size.disk_gib)),
                macs: Macs::of(deployment, machine),
                ports: ports(catalogue, machine),
                seed: SeedFiles {
                    user_data: seed.user_data,
                    meta_data: seed.meta_data,
                    network_config: seed.network_config,
                },
                checks: checks
                    .iter()
                    .filter(|(node, _)| *node == name)
                    .map(|(_, command)| command.clone())
                    .collect(),
                name,
            }
        })
        .collect()
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
    /// Starts all machines side by side.
    pub fn start(boot: &Boot<'_>, planned: Vec<Planned>) -> Result<Self> {
        prepare_run_dir(&boot.run_dir, boot.keep_disks, &planned)?;
        let accelerator = Accelerator::detect(boot.tools, &boot.cache)?;
        let switch = Switch::start(&boot.run_dir.join("switch"), 0)?;
        let machines = planned
            .iter()
            .map(|machine| qemu_machine(boot, machine))
            .collect::<Result<Vec<_>>>()?;
        let host = Host {
            tools: boot.tools,
            accelerator,
            run_dir: &boot.run_dir,
            switch: Some(&switch),
        };
        let fleet = Fleet::start(machines, &host)?;
        Ok(Self {
            fleet,
            planned,
            _switch: switch,
        })
    }

    /// Waits until all are ready and have run their checks.
    pub fn wait_ready(&mut self, limit: Duration, stage: &Stage<'_>) -> Result<()> {
        let wanted: Vec<(String, usize)> = self
            .planned
            .iter()
            .map(|machine| (machine.name.clone(), machine.checks.len()))
            .collect();
        let mut states = vec![String::from("booting"); wanted.len()];
        let mut report = |event: Event<'_>| {
            if let Event::Status { machine, status } = event
                && let Some(index) = wanted.iter().position(|(name, _)| name == machine)
            {
                let healthy = status
                    .services
                    .iter()
                    .filter(|service| service.state == "healthy")
                    .count();
                states[index] = format!("{} {healthy}/{}", status.state, status.services.len());
                let text: Vec<String> = wanted
                    .iter()
                    .zip(&states)
                    .map(|((name, _), state)| format!("{name}: {state}"))
                    .collect();
                stage.step(&text.join("   "));
            }
        };
        let done = |name: &str, status: &images::qemu_watch::NodeStatus| {
            let checks = wanted
                .iter()
                .find(|(wanted, _)| wanted == name)
                .map_or(0, |(_, checks)| *checks);
            status.ready
                && status.checks.len() >= checks
                && status.checks.iter().all(|check| check.exit.is_some())
        };
        Ok(self.fleet.wait_until(limit, &mut report, &done)?)
    }

    /// `nodes` of the JSON result.
    pub fn to_json(&self) -> Vec<Value> {
        self.fleet
            .machines
            .iter()
            .zip(&self.planned)
            .map(|(running, planned)| {
                let document = running
                    .latest()
                    .map(|status| status.document.clone())
                    .unwrap_or_default();
                json!({
                    "name": planned.name,
                    "role": document["node"]["role"],
                    "address": planned.address,
                    "state": document["state"],
                    "services": document["services"],
                    "plan_digest": document["plan_digest"],
                    "image": document["image"],
                    "uptime_seconds": document["uptime_seconds"],
                    "checks": checks_json(&document, &planned.checks),
                    "endpoints": endpoints(running, planned),
                })
            })
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

    /// Whether all still run; the error names the one that ended.
    pub fn check_running(&mut self) -> Result<()> {
        for machine in &mut self.fleet.machines {
            machine.poll();
            if !machine.is_running()? {
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
    pub fn stop(self) -> Result<()> {
        self.fleet.stop()?;
        Ok(())
    }
}

/// Each check's result with its command.
fn checks_json(document: &Value, commands: &[String]) -> Vec<Value> {
    let results = document["checks"].as_array().cloned().unwrap_or_default();
    results
        .into_iter()
        .zip(commands)
        .map(|(mut result, command)| {
            result["command"] = json!(command);
            result
        })
        .collect()
}

fn endpoints(running: &images::qemu::Running, planned: &Planned) -> Vec<Value> {
    planned
        .ports
        .iter()
        .filter_map(|port| {
            let host = running.host_port(port.number)?;
            Some(json!({"service": port.service, "port": port.name, "guest_port": port.number, "address": format!("127.0.0.1:{host}")}))
        })
        .collect()
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

fn qemu_machine(boot: &Boot<'_>, planned: &Planned) -> Result<qemu_command::Machine> {
    let volume = boot.run_dir.join(format!("{}.seed", planned.name));
    planned.seed.write(boot.tools, &volume)?;
    let (memory_mib, cpus, disk_gib) = planned.size;
    Ok(qemu_command::Machine {
        name: planned.name.clone(),
        cpus,
        memory_mib,
        image: boot.image.clone(),
        image_format: boot.format,
        disk_mib: Some(disk_gib * 1024),
        data_mib: None,
        // What the guest has flushed survives the end of QEMU, only not a crash of the host itself; waiting for the host's
        // disk at each flush costs a machine that is tried out a good part of its start.
        disk_cache: qemu_command::DiskCache::Unsafe,
        seed: Some(volume),
        mac_user: planned.macs.user.clone(),
        mac_private: planned.macs.private.clone(),
        forwards: planned
            .ports
            .iter()
            .map(|port| Forward {
                protocol: Protocol::Tcp,
                host_port: 0,
                guest_port: port.number,
            })
            .collect(),
    })
}
