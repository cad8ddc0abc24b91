//! Making a damaged repository complete again: the marker says what has to be there, and content counts by its digest,
//! wherever it comes from.
//!
//! The marker is withdrawn first and comes back last. What is there and not listed is moved beside the repository.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::Serialize;

use crate::bundle_reader::BundleFile;
use crate::cache::Cache;
use crate::clearsign;
use crate::digest::{HashingWriter, Sha256};
use crate::error::{Error, Result};
use crate::fetch;
use crate::files;
use crate::http::Client;
use crate::indexes;
use crate::layout;
use crate::lock::{Lock, LockedPackage};
use crate::marker::{self, Marker};
use crate::openpgp::Keyring;
use crate::progress::Callback;
use crate::publish;
use crate::verify::{self, Report};

/// Name of the marker while a repair runs; a killed repair leaves it, and the next one goes on with it.
pub const WITHDRAWN: &str = "repo_complete.withdrawn";

/// How temporary files begin.
const TEMPORARY: &str = ".farrow-";
/// Where something came from that no source had.
const MADE: &str = "made again";

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

/// A repair on its way.
struct Work<'a> {
    root: &'a Path,
    marker: &'a Marker,
    /// Path and digest of what is still to be restored.
    needed: BTreeMap<String, Sha256>,
    done: Repaired,
}

impl<'a> Work<'a> {
    fn new(root: &'a Path, found: &'a Found, report: &Report) -> Self {
        let paths = report.missing.iter().chain(&report.wrong);
        let needed = paths.filter_map(|path| Some((path.clone(), found.marker.sha256(path)?)));
        Work {
            root,
            marker: &found.marker,
            needed: needed.collect(),
            done: Repaired::default(),
        }
    }

    /// Asks the sources, the cheapest first.
    fn run(&mut self, sources: Sources<'_>, progress: Callback<'_>) -> Result<()> {
        self.clear_the_way()?;
        self.copy_within()?;
        if let Some(cache) = sources.cache {
            self.copy_cached(cache)?;
        }
        if let Some(bundle) = sources.bundle
            && !self.needed.is_empty()
        {
            self.copy_from_bundle(bundle, progress)?;
        }
        if let (Some(cache), Some(client)) = (sources.cache, sources.client) {
            self.download(cache, client, progress)?;
        }
        self.make_indexes()?;
        self.copy_within()
    }

    /// Removes what is in the place of a listed file without being a file.
    fn clear_the_way(&self) -> Result<()> {
        for path in self.needed.keys() {
            let full = self.root.join(path);
            if full.symlink_metadata().is_ok_and(|m| !m.is_file()) {
                fs::remove_file(&full).map_err(|e| Error::io("remove", &full, e))?;
            }
        }
        Ok(())
    }

    /// Writes `content` as `path` if it has the right digest.
    fn place(&mut self, path: &str, content: &mut dyn Read, from: &'static str) -> Result<bool> {
        let Some(expected) = self.needed.get(path) else {
            return Ok(false);
        };
        let target = self.root.join(path);
        let parent = files::parent(&target);
        files::create_dirs(parent)?;
        let fail = |e| Error::io("write", &target, e);
        let temporary = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .tempfile_in(parent)
            .map_err(fail)?;
        let mut hashing = HashingWriter::new(temporary);
        io::copy(content, &mut hashing).map_err(fail)?;
        let (temporary, sha256, _) = hashing.finish();
        if sha256 != *expected {
            return Ok(false);
        }
        temporary.as_file().sync_all().map_err(fail)?;
        temporary.persist(&target).map_err(|e| fail(e.error))?;
        self.needed.remove(path);
        self.done.restored.push(Restored {
            path: path.to_string(),
            from,
        });
        Ok(true)
    }

    fn place_file(&mut self, path: &str, file: &Path, from: &'static str) -> Result<bool> {
        match fs::File::open(file) {
            Ok(mut content) => self.place(path, &mut content, from),
            Err(_) => Ok(false),
        }
    }

