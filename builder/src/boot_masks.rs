//! What systemd starts by default and a machine of the platform has no use for: each costs an emulated machine half a
//! second of its boot, and each is one thing less that runs. `systemctl unmask` is for who wants one on a machine.

use images::root::{Content, FileEntry};

/// Units: foreign binaries, kernel debugging, configfs, FUSE, graphics, crash records in firmware, hibernation.
const UNITS: [&str; 11] = [
    "modprobe@configfs.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-hibernate-clear.service",
];

/// Generators of units: Debian's own PostgreSQL clusters, hibernation, rc.local, SSH by vsock, offline updates, init
/// scripts, TPM, and the unit that declares a boot good before farrow-trial.service does.
const GENERATORS: [&str; 8] = [
    "postgresql-generator",
    "systemd-bless-boot-generator",
    "systemd-hibernate-resume-generator",
    "systemd-rc-local-generator",
    "systemd-ssh-generator",
    "systemd-system-update-generator",
    "systemd-sysv-generator",
    "systemd-tpm2-generator",
];

/// Links to `/dev/null` (systemd.unit(5), systemd.generator(7)).
pub fn links() -> Vec<FileEntry> {
    let units = UNITS.map(|name| format!("/etc/systemd/system/{name}"));
    let generators = GENERATORS.map(|name| format!("/etc/systemd/system-generators/{name}"));
    let paths = units.into_iter().chain(generators);
    paths
        .map(|path| FileEntry {
            path,
            mode: 0o777,
            uid: 0,
            gid: 0,
            kind: Content::Symlink("/dev/null".into()),
        })
        .collect()
}
