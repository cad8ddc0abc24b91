//! How an attempt fails, and what makes sense next.

use std::collections::BTreeSet;
use std::time::Duration;

use super::health;
use crate::error::Error;

/// Why one attempt failed, and what makes sense next.
pub(super) struct Failure {
    pub(super) error: Box<Error>,
    pub(super) next: Next,
}

/// What makes sense after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The same again later, at the earliest after this time.
    Retry(Duration),
    /// This mirror will not do better.
    OtherMirror,
    /// No mirror can help.
    Stop,
}

/// What an attempt came to, for those who decide about the next one.
pub(super) struct Attempt<T> {
    pub(super) outcome: std::result::Result<T, Failure>,
    /// Whether it brought something that the next attempt can build on.
    pub(super) grew: bool,
}

impl Failure {
    pub(super) fn retry(error: Error) -> Self {
        Failure {
            error: error.into(),
            next: Next::Retry(Duration::ZERO),
        }
    }

    pub(super) fn other_mirror(error: Error) -> Self {
        Failure {
            error: error.into(),
            next: Next::OtherMirror,
        }
    }

    pub(super) fn stop(error: Error) -> Self {
        Failure {
            error: error.into(),
            next: Next::Stop,
        }
    }
}

/// One error for all mirrors that were asked.
pub(super) fn all_failed(mut failed: Vec<(&String, Error)>) -> Error {
    match failed.len() {
        0 => Error::invalid("HTTP client", "no URL to fetch from"),
        _ if servers(&failed) == 1 => {
            // Several names of one file on one server: what it has under one of them tells more than what it lacks.
            let wrong = |(_, error): &(&String, Error)| {
                matches!(error, Error::Hash { .. } | Error::Size { .. })
            };
            let telling = failed.iter().position(wrong).unwrap_or(failed.len() - 1);
            failed.swap_remove(telling).1
        }
        _ => Error::Several {
            what: format!("none of {} mirrors could serve a file", servers(&failed)),
            errors: failed.into_iter().map(|(_, error)| error).collect(),
        },
    }
}

fn servers(failed: &[(&String, Error)]) -> usize {
    let servers: BTreeSet<String> = failed.iter().map(|(url, _)| health::server(url)).collect();
    servers.len()
}
