//! A virtual machine as a value.

use std::path::PathBuf;

use crate::architecture::Architecture;
use crate::qemu_error::{MachineError, check_name};

/// Format of the image below the overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    /// QEMU's own.
    Qcow2,
    /// The disk's bytes.
    Raw,
    /// VMware's.
    Vmdk,
    /// Hyper-V's and Azure's, fixed.
    Vhd,
}

impl ImageFormat {
    /// The name QEMU's tools use.
    pub fn name(self) -> &'static str {
        match self {
            ImageFormat::Qcow2 => "qcow2",
            ImageFormat::Raw => "raw",
            ImageFormat::Vmdk => "vmdk",
            ImageFormat::Vhd => "vpc",
        }
    }
}

/// What starts a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Firmware {
    /// UEFI (OVMF), which starts whatever it finds.
    #[default]
    Uefi,
    /// A BIOS (SeaBIOS).
    Bios,
    /// UEFI that starts only what the key of this certificate (DER) signed.
    SecureBoot(Vec<u8>),
}

/// What a machine's first disk is attached to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DiskBus {
    /// A virtio disk of its own.
    #[default]
    Virtio,
    /// NVM Express.
    Nvme,
    /// SCSI behind a virtio controller.
    VirtioScsi,
    /// SCSI behind VMware's paravirtual controller.
    Pvscsi,
}

/// How far the guest's flushes go. Either way what the guest flushed survives the death of QEMU at any moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskCache {
    /// To the host's disk: the machine survives a power failure of the host. On a slow disk every commit of a
    /// database then takes its time.
    Writeback,
    /// To the host's memory: much faster, the right choice for machines that can be made again.
    Unsafe,
}

/// Transport protocol of a [`Forward`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// A port of the host's loopback address that leads into the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Port on 127.0.0.1; 0: a free one is picked.
    pub host_port: u16,
    /// Port in the machine, on its first network interface.
    pub guest_port: u16,
}

/// A virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Name: its folder, its port at the switch.
    pub name: String,
    /// What it is.
    pub architecture: Architecture,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// The image; it is never written to.
    pub image: PathBuf,
    /// The image's format.
    pub image_format: ImageFormat,
    /// What starts the machine.
    pub firmware: Firmware,
    /// What its first disk is attached to.
    pub disk_bus: DiskBus,
    /// Size of the disk that the machine sees, in MiB; `None`: the image's own.
    pub disk_mib: Option<u64>,
    /// Size of an empty second disk, in MiB; `None`: there is none.
    pub data_mib: Option<u64>,
    /// What the guest's flushes do.
    pub disk_cache: DiskCache,
    /// The seed volume; it is copied.
    pub seed: Option<PathBuf>,
    /// Hardware address of the first interface (QEMU's user-mode network, 10.0.2.15 by DHCP).
    pub mac_user: String,
    /// Hardware address of the second interface (the switch).
    pub mac_private: String,
    /// Ports of the host that lead into the machine.
    pub forwards: Vec<Forward>,
}

impl Machine {
    /// Refuses what would be another option for QEMU, or another file.
    ///
    /// # Errors
    /// [`MachineError::Name`] for the name, [`MachineError::Start`] for a hardware address or a size.
    pub fn check(&self) -> Result<(), MachineError> {
        check_name("machine", &self.name)?;
        let refuse = |message: String| {
            let machine = self.name.clone();
            Err(MachineError::Start { machine, message })
        };
        for mac in [&self.mac_user, &self.mac_private] {
            if !is_mac(mac) {
                return refuse(format!(
                    "`{mac}` is not the hardware address of one machine"
                ));
            }
        }
        if self.cpus == 0 || self.memory_mib == 0 {
            return refuse("it needs at least one processor and some memory".to_owned());
        }
        Ok(())
    }
}

/// `xx:xx:xx:xx:xx:xx` in lower-case hex, not a group address (IEEE 802: lowest bit of the first byte).
fn is_mac(text: &str) -> bool {
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let bytes: Vec<_> = text.split(':').collect();
    let well_formed =
        bytes.len() == 6 && bytes.iter().all(|b| b.len() == 2 && b.bytes().all(lower));
    well_formed && u8::from_str_radix(bytes[0], 16).is_ok_and(|first| first & 1 == 0)
}

/// A machine for tests.
#[cfg(test)]
pub(crate) fn example() -> Machine {
    Machine {
        name: "meta".to_owned(),
        architecture: Architecture::Amd64,
        cpus: 2,
        memory_mib: 2048,
        image: PathBuf::from("/images/pigsty.qcow2"),
        image_format: ImageFormat::Qcow2,
        firmware: Firmware::Uefi,
        disk_bus: DiskBus::Virtio,
        disk_mib: Some(8192),
        data_mib: None,
        disk_cache: DiskCache::Writeback,
        seed: Some(PathBuf::from("/seeds/meta.img")),
        mac_user: "52:54:00:00:00:01".to_owned(),
        mac_private: "52:54:00:00:01:01".to_owned(),
        forwards: vec![Forward {
            protocol: Protocol::Tcp,
            host_port: 0,
            guest_port: 5432,
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_that_could_be_options_are_refused() {
        let changes: [fn(&mut Machine); 6] = [
            |m| m.name = "../x".to_owned(),
            |m| m.name = String::new(),
            |m| m.mac_user = "52:54:00:00:00:01,x=y".to_owned(),
            |m| m.mac_private = "53:54:00:00:00:01".to_owned(),
            |m| m.cpus = 0,
            |m| m.memory_mib = 0,
        ];
        assert!(example().check().is_ok());
        for (index, change) in changes.iter().enumerate() {
            let mut machine = example();
            change(&mut machine);
            assert!(machine.check().is_err(), "change {index} was accepted");
        }
    }
}
