//! The files of a machine before it starts: overlays, firmware variables, seed.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::architecture::Architecture;
use crate::error::{Error, Result};
use crate::partitions;
use crate::qemu_command::{self as command, file};
use crate::qemu_machine::{Firmware, ImageFormat, Machine};
use crate::secure_boot::variables;
use crate::tools::ToolsTree;

/// Makes what the machine's folder lacks: overlay, second disk, firmware variables, seed.
pub(crate) fn prepare(machine: &Machine, folder: &Path, tools: &ToolsTree) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(Error::io("create", folder))?;
    let vars = folder.join(file::VARS);
    if machine.firmware != Firmware::Bios && !vars.exists() {
        write_private(&vars, &variables(machine, tools)?)?;
    }
    if let Some(seed) = &machine.seed {
        copy_private(seed, &folder.join(file::SEED))?;
    }
    let disk_size = machine.disk_mib.map(|mib| format!("{mib}M"));
    let backing = ["-F", machine.image_format.name(), "-b", command::IMAGE_FILE];
    create_disk(machine, folder, tools, file::DISK, &backing, disk_size)?;
    if let Some(mib) = machine.data_mib {
        create_disk(
            machine,
            folder,
            tools,
            file::DATA,
            &[],
            Some(format!("{mib}M")),
        )?;
    }
    Ok(())
}

/// What an image runs on, from its partition table; none when it is no image of ours.
///
/// # Errors
/// Failures of files and tools; an image that cannot be read is none of ours.
pub fn architecture(
    image: &Path,
    format: ImageFormat,
    tools: &ToolsTree,
) -> Result<Option<Architecture>> {
    let work = tempfile::tempdir().map_err(Error::io("create in", std::env::temp_dir()))?;
    let sandbox = tools
        .sandbox()
        .map_ids(false)
        .bind(work.path(), command::MACHINE_DIR)
        .bind_ro(image, command::IMAGE_FILE);
    let target = command::inside("start");
    let (from, to) = (
        format!("if={}", command::IMAGE_FILE),
        format!("of={target}"),
    );
    let format = format.name();
    let argv = [
        "qemu-img", "dd", "-f", format, "-O", "raw", "bs=1M", "count=1", &from, &to,
    ];
    match sandbox.run(&argv, None) {
        Err(Error::Program { .. }) => return Ok(None),
        other => other?,
    };
    let path = work.path().join("start");
    let start = fs::read(&path).map_err(Error::io("read", &path))?;
    let layout = partitions::read_start(&start, image).ok();
    Ok(layout.and_then(|layout| Architecture::of_disk(&layout)))
}

fn create_disk(
    machine: &Machine,
    folder: &Path,
    tools: &ToolsTree,
    name: &str,
    options: &[&str],
    size: Option<String>,
) -> Result<()> {
    if folder.join(name).exists() {
        return Ok(());
    }
    let partial = format!("{name}.partial");
    let target = command::inside(&partial);
    let mut argv = vec!["qemu-img", "create", "-q", "-f", "qcow2"];
    argv.extend_from_slice(options);
    argv.push(&target);
    argv.extend(size.as_deref());
    let sandbox = tools
        .sandbox()
        .map_ids(false)
        .bind(folder, command::MACHINE_DIR)
        .bind_ro(&machine.image, command::IMAGE_FILE);
    sandbox.run(&argv, None)?;
    let path = folder.join(name);
    fs::rename(folder.join(partial), &path).map_err(Error::io("create", &path))
}

/// The firmware's variables of a machine that was never on.
fn variables(machine: &Machine, tools: &ToolsTree) -> Result<Vec<u8>> {
    let path = (tools.root).join(command::firmware(machine.architecture).variables);
    let empty = fs::read(&path).map_err(Error::io("read", &path))?;
    match &machine.firmware {
        Firmware::SecureBoot(certificate) => variables::with_certificate(&empty, certificate)
            .map_err(|reason| Error::SecureBoot {
                what: "OVMF".to_owned(),
                reason,
            }),
        Firmware::Uefi | Firmware::Bios => Ok(empty),
    }
}

/// Copies a file to a new one with mode 0600, whole or not at all.
fn copy_private(from: &Path, to: &Path) -> Result<()> {
    let content = fs::read(from).map_err(Error::io("read", from))?;
    write_private(to, &content)
}

fn write_private(to: &Path, content: &[u8]) -> Result<()> {
    let partial = to.with_extension("partial");
    let _ = fs::remove_file(&partial);
    let mut file = fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial)
        .map_err(Error::io("create", &partial))?;
    std::io::Write::write_all(&mut file, content).map_err(Error::io("write", &partial))?;
    fs::rename(&partial, to).map_err(Error::io("create", to))
}
