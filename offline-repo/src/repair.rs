//! Making a damaged repository complete again: the marker says what has to be there, and content counts by its digest,
//! wherever it comes from.
//!
//! The marker is withdrawn first and comes back last. What is there and not listed is moved beside the repository.

mod work;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::Serialize;

use crate::bundle_reader::BundleFile;
use crate::cache::Cache;
use crate::digest::Sha256;
use crate::error::{Error, Result};
use crate::files;
use crate::http::Client;
use crate::marker::{self, Marker};
use crate::openpgp::Keyring;
use crate::progress::Callback;
use crate::verify::{self, Report};
use work::Work;

/// Name of the marker while a repair runs; a killed repair leaves it, and the next one goes on with it.
pub const WITHDRAWN: &str = "repo_complete.withdrawn";

/// How temporary files begin.
const TEMPORARY: &str = ".farrow-";

/// Where content may come from, beside the repository itself.
#[derive(Clone, Copy, Default)]
pub struct Sources<'a> {
    /// A bundle of the same repository, or of another version of it.
    pub bundle: Option<&'a Path>,
    /// Downloads of an earlier build.
    pub cache: Option<&'a Cache>,
    /// The archives that the lock in the repository names; they need a cache.
    pub client: Option<&'a Client>,
}

/// What a repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// Files that have the right content again, and where it came from.
    pub restored: Vec<Restored>,
    /// Files that were moved away, as they were named in the repository.
    pub moved: Vec<String>,
    /// The folder that they were moved to.
    pub moved_to: Option<PathBuf>,
    /// Files that no source had.
    pub lost: Vec<String>,
    /// Digest of the manifest.
    pub manifest: Option<Sha256>,
}

/// A file that was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// Path in the repository.
    pub path: String,
    /// `repository`, `cache`, `bundle`, `archive` or `made again`.
    pub from: &'static str,
}

/// Repairs the repository at `path`. With keys, one of them must have signed the marker.
///
/// # Errors
/// [`Error::Incomplete`] when there is no marker to go by; a file that no source had is in [`Repaired::lost`], and then
/// the marker stays withdrawn.
pub fn repair(
    path: &Path,
    keyring: Option<&Keyring>,
    sources: Sources<'_>,
    progress: Callback<'_>,
) -> Result<Repaired> {
    let _held = files::lock_dir(files::parent(path))?;
    let found = find_marker(path, sources.bundle, progress)?;
    let own = match keyring {
        Some(_) => None,
        None if path.is_dir() => verify::key_beside(path)?,
        None => None,
    };
    if let Some(keyring) = keyring.or(own.as_ref()) {
        let origin = path.join(marker::NAME).display().to_string();
        found.marker.check_signature(&origin, keyring)?;
    }
    let mut report = verify::compare(&found.marker, path, progress)?;
    report.extra.retain(|path| path != WITHDRAWN);
    remove_leftovers(path, &mut report.extra)?;
    if report.is_complete() && found.in_place {
        return Ok(Repaired {
            manifest: Some(found.marker.manifest),
            ..Repaired::default()
        });
    }
    withdraw(path, &found)?;
    let mut work = Work::new(path, &found, &report);
    work.run(sources, progress)?;
    let mut done = work.done;
    move_extra(path, &report, &mut done)?;
    done.lost = work.needed.into_keys().collect();
    done.manifest = Some(found.marker.manifest);
    if done.lost.is_empty() {
        finish(path, found.epoch)?;
    }
    Ok(done)
}

/// The marker to go by.
struct Found {
    marker: Marker,
    text: String,
    /// Whether it lies where readers look for it.
    in_place: bool,
    /// The time of everything in the repository.
    epoch: u64,
}

/// The marker in the repository, the one that an earlier repair withdrew, or the bundle's.
fn find_marker(path: &Path, bundle: Option<&Path>, progress: Callback<'_>) -> Result<Found> {
    let mut problem = None;
    for (name, in_place) in [(marker::NAME, true), (WITHDRAWN, false)] {
        let file = path.join(name);
        let Ok(metadata) = file.symlink_metadata() else {
            continue;
        };
        let time = metadata.modified().ok();
        let epoch = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        match marker::read(&file) {
            Ok((marker, text)) => {
                return Ok(Found {
                    marker,
                    text,
                    in_place,
                    epoch: epoch.map_or(0, |d| d.as_secs()),
                });
            }
            Err(error) => problem = Some(error),
        }
    }
    match (bundle, problem) {
        (Some(bundle), _) => marker_of(bundle, path, progress),
        (None, Some(problem)) => Err(problem),
        (None, None) => Err(Error::Incomplete {
            path: path.to_path_buf(),
            message: format!("it has no {}", marker::NAME),
        }),
    }
}

