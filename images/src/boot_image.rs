//! What a disk's boot loaders start: the unified kernel image, or kernel and initial file system beside it; which kernel,
//! what command line, what name in the boot menu.

use std::fs;
use std::path::Path;

use crate::disk::{DiskInput, Parts};
use crate::error::{Error, Result};
use crate::grub;
use crate::initrd;
use crate::root::{Kernel, RootTree};
use crate::secure_boot::pe;
use crate::tools::ToolsTree;
use crate::uki;

/// systemd-boot in the tools tree.
const BOOT_LOADER: &str = "usr/lib/systemd/boot/efi/systemd-bootx64.efi";
/// systemd's EFI stub in the tools tree.
const STUB: &str = "usr/lib/systemd/boot/efi/linuxx64.efi.stub";
/// A panic restarts the machine after ten seconds, so that the boot loader may try another version. The kernel's check of
/// the timer interrupt is left out, as it is on every hypervisor that the kernel knows: on a busy host that emulates the
/// processor it ends in the panic "IO-APIC + timer doesn't work".
const ALWAYS: [&str; 2] = ["panic=10", "no_timer_check"];

/// The tree's kernel with absolute paths.
pub(crate) fn find_kernel(root: &RootTree) -> Result<Kernel> {
    let none = || Error::Tree {
        reason: "no package brought a kernel".to_owned(),
    };
    let kernel = root.kernel.clone().ok_or_else(none)?;
    Ok(Kernel {
        image: root.path.join(kernel.image),
        modules: root.path.join(kernel.modules),
        version: kernel.version,
    })
}

/// What boots the parts of a disk.
pub(crate) struct BootFiles {
    /// The boot loader for UEFI.
    pub(crate) loader: Vec<u8>,
    /// The unified kernel image, for UEFI.
    pub(crate) image: Vec<u8>,
    /// For a BIOS: the kernel,
    pub(crate) kernel: Vec<u8>,
    /// its initial file system,
    pub(crate) initrd: Vec<u8>,
    /// and the file that tells GRUB its command line.
    pub(crate) entry: Vec<u8>,
}

impl BootFiles {
    /// Bytes that one version takes in the ESP.
    pub(crate) fn size(&self) -> u64 {
        (self.image.len() + self.kernel.len() + self.initrd.len()) as u64
    }
}

/// Makes them.
pub(crate) fn build(
    input: &DiskInput,
    kernel: &Kernel,
    parts: &Parts,
    tools: &ToolsTree,
) -> Result<BootFiles> {
    let read = |path: &Path| fs::read(path).map_err(Error::io("read", path));
    let release = input.root.path.join("usr/lib/os-release");
    let os_release = os_release(&read(&release)?, input);
    let command_line = command_line(input, parts);
    let initrd = initrd::build(&kernel.modules, &input.init)?;
    let sign = |what: &str, program: Vec<u8>| match &input.secure_boot {
        None => Ok(program),
        Some(signer) => pe::sign(&program, signer).map_err(|reason| Error::SecureBoot {
            what: what.to_owned(),
            reason,
        }),
    };
    let linux = read(&kernel.image)?;
    let image = uki::build(
        &read(&tools.root.join(STUB))?,
        &uki::Parts {
            os_release: os_release.as_bytes(),
            command_line: &command_line,
            release: &kernel.version,
            initrd: &initrd,
            kernel: &linux,
        },
    )?;
    Ok(BootFiles {
        loader: sign("the boot loader", read(&tools.root.join(BOOT_LOADER))?)?,
        image: sign("the kernel image", image)?,
        kernel: linux,
        initrd,
        entry: grub::entry(&command_line).into_bytes(),
    })
}

fn command_line(input: &DiskInput, parts: &Parts) -> String {
    let mut words = vec![
        format!("farrow.root={}", parts.root_id.text()),
        format!("farrow.verity={}", parts.verity_id.text()),
        format!("farrow.var={}", parts.var_id.text()),
        format!("farrow.roothash={}", hex::encode(parts.tree.root_hash)),
    ];
    words.extend(ALWAYS.map(str::to_owned));
    words.extend(input.kernel_arguments.iter().cloned());
    words.join(" ")
}

/// The tree's os-release(5) with the image's name and version, by which the boot loader titles and sorts.
fn os_release(text: &[u8], input: &DiskInput) -> String {
    let (name, version) = (&input.name, &input.version);
    let ours = ["PRETTY_NAME=", "IMAGE_ID=", "IMAGE_VERSION="];
    let mut lines: Vec<String> = String::from_utf8_lossy(text)
        .lines()
        .filter(|line| !ours.iter().any(|key| line.starts_with(key)))
        .map(str::to_owned)
        .collect();
    lines.push(format!("PRETTY_NAME=\"{name} {version}\""));
    lines.push(format!("IMAGE_ID={name}"));
    lines.push(format!("IMAGE_VERSION={version}\n"));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::tests::input;

    #[test]
    fn the_boot_loader_sees_name_and_version() {
        let text = os_release(b"PRETTY_NAME=\"Debian\"\nID=debian\n", &input());
        assert_eq!(
            text,
            "ID=debian\nPRETTY_NAME=\"pigsty 1.0\"\nIMAGE_ID=pigsty\nIMAGE_VERSION=1.0\n"
        );
    }
}
