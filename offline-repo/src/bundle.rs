//! A repository as one file to carry: a deterministic `.tar.gz`, the marker last.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};

use crate::delta::{self, Delta};
use crate::digest::{Hasher, HashingWriter, Sha256};
use crate::error::{Error, Result};
use crate::files::{self, PartialFile};
use crate::marker::{self, Marker};
use crate::progress::{Callback, Progress};
use crate::publish::{beside_names, check_name};
use crate::volumes::Volumes;

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

/// What a bundle is to be beside the whole repository in one file.
#[derive(Debug, Clone, Copy, Default)]
pub struct BundleForm<'a> {
    /// Split into volumes of this many bytes.
    pub split: Option<u64>,
    /// Only what a repository with this marker lacks.
    pub since: Option<&'a Marker>,
}

/// A finished bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The tarball; the list of its volumes if it was split.
    pub path: PathBuf,
    /// Its volumes, none if it was not split.
    pub volumes: Vec<PathBuf>,
    /// SHA-256 of the tarball, joined.
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

/// `NAME-vVERSION.OS.MACHINE.since-MANIFEST.tar.gz` for a delta: the first eight digits of the older manifest.
pub fn form_name(name: &str, options: &BundleOptions, since: Option<&Marker>) -> String {
    let whole = file_name(name, options);
    match since {
        None => whole,
        Some(old) => {
            let (stem, manifest) = (whole.trim_end_matches(".tar.gz"), old.manifest.to_string());
            format!("{stem}.since-{}.tar.gz", &manifest[..8])
        }
    }
}

/// Packs a repository folder and the files beside it into `out`. Every member is compared with the marker
/// while it is read.
pub fn bundle(
    repository: &Path,
    options: &BundleOptions,
    out: &Path,
    progress: Callback<'_>,
) -> Result<Bundle> {
    bundle_as(repository, options, BundleForm::default(), out, progress)
}

/// The same in several volumes, or as a delta.
pub fn bundle_as(
    repository: &Path,
    options: &BundleOptions,
    form: BundleForm<'_>,
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
    let path = out.join(form_name(name, options, form.since));
    let _held = files::lock_dir(out)?;
    let delta = form.since.map(|old| Delta::between(old, &marker));
    let input = Input {
        repository,
        name,
        marker: &marker,
        delta: delta.as_ref(),
        epoch: options.epoch,
    };
    let Some(limit) = form.split else {
        let (partial, sha256, size) = pack(PartialFile::new(&path)?, &path, &input, progress)?;
        partial.install()?;
        let volumes = Vec::new();
        return Ok(Bundle {
            path,
            volumes,
            sha256,
            size,
        });
    };
    let (written, sha256, size) = pack(Volumes::new(&path, limit), &path, &input, progress)?;
    let (path, volumes) = written.install()?;
    Ok(Bundle {
        path,
        volumes,
        sha256,
        size,
    })
}

/// What is packed.
struct Input<'a> {
    repository: &'a Path,
    name: &'a str,
    marker: &'a Marker,
    delta: Option<&'a Delta>,
    epoch: u64,
}

/// Writes the tarball; returns the writer with digest and size of what went through.
fn pack<W: Write + Send>(
    writer: W,
    path: &Path,
    input: &Input<'_>,
    progress: Callback<'_>,
) -> Result<(W, Sha256, u64)> {
    let io = |e| Error::io("write", path, e);
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel::<Vec<u8>>(CHUNKS);
        let written = scope.spawn(move || {
            let mut hashing = HashingWriter::new(writer);
            receiver
                .into_iter()
                .try_for_each(|chunk| hashing.write_all(&chunk))?;
            Ok(hashing.finish())
        });
        let packed = pack_into(Chunks::new(sender), input, progress);
        // When writing fails, packing fails too, and knows less of it.
        let written: std::io::Result<_> = written.join().expect("no panic while a file is written");
        let written = written.map_err(io)?;
        packed?.map_err(io)?;
        Ok(written)
    })
}

/// The archive as a stream. The inner error is one of its end.
fn pack_into(
    chunks: Chunks,
    input: &Input<'_>,
    progress: Callback<'_>,
) -> Result<std::io::Result<()>> {
    // Stored, not compressed: packages are compressed already. Level 1 would make the bundle larger (its fixed
    // codes expand such data by 6 %), and higher levels take a hundred times longer to gain nothing.
    let gzip = flate2::GzBuilder::new()
        .mtime(0)
        .write(chunks, flate2::Compression::none());
    let mut tar = tar::Builder::new(gzip);
    append_all(&mut tar, input, progress)?;
    let ended = tar.into_inner().and_then(|gzip| gzip.finish());
    Ok(ended.and_then(Chunks::finish))
}

/// Bytes that are handed over at once, and how many such pieces may wait.
const CHUNK: usize = 1 << 20;
const CHUNKS: usize = 4;

/// Hands what is written to another thread: reading and proving packages takes as long as hashing and writing the archive.
struct Chunks {
    sender: SyncSender<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Chunks {
    fn new(sender: SyncSender<Vec<u8>>) -> Self {
        let buffer = Vec::with_capacity(CHUNK);
        Chunks { sender, buffer }
    }

    fn hand_over(&mut self) -> std::io::Result<()> {
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        // The other side ends early only when it cannot write.
        let gone = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        self.sender.send(chunk).map_err(gone)
    }

    fn finish(mut self) -> std::io::Result<()> {
        self.hand_over()
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.hand_over()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Members in their order: what lies beside, the folder, its files by name, the marker.
fn append_all<W: Write>(
    tar: &mut tar::Builder<W>,
    input: &Input<'_>,
    progress: Callback<'_>,
) -> Result<()> {
    let Input {
        repository,
        name,
        marker,
        delta,
        epoch,
    } = *input;
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
    if let Some(delta) = delta {
        let (member, text) = (format!("{name}/{}", delta::NAME), delta.to_text());
        let size = text.len() as u64;
        append(tar, repository, &member, text.as_bytes(), size, epoch)?;
    }
    for (i, (listed, sha256)) in marker.files.iter().enumerate() {
        if delta.is_some_and(|delta| delta.keeps(listed)) {
            continue;
        }
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
