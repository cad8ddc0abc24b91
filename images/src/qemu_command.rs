//! QEMU's command line for a machine. Nothing here touches the host.

use crate::accel::Accelerator;
use crate::architecture::Architecture;
pub use crate::qemu_machine::{
    DiskBus, DiskCache, Firmware, Forward, ImageFormat, Machine, Protocol,
};

/// Where QEMU sees the machine's own folder.
pub(crate) const MACHINE_DIR: &str = "/run/machine";

/// Where QEMU sees the switch's sockets.
pub(crate) const SWITCH_DIR: &str = "/run/switch";

/// Where QEMU sees the image below the overlay.
pub(crate) const IMAGE_FILE: &str = "/run/image/base";

/// Files of UEFI firmware in the tools tree.
pub(crate) struct FirmwareFiles {
    /// Path of the code, for QEMU.
    code: &'static str,
    /// Path of the variable store below the tools tree; it is copied for each machine.
    pub(crate) variables: &'static str,
}

/// Debian's OVMF and AAVMF.
pub(crate) fn firmware(architecture: Architecture) -> FirmwareFiles {
    match architecture {
        Architecture::Amd64 => FirmwareFiles {
            code: "/usr/share/OVMF/OVMF_CODE_4M.fd",
            variables: "usr/share/OVMF/OVMF_VARS_4M.fd",
        },
        Architecture::Arm64 => FirmwareFiles {
            code: "/usr/share/AAVMF/AAVMF_CODE.no-secboot.fd",
            variables: "usr/share/AAVMF/AAVMF_VARS.fd",
        },
    }
}

/// The firmware that enforces Secure Boot. It keeps its variables where only code in the processor's system management
/// mode gets at them.
const OVMF_SECURE_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd";

/// The SMBIOS string (type 11) whose value systemd-stub adds to the kernel's command line (systemd-stub(7)).
const KERNEL_EXTRA: &str = "io.systemd.stub.kernel-cmdline-extra";

/// What spares a translated kernel work. `init_on_alloc=0`, `cryptomgr.notests=1`, `cgroup.memory=nokmem`: memory that is about to be written anyway is not cleared before, ciphers
/// do not test themselves, the kernel's own memory is not charged to units (9, 4 and 4 % of all processor time until the
/// login prompt, measured in pairs). `modules_load=`: the network's driver
/// before the coldplug of all devices, at whose end it comes otherwise, ten seconds later.
const TCG_KERNEL_ARGUMENTS: &str =
    "init_on_alloc=0 cryptomgr.notests=1 cgroup.memory=nokmem modules_load=virtio_net";

/// `mitigations=off`: the guest shares its processor with nobody. `tsc=reliable`: on a busy host the kernel otherwise finds
/// the time stamp counter skewed and falls back to a timer that costs an exit for each look at the clock.
/// `no_timer_check`: the same for the start.
fn own_kernel_arguments(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Amd64 => "mitigations=off tsc=reliable no_timer_check",
        Architecture::Arm64 => "mitigations=off",
    }
}

/// The virtio port on which a machine reports its status, one JSON document a line.
pub const STATUS_PORT: &str = "farrow.status";

/// File names in the machine's folder.
pub(crate) mod file {
    pub(crate) const DISK: &str = "disk.qcow2";
    pub(crate) const DATA: &str = "data.qcow2";
    pub(crate) const VARS: &str = "vars.fd";
    pub(crate) const SEED: &str = "seed.img";
    pub(crate) const SERIAL: &str = "serial.log";
    pub(crate) const STATUS: &str = "status.jsonl";
    pub(crate) const MONITOR: &str = "monitor";
    pub(crate) const LOG: &str = "qemu.log";
}

impl Machine {
    /// QEMU's program name and arguments; `forwards` replaces the machine's own (ports that were picked before), `tsc_khz`
    /// is the rate of the host's time stamp counter, if it is known.
    pub fn command_line(
        &self,
        accelerator: Accelerator,
        tsc_khz: Option<u64>,
        forwards: &[Forward],
        switch: bool,
    ) -> Vec<String> {
        let mut line = Line::default();
        let program = format!("qemu-system-{}", self.architecture.machine());
        line.flags(&[&program, "-nodefaults", "-no-user-config"]);
        line.option("-name", &self.name);
        line.option("-display", "none");
        self.add_processor(&mut line, accelerator, tsc_khz);
        self.add_disks(&mut line);
        self.add_networks(&mut line, forwards, switch);
        add_ports(&mut line);
        line.0
    }

