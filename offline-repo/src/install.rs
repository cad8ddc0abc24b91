//! Unpacking a bundle: bounded, confined, verified against its marker before anything gets its final name.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::{self, Staging, is_confined};
use crate::marker::{self, Marker};
use crate::openpgp::Keyring;
use crate::progress::{Callback, Progress};
use crate::publish::{beside_names, check_name, is_beside};
use crate::tarball::{self, Member, Stop};

/// More members than any bundle has.
const MEMBER_LIMIT: u64 = 1_000_000;
/// A bundle is stored rather than compressed: one that unpacks to far more than its size is not ours. The
/// allowance is for small repositories, of which the indexes are the larger part.
const EXPANSION_LIMIT: u64 = 4;
const EXPANSION_ALLOWANCE: u64 = 64 << 20;
/// Keys and source entries are small.
const BESIDE_LIMIT: u64 = 1 << 20;

/// Unpacks a bundle below `target` (for example `/www`); returns the repository's folder.
///
/// With keys, one of them must have signed the marker; without, the key in the bundle is taken, which finds
/// damage but not forgery. Whatever goes wrong, nothing stays behind.
pub fn install(
    bundle: &Path,
    target: &Path,
    keyring: Option<&Keyring>,
    progress: Callback<'_>,
) -> Result<PathBuf> {
    let file = File::open(bundle).map_err(|e| Error::io("open", bundle, e))?;
    let total = file
        .metadata()
        .map_err(|e| Error::io("open", bundle, e))?
        .len();
    files::create_dirs(target)?;
    let _held = files::lock_dir(target)?;
    let name = name_of(bundle)?;
    let staging = Staging::new(&target.join(&name))?;
    progress(Progress::Stage {
        name: "install",
        items: 0,
        bytes: total,
    });
    let counting = Counting {
        inner: file,
        done: 0,
        total,
        progress,
    };
    let input = BufReader::with_capacity(1 << 20, counting);
    let limit = total * EXPANSION_LIMIT + EXPANSION_ALLOWANCE;
    let unpacked = Unpacked::read(input, &name, staging.path(), limit)
        .map_err(|refusal| refusal.into_error(bundle))?;
    let own = match keyring {
        Some(_) => None,
        None => Some(Keyring::from_files(&[&unpacked.beside[0].1])?),
    };
    let marker = Marker::load(staging.path()).map_err(|error| {
        let inside = format!("{}/", staging.path().display());
        fail(bundle, error.to_string().replace(&inside, ""))
    })?;
    let origin = bundle.display().to_string();
    marker.check_signature(
        &origin,
        keyring.or(own.as_ref()).expect("one of the two is there"),
    )?;
    marker.compare(staging.path())?.into_result(bundle)?;
    if let Some(damage) = unpacked.damage {
        return Err(fail(bundle, damage));
    }
    files::normalise(staging.path(), unpacked.epoch)?;
    for (file, bytes) in &unpacked.beside {
        files::write_atomic(&target.join(file), bytes, 0o644)?;
    }
    staging.install(marker::NAME)?;
    Ok(target.join(&name))
}

/// Name of the repository in a bundle: what its first member, `NAME.asc`, is named after.
pub(crate) fn name_of(bundle: &Path) -> Result<String> {
    let file = File::open(bundle).map_err(|e| Error::io("open", bundle, e))?;
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(BufReader::new(file)));
    let first = archive
        .entries()
        .ok()
        .and_then(|entries| entries.raw(true).next()?.ok());
    let name = first.and_then(|entry| {
        Some(
            entry
                .path()
                .ok()?
                .to_str()?
                .strip_suffix(".asc")?
                .to_string(),
        )
    });
    name.filter(|name| check_name(name).is_ok())
        .ok_or_else(|| fail(bundle, "is not a bundle of a repository"))
}

fn fail(bundle: &Path, message: impl Into<String>) -> Error {
    Error::Bundle {
        path: bundle.to_path_buf(),
        message: message.into(),
    }
}

/// The files that lie beside the repository, in the order of [`beside_names`].
struct Unpacked {
    beside: Vec<(String, Vec<u8>)>,
    /// Modification time of the members, the same for all.
    epoch: u64,
    /// What is wrong with the tarball itself, when all members could be read.
    damage: Option<String>,
}

