//! `farrow tools -- PROGRAM …`: a program of the tools tree, or of another tree, in namespaces of its own.

use std::process::Stdio;

use images::sandbox::{Network, Sandbox};

use crate::cli::ToolsArgs;
use crate::diagnostic::{Diagnostic, Result};
use crate::session::Session;
use crate::stages;

/// Runs it with this terminal as its own; its failure is ours.
pub fn run(session: &Session, args: &ToolsArgs) -> Result<()> {
    let mut sandbox = match &args.root {
        Some(root) => {
            let root = std::path::absolute(root).map_err(|e| Diagnostic::io("find", root, e))?;
            Sandbox::new(root)
        }
        None => {
            let source = stages::ToolsSource::Archive;
            stages::tools_of(session, &args.recipe, source)?.sandbox()
        }
    };
    for (host, inside) in &args.bind {
        let host = host
            .canonicalize()
            .map_err(|e| Diagnostic::io("find", host, e))?;
        sandbox = sandbox.bind(host, inside);
    }
    if args.network {
        sandbox = sandbox.network(Network::Host);
    }
    let words: Vec<&str> = args.command.iter().map(String::as_str).collect();
    let mut child = sandbox.spawn(&words, Stdio::inherit(), Stdio::inherit(), Stdio::inherit())?;
    let status = child.wait()?;
    match status.code() {
        Some(0) => Ok(()),
        _ => Err(Diagnostic::failed(
            "FR-TOOLS-PROGRAM",
            format!("`{}` ended with {status}", args.command.join(" ")),
        )),
    }
}