    fn add_processor(&self, line: &mut Line, accelerator: Accelerator, tsc_khz: Option<u64>) {
        let smm = match self.firmware {
            Firmware::SecureBoot(_) => "on",
            Firmware::Uefi | Firmware::Bios => "off",
        };
        line.option("-machine", &machine_type(self.architecture, smm));
        line.option("-accel", accelerator.option());
        line.option("-cpu", accelerator.processor(self.architecture));
        line.option("-smp", &self.cpus.to_string());
        line.option("-m", &self.memory_mib.to_string());
        line.option("-rtc", "base=utc");
        line.option("-device", "virtio-rng-pci");
        if accelerator == Accelerator::Tcg {
            let own = own_kernel_arguments(self.architecture);
            let rate = tsc_khz.filter(|_| self.architecture == Architecture::Amd64);
            let rate = rate.map_or_else(String::new, |khz| format!(" tsc_early_khz={khz}"));
            let value = format!("type=11,value={KERNEL_EXTRA}={own} {TCG_KERNEL_ARGUMENTS}{rate}");
            line.option("-smbios", &value);
        }
    }

    fn add_disks(&self, line: &mut Line) {
        let cache = match self.disk_cache {
            DiskCache::Writeback => "writeback",
            DiskCache::Unsafe => "unsafe",
        };
        self.add_firmware(line);
        line.option("-object", "iothread,id=disks");
        let options = format!("cache={cache},discard=unmap");
        line.drive("disk", "qcow2", file::DISK, &options);
        let device = match self.disk_bus {
            DiskBus::Virtio => "virtio-blk-pci,drive=disk,iothread=disks",
            DiskBus::Nvme => "nvme,drive=disk,serial=disk",
            DiskBus::VirtioScsi => {
                line.option("-device", "virtio-scsi-pci,id=scsi,iothread=disks");
                "scsi-hd,drive=disk,bus=scsi.0"
            }
            DiskBus::Pvscsi => {
                line.option("-device", "pvscsi,id=scsi");
                "scsi-hd,drive=disk,bus=scsi.0"
            }
        };
        line.option("-device", &format!("{device},bootindex=0"));
        if self.data_mib.is_some() {
            line.disk("data", "qcow2", file::DATA, &options, ",serial=data");
        }
        if self.seed.is_some() {
            line.disk("seed", "raw", file::SEED, "readonly=on", ",serial=seed");
        }
    }

    /// Nothing for a BIOS, which is what QEMU starts when it is not told otherwise.
    fn add_firmware(&self, line: &mut Line) {
        let code = match self.firmware {
            Firmware::Bios => return,
            Firmware::Uefi => firmware(self.architecture).code,
            Firmware::SecureBoot(_) => {
                line.option("-global", "driver=cfi.pflash01,property=secure,value=on");
                OVMF_SECURE_CODE
            }
        };
        line.option(
            "-drive",
            &format!("if=pflash,unit=0,format=raw,readonly=on,file={code}"),
        );
        let vars = inside(file::VARS);
        line.option(
            "-drive",
            &format!("if=pflash,unit=1,format=raw,file={vars}"),
        );
    }

    fn add_networks(&self, line: &mut Line, forwards: &[Forward], switch: bool) {
        let forwards: String = forwards.iter().map(forward_option).collect();
        line.option(
            "-netdev",
            &format!("user,id=user,restrict=on,ipv6=off{forwards}"),
        );
        line.network("user", &self.mac_user);
        if switch {
            let name = &self.name;
            line.option(
                "-netdev",
                &format!(
                    "dgram,id=private,local.type=unix,local.path={SWITCH_DIR}/{name}.machine,\
                     remote.type=unix,remote.path={SWITCH_DIR}/{name}.switch"
                ),
            );
            line.network("private", &self.mac_private);
        }
    }
}

/// QEMU's machine without devices that nothing uses. `virt` sends interrupts of PCI devices as messages to version 3 of
/// the interrupt controller, as cloud machines do.
fn machine_type(architecture: Architecture, smm: &str) -> String {
    match architecture {
        Architecture::Amd64 => format!(
            "q35,smm={smm},vmport=off,hpet=off,usb=off,sata=off,smbus=off,dump-guest-core=off"
        ),
        Architecture::Arm64 => "virt,gic-version=3,dump-guest-core=off".to_owned(),
    }
}

/// Serial console, status port and monitor: all of them files or sockets in the machine's folder.
fn add_ports(line: &mut Line) {
    let serial = inside(file::SERIAL);
    line.option(
        "-chardev",
        &format!("file,id=serial,append=on,path={serial}"),
    );
    line.option("-serial", "chardev:serial");
    let status = inside(file::STATUS);
    line.option("-device", "virtio-serial-pci");
    line.option(
        "-chardev",
        &format!("file,id=status,append=on,path={status}"),
    );
    line.option(
        "-device",
        &format!("virtserialport,chardev=status,name={STATUS_PORT}"),
    );
    let monitor = inside(file::MONITOR);
    line.option(
        "-chardev",
        &format!("socket,id=monitor,server=on,wait=off,path={monitor}"),
    );
    line.option("-mon", "chardev=monitor,mode=control");
}

/// The words of a command line.
#[derive(Default)]
struct Line(Vec<String>);

