//! Asks services whether they work.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::accounts::Accounts;
use crate::http;
use crate::plan::Probe;
use crate::process::Program;

/// Limit of one attempt.
const ATTEMPT: Duration = Duration::from_secs(10);

/// Asks once.
///
/// # Errors
/// Why the answer is no, in a few words.
pub fn ask(probe: &Probe, accounts: &Accounts) -> Result<(), String> {
    match probe {
        Probe::Http {
            url,
            status,
            contains,
        } => {
            let response = http::get(url, ATTEMPT).map_err(|error| error.to_string())?;
            if !status.contains(&response.status) {
                return Err(format!("{url} answers {}", response.status));
            }
            match contains {
                Some(text) if !response.body.contains(text) => {
                    Err(format!("{url} answers without {text:?}"))
                }
                _ => Ok(()),
            }
        }
        Probe::Tcp { address } => connect(address).map_err(|error| format!("{address}: {error}")),
        Probe::Exec { command, user } => {
            let account = accounts.user(user).map_err(|error| error.to_string())?;
            let program = Program {
                words: command,
                user: Some((user, account)),
                stdin: None,
                env: Vec::new(),
                limit: ATTEMPT,
            };
            let outcome = program.run().map_err(|error| error.to_string())?;
            if outcome.success() {
                Ok(())
            } else {
                Err(program.failed(outcome.describe()).to_string())
            }
        }
    }
}

fn connect(address: &str) -> std::io::Result<()> {
    if let Some(path) = address.strip_prefix("unix:") {
        return UnixStream::connect(path).map(|_| ());
    }
    // No name is looked up: the C library's resolver alone would be a tenth of this program.
    let address = address.replacen("localhost:", "127.0.0.1:", 1);
    let address: SocketAddr = address.parse().map_err(std::io::Error::other)?;
    TcpStream::connect_timeout(&address, ATTEMPT).map(|_| ())
}
