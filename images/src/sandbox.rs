//! Runs programs in a tree with namespaces of their own, as root or as a plain user.
//!
//! The calling binary starts itself again (`/proc/self/exe`) under the name `farrow-sandbox`; that fresh process has
//! one thread, so it may fork and change namespaces safely. The processes are then:
//!
//! - the *supervisor*: enters the user namespace, watches a socket to its caller, and kills everything when the
//!   caller closes it or dies (not `PR_SET_PDEATHSIG`, which fires when the calling *thread* ends);
//! - *process 1* of the new pid namespace: builds the mounts, starts the program, reaps, and dies with the supervisor;
//! - the program.
//!
//! Work on trees with mapped owners that needs no other root (unpacking, removing) is a [`verb`](crate::sandbox::call)
//! of the same mechanism: only the user namespace is entered and Rust code runs in it.

pub(crate) mod container;
mod emulation;
mod enter;
mod filter;
mod groups;
mod ids;
mod join;
mod mounts;
mod root;
mod verbs;

use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use join::spawn_in;
pub use root::{Layers, Root};

use crate::emulation::Emulator;
use crate::error::{Error, Result};
use crate::process::{self, Child, Output};

/// `argv[0]` by which a binary knows that it was started as a sandbox.
pub(crate) const ARGV0: &str = "farrow-sandbox";

/// What network a sandboxed program sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// A network namespace of its own with nothing but a loopback interface that is down.
    None,
    /// The host's.
    Host,
    /// That of the process with this id, and its process namespace too.
    Of(u32),
}

/// Which user and group ids exist inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ids {
    /// Only the caller's own, as 0; needs no subordinate ids.
    Own,
    /// 0 to 65535: as root they are the host's, as a plain user 0 is the user and the others are its subordinate ids.
    Mapped,
    /// The host's, with all of root's power over it: for containers, whose mounts and devices need that.
    Host,
}

/// A path of the host that is visible inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Path on the host; it must exist.
    pub source: PathBuf,
    /// Absolute path inside; it is made when it does not exist.
    pub target: PathBuf,
    /// Whether writing through it is refused.
    pub read_only: bool,
}

/// How to run a program: the tree, what is visible in it, and with which ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// What becomes `/`.
    pub root: Root,
    /// Paths of the host that are visible inside.
    pub binds: Vec<Bind>,
    /// What network is visible.
    pub network: Network,
    /// Working folder inside.
    pub workdir: PathBuf,
    /// The whole environment of the program; nothing is inherited.
    pub env: Vec<(String, String)>,
    /// Which ids exist inside.
    pub ids: Ids,
    /// Whether `/dev/kvm` is visible, if the host has it.
    pub kvm: bool,
    /// Whether `fsync` and its kin return success without doing anything: for trees that are thrown away when
    /// the build is interrupted.
    pub ignore_sync: bool,
    /// Who runs the tree's programs when they are of another processor.
    pub emulator: Option<Emulator>,
}

impl Sandbox {
    /// A sandbox on `root`: writable, no network, ids mapped, working folder `/`, a plain `PATH` and `C.UTF-8`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let env = [
            (
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            ),
            ("HOME", "/tmp"),
            ("LANG", "C.UTF-8"),
            ("LC_ALL", "C.UTF-8"),
            ("TZ", "UTC"),
        ];
        Self {
            root: Root::Writable(root.into()),
            binds: Vec::new(),
            network: Network::None,
            workdir: PathBuf::from("/"),
            env: env
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ids: Ids::Mapped,
            kvm: false,
            ignore_sync: false,
            emulator: None,
        }
    }

    /// A sandbox on several trees; see [`Sandbox::new`] for the rest.
    pub fn layered(layers: Layers) -> Self {
        Self {
            root: Root::Layers(layers),
            ..Self::new("")
        }
    }

    /// Protects the tree from writes. Layers stay as they are: they have a folder for them.
    pub fn read_only(mut self) -> Self {
        if let Root::Writable(path) = self.root {
            self.root = Root::ReadOnly(path);
        }
        self
    }

    /// Makes `source` writable at `target`.
    pub fn bind(self, source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        self.with_bind(source.into(), target.into(), false)
    }

    /// Makes `source` readable at `target`.
    pub fn bind_ro(self, source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        self.with_bind(source.into(), target.into(), true)
    }

    fn with_bind(mut self, source: PathBuf, target: PathBuf, read_only: bool) -> Self {
        self.binds.push(Bind {
            source,
            target,
            read_only,
        });
        self
    }

    /// Chooses the network.
    pub fn network(mut self, network: Network) -> Self {
        self.network = network;
        self
    }

    /// Chooses the working folder inside.
    pub fn workdir(mut self, workdir: impl Into<PathBuf>) -> Self {
        self.workdir = workdir.into();
        self
    }

    /// Sets a variable of the program's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Chooses whether ids 0 to 65535 exist inside, or only the caller's own as 0.
    pub fn map_ids(mut self, map_ids: bool) -> Self {
        self.ids = if map_ids { Ids::Mapped } else { Ids::Own };
        self
    }

    /// Keeps root what it is on the host; only root can start such a sandbox.
    pub fn host_ids(mut self) -> Self {
        self.ids = Ids::Host;
        self
    }

    /// Makes `/dev/kvm` visible if the host has it.
    pub fn kvm(mut self) -> Self {
        self.kvm = true;
        self
    }

    /// Makes `fsync` and its kin return success without doing anything.
    pub fn ignore_sync(mut self) -> Self {
        self.ignore_sync = true;
        self
    }

    /// Has the tree's programs run by an emulator; none: by this processor.
    pub fn emulator(mut self, emulator: Option<Emulator>) -> Self {
        self.emulator = emulator;
        self
    }

    /// Runs a program to its end and returns what it wrote.
    ///
    /// # Errors
    /// [`Error::Program`] with the command line and the tail of standard error when it does not exit with 0, and the
    /// errors of [`Sandbox::spawn`].
    pub fn run(&self, argv: &[&str], stdin: Option<&[u8]>) -> Result<Output> {
        let input = if stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        let child = self.spawn(argv, input, Stdio::piped(), Stdio::piped())?;
        process::finish(child, argv, stdin)
    }

    /// Starts a program. It has been executed when this returns.
    ///
    /// # Errors
    /// [`Error::Worker`] when namespaces or mounts cannot be set up or the program cannot be executed, with the code
    /// and hint of the cause.
    pub fn spawn(
        &self,
        argv: &[&str],
        stdin: Stdio,
        stdout: Stdio,
        stderr: Stdio,
    ) -> Result<Child> {
        let action = Action::Execute {
            sandbox: self.canonical()?,
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
        };
        start(self.ids, action, [stdin, stdout, stderr])
    }

    /// The same with paths that mean the same wherever they are looked up from.
    fn canonical(&self) -> Result<Self> {
        let mut sandbox = self.clone();
        sandbox.root = self.root.canonical()?;
        for bind in &mut sandbox.binds {
            bind.source = canonical(&bind.source)?;
        }
        if let Some(emulator) = &mut sandbox.emulator {
            emulator.program = canonical(&emulator.program)?;
        }
        Ok(sandbox)
    }
}