    fn still_needed(&self) -> Vec<(String, Sha256)> {
        let all = self.needed.iter();
        all.map(|(path, sha256)| (path.clone(), *sha256)).collect()
    }

    /// Each index lies there twice, by its name and by its digest.
    fn copy_within(&mut self) -> Result<()> {
        for (path, sha256) in self.still_needed() {
            let same = self.marker.files.iter().filter(|(_, d)| *d == sha256);
            let others: Vec<PathBuf> = same
                .filter(|(other, _)| !self.needed.contains_key(other))
                .map(|(other, _)| self.root.join(other))
                .collect();
            for other in others {
                if self.place_file(&path, &other, "repository")? {
                    break;
                }
            }
        }
        Ok(())
    }

    fn copy_cached(&mut self, cache: &Cache) -> Result<()> {
        for (path, sha256) in self.still_needed() {
            self.place_file(&path, &cache.path(&sha256), "cache")?;
        }
        Ok(())
    }

    /// Content counts by its digest, so what a damaged bundle still gives is taken.
    fn copy_from_bundle(&mut self, bundle: &Path, progress: Callback<'_>) -> Result<()> {
        let source = BundleFile::open(bundle)?;
        let each = &mut |member: &str, content: &mut dyn Read| {
            if self.needed.contains_key(member) {
                self.place(member, content, "bundle")?;
            }
            source.skip(content)
        };
        source.read("repair", each, progress).map(drop)
    }

    /// The lock in the repository, if it is as listed.
    fn lock(&self) -> Option<Lock> {
        let name = self.root.file_name()?.to_str()?;
        let path = publish::lock_name(name);
        match self.needed.contains_key(&path) || self.marker.sha256(&path).is_none() {
            true => None,
            false => Lock::load(&self.root.join(path)).ok(),
        }
    }

    fn download(&mut self, cache: &Cache, client: &Client, progress: Callback<'_>) -> Result<()> {
        let Some(mut lock) = self.lock() else {
            return Ok(());
        };
        let wanted: BTreeSet<Sha256> = self.needed.values().copied().collect();
        let is_wanted = |package: &LockedPackage| wanted.contains(&package.sha256);
        lock.packages.retain(is_wanted);
        if lock.packages.is_empty() || client.is_offline() {
            return Ok(());
        }
        fetch::fetch(&lock, client, cache, progress)?;
        for (path, sha256) in self.still_needed() {
            if wanted.contains(&sha256) {
                self.place_file(&path, &cache.path(&sha256), "archive")?;
            }
        }
        Ok(())
    }

    /// Package indexes follow from the lock and the packages, Release from InRelease; only signatures cannot be made.
    fn make_indexes(&mut self) -> Result<()> {
        let Some(found) = layout::detect(self.marker) else {
            return Ok(());
        };
        let signed = found.release.replace("Release", "InRelease");
        if self.needed.contains_key(&found.release)
            && !self.needed.contains_key(&signed)
            && let Ok(text) = fs::read_to_string(self.root.join(&signed))
            && let Ok(clear) = clearsign::parse(&text)
        {
            self.place(&found.release, &mut clear.text.as_bytes(), MADE)?;
        }
        let folder = found.packages.trim_end_matches("Packages").to_string();
        let is_index = |path: &String| {
            path.strip_prefix(&folder)
                .is_some_and(|rest| rest.starts_with("Packages") || rest.starts_with("by-hash/"))
        };
        if !self.needed.keys().any(is_index) {
            return Ok(());
        }
        let Some(lock) = self.lock() else {
            return Ok(());
        };
        // Without all the packages it cannot be done, which is no error here: what is lost is reported.
        let Ok(made) = indexes::again(&lock, self.root, &found) else {
            return Ok(());
        };
        for (path, bytes) in made {
            self.place(&path, &mut &bytes[..], MADE)?;
        }
        Ok(())
    }
}
