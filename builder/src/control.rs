//! Steering machines while `farrow up` runs: a socket in their folder, on which each connection brings one request and
//! gets one answer, each a line of JSON. The folder is its owner's alone, so the socket is too.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use images::container_command::Fault;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::diagnostic::{Diagnostic, EXIT_FAILED, Result};
use crate::machines::joining::Joining;
use crate::machines::{Machines, orders};

/// The socket in the folder of a run.
const SOCKET: &str = "control.sock";
/// Longest message accepted, in bytes; a status document has some ten thousand.
const MAX_MESSAGE: u64 = 8 << 20;
/// How long a peer may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// All machines.
    List,
    /// A machine's own words.
    Status {
        /// The machine.
        node: String,
    },
    /// The host's id of a container's first process.
    FirstProcess {
        /// The machine.
        node: String,
    },
    /// One more machine, which joins a cluster that scales by itself.
    Add {
        /// The cluster.
        cluster: String,
        /// Its instance id.
        instance_id: String,
        /// Its address on the deployment's network.
        address: Ipv4Addr,
    },
    /// An orderly end.
    PowerOff {
        /// The machine.
        node: String,
    },
    /// A sudden end.
    PowerCut {
        /// The machine.
        node: String,
    },
    /// A new start.
    PowerOn {
        /// The machine.
        node: String,
    },
    /// Packets are lost.
    Cut {
        /// The machine.
        node: String,
        /// Only from and to this one.
        from: Option<String>,
        /// Only of this port.
        port: Option<u16>,
    },
    /// Some packets are lost.
    Loss {
        /// The machine.
        node: String,
        /// How many of a hundred.
        percent: u8,
    },
    /// No packets are lost.
    Heal {
        /// The machine; `None`: all.
        node: Option<String>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Done(Value),
    Failed {
        code: String,
        message: String,
        hint: Option<String>,
        exit: u8,
    },
}

/// The socket of a run; it is gone when this is dropped.
pub struct Control {
    path: PathBuf,
}

impl Control {
    /// Listens in `run_dir`.
    pub fn start(
        run_dir: &Path,
        machines: &Arc<Mutex<Machines>>,
        joining: Joining,
    ) -> Result<Self> {
        let path = run_dir.join(SOCKET);
        let _ = fs::remove_file(&path);
        let failed = |error| Diagnostic::io("listen on", &path, error);
        let folder = File::open(run_dir).map_err(failed)?;
        let listener = UnixListener::bind(short_path(&folder)).map_err(failed)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let machines = Arc::clone(machines);
        let joining = Arc::new(joining);
        std::thread::spawn(move || {
            // Ends with the process; what comes after the socket's removal finds nobody.
            for stream in listener.incoming().flatten() {
                let (machines, joining) = (Arc::clone(&machines), Arc::clone(&joining));
                std::thread::spawn(move || serve(stream, &machines, &joining));
            }
        });
        Ok(Self { path })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Refuses a run in a folder whose machines are running.
pub fn check_free(run_dir: &Path) -> Result<()> {
    match connect(run_dir) {
        Err(_) => Ok(()),
        Ok(_) => Err(Diagnostic::failed(
            "FR-UP-RUNNING",
            format!("machines are running in {}", run_dir.display()),
        )
        .with_hint("stop that `farrow up` first, or choose another place with --out")),
    }
}

/// Asks the `farrow up` that runs in `run_dir`.
pub fn ask(run_dir: &Path, request: &Request) -> Result<Value> {
    let failed = |error| Diagnostic::io("ask the machines in", run_dir, error);
    let mut stream = connect(run_dir).map_err(|error| {
        failed(error).with_hint("`farrow up` must be running there; name its folder with --run")
    })?;
    let line = serde_json::to_string(request).map_err(|error| failed(error.into()))?;
    let mut answer = String::new();
    stream
        .write_all(format!("{line}\n").as_bytes())
        .and_then(|()| (&stream).take(MAX_MESSAGE).read_to_string(&mut answer))
        .map_err(failed)?;
    match serde_json::from_str(&answer) {
        Ok(Answer::Done(value)) => Ok(value),
        Ok(Answer::Failed {
            code,
            message,
            hint,
            exit,
        }) => Err(Diagnostic {
            hint,
            exit,
            ..Diagnostic::failed(&code, message)
        }),
        Err(error) => Err(failed(error.into())),
    }
}

/// Folders of runs below `out` whose machines run.
pub fn running(out: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(out.join("run"))
        .into_iter()
        .flatten()
        .flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| connect(path).is_ok())
        .collect()
}

fn connect(run_dir: &Path) -> std::io::Result<UnixStream> {
    let folder = File::open(run_dir)?;
    UnixStream::connect(short_path(&folder))
}

/// The socket's path through the open folder: socket addresses hold 108 bytes (unix(7)).
fn short_path(folder: &File) -> String {
    format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd())
}

fn serve(stream: UnixStream, machines: &Mutex<Machines>, joining: &Joining) {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let mut line = String::new();
    let read = BufReader::new(&stream)
        .take(MAX_MESSAGE)
        .read_line(&mut line);
    // Somebody who only looks whether anybody is here.
    if read.is_err() || line.is_empty() {
        return;
    }
    let answer = match serde_json::from_str(&line) {
        Ok(request) => obey(request, machines, joining),
        Err(error) => Err(Diagnostic::invalid("FR-MACHINE-VERB", error.to_string())),
    };
    let answer = match answer {
        Ok(value) => Answer::Done(value),
        Err(error) => Answer::Failed {
            code: error.code,
            message: error.message,
            hint: error.hint,
            exit: error.exit.max(EXIT_FAILED),
        },
    };
    // Whoever went away does not want to know.
    let _ = serde_json::to_writer(&stream, &answer);
}

fn obey(request: Request, machines: &Mutex<Machines>, joining: &Joining) -> Result<Value> {
    let lock = || machines.lock().expect("no panic holds it");
    let done = |()| json!({});
    match request {
        Request::List => lock().list(),
        Request::Status { node } => lock().status(&node),
        Request::FirstProcess { node } => lock().first_process(&node).map(|pid| json!(pid)),
        Request::Add {
            cluster,
            instance_id,
            address,
        } => lock().add(joining.plan(&cluster, &instance_id, address)?),
        Request::PowerOff { node } => {
            orders::power_off(machines, &node).map(|obeyed| json!({"obeyed": obeyed}))
        }
        Request::PowerCut { node } => lock().power_cut(&node).map(done),
        Request::PowerOn { node } => lock().power_on(&node).map(done),
        Request::Cut { node, from, port } => {
            lock().add_fault(&node, Fault::Cut { from, port }).map(done)
        }
        Request::Loss { node, percent } => {
            lock().add_fault(&node, Fault::Loss { percent }).map(done)
        }
        Request::Heal { node } => lock().heal(node.as_deref()).map(done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_one_line_each() {
        for (request, line) in [
            (Request::List, r#"{"verb":"list"}"#),
            (
                Request::Cut {
                    node: "a".into(),
                    from: None,
                    port: Some(2379),
                },
                r#"{"verb":"cut","node":"a","from":null,"port":2379}"#,
            ),
            (
                Request::Heal { node: None },
                r#"{"verb":"heal","node":null}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&request).unwrap(), line);
            assert_eq!(serde_json::from_str::<Request>(line).unwrap(), request);
        }
        assert!(serde_json::from_str::<Request>(r#"{"verb":"explode","node":"a"}"#).is_err());
    }
}
