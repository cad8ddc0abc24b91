//! Reading a bundle member by member: bounded, confined, in order, the marker last.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::is_confined;
use crate::marker;
use crate::progress::{Callback, Progress};
use crate::publish::{beside_names, check_name, is_beside};
use crate::tarball::{self, Member, Stop};
use crate::volumes::{self, VolumeList};

/// More members than any bundle has.
const MEMBER_LIMIT: u64 = 1_000_000;
/// A bundle is stored rather than compressed: one that unpacks to far more than its size is not ours. The
/// allowance is for small repositories, of which the indexes are the larger part.
const EXPANSION_LIMIT: u64 = 4;
const EXPANSION_ALLOWANCE: u64 = 64 << 20;
/// Keys and source entries are small.
const BESIDE_LIMIT: u64 = 1 << 20;

/// A bundle that can be read, more than once.
#[derive(Debug, Clone)]
pub(crate) struct BundleFile {
    path: PathBuf,
    size: u64,
    volumes: Option<VolumeList>,
}

/// What a bundle holds beside the files of its repository.
#[derive(Debug)]
pub(crate) struct Contents {
    /// Name of the repository.
    pub name: String,
    /// Key and source entries with their names, in the order of [`beside_names`]; the key is the first.
    pub beside: Vec<(String, Vec<u8>)>,
    /// Modification time of the members, the same for all.
    pub epoch: u64,
    /// What is wrong with the tarball itself, when all members could be read.
    pub damage: Option<String>,
}

/// What is done with a file of the repository: its path in the repository, its content.
pub(crate) type EachFile<'a> = &'a mut dyn FnMut(&str, &mut dyn Read) -> Result<()>;

impl BundleFile {
    /// Finds a bundle: a file, or the volumes that it was split into.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(list) = volumes::find_list(path) {
            let found = VolumeList::load(&list)?;
            return Ok(BundleFile {
                size: found.size,
                path: list,
                volumes: Some(found),
            });
        }
        let size = path.metadata().map_err(|e| Error::io("open", path, e))?;
        Ok(BundleFile {
            path: path.to_path_buf(),
            size: size.len(),
            volumes: None,
        })
    }

    /// An error about this bundle.
    pub fn fail(&self, message: impl Into<String>) -> Error {
        Error::Bundle {
            path: self.path.clone(),
            message: message.into(),
        }
    }

    fn reader(&self) -> Result<Box<dyn Read>> {
        if let Some(volumes) = &self.volumes {
            return Ok(Box::new(volumes.reader()));
        }
        let file = File::open(&self.path).map_err(|e| Error::io("open", &self.path, e))?;
        Ok(Box::new(file))
    }

    /// An error about the tarball itself, found although all members could be read.
    pub fn check(&self, contents: &Contents) -> Result<()> {
        match &contents.damage {
            Some(damage) => Err(self.explain(damage.clone())),
            None => Ok(()),
        }
    }

    /// Reads a member that must be small.
    pub fn read_small(&self, content: &mut dyn Read, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = content.take(limit + 1).read_to_end(&mut bytes);
        read.map_err(|e| self.fail(format!("cannot be read: {e}")))?;
        match bytes.len() as u64 > limit {
            true => Err(self.fail("holds a file that is too large")),
            false => Ok(bytes),
        }
    }

    /// Passes over a member.
    pub fn skip(&self, content: &mut dyn Read) -> Result<()> {
        let read = io::copy(content, &mut io::sink());
        read.map(drop)
            .map_err(|e| self.fail(format!("cannot be read: {e}")))
    }

    /// Why it cannot be read: a volume that is not as listed, or what was found wrong on the way.
    fn explain(&self, refusal: String) -> Error {
        let wrong = self.volumes.as_ref().map(VolumeList::wrong);
        match wrong.as_deref() {
            Some([one]) => self.fail(format!("its volume {one} is not as listed")),
            Some([first, rest @ ..]) => self.fail(format!(
                "its volume {first} and {} more are not as listed",
                rest.len()
            )),
            _ => self.fail(refusal),
        }
    }

    /// Name of the repository in it: what its first member, `NAME.asc`, is named after.
    pub fn name(&self) -> Result<String> {
        let input = BufReader::new(self.reader()?);
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(input));
        let first = archive
            .entries()
            .ok()
            .and_then(|entries| entries.raw(true).next()?.ok());
        let name = first.and_then(|entry| {
            let path = entry.path().ok()?;
            Some(path.to_str()?.strip_suffix(".asc")?.to_string())
        });
        name.filter(|name| check_name(name).is_ok())
            .ok_or_else(|| self.explain("is not a bundle of a repository".into()))
    }

    /// Reads all of it; `stage` names what for.
    pub fn read(
        &self,
        stage: &'static str,
        each: EachFile<'_>,
        progress: Callback<'_>,
    ) -> Result<Contents> {
        let name = self.name()?;
        progress(Progress::Stage {
            name: stage,
            items: 0,
            bytes: self.size,
        });
        let counting = Counting {
            inner: self.reader()?,
            done: 0,
            total: self.size,
            progress,
        };
        let input = BufReader::with_capacity(1 << 20, counting);
        let limit = self.size * EXPANSION_LIMIT + EXPANSION_ALLOWANCE;
        let contents = read_members(input, name, limit, each).map_err(|refusal| match refusal {
            Refusal::Bundle(message) => self.explain(message),
            Refusal::Place(error) => error,
        })?;
        // A volume that is not as listed is named, rather than the files in it.
        if self.volumes.is_some() {
            self.check(&contents)?;
        }
        Ok(contents)
    }
}

