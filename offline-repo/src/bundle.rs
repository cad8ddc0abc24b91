//! A repository as one file to carry: a deterministic `.tar.gz`, the marker last.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::digest::{Hasher, HashingWriter, Sha256};
use crate::error::{Error, Result};
use crate::files::{self, PartialFile};
use crate::marker::{self, Marker};
use crate::progress::{Callback, Progress};
use crate::publish::{beside_names, check_name};

/// How a bundle is named and dated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleOptions {
    /// Version of what is bundled, for example "1.2.0".
    pub version: String,
    /// Codename of the distribution, for example "trixie".
    pub codename: String,
    /// Debian architecture, for example "amd64".
    pub architecture: String,
    /// Modification time of every member, seconds since 1970.
    pub epoch: u64,
}

/// A finished bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The tarball.
    pub path: PathBuf,
    /// Its SHA-256.
    pub sha256: Sha256,
    /// Its size in bytes.
    pub size: u64,
}

/// A distribution as file names of offline bundles abbreviate it: first letter and major version.
pub fn os_code(codename: &str) -> String {
    match codename {
        "bullseye" => "d11",
        "bookworm" => "d12",
        "trixie" => "d13",
        "forky" => "d14",
        "jammy" => "u22",
        "noble" => "u24",
        other => other,
    }
    .to_string()
}

/// A Debian architecture as `uname -m` calls it.
pub fn machine(architecture: &str) -> String {
    match architecture {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    }
    .to_string()
}

/// `NAME-vVERSION.OS.MACHINE.tar.gz`.
pub fn file_name(name: &str, options: &BundleOptions) -> String {
    let (os, machine) = (os_code(&options.codename), machine(&options.architecture));
    format!(
        "{name}-v{}.{os}.{machine}.tar.gz",
        options.version.trim_start_matches('v')
    )
}

/// Packs a repository folder and the files beside it into `out`. Every member is compared with the marker
/// while it is read.
pub fn bundle(
    repository: &Path,
    options: &BundleOptions,
    out: &Path,
    progress: Callback<'_>,
) -> Result<Bundle> {
    let name = repository
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default();
    check_name(name)?;
    let is_version = |b: u8| b.is_ascii_alphanumeric() || b".+~-".contains(&b);
    if options.version.is_empty() || !options.version.bytes().all(is_version) {
        return Err(Error::invalid(
            format!("version '{}'", options.version.escape_debug()),
            "cannot be part of a file name",
        ));
    }
    let marker = Marker::load(repository)?;
    files::create_dirs(out)?;
    let path = out.join(file_name(name, options));
    let io = |e| Error::io("write", &path, e);
    let _held = files::lock_dir(out)?;
    let partial = PartialFile::new(&path)?;
    let hashing = HashingWriter::new(BufWriter::with_capacity(1 << 20, partial));
    // Stored, not compressed: packages are compressed already. Level 1 would make the bundle larger (its fixed
    // codes expand such data by 6 %), and higher levels take a hundred times longer to gain nothing.
    let gzip = flate2::GzBuilder::new()
        .mtime(0)
        .write(hashing, flate2::Compression::none());
    let mut tar = tar::Builder::new(gzip);
    append_all(&mut tar, repository, name, &marker, options.epoch, progress)?;
    let hashing = tar
        .into_inner()
        .and_then(|gzip| gzip.finish())
        .map_err(io)?;
    let (buffered, sha256, size) = hashing.finish();
    buffered
        .into_inner()
        .map_err(|e| io(e.into_error()))?
        .install()?;
    Ok(Bundle { path, sha256, size })
}

/// Members in their order: what lies beside, the folder, its files by name, the marker.
fn append_all<W: Write>(
    tar: &mut tar::Builder<W>,
    repository: &Path,
    name: &str,
    marker: &Marker,
    epoch: u64,
    progress: Callback<'_>,
) -> Result<()> {
    let total = marker.files.len() as u64;
    progress(Progress::Stage {
        name: "bundle",
        items: total,
        bytes: 0,
    });
    for file in beside_names(name) {
        let path = files::parent(repository).join(&file);
        // The key must be there; the others depend on the clients that the repository serves.
        if !file.ends_with(".asc") && !path.exists() {
            continue;
        }
        let bytes = files::read_bounded(&path, 1 << 20)?;
        append(tar, &path, &file, &bytes[..], bytes.len() as u64, epoch)?;
    }
    let mut folder = header(tar::EntryType::Directory, 0, epoch);
    let io = |e| Error::io("read", repository, e);
    tar.append_data(&mut folder, format!("{name}/"), std::io::empty())
        .map_err(io)?;
    for (i, (listed, sha256)) in marker.files.iter().enumerate() {
        append_listed(tar, repository, name, (listed, sha256), epoch)?;
        progress(Progress::Item {
            name: listed,
            done: i as u64 + 1,
            total,
        });
    }
    let path = repository.join(marker::NAME);
    let bytes = files::read_bounded(&path, 64 << 20)?;
    append(
        tar,
        &path,
        &format!("{name}/{}", marker::NAME),
        &bytes[..],
        bytes.len() as u64,
        epoch,
    )
}

/// One file of the repository, compared with its line of the marker while it is packed.
fn append_listed<W: Write>(
    tar: &mut tar::Builder<W>,
    repository: &Path,
    name: &str,
    (listed, sha256): (&str, &Sha256),
    epoch: u64,
) -> Result<()> {
    let path = repository.join(listed);
    let wrong = || Error::Incomplete {
        path: repository.to_path_buf(),
        message: format!("missing or wrong {listed}"),
    };
    let metadata = path.symlink_metadata().ok().filter(|m| m.is_file());
    let size = metadata.ok_or_else(wrong)?.len();
    let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
    let mut hashed = HashingReader {
        inner: file.take(size),
        hasher: Hasher::default(),
    };
    let member = format!("{name}/{listed}");
    append(tar, &path, &member, &mut hashed, size, epoch)?;
    match hashed.hasher.finish().0 == *sha256 {
        true => Ok(()),
        false => Err(wrong()),
    }
}

fn header(kind: tar::EntryType, size: u64, epoch: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(epoch);
    header.set_size(size);
    header
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    source: &Path,
    name: &str,
    content: impl Read,
    size: u64,
    epoch: u64,
) -> Result<()> {
    let mut header = header(tar::EntryType::Regular, size, epoch);
    let inner = name.split_once('/').map_or(name, |(_, inner)| inner);
    header.set_mode(files::mode_of(inner));
    tar.append_data(&mut header, name, content)
        .map_err(|e| Error::io("pack", source, e))
}

struct HashingReader<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let options = BundleOptions {
            version: "v1.2.0".into(),
            codename: "trixie".into(),
            architecture: "amd64".into(),
            epoch: 0,
        };
        assert_eq!(
            file_name("pigsty", &options),
            "pigsty-v1.2.0.d13.x86_64.tar.gz"
        );
    }
}