fn marker_of(bundle: &Path, path: &Path, progress: Callback<'_>) -> Result<Found> {
    let source = BundleFile::open(bundle)?;
    let mut text = Vec::new();
    let contents = source.read(
        "marker",
        &mut |member, content| match member {
            marker::NAME => {
                text = source.read_small(content, marker::MARKER_LIMIT)?;
                Ok(())
            }
            _ => source.skip(content),
        },
        progress,
    )?;
    source.check(&contents)?;
    if path
        .file_name()
        .is_none_or(|name| name.to_string_lossy() != contents.name)
    {
        return Err(source.fail(format!("holds the repository '{}'", contents.name)));
    }
    let origin = bundle.display().to_string();
    let text = String::from_utf8(text).map_err(|_| Error::invalid(&origin, "is not UTF-8 text"))?;
    let marker = Marker::parse(&origin, &text)?;
    marker.check_signature(&origin, &Keyring::from_files(&[&contents.beside[0].1])?)?;
    Ok(Found {
        marker,
        text,
        in_place: false,
        epoch: contents.epoch,
    })
}

/// From here on no reader takes the repository for complete.
fn withdraw(path: &Path, found: &Found) -> Result<()> {
    let (marker, withdrawn) = (path.join(marker::NAME), path.join(WITHDRAWN));
    if found.in_place {
        fs::rename(&marker, &withdrawn).map_err(|e| Error::io("withdraw", &marker, e))?;
        return files::sync_dir(path);
    }
    files::create_dirs(path)?;
    files::write_atomic(&withdrawn, found.text.as_bytes(), 0o644)?;
    match fs::remove_file(&marker) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("withdraw", &marker, e)),
        _ => files::sync_dir(path),
    }
}

/// Everything is durable before the marker comes back.
fn finish(path: &Path, epoch: u64) -> Result<()> {
    files::normalise(path, epoch)?;
    files::sync_tree(path)?;
    let (marker, withdrawn) = (path.join(marker::NAME), path.join(WITHDRAWN));
    fs::rename(&withdrawn, &marker).map_err(|e| Error::io("install", &marker, e))?;
    files::sync_dir(path)
}

/// Removes what a killed repair had not finished.
fn remove_leftovers(path: &Path, extra: &mut Vec<String>) -> Result<()> {
    let is_left = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        name.starts_with(TEMPORARY)
    };
    for left in extra.iter().filter(|path| is_left(path)) {
        let full = path.join(left);
        fs::remove_file(&full).map_err(|e| Error::io("remove", &full, e))?;
    }
    extra.retain(|path| !is_left(path));
    Ok(())
}

/// Moves what is not listed beside the repository: nobody knows what it is, so it is not deleted.
fn move_extra(path: &Path, report: &Report, done: &mut Repaired) -> Result<()> {
    if report.extra.is_empty() {
        return Ok(());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = (1..)
        .map(|n| files::parent(path).join(format!("{name}.extra-{n}")))
        .find(|folder| folder.symlink_metadata().is_err())
        .expect("numbers do not end");
    for extra in &report.extra {
        let (from, to) = (path.join(extra), aside.join(extra));
        files::create_dirs(files::parent(&to))?;
        fs::rename(&from, &to).map_err(|e| Error::io("move away", &from, e))?;
        remove_empty_parents(path, &from);
    }
    done.moved = report.extra.clone();
    done.moved_to = Some(aside);
    Ok(())
}

/// A folder that held only what was moved away goes, too.
fn remove_empty_parents(root: &Path, path: &Path) {
    let above = path.ancestors().skip(1).take_while(|p| *p != root);
    for folder in above {
        if fs::remove_dir(folder).is_err() {
            return;
        }
    }
}