impl Line {
    fn flags(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(|&word| word.to_owned()));
    }

    fn option(&mut self, name: &str, value: &str) {
        self.flags(&[name, value]);
    }

    fn drive(&mut self, id: &str, format: &str, name: &str, options: &str) {
        let path = inside(name);
        self.option(
            "-drive",
            &format!("if=none,id={id},format={format},file={path},{options}"),
        );
    }

    fn disk(&mut self, id: &str, format: &str, name: &str, options: &str, device: &str) {
        self.drive(id, format, name, options);
        self.option(
            "-device",
            &format!("virtio-blk-pci,drive={id},iothread=disks{device}"),
        );
    }

    fn network(&mut self, id: &str, mac: &str) {
        // No `romfile`: the network boot ROM would only cost time.
        self.option(
            "-device",
            &format!("virtio-net-pci,netdev={id},mac={mac},romfile="),
        );
    }
}

/// A file of the machine's folder, as QEMU sees it.
pub(crate) fn inside(name: &str) -> String {
    format!("{MACHINE_DIR}/{name}")
}

fn forward_option(forward: &Forward) -> String {
    let Forward {
        protocol,
        host_port,
        guest_port,
    } = forward;
    let protocol = protocol.name();
    format!(",hostfwd={protocol}:127.0.0.1:{host_port}-:{guest_port}")
}

/// The forwards that are in force, from the monitor's `info usernet`: lines such as
/// `TCP[HOST_FORWARD]   3       127.0.0.1 38429       10.0.2.15    22     0     0`.
pub(crate) fn parse_forwards(text: &str) -> Vec<Forward> {
    let parse_line = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let protocol = match *words.first()? {
            "TCP[HOST_FORWARD]" => Protocol::Tcp,
            "UDP[HOST_FORWARD]" => Protocol::Udp,
            _ => return None,
        };
        Some(Forward {
            protocol,
            host_port: words.get(3)?.parse().ok()?,
            guest_port: words.get(5)?.parse().ok()?,
        })
    };
    text.lines().filter_map(parse_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu_machine::example as machine;

    #[test]
    fn the_command_line_is_this_one() {
        let machine = machine();
        let words =
            machine.command_line(Accelerator::Tcg, Some(2_000_000), &machine.forwards, true);
        let golden = include_str!("../tests/golden/qemu-command.txt");
        assert_eq!(shown(&words).trim(), golden.trim());
    }

    fn shown(words: &[String]) -> String {
        let separated = words.iter().map(|word| match word.starts_with('-') {
            true => format!("\n{word}"),
            false => format!(" {word}"),
        });
        separated.collect()
    }

    #[test]
    fn on_arm64_it_is_this_one() {
        let machine = Machine {
            architecture: Architecture::Arm64,
            ..machine()
        };
        let words =
            machine.command_line(Accelerator::Tcg, Some(2_000_000), &machine.forwards, true);
        let golden = include_str!("../tests/golden/qemu-command-arm64.txt");
        assert_eq!(shown(&words).trim(), golden.trim());
    }

    #[test]
    fn what_a_machine_does_not_have_is_not_on_its_command_line() {
        let machine = Machine {
            seed: None,
            ..machine()
        };
        let line = machine
            .command_line(Accelerator::Kvm, None, &[], false)
            .join(" ");
        for absent in ["dgram", "hostfwd", "id=seed", "id=data", "tcg"] {
            assert!(!line.contains(absent), "{absent} in {line}");
        }
    }

    #[test]
    fn other_firmware_and_disks() {
        let line = |firmware, disk_bus| {
            let machine = Machine {
                firmware,
                disk_bus,
                ..machine()
            };
            let words = machine.command_line(Accelerator::Kvm, None, &[], false);
            words.join(" ")
        };
        let bios = line(Firmware::Bios, DiskBus::Nvme);
        assert!(!bios.contains("pflash"), "{bios}");
        assert!(bios.contains("-device nvme,drive=disk,serial=disk,bootindex=0"));
        let secure = line(Firmware::SecureBoot(Vec::new()), DiskBus::Virtio);
        assert!(
            secure.contains("smm=on") && secure.contains("secboot.fd"),
            "{secure}"
        );
        let scsi = line(Firmware::Uefi, DiskBus::Pvscsi);
        assert!(scsi.contains("pflash"), "{scsi}");
        assert!(
            scsi.contains(
                "-device pvscsi,id=scsi -device scsi-hd,drive=disk,bus=scsi.0,bootindex=0"
            )
        );
    }

    #[test]
    fn picked_ports_are_read_from_the_monitor() {
        let text = "Hub -1 (user):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
            TCP[HOST_FORWARD]   3       127.0.0.1 38429       10.0.2.15    22     0     0\r\n  \
            UDP[HOST_FORWARD]  14       127.0.0.1 53001       10.0.2.15    53     0     0\r\n  \
            TCP[ESTABLISHED]   15       127.0.0.1 38429       10.0.2.15    22     0     0\r\n";
        let expected = [(Protocol::Tcp, 38429, 22), (Protocol::Udp, 53001, 53)].map(
            |(protocol, host_port, guest_port)| Forward {
                protocol,
                host_port,
                guest_port,
            },
        );
        assert_eq!(parse_forwards(text), expected);
    }
}
