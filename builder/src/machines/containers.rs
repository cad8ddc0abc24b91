//! Machines as containers on one segment.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bootstrap::Deployment;
use images::architecture::Architecture;
use images::container::{Container, Machine, Segment};
use images::container_command::Fault;
use images::tools::ToolsTree;

use super::Planned;
use crate::diagnostic::{Diagnostic, Result};
use crate::recipe::Recipe;

/// What the machines boot from.
pub struct Boot {
    /// Where systemd-nspawn comes from.
    pub tools: ToolsTree,
    /// The root tree; never written to.
    pub tree: PathBuf,
    /// The repository, and where meta nodes see it.
    pub repository: (PathBuf, PathBuf),
    /// Folder for what lasts of the machines, and their logs: one folder a machine.
    pub run_dir: PathBuf,
    /// Whether what the last run left is used again.
    pub keep_disks: bool,
    /// The host's own address on the segment, and the segment's prefix.
    pub host: (Ipv4Addr, u8),
}

/// What containers are run with.
pub(super) struct Containers {
    boot: Boot,
    segment: Arc<Segment>,
    /// What is wrong with the segment on request, each with the machine's number.
    faults: Vec<(usize, Fault)>,
}

/// Refuses what cannot work before anything is built for it.
pub fn check_possible() -> Result<()> {
    match nix::unistd::geteuid().is_root() {
        true => Ok(()),
        false => {
            let refused = images::qemu_error::MachineError::NeedsRoot;
            let (code, hint) = (refused.code(), refused.hint());
            let mut found = Diagnostic::failed(code, refused.to_string());
            found.hint = hint;
            Err(found)
        }
    }
}

/// Refuses images for another processor: containers run on this one.
pub fn check_processor(recipe: &Recipe) -> Result<()> {
    let processor = recipe.processor()?;
    if Architecture::of_host() == Some(processor) {
        return Ok(());
    }
    let message = format!(
        "containers run on this host's processor, and {} is for {}",
        recipe.name,
        processor.debian()
    );
    Err(Diagnostic::invalid("FR-CONTAINER-PROCESSOR", message)
        .with_hint("run it without --containers, in QEMU"))
}

/// An address of the deployment's subnet that it uses for nothing: the highest such one.
pub fn host_address(deployment: &Deployment) -> Result<(Ipv4Addr, u8)> {
    let subnet = deployment.network.subnet;
    let machines = deployment.machines();
    let used: Vec<Ipv4Addr> = machines
        .iter()
        .map(|machine| machine.address)
        .chain(deployment.clusters.iter().filter_map(|cluster| cluster.vip))
        .chain(deployment.network.gateway)
        .collect();
    let any = used.first().map_or(0, |address| address.to_bits());
    let hosts = u32::MAX
        .checked_shr(u32::from(subnet.prefix()))
        .unwrap_or(0);
    let broadcast = any | hosts;
    let free = (1..hosts)
        .map(|below| Ipv4Addr::from_bits(broadcast - below))
        .find(|address| subnet.holds(*address) && !used.contains(address));
    match free {
        Some(address) => Ok((address, subnet.prefix())),
        None => Err(Diagnostic::invalid(
            "FR-CONTAINER-ADDRESS",
            format!("the subnet {subnet} has no address left for the host"),
        )
        .with_hint("choose a larger network.subnet")),
    }
}

impl Containers {
    /// Makes the segment.
    pub(super) fn prepare(boot: Boot) -> Result<Self> {
        let segment = Segment::start(&boot.tools, &boot.tree, &boot.run_dir, boot.host)?;
        Ok(Self {
            boot,
            segment: Arc::new(segment),
            faults: Vec::new(),
        })
    }

    /// Adds a fault of the machine with that number.
    pub(super) fn add_fault(&mut self, index: usize, fault: Fault, names: &[String]) -> Result<()> {
        self.set_faults([self.faults.clone(), vec![(index, fault)]].concat(), names)
    }

    /// Removes the faults that have to do with one machine, or all.
    pub(super) fn heal(&mut self, index: Option<usize>, names: &[String]) -> Result<()> {
        let name = index.and_then(|index| names.get(index));
        let concerns = |(of, fault): &(usize, Fault)| match (index, fault) {
            (None, _) => true,
            (Some(index), _) if index == *of => true,
            (_, Fault::Cut { from, .. }) => from.as_ref() == name,
            _ => false,
        };
        let left = self.faults.iter().filter(|fault| !concerns(fault));
        self.set_faults(left.cloned().collect(), names)
    }

    fn set_faults(&mut self, faults: Vec<(usize, Fault)>, names: &[String]) -> Result<()> {
        let number = |name: &str| names.iter().position(|known| known == name);
        self.segment.set_faults(&faults, &number)?;
        self.faults = faults;
        Ok(())
    }

    /// Folder for what lasts of the machines, and their logs.
    pub(super) fn run_dir(&self) -> &Path {
        &self.boot.run_dir
    }

    /// Makes a machine that is off.
    pub(super) fn machine(&self, index: usize, planned: &Planned) -> Result<Container> {
        let (memory_mib, cpus, disk_gib) = planned.size;
        let machine = Machine {
            name: planned.name.clone(),
            mac: planned.macs.private.clone(),
            address: planned.address.parse().map_err(|_| {
                Diagnostic::invalid("FR-CONTAINER-ADDRESS", "a machine has no address")
            })?,
            memory_mib,
            cpus,
            disk_gib,
            seed: planned.seed.clone(),
            ports: planned.ports.iter().map(|port| port.number).collect(),
            repository: planned.meta.then(|| self.boot.repository.clone()),
        };
        Ok(Container::new(machine, index, &self.segment)?)
    }
}