impl Unpacked {
    /// Unpacks the repository's files into `root`, and reads those beside it.
    fn read(input: impl Read, name: &str, root: &Path, limit: u64) -> ReadResult<Self> {
        let mut unpacked = Unpacked {
            beside: Vec::new(),
            epoch: 0,
            damage: None,
        };
        let (mut members, mut bytes, mut complete) = (0, 0u64, false);
        let input = flate2::read::MultiGzDecoder::new(input);
        let outcome = tarball::read(input, &mut |member| {
            (members, bytes) = (members + 1, bytes.saturating_add(member.size));
            if members > MEMBER_LIMIT || bytes > limit {
                return Err("holds more than a repository can".to_string().into());
            }
            if complete {
                let path = member.path.escape_debug();
                return Err(format!("has '{path}' after its marker").into());
            }
            unpacked.epoch = member.mtime;
            let is_root = member.path.trim_end_matches('/') == name;
            if !(is_root && member.kind.is_dir()) {
                complete = unpacked.place(member, name, root)?;
            }
            Ok(())
        });
        match outcome {
            Ok(()) => {}
            Err(Stop::Refused(refusal)) => return Err(refusal),
            Err(Stop::Damaged(last, error)) => {
                let message = format!("is cut off or damaged in or after '{last}': {error}");
                // When all is there, the marker can tell which file the damage is in.
                match complete {
                    true => unpacked.damage = Some(message),
                    false => return Err(message.into()),
                }
            }
        }
        // tar accepts an archive that just stops; the marker, which is last, tells that this one did not.
        if !complete {
            return Err(format!("is cut off: it has no {}", marker::NAME).into());
        }
        let beside = unpacked.beside.iter().map(|(file, _)| file);
        match is_beside(name, beside) {
            true => Ok(unpacked),
            false => Err("lacks a key or a source entry".to_string().into()),
        }
    }

    /// Puts one member where it belongs; returns whether it is the marker.
    fn place(&mut self, member: Member<'_>, name: &str, root: &Path) -> ReadResult<bool> {
        let inner = member
            .path
            .strip_prefix(name)
            .and_then(|p| p.strip_prefix('/'));
        let is_file = member.kind.is_file();
        let shown = member.path.escape_debug();
        match inner {
            Some(inner) if is_file && is_confined(inner) => {
                unpack(member.content, &root.join(inner)).map_err(|e| match e {
                    Error::Io { source, .. } if is_clash(&source) => {
                        Refusal::Bundle(format!("holds '{shown}' where something else is"))
                    }
                    other => Refusal::Place(other),
                })?;
                Ok(inner == marker::NAME)
            }
            None if is_file
                && beside_names(name).contains(&member.path)
                && member.size <= BESIDE_LIMIT =>
            {
                let mut content = Vec::new();
                (member.content.read_to_end(&mut content))
                    .map_err(|e| format!("'{shown}' cannot be read: {e}"))?;
                self.beside.push((member.path, content));
                Ok(false)
            }
            _ => Err(format!("holds '{shown}', which does not belong there").into()),
        }
    }
}

/// Why a bundle cannot be unpacked.
enum Refusal {
    /// What is wrong with it, without its path.
    Bundle(String),
    /// Something that is not its fault.
    Place(Error),
}

type ReadResult<T> = std::result::Result<T, Refusal>;

impl From<String> for Refusal {
    fn from(message: String) -> Self {
        Refusal::Bundle(message)
    }
}

impl Refusal {
    fn into_error(self, bundle: &Path) -> Error {
        match self {
            Refusal::Bundle(message) => fail(bundle, message),
            Refusal::Place(error) => error,
        }
    }
}

/// Writes one member; the number of bytes that its header announces must be there.
fn unpack(content: &mut dyn Read, path: &Path) -> Result<()> {
    files::create_dirs(files::parent(path))?;
    let fail = |e| Error::io("write", path, e);
    let mut file = File::create_new(path).map_err(fail)?;
    std::io::copy(content, &mut file).map(drop).map_err(fail)
}

/// Whether a bundle's own members are in each other's way.
fn is_clash(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{AlreadyExists, IsADirectory, NotADirectory};
    matches!(error.kind(), AlreadyExists | IsADirectory | NotADirectory)
}

/// Reports how much of the tarball was read.
struct Counting<'a, R> {
    inner: R,
    done: u64,
    total: u64,
    progress: Callback<'a>,
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.done += n as u64;
        (self.progress)(Progress::Bytes {
            done: self.done,
            total: self.total,
        });
        Ok(n)
    }
}
