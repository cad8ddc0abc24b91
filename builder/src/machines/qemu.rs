//! Machines in QEMU: what they are started with, and that again when they are switched on once more.

use images::accel::Accelerator;
use images::architecture::Architecture;
use images::qemu::{Host, Running};
use images::qemu_command::{self, DiskBus, Firmware, Forward, ImageFormat, Protocol};
use images::switch::Switch;
use images::tools::ToolsTree;

use std::path::{Path, PathBuf};

use super::Planned;
use crate::diagnostic::Result;

/// What the machines boot from.
pub struct Boot {
    /// Where QEMU comes from.
    pub tools: ToolsTree,
    /// What the image runs on.
    pub architecture: Architecture,
    /// The image; never written to.
    pub image: PathBuf,
    /// Its format.
    pub format: ImageFormat,
    /// What starts the machines.
    pub firmware: Firmware,
    /// Size of a second, blank disk of each in MiB; `None`: there is none.
    pub data_mib: Option<u64>,
    /// What their disks are attached to.
    pub disk_bus: DiskBus,
    /// Folder for disks and logs, one folder a machine.
    pub run_dir: PathBuf,
    /// Where it is remembered whether KVM works.
    pub cache: PathBuf,
    /// Whether the last run's disks are used again.
    pub keep_disks: bool,
}

/// What QEMU is run with.
pub(super) struct Qemu {
    boot: Boot,
    accelerator: Accelerator,
    switch: Switch,
}

impl Qemu {
    /// Finds out how QEMU runs here, and makes the private network.
    pub(super) fn prepare(boot: Boot) -> Result<Self> {
        Ok(Self {
            accelerator: Accelerator::detect_for(boot.architecture, &boot.tools, &boot.cache)?,
            switch: Switch::start(&boot.run_dir.join("switch"), 0)?,
            boot,
        })
    }

    /// Folder for disks and logs.
    pub(super) fn run_dir(&self) -> &Path {
        &self.boot.run_dir
    }

    /// Makes a machine that is off.
    pub(super) fn machine(&self, planned: &Planned) -> Result<Running> {
        let machine = describe(&self.boot, planned)?;
        Ok(Running::prepare(machine, &self.host())?)
    }

    /// Switches a machine on.
    pub(super) fn power_on(&self, machine: &mut Running) -> Result<()> {
        Ok(machine.start_again(&self.host())?)
    }

    fn host(&self) -> Host<'_> {
        Host {
            tools: &self.boot.tools,
            accelerator: self.accelerator,
            run_dir: &self.boot.run_dir,
            switch: Some(&self.switch),
        }
    }
}

fn describe(boot: &Boot, planned: &Planned) -> Result<qemu_command::Machine> {
    let volume = boot.run_dir.join(format!("{}.seed", planned.name));
    planned.seed.write(&boot.tools, &volume)?;
    let (memory_mib, cpus, disk_gib) = planned.size;
    Ok(qemu_command::Machine {
        name: planned.name.clone(),
        architecture: boot.architecture,
        cpus,
        memory_mib,
        image: boot.image.clone(),
        image_format: boot.format,
        firmware: boot.firmware.clone(),
        disk_bus: boot.disk_bus,
        disk_mib: Some(disk_gib * 1024),
        data_mib: boot.data_mib,
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