fn read_members(
    input: impl Read,
    name: String,
    limit: u64,
    each: EachFile<'_>,
) -> ReadResult<Contents> {
    let mut contents = Contents {
        name,
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
        contents.epoch = member.mtime;
        let is_root = member.path.trim_end_matches('/') == contents.name;
        if !(is_root && member.kind.is_dir()) {
            complete = contents.take(member, each)?;
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
                true => contents.damage = Some(message),
                false => return Err(message.into()),
            }
        }
    }
    // tar accepts an archive that just stops; the marker, which is last, tells that this one did not.
    if !complete {
        return Err(format!("is cut off: it has no {}", marker::NAME).into());
    }
    let beside = contents.beside.iter().map(|(file, _)| file);
    match is_beside(&contents.name, beside) {
        true => Ok(contents),
        false => Err("lacks a key or a source entry".to_string().into()),
    }
}

impl Contents {
    /// Handles one member; returns whether it is the marker.
    fn take(&mut self, member: Member<'_>, each: EachFile<'_>) -> ReadResult<bool> {
        let inner = member
            .path
            .strip_prefix(&self.name)
            .and_then(|p| p.strip_prefix('/'));
        let is_file = member.kind.is_file();
        let shown = member.path.escape_debug();
        match inner {
            Some(inner) if is_file && is_confined(inner) => {
                each(inner, member.content).map_err(|e| match e {
                    Error::Io { source, .. } if is_clash(&source) => {
                        Refusal::Bundle(format!("holds '{shown}' where something else is"))
                    }
                    other => Refusal::Place(other),
                })?;
                Ok(inner == marker::NAME)
            }
            None if is_file
                && beside_names(&self.name).contains(&member.path)
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

/// Why a bundle cannot be read.
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

/// Whether a bundle's own members are in each other's way.
fn is_clash(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, IsADirectory, NotADirectory};
    matches!(error.kind(), AlreadyExists | IsADirectory | NotADirectory)
}

/// Reports how much of the bundle was read.
struct Counting<'a, R> {
    inner: R,
    done: u64,
    total: u64,
    progress: Callback<'a>,
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.done += n as u64;
        (self.progress)(Progress::Bytes {
            done: self.done,
            total: self.total,
        });
        Ok(n)
    }
}
