//! The one error type of this crate: what went wrong, where, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::architecture::Architecture;
use crate::qemu_error::MachineError;

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong while trees, disks and machines are made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file-system call failed.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// The verb, as in "cannot WHAT PATH".
        what: &'static str,
        /// The file or folder it was tried on.
        path: PathBuf,
        /// The reason the kernel gave.
        source: io::Error,
    },
    /// A namespace, mount or process of the sandbox could not be set up.
    #[error("sandbox: cannot {what}: {reason}")]
    Sandbox {
        /// The step, as in "cannot STEP".
        what: String,
        /// Why it failed.
        reason: String,
        /// What the user can do about it.
        hint: Option<String>,
    },
    /// A set-uid program of the host that a plain user needs is not installed.
    #[error("{name} is not in PATH, and a plain user cannot map user ids without it")]
    MissingHostProgram {
        /// The program's name.
        name: &'static str,
    },
    /// The user has no (or too small a) range of subordinate ids.
    #[error("{file} gives {user} no range of at least 65535 ids")]
    MissingIdRange {
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
        /// The user's name, or number if it has none.
        user: String,
    },
    /// Programs of another processor cannot be run.
    #[error("this host does not run programs of {}: {reason}", architecture.debian())]
    Emulation {
        /// Whose programs.
        architecture: Architecture,
        /// Why not.
        reason: String,
    },
    /// A program in the sandbox ended with a failure.
    #[error("{program} failed with {status}{}", quoted_tail(stderr))]
    Program {
        /// The command line.
        program: String,
        /// Exit code or signal.
        status: String,
        /// The last lines it wrote to standard error.
        stderr: String,
    },
    /// A maintainer script of a package failed while a root tree was made.
    #[error(
        "{script} of package {package} failed with {status}{}",
        quoted_lines(said)
    )]
    Script {
        /// The package.
        package: String,
        /// The script: `preinst`, `postinst`, `prerm` or `postrm`.
        script: &'static str,
        /// Exit code or signal.
        status: String,
        /// The last lines that it said.
        said: String,
        /// Where all is that dpkg said.
        log: PathBuf,
    },
    /// A package file is damaged or holds something that is refused.
    #[error("package {}: {reason}", path.display())]
    Package {
        /// The `.deb` file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The tree that the packages make lacks something an image needs.
    #[error("root tree: {reason}")]
    Tree {
        /// What is missing or contradictory.
        reason: String,
    },
    /// A layer that has not been packed is not in the cache any more. Whoever can make it again does.
    #[error("layer {digest} of a root tree is not in the cache any more")]
    LayerGone {
        /// Its digest.
        digest: String,
    },
    /// A file that takes part in the first steps of a boot is not what it should be.
    #[error("{what}: {reason}")]
    Boot {
        /// The file, as in "the kernel".
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Keys of Secure Boot, or what they sign, cannot be used.
    #[error("Secure Boot: {what}: {reason}")]
    SecureBoot {
        /// The file, as in "the boot loader".
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What an image shall be made of is contradictory or refused.
    #[error("image: {reason}")]
    Image {
        /// What is wrong.
        reason: String,
    },
    /// A disk image has no usable partition table.
    #[error("partition table of {}: {reason}", path.display())]
    Table {
        /// The disk image.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file is not an image that can be looked into.
    #[error("{}: {reason}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// An image manifest cannot be used.
    #[error("manifest {}: {reason}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An image is not what its manifest says.
    #[error("{}: {reason}", path.display())]
    Verify {
        /// The image.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// A virtual machine, its switch or its seed.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// An error that a worker process in the mapped namespace reported.
    #[error("{message}")]
    Worker {
        /// The code of the error in the worker.
        code: &'static str,
        /// The message of the error in the worker.
        message: String,
        /// The hint of the error in the worker.
        hint: Option<String>,
    },
}

impl Error {
    /// Stable identifier for scripts and documentation, for example `FR-IMAGE-IO`.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Io { .. } => "FR-IMAGE-IO",
            Error::Sandbox { .. } => "FR-SANDBOX",
            Error::MissingHostProgram { .. } => "FR-SANDBOX-PROGRAM",
            Error::MissingIdRange { .. } => "FR-SANDBOX-IDS",
            Error::Emulation { .. } => "FR-SANDBOX-EMULATION",
            Error::Program { .. } => "FR-IMAGE-PROGRAM",
            Error::Script { .. } => "FR-IMAGE-SCRIPT",
            Error::Package { .. } => "FR-IMAGE-PACKAGE",
            Error::Tree { .. } | Error::LayerGone { .. } => "FR-IMAGE-TREE",
            Error::Boot { .. } => "FR-IMAGE-BOOT",
            Error::SecureBoot { .. } => "FR-SECURE-BOOT",
            Error::Image { .. } => "FR-IMAGE-INPUT",
            Error::Table { .. } => "FR-IMAGE-TABLE",
            Error::Unknown { .. } => "FR-IMAGE-UNKNOWN",
            Error::Manifest { .. } => "FR-IMAGE-MANIFEST",
            Error::Verify { .. } => "FR-IMAGE-VERIFY",
            Error::Machine(error) => error.code(),
            Error::Worker { code, .. } => code,
        }
    }

    /// What the user can do about it, when there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Sandbox { hint, .. } | Error::Worker { hint, .. } => hint.clone(),
            Error::Machine(error) => error.hint(),
            Error::Verify { .. } | Error::Table { .. } => {
                Some("the file is damaged or was changed: build or download it again".to_owned())
            }
            Error::Unknown { .. } => Some(
                "name an image that farrow made: raw, qcow2, VMDK, VHD, a GCE archive or an OVA"
                    .to_owned(),
            ),
            Error::MissingHostProgram { name } => Some(format!(
                "install the package `uidmap` (Debian, Ubuntu) or `shadow-utils` (Fedora, EL), which has the set-uid program {name}, or run as root"
            )),
            Error::MissingIdRange { user, .. } => Some(format!(
                "run as root once: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user} (any free range of 65536 ids will do)"
            )),
            Error::Script { log, .. } => Some(format!(
                "all that dpkg said is in {} until the next bake",
                log.display()
            )),
            Error::Emulation { architecture, .. } => Some(format!(
                "it takes Linux 6.7 or later, built with CONFIG_BINFMT_MISC; on an older one, install the package `qemu-user-binfmt` on the host (Debian 13; before, and on Ubuntu, `qemu-user-static`), which registers {} with the kernel",
                architecture.interpreter()
            )),
            Error::Package { .. } => {
                Some("fetch the package again; its content must match the lock".to_owned())
            }
            _ => None,
        }
    }

    /// Closure for `map_err` on file-system calls: `fs::read(p).map_err(Error::io("read", p))`.
    pub fn io(what: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io {
            what,
            path: path.as_ref().to_owned(),
            source,
        }
    }

    /// Closure for `map_err` on system calls of the sandbox.
    pub(crate) fn sandbox<E: std::fmt::Display>(
        what: impl Into<String>,
    ) -> impl FnOnce(E) -> Error {
        move |reason| Error::Sandbox {
            what: what.into(),
            reason: reason.to_string(),
            hint: None,
        }
    }
}

/// What a script said as it is appended to a message: nothing, or a colon and the lines.
fn quoted_lines(said: &str) -> String {
    match said.trim() {
        "" => String::new(),
        text => format!(":\n{text}"),
    }
}

/// Standard error as it is appended to a message: nothing, or a colon and the text.
fn quoted_tail(stderr: &str) -> String {
    match stderr.trim() {
        "" => String::new(),
        text => format!(": {text}"),
    }
}
