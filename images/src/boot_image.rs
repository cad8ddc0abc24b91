//! What a disk's boot loaders start: the unified kernel image, out of which GRUB takes kernel and initial file system when
//! the firmware is a BIOS; which kernel, what command line, what name in the boot menu.

use std::fs;
use std::path::Path;

use crate::architecture::Architecture;
use crate::disk::DiskInput;
use crate::error::{Error, Result};
use crate::grub;
use crate::parts::Parts;
use crate::root::{Kernel, RootTree};
use crate::secure_boot::pe;
use crate::tools::ToolsTree;
use crate::uki;

/// A panic restarts the machine after ten seconds, so that the boot loader may try another version.
const PANIC: &str = "panic=10";
/// On amd64 the kernel's check of the timer interrupt is left out, as it is on every hypervisor that the kernel knows: on
/// a busy host that emulates the processor it ends in the panic "IO-APIC + timer doesn't work".
const NO_TIMER_CHECK: &str = "no_timer_check";

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
    /// The unified kernel image.
    pub(crate) image: Vec<u8>,
    /// The file that tells GRUB the command line and where in the image kernel and initial file system are, where there
    /// are machines with a BIOS.
    pub(crate) entry: Option<Vec<u8>>,
}

/// Makes them with that initial file system.
pub(crate) fn build(
    input: &DiskInput,
    kernel: &Kernel,
    initrd: &[u8],
    parts: &Parts,
    tools: &ToolsTree,
) -> Result<BootFiles> {
    let read = |path: &Path| fs::read(path).map_err(Error::io("read", path));
    let release = input.root.path.join("usr/lib/os-release");
    let os_release = os_release(&read(&release)?, input);
    let command_line = command_line(input, parts);
    let sign = |what: &str, program: Vec<u8>| match &input.secure_boot {
        None => Ok(program),
        Some(signer) => pe::sign(&program, signer).map_err(|reason| Error::SecureBoot {
            what: what.to_owned(),
            reason,
        }),
    };
    let linux = read(&kernel.image)?;
    let image = uki::build(
        &read(&input.architecture.stub(&tools.root, &input.root.path)?)?,
        &uki::Parts {
            os_release: os_release.as_bytes(),
            command_line: &command_line,
            release: &kernel.version,
            initrd,
            kernel: &linux,
        },
    )?;
    let entry = match input.architecture.has_bios() {
        true => Some(grub::entry(&command_line, &image)?.into_bytes()),
        false => None,
    };
    let loader = input
        .architecture
        .boot_loader(&tools.root, &input.root.path)?;
    Ok(BootFiles {
        loader: sign("the boot loader", read(&loader)?)?,
        image: sign("the kernel image", image)?,
        entry,
    })
}

fn command_line(input: &DiskInput, parts: &Parts) -> String {
    let mut words = vec![
        format!("farrow.root={}", parts.root_id.text()),
        format!("farrow.verity={}", parts.verity_id.text()),
        format!("farrow.var={}", parts.var_id.text()),
        format!("farrow.roothash={}", hex::encode(parts.tree.root_hash)),
    ];
    words.push(PANIC.to_owned());
    if input.architecture == Architecture::Amd64 {
        words.push(NO_TIMER_CHECK.to_owned());
    }
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
