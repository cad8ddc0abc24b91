//! `farrow-init`: the first process of a Farrow image, from the kernel to the verified root.
//!
//! In order: modules, partitions, verity, root, `/var`, the `/etc` overlay, the machine-id, and the root's own init.
//! It trusts the root hash of the kernel command line and nothing else on the disk.

#[path = "../initrd/mod.rs"]
mod initrd;

use initrd::device::{self, Partitions};
use initrd::failure::{Failure, Step};
use initrd::log::{self, Level};
use initrd::modules::Modules;
use initrd::{arguments, grow, machine_id, mapper, mounts, switch, verity};
use std::convert::Infallible;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The root's init.
const INIT: &str = "/usr/lib/systemd/systemd";
/// Name of the verified device below `/dev/mapper`.
const NAME: &str = "root";
/// How long a failure stays readable on the console before the machine restarts.
const PAUSE: Duration = Duration::from_secs(10);

fn main() {
    if std::process::id() != 1 {
        eprintln!(
            "farrow-init: only the kernel starts this program, as the first process of a machine"
        );
        std::process::exit(2);
    }
    let Err(failure) = boot();
    stop(&failure)
}

fn boot() -> Step<Infallible> {
    mounts::kernel_file_systems()?;
    log::info("started");
    let arguments = arguments::read()?;
    let mut modules = Modules::read()?;
    modules.load_always()?;
    debug(&arguments, "modules loaded");
    let ids = [&arguments.root, &arguments.verity, &arguments.var].map(String::as_str);
    let partitions = device::wait(ids, &mut modules)?;
    log::info(&format!(
        "root {} verity {} var {}",
        partitions.root.name, partitions.verity.name, partitions.var.name
    ));
    let device = verified_device(&partitions, &arguments.root_hash)?;
    mounts::root(&device)?;
    log::info(&format!(
        "mounted the verified root {}",
        arguments.root_hash
    ));
    let root = Path::new(mounts::ROOT);
    let var = root.join("var");
    grow::partition(&partitions.var, &arguments.var);
    mounts::var(&partitions.var.node(), &var)?;
    debug(&arguments, "mounted /var");
    mounts::keep_var()?;
    grow::file_system(&partitions.var.node(), &var);
    let etc = root.join("etc");
    mounts::etc(&etc)?;
    if machine_id::restore(&var, &etc)? {
        log::info("made a new machine-id");
    }
    log::info("switching to the root");
    switch::to_root(INIT, std::env::args().skip(1))
}

fn debug(arguments: &arguments::Arguments, message: &str) {
    if arguments.debug {
        log::info(message);
    }
}

/// The device-mapper device that checks each block of the root against the root hash.
fn verified_device(partitions: &Partitions, root_hash: &str) -> Step<PathBuf> {
    let node = partitions.verity.node();
    let mut bytes = [0; 512];
    std::fs::File::open(&node)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|e| {
            let message = format!("cannot read {}: {e}", node.display());
            Failure::new(
                "FR-INIT-VERITY",
                message,
                "the disk does not answer: check its health",
            )
        })?;
    let superblock = verity::parse(&bytes)?;
    let table = verity::table(
        &superblock,
        &partitions.root.number,
        &partitions.verity.number,
        root_hash,
    );
    mapper::create_verity(NAME, &superblock.uuid, superblock.data_blocks * 8, &table)
}

/// Says why, waits long enough to be read, and restarts: the boot loader may have another version to try.
fn stop(failure: &Failure) -> ! {
    log::say(Level::Error, &failure.to_string());
    log::say(
        Level::Error,
        &format!("the machine restarts in {} s", PAUSE.as_secs()),
    );
    std::thread::sleep(PAUSE);
    nix::unistd::sync();
    let Err(e) = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_AUTOBOOT);
    log::say(Level::Error, &format!("cannot restart: {e}"));
    // Ending the first process makes the kernel panic, which restarts the machine by `panic=`.
    std::process::exit(1)
}