/// Starts this binary again for an action that executes something, and waits until it has.
fn start(ids: Ids, action: Action, [stdin, stdout, stderr]: [Stdio; 3]) -> Result<Child> {
    let mut child = process::launch(&Spec { ids, action }, stdin, stdout, stderr)?;
    child.wait_started()?;
    Ok(child)
}

/// Removes a tree whose files may belong to mapped ids. A tree that does not exist is fine.
///
/// # Errors
/// [`Error::Worker`] naming the file that could not be removed.
pub fn remove_tree(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    call("remove-tree", &path, &|_, _| ())
}

/// Runs one of this crate's functions in a namespace with ids 0 to 65535 mapped but no other root; `input` and the
/// result travel as JSON. `progress` gets units done and their total.
///
/// # Errors
/// [`Error::Worker`] with the code, message and hint of the error there.
pub(crate) fn call<I: Serialize, O: DeserializeOwned>(
    verb: &str,
    input: &I,
    progress: &dyn Fn(u64, u64),
) -> Result<O> {
    let input =
        serde_json::to_value(input).map_err(Error::sandbox("encode the input of a worker"))?;
    let spec = Spec {
        ids: Ids::Mapped,
        action: Action::Verb {
            name: verb.to_owned(),
            input,
        },
    };
    let child = process::launch(&spec, Stdio::null(), Stdio::null(), Stdio::inherit())?;
    let value = child.wait_result(progress)?;
    serde_json::from_value(value).map_err(Error::sandbox("decode the result of a worker"))
}

/// Turns this process into a sandbox if it was started as one; it then never returns. Every binary that uses this
/// crate calls it first thing in `main`, before any thread exists.
pub fn run_if_requested() {
    let mut arguments = std::env::args_os();
    if arguments.next().is_none_or(|name| name != ARGV0) {
        return;
    }
    let fd = arguments
        .next()
        .and_then(|word| word.to_str()?.parse::<RawFd>().ok());
    let Some(fd) = fd.filter(|&fd| fd > 2) else {
        eprintln!("{ARGV0}: started without its socket");
        std::process::exit(2);
    };
    // SAFETY: the caller left exactly this descriptor open for us, and nothing else in this process knows of it.
    #[allow(unsafe_code)]
    let socket = unsafe { UnixStream::from_raw_fd(fd) };
    enter::main(socket)
}

/// What the caller asks of the new process, sent as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    ids: Ids,
    action: Action,
}

/// The kinds of work.
#[derive(Debug, Serialize, Deserialize)]
enum Action {
    Execute {
        sandbox: Sandbox,
        argv: Vec<String>,
    },
    /// Boots a container.
    Container(container::Boot),
    /// Executes a program in all namespaces of a process.
    Enter(join::Entry),
    Verb {
        name: String,
        input: serde_json::Value,
    },
}

/// What the new process answers, one JSON document a line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    /// The program has been executed.
    Started,
    /// Units done, and how many there are.
    Progress(u64, u64),
    /// The verb's result.
    Done(serde_json::Value),
    /// It failed.
    Failed {
        code: String,
        message: String,
        hint: Option<String>,
    },
}

impl Message {
    /// The message that carries an error to the caller.
    fn failed(error: &Error) -> Self {
        Message::Failed {
            code: error.code().to_owned(),
            message: error.to_string(),
            hint: error.hint(),
        }
    }

    /// The error that a message carried; an unknown code becomes the sandbox's own.
    pub(crate) fn into_error(code: &str, message: String, hint: Option<String>) -> Error {
        const CODES: [&str; 7] = [
            "FR-IMAGE-IO",
            "FR-SANDBOX-PROGRAM",
            "FR-SANDBOX-IDS",
            "FR-SANDBOX-EMULATION",
            "FR-IMAGE-PROGRAM",
            "FR-IMAGE-PACKAGE",
            "FR-IMAGE-TREE",
        ];
        let code = CODES
            .into_iter()
            .find(|known| *known == code)
            .unwrap_or("FR-SANDBOX");
        Error::Worker {
            code,
            message,
            hint,
        }
    }
}

fn canonical(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(Error::io("find", path))
}
