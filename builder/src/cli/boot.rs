//! The arguments of `farrow image boot`.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `farrow image boot`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  farrow image boot out/image/base-0.1.0.raw --bios
  farrow image boot out/image/base-0.1.0.vmdk --disk scsi --check 'systemctl is-system-running'
  farrow image boot out/image/pigsty-0.1.0.qcow2 --seed out/seed/meta --report boot.html")]
pub struct ImageBootArgs {
    /// The image, .raw, .qcow2, .vmdk or .vhd; it is not written to
    pub image: PathBuf,
    /// A machine's folder that `farrow seed` made, or the folder of all machines (default: made for the purpose)
    #[arg(long, value_name = "DIR")]
    pub seed: Option<PathBuf>,
    /// Without --seed: one meta node and so many database nodes that there are N machines
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=20), conflicts_with = "seed")]
    pub nodes: u8,
    /// Start with UEFI firmware (default)
    #[arg(long)]
    pub uefi: bool,
    /// Start with a BIOS
    #[arg(long, conflicts_with = "uefi")]
    pub bios: bool,
    /// Start with UEFI firmware that starts only what the key of this certificate, PEM, signed
    #[arg(long, value_name = "CERTIFICATE", conflicts_with_all = ["uefi", "bios"])]
    pub secure_boot: Option<PathBuf>,
    /// What the image's disk is attached to
    #[arg(long, value_enum, value_name = "BUS", default_value = "virtio")]
    pub disk: BootDisk,
    /// Give each machine a second, blank disk, which becomes its data disk
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub data_disk: Option<u64>,
    /// Run a shell command on each machine once it is ready; may be repeated
    #[arg(long, value_name = "COMMAND")]
    pub check: Vec<String>,
    /// Write an HTML page with the times of the boot and the serial log
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Go on waiting when a boot fails: the machine may try another version
    #[arg(long)]
    pub tolerant: bool,
    /// How long the machines may take to become ready
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
    /// Memory
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    pub memory: u32,
    /// Virtual processors
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub cpus: u32,
    /// Keep the serial console's log; of several machines, as FILE.NAME
    #[arg(long, value_name = "FILE")]
    pub serial_log: Option<PathBuf>,
}

/// What a disk is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BootDisk {
    /// A virtio disk
    Virtio,
    /// NVM Express
    Nvme,
    /// SCSI behind a virtio controller
    Scsi,
    /// SCSI behind VMware's paravirtual controller, with --bios only
    Pvscsi,
}

impl BootDisk {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            BootDisk::Virtio => "virtio",
            BootDisk::Nvme => "nvme",
            BootDisk::Scsi => "scsi",
            BootDisk::Pvscsi => "pvscsi",
        }
    }
}
