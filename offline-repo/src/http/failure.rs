//! How an attempt fails, and what makes sense next.

use std::time::Duration;

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
        1 => failed.remove(0).1,
        n => Error::Several {
            what: format!("none of {n} mirrors could serve a file"),
            errors: failed.into_iter().map(|(_, error)| error).collect(),
        },
    }
}
