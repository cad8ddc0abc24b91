//! The crate's error: what went wrong and where; [`Error::code`] is stable, [`Error::hint`] says what to do.

use std::path::{Path, PathBuf};

/// Result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("failed to {action} {path}: {source}")]
    Io {
        /// The verb, for example "read".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A document does not follow its format.
    #[error("{origin}:{line}: {message}")]
    Syntax {
        /// Path or URL of the document.
        origin: String,
        /// Line number, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A document is well-formed but says something that cannot be accepted.
    #[error("{origin}: {message}")]
    Invalid {
        /// Path, URL or name of the document.
        origin: String,
        /// What is wrong.
        message: String,
    },
    /// No URL is known for an archive.
    #[error("no mirror is known for the archive '{archive}'")]
    Mirror {
        /// The archive's name.
        archive: String,
    },
    /// A request failed for good, after retries.
    #[error("failed to fetch {url}: {message}")]
    Http {
        /// The URL, without credentials.
        url: String,
        /// The reason.
        message: String,
        /// HTTP status, when there was an answer.
        status: Option<u16>,
    },
    /// The network is needed but must not be used.
    #[error("offline, and {} {} not in the cache: {}", missing.len(), if missing.len() == 1 { "file is" } else { "files are" }, list(missing))]
    Offline {
        /// Names of what would have to be fetched.
        missing: Vec<String>,
    },
    /// Input is larger than allowed.
    #[error("{origin} is larger than {limit} bytes")]
    TooLarge {
        /// Path or URL.
        origin: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// Content does not have the promised digest or size.
    #[error(
        "{name} from {origin} has sha256 {actual} and {actual_size} bytes, expected {expected} and {expected_size}"
    )]
    Hash {
        /// Package or file name.
        name: String,
        /// URL or path.
        origin: String,
        /// Expected SHA-256, hex.
        expected: String,
        /// Actual SHA-256, hex.
        actual: String,
        /// Expected size in bytes.
        expected_size: u64,
        /// Actual size in bytes.
        actual_size: u64,
    },
    /// A mirror has, or announces, another number of bytes than are promised.
    #[error("{name} from {origin} has {actual} bytes, expected {expected}")]
    Size {
        /// Package or file name.
        name: String,
        /// URL.
        origin: String,
        /// Expected size in bytes.
        expected: u64,
        /// What the mirror has: a number, or "more than" one.
        actual: String,
    },
    /// Several things failed in the same step: mirrors of one file, or files of one lock.
    #[error("{what}:{}", lines(errors))]
    Several {
        /// What failed, without a colon at the end.
        what: String,
        /// Each failure; never empty.
        errors: Vec<Error>,
    },
    /// A signature is missing, wrong, or made by a key that must not be used.
    #[error("{origin} has no acceptable signature: {message}")]
    Signature {
        /// Path or URL of what is signed.
        origin: String,
        /// Why each signature was refused.
        message: String,
    },
    /// A key file cannot be used.
    #[error("key {origin}: {message}")]
    Key {
        /// Path or name of the key.
        origin: String,
        /// What is wrong with it.
        message: String,
    },
    /// A signed index is past its Valid-Until, or not valid yet.
    #[error("{url} {message}")]
    Expired {
        /// URL of the InRelease file.
        url: String,
        /// Which date, compared with which.
        message: String,
    },
    /// An archive does not offer what a recipe asks for.
    #[error("{url} lists no {wanted}")]
    MissingIndex {
        /// URL of the InRelease file.
        url: String,
        /// The index that was looked for.
        wanted: String,
    },
    /// A package that no index has.
    #[error("no archive has a package '{name}'{}", suggestion.as_ref().map(|s| format!(", did you mean '{s}'?")).unwrap_or_default())]
    UnknownPackage {
        /// The name as written.
        name: String,
        /// The closest known name.
        suggestion: Option<String>,
    },
    /// No set of packages satisfies the request.
    #[error("the packages cannot be installed together:\n{explanation}")]
    Unsatisfiable {
        /// Where it ends: the requirement that nothing can satisfy.
        clash: Box<crate::explain::Clash>,
        /// Several lines, the chain of dependencies that contradict each other.
        explanation: String,
    },
    /// A group of a repository cannot be installed on a system as it is.
    #[error("group '{group}' cannot be installed on {base}: {clash}\n{explanation}")]
    NotInstallable {
        /// The group.
        group: String,
        /// Name of the base state.
        base: String,
        /// Where it ends.
        clash: Box<crate::explain::Clash>,
        /// The chain that leads there, several lines.
        explanation: String,
    },
    /// A `.deb` cannot be read, or is not what it should be.
    #[error("package {path}: {message}")]
    Deb {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A `.rpm` cannot be read, or is not what it should be.
    #[error("package {path}: {message}")]
    Rpm {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A repository is not complete: its marker is missing or its content differs.
    #[error("repository {path} is not complete: {message}")]
    Incomplete {
        /// The repository folder.
        path: PathBuf,
        /// What is missing or wrong.
        message: String,
    },
    /// A bundle is cut off, or holds something that a bundle must not hold.
    #[error("bundle {path}: {message}")]
    Bundle {
        /// The tarball.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// Up to five names, and how many more there are.
fn list(names: &[String]) -> String {
    let shown = names.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    match names.len() {
        0..=5 => shown,
        n => format!("{shown} and {} more", n - 5),
    }
}

/// Up to five failures, one a line, and how many more there are.
fn lines(errors: &[Error]) -> String {
    let mut text: String = (errors.iter().take(5))
        .map(|error| format!("\n  {}", error.to_string().replace('\n', "\n  ")))
        .collect();
    if errors.len() > 5 {
        text += &format!("\n  and {} more", errors.len() - 5);
    }
    text
}

impl Error {
    /// Whether a mirror has something else than was promised, or nothing: another lock, or mirror, helps.
    fn is_outdated(&self) -> bool {
        match self {
            Error::Hash { .. } | Error::Size { .. } => true,
            Error::Http { status, .. } => matches!(status, Some(404 | 410)),
            _ => false,
        }
    }

    /// Whether other files of the same mirrors can still be had.
    pub(crate) fn concerns_one_file(&self) -> bool {
        match self {
            Error::Several { errors, .. } => errors.iter().any(Error::concerns_one_file),
            _ => self.is_outdated(),
        }
    }

    /// A code that stays the same between versions.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Io { .. } => "FR-REPO-IO",
            Error::Syntax { .. } => "FR-REPO-SYNTAX",
            Error::Invalid { .. } => "FR-REPO-INVALID",
            Error::Mirror { .. } => "FR-LOCK-MIRROR",
            Error::Http { .. } => "FR-FETCH-HTTP",
            Error::Offline { .. } => "FR-FETCH-OFFLINE",
            Error::TooLarge { .. } => "FR-REPO-SIZE",
            Error::Hash { .. } => "FR-FETCH-HASH",
            Error::Size { .. } => "FR-FETCH-SIZE",
            Error::Several { errors, .. } => errors[0].code(),
            Error::Signature { .. } => "FR-LOCK-SIGNATURE",
            Error::Key { .. } => "FR-REPO-KEY",
            Error::Expired { .. } => "FR-LOCK-EXPIRED",
            Error::MissingIndex { .. } => "FR-LOCK-INDEX",
            Error::UnknownPackage { .. } => "FR-RESOLVE-UNKNOWN",
            Error::Unsatisfiable { .. } => "FR-RESOLVE-CONFLICT",
            Error::NotInstallable { .. } => "FR-REPO-CLOSURE",
            Error::Deb { .. } => "FR-REPO-DEB",
            Error::Rpm { .. } => "FR-REPO-RPM",
            Error::Incomplete { .. } => "FR-REPO-INCOMPLETE",
            Error::Bundle { .. } => "FR-REPO-BUNDLE",
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Error::Mirror { archive } => format!(
                "name one with --mirror {archive}=URL or {}=URL; the apt configuration of this host has none",
                crate::mirror::variable(archive)
            ),
            Error::Io { source, .. } => {
                use nix::libc::{EACCES, EDQUOT, ENOSPC, EPERM, EROFS};
                match source.raw_os_error()? {
                    ENOSPC | EDQUOT => {
                        "free some space there, or choose another place with --out or FARROW_CACHE; what is done is used again".into()
                    }
                    EROFS | EACCES | EPERM => "choose a place that can be written, with --out or FARROW_CACHE".into(),
                    _ => return None,
                }
            }
            Error::Http { .. } if self.is_outdated() => {
                "the mirror no longer has this file: lock again (farrow lock --upgrade), or name another mirror with --mirror".into()
            }
            Error::Http { .. } => "check the network, the proxy variables and the mirror".into(),
            Error::Offline { .. } => "run once without --offline, or copy the cache from a machine that has the files".into(),
            Error::Hash { .. } | Error::Size { .. } => {
                "the mirror has other content under this name than its signed index said: lock again (farrow lock --upgrade), or name another mirror with --mirror".into()
            }
            Error::Several { errors, .. } => {
                let telling = errors.iter().find(|error| error.is_outdated());
                return telling.unwrap_or(&errors[0]).hint();
            }
            Error::Signature { .. } => "check the keys listed for this upstream, and that nothing on the path rewrites the file".into(),
            Error::Expired { .. } => "check this machine's clock; a mirror that stopped updating looks like this too".into(),
            Error::NotInstallable { .. } => {
                "remove or upgrade the package that is in the way, or build the repository with what is missing".into()
            }
            Error::Incomplete { .. } => "build or install the repository again".into(),
            Error::Bundle { .. } => "copy the bundle again and compare its checksum with the origin's".into(),
            Error::Key { message, .. } if message.contains("readable by others") => "chmod 600 the key file".into(),
            _ => return None,
        };
        Some(text)
    }

    /// An input or output error on `path`.
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io {
            action,
            path: path.as_ref().to_path_buf(),
            source,
        }
    }

    /// A document that says something unacceptable.
    pub(crate) fn invalid(origin: impl ToString, message: impl ToString) -> Self {
        Error::Invalid {
            origin: origin.to_string(),
            message: message.to_string(),
        }
    }
}
