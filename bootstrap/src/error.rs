//! What can go wrong: each error has a stable code, says what and where, and often what to do.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// A place in a text, for a caret under the wrong value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Byte range in the text.
    pub span: Range<usize>,
}

/// A document that was read but cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// Stable code, `FR-…`.
    pub code: &'static str,
    /// Which document: "deployment", "node fragment", or a path.
    pub document: String,
    /// Path of the field, e.g. `cluster[0].member[1].address`; empty when the document as a whole is wrong.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Where in the text, when the text is TOML.
    pub position: Option<Position>,
}

impl Invalid {
    /// A complaint about one field of a document.
    pub fn new(
        code: &'static str,
        field: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Box<Self> {
        let hint = hint.into();
        Box::new(Invalid {
            code,
            document: String::new(),
            field: field.into(),
            message: message.into(),
            hint: (!hint.is_empty()).then_some(hint),
            position: None,
        })
    }

    /// Names the document.
    pub fn in_document(mut self: Box<Self>, document: &str) -> Box<Self> {
        self.document = document.to_owned();
        self
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.document)?;
        if let Some(position) = &self.position {
            write!(f, ", line {}, column {}", position.line, position.column)?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// All errors of the crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A document is not acceptable.
    #[error("{0}")]
    Invalid(Box<Invalid>),
    /// No source of metadata answered.
    #[error("no metadata found; looked at {looked_at}")]
    NoMetadata {
        /// The places that were tried.
        looked_at: String,
    },
    /// The file system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// Verb: "read", "write"…
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A template or expression of the catalogue failed.
    #[error("service {service}: {template}{}: {message}", line_suffix(*.line))]
    Template {
        /// Service of the catalogue.
        service: String,
        /// Template file or key.
        template: String,
        /// Line in the template, from 1; 0 when unknown.
        line: usize,
        /// The engine's complaint.
        message: String,
    },
    /// A program failed.
    #[error("{command}: {message}")]
    Command {
        /// First words of the command line.
        command: String,
        /// Exit status and the end of what it printed.
        message: String,
    },
    /// The machine did not reach a state in time.
    #[error("{what} within {seconds} s")]
    Timeout {
        /// What did not happen.
        what: String,
        /// The limit.
        seconds: u64,
    },
    /// An HTTP exchange failed.
    #[error("http {url}: {message}")]
    Http {
        /// The address asked.
        url: String,
        /// What was wrong.
        message: String,
    },
    /// The consensus store refused or did not answer.
    #[error("the consensus store: {message}")]
    Store {
        /// What it said.
        message: String,
    },
    /// An upgrade is refused or failed.
    #[error("{message}")]
    Upgrade {
        /// Stable code, `FR-UPGRADE-…`.
        code: &'static str,
        /// What is wrong.
        message: String,
        /// What to do.
        hint: &'static str,
    },
    /// The disk with the databases is not there.
    #[error("{message}")]
    DataDisk {
        /// Which one.
        message: String,
    },
    /// Some services did not become healthy.
    #[error("not healthy: {services}")]
    Services {
        /// Their names.
        services: String,
    },
}

fn line_suffix(line: usize) -> String {
    if line == 0 {
        String::new()
    } else {
        format!(", line {line}")
    }
}

impl Error {
    /// An I/O error with its path.
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Error::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// An upgrade that is refused or failed.
    pub fn upgrade(code: &'static str, message: impl Into<String>, hint: &'static str) -> Self {
        Error::Upgrade {
            code,
            message: message.into(),
            hint,
        }
    }

    /// Stable code for machines and search engines.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Invalid(invalid) => invalid.code,
            Error::NoMetadata { .. } => "FR-METADATA-NONE",
            Error::Io { .. } => "FR-IO",
            Error::Template { .. } => "FR-TEMPLATE",
            Error::Command { .. } => "FR-COMMAND",
            Error::Timeout { .. } => "FR-TIMEOUT",
            Error::Http { .. } => "FR-HTTP",
            Error::Store { .. } => "FR-STORE",
            Error::Upgrade { code, .. } => code,
            Error::DataDisk { .. } => "FR-DATA-DISK",
            Error::Services { .. } => "FR-SERVICES",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Invalid(invalid) => invalid.hint.clone(),
            Error::NoMetadata { .. } => Some(
                "attach a volume labelled CIDATA with user-data and meta-data, as `farrow seed` makes it"
                    .into(),
            ),
            Error::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run it as root".into())
            }
            Error::Upgrade { hint, .. } => Some((*hint).into()),
            Error::DataDisk { .. } => Some(
                "attach it again; to begin anew without it, remove /var/lib/farrow/data-disk.json".into(),
            ),
            Error::Services { .. } => Some("see `journalctl -b -u UNIT` for each".into()),
            _ => None,
        }
    }

    /// The field that is wrong, as a path; empty when no single one is.
    pub fn field(&self) -> &str {
        match self {
            Error::Invalid(invalid) => &invalid.field,
            _ => "",
        }
    }

    /// Where in the document's text, when known.
    pub fn position(&self) -> Option<&Position> {
        match self {
            Error::Invalid(invalid) => invalid.position.as_ref(),
            _ => None,
        }
    }
}

impl From<Box<Invalid>> for Error {
    fn from(invalid: Box<Invalid>) -> Self {
        Error::Invalid(invalid)
    }
}
