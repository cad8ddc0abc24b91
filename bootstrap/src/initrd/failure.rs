//! Why a boot stops: a stable code, what failed and where, and what to do about it.

use std::fmt;

/// A step that failed; its text ends up on the console just before the machine restarts.
#[derive(Debug)]
pub struct Failure {
    /// Stable code, `FR-INIT-…`.
    pub code: &'static str,
    /// What failed and where, lower case.
    pub message: String,
    /// What the operator can do.
    pub hint: &'static str,
}

/// Result of a step.
pub type Step<T> = Result<T, Failure>;

impl Failure {
    /// A failure with all its parts.
    pub fn new(code: &'static str, message: impl Into<String>, hint: &'static str) -> Self {
        Self {
            code,
            message: message.into(),
            hint,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.code, self.message, self.hint)
    }
}
