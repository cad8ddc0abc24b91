//! Has the kernel run programs of another processor, for one sandbox or through the host's own registration.

use std::fs;
use std::path::Path;

use nix::mount::MsFlags;

use super::mounts;
use crate::architecture::Architecture;
use crate::emulation::{self, Emulator};
use crate::error::{Error, Result};

/// Where binfmt_misc is mounted.
const BINFMT: &str = "proc/sys/fs/binfmt_misc";
/// Where the kernel finds the program while it is registered: the paths of tools trees are long, and the documentation
/// allows 127 characters.
const PROGRAM: &str = "/emulator";
/// More entries than any host has.
const MOST_ENTRIES: usize = 1024;

/// Registers the program in a binfmt_misc of the sandbox's own user namespace, which ends with the mount (since Linux
/// 6.7); on older kernels makes sure that the host's has one that works in any tree. `host` and `new` are the two roots,
/// `program` is below `host`.
pub(super) fn enter(emulator: &Emulator, program: &Path, host: &Path, new: &Path) -> Result<()> {
    let folder = new.join(BINFMT);
    let kind = Some("binfmt_misc");
    let flags = mounts::own_flags() | MsFlags::MS_NOEXEC;
    match mounts::mount_fs(kind, &folder, kind, flags, None) {
        Ok(()) => register(emulator, program, &folder),
        Err(_) if host_runs(&host.join(BINFMT), emulator.architecture) => Ok(()),
        Err(error) => Err(Error::Emulation {
            architecture: emulator.architecture,
            reason: error.to_string(),
        }),
    }
}

fn register(emulator: &Emulator, program: &Path, folder: &Path) -> Result<()> {
    fs::write(PROGRAM, "").map_err(Error::io("create", PROGRAM))?;
    mounts::bind(program, Path::new(PROGRAM), true)?;
    let line = emulator.registration(PROGRAM);
    let file = folder.join("register");
    fs::write(&file, line).map_err(|error| Error::Emulation {
        architecture: emulator.architecture,
        reason: error.to_string(),
    })
}

/// Whether the host has registered someone who runs these programs.
fn host_runs(folder: &Path, architecture: Architecture) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.take(MOST_ENTRIES).any(|entry| {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        emulation::is_usable(&text, architecture)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_fitting_entry_of_the_host_is_enough() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!host_runs(folder.path(), Architecture::Arm64));
        fs::write(folder.path().join("status"), "enabled\n").unwrap();
        assert!(!host_runs(folder.path(), Architecture::Arm64));
        let entry = "enabled\ninterpreter /usr/bin/qemu-aarch64\nflags: F\noffset 0\n\
            magic 7f454c460201010000000000000000000200b700\n";
        fs::write(folder.path().join("qemu-aarch64"), entry).unwrap();
        assert!(host_runs(folder.path(), Architecture::Arm64));
        assert!(!host_runs(folder.path(), Architecture::Amd64));
    }
}
