//! `farrow machine`: steers the machines of a `farrow up` that runs.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::cli::{MachineArgs, MachineVerb};
use crate::control::{self, Request};
use crate::diagnostic::{Diagnostic, Result};
use crate::session::Session;

/// The environment of a program in a machine: a login's of root.
const ENVIRONMENT: [(&str, &str); 6] = [
    (
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("HOME", "/root"),
    ("USER", "root"),
    ("LOGNAME", "root"),
    ("SHELL", "/bin/bash"),
    ("LANG", "C.UTF-8"),
];

/// Asks for one thing and shows the answer.
pub fn run(session: &Session, args: &MachineArgs) -> Result<()> {
    let run_dir = run_dir(args)?;
    let request = match &args.verb {
        MachineVerb::Exec { node, command } => {
            let pid = control::ask(&run_dir, &Request::FirstProcess { node: node.clone() })?;
            return execute(pid.as_u64(), command);
        }
        verb => request(verb),
    };
    let answer = control::ask(&run_dir, &request)?;
    match &args.verb {
        MachineVerb::List => session.say(&table(&answer)),
        MachineVerb::Status { .. } => session.say(&format!("{answer:#}")),
        MachineVerb::Add { .. } => session.say(&format!(
            "{} is on",
            answer["name"].as_str().unwrap_or_default()
        )),
        MachineVerb::PowerOff { node } if answer["obeyed"] == false => {
            session.say(&format!(
                "{node} did not shut down in time; its power was cut"
            ));
        }
        _ => {}
    }
    let key = match &args.verb {
        MachineVerb::List => "nodes",
        MachineVerb::Status { .. } => "status",
        MachineVerb::Add { .. } => "node",
        _ => "answer",
    };
    session.finish(json!({ key: answer }))
}

fn request(verb: &MachineVerb) -> Request {
    match verb.clone() {
        MachineVerb::List => Request::List,
        MachineVerb::Status { node } => Request::Status { node },
        MachineVerb::Exec { node, .. } => Request::FirstProcess { node },
        MachineVerb::Add {
            join: cluster,
            instance_id,
            address,
        } => Request::Add {
            cluster,
            instance_id,
            address,
        },
        MachineVerb::PowerOff { node } => Request::PowerOff { node },
        MachineVerb::PowerCut { node } => Request::PowerCut { node },
        MachineVerb::PowerOn { node } => Request::PowerOn { node },
        MachineVerb::Cut { node, from, port } => Request::Cut { node, from, port },
        MachineVerb::Loss { node, percent } => Request::Loss { node, percent },
        MachineVerb::Heal { node } => Request::Heal { node },
    }
}

/// The folder of the machines that are meant.
fn run_dir(args: &MachineArgs) -> Result<PathBuf> {
    if let Some(run) = &args.run {
        return Ok(run.clone());
    }
    if let Some(name) = &args.deployment {
        return Ok(args.out.join("run").join(name));
    }
    let mut running = control::running(&args.out);
    match (running.pop(), running.len()) {
        (Some(only), 0) => Ok(only),
        (None, _) => Err(Diagnostic::invalid(
            "FR-MACHINE-NONE",
            format!("no machines run below {}", args.out.display()),
        )
        .with_hint("start them with `farrow up`, or name their folder with --run")),
        (Some(_), _) => Err(Diagnostic::invalid(
            "FR-MACHINE-MANY",
            format!("several deployments run below {}", args.out.display()),
        )
        .with_hint("name one with --deployment")),
    }
}

/// Runs a program in a container with this process's own streams, and ends with its exit code.
fn execute(pid: Option<u64>, command: &[String]) -> Result<()> {
    let pid = pid
        .and_then(|pid| u32::try_from(pid).ok())
        .ok_or_else(|| Diagnostic::failed("FR-MACHINE-OFF", "the machine is off"))?;
    let term = std::env::var("TERM").unwrap_or_default();
    let mut environment = Vec::from(ENVIRONMENT);
    if !term.is_empty() {
        environment.push(("TERM", &term));
    }
    let streams = [Stdio::inherit(), Stdio::inherit(), Stdio::inherit()];
    let mut child = images::container::spawn_in(pid, command, &environment, streams)?;
    let status = child.wait()?;
    std::process::exit(status.code().unwrap_or(1))
}

fn table(nodes: &Value) -> String {
    let word = |node: &Value, key: &str| node[key].as_str().unwrap_or("-").to_owned();
    let mut lines = vec![format!(
        "{:<20} {:<16} {:<5} {}",
        "NODE", "ADDRESS", "POWER", "STATE"
    )];
    for node in nodes.as_array().into_iter().flatten() {
        let power = if node["on"] == true { "on" } else { "off" };
        lines.push(format!(
            "{:<20} {:<16} {power:<5} {}",
            word(node, "name"),
            word(node, "address"),
            word(node, "state")
        ));
    }
    lines.join("\n")
}
