//! `repo_complete`: one line per file as `sha256sum` writes it, then the digest of those lines and a signature over
//! them, as comments, so that `sha256sum -c repo_complete` works. It is withdrawn first and installed last.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::digest::Sha256;
use crate::error::{Error, Result};
use crate::files::{self, is_confined};
use crate::openpgp::Keyring;
use crate::progress::silent;
use crate::signer::Signer;
use crate::verify;
pub use crate::verify::Report;

/// The marker's file name.
pub const NAME: &str = "repo_complete";

const DIGEST_LINE: &str = "# manifest-sha256: ";
const SIGNATURE_LINE: &str = "# signature: ";

/// No marker is larger, in bytes; 600 packages make 60 kB.
pub(crate) const MARKER_LIMIT: u64 = 64 << 20;

/// A parsed marker whose digest matches its lines; its signature is checked by [`Marker::check_signature`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// Files with their digests, sorted by path.
    pub files: Vec<(String, Sha256)>,
    /// Digest of the lines: the repository's identity.
    pub manifest: Sha256,
    lines: String,
    signature: Vec<u8>,
}

/// The marker's text for some files, sorted here, signed with the date `epoch`.
pub fn write(
    mut files: Vec<(String, Sha256)>,
    signer: &Signer,
    epoch: u64,
) -> Result<(String, Sha256)> {
    files.sort_unstable();
    let lines: String = files
        .iter()
        .map(|(path, sha256)| format!("{sha256}  {path}\n"))
        .collect();
    let manifest = Sha256::of(lines.as_bytes());
    let signature = BASE64.encode(signer.detach(lines.as_bytes(), epoch)?);
    let text = format!("{lines}{DIGEST_LINE}{manifest}\n{SIGNATURE_LINE}{signature}\n");
    Ok((text, manifest))
}

impl Marker {
    /// Reads a marker's text; `origin` is for messages.
    pub fn parse(origin: &str, text: &str) -> Result<Self> {
        let fail = |line: usize, message: &str| Error::Syntax {
            origin: origin.to_string(),
            line: line + 1,
            message: message.to_string(),
        };
        let mut files: Vec<(String, Sha256)> = Vec::new();
        let end = text
            .lines()
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.len() + 1)
            .sum::<usize>();
        let (lines, comments) = text
            .split_at_checked(end)
            .ok_or_else(|| fail(0, "it is cut off"))?;
        for (number, line) in lines.lines().enumerate() {
            let entry = line
                .split_once("  ")
                .and_then(|(hex, path)| Some((path.to_string(), hex.parse().ok()?)));
            let (path, sha256) = entry.ok_or_else(|| fail(number, "expected 'sha256  path'"))?;
            if !is_confined(&path) || path == NAME {
                return Err(fail(number, "the path leads outside of the repository"));
            }
            if files.last().is_some_and(|(last, _)| *last >= path) {
                return Err(fail(number, "the paths are not sorted"));
            }
            files.push((path, sha256));
        }
        let mut comments = comments.lines();
        let mut comment = |prefix: &str, message: &str| {
            let value = comments
                .next()
                .and_then(|line| line.strip_prefix(prefix))
                .map(String::from);
            value.ok_or_else(|| fail(files.len(), message))
        };
        let manifest = comment(DIGEST_LINE, "expected the manifest digest")?;
        let signature = comment(SIGNATURE_LINE, "expected the signature")?;
        let marker = Marker {
            manifest: Sha256::of(lines.as_bytes()),
            lines: lines.to_string(),
            signature: BASE64
                .decode(signature)
                .map_err(|_| fail(files.len() + 1, "the signature is not base64"))?,
            files,
        };
        match marker.manifest.to_string() == manifest {
            true => Ok(marker),
            false => Err(fail(
                marker.files.len(),
                "the manifest digest does not match the lines",
            )),
        }
    }

    /// Reads the marker of a repository folder.
    pub fn load(repository: &Path) -> Result<Self> {
        let path = repository.join(NAME);
        if path.symlink_metadata().is_err() {
            return Err(Error::Incomplete {
                path: repository.to_path_buf(),
                message: format!("it has no {NAME}"),
            });
        }
        read(&path).map(|(marker, _)| marker)
    }

    /// Checks that one of these keys signed the lines, at whatever time.
    pub fn check_signature(&self, origin: &str, keyring: &Keyring) -> Result<()> {
        keyring
            .verify_detached(origin, self.lines.as_bytes(), &self.signature, None)
            .map(drop)
    }

    /// The digest listed for a file.
    pub fn sha256(&self, path: &str) -> Option<Sha256> {
        let found = self
            .files
            .binary_search_by(|(listed, _)| listed.as_str().cmp(path));
        found.ok().map(|i| self.files[i].1)
    }

    /// Compares the listed files with those in a folder, content included, in parallel.
    pub fn compare(&self, repository: &Path) -> Result<Report> {
        verify::compare(self, repository, &silent)
    }
}

/// Reads a marker under whatever name; returns its text as well.
pub(crate) fn read(path: &Path) -> Result<(Marker, String)> {
    let origin = path.display().to_string();
    let text = String::from_utf8(files::read_bounded(path, MARKER_LIMIT)?)
        .map_err(|_| Error::invalid(&origin, "is not UTF-8 text"))?;
    Ok((Marker::parse(&origin, &text)?, text))
}

/// Verifies a repository folder: the marker's signature if keys are given, then every file's content.
pub fn verify(repository: &Path, keyring: Option<&Keyring>) -> Result<Report> {
    verify::folder(repository, keyring, &silent).map(|(_, report)| report)
}
