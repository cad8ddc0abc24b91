//! Restoring the files of a repository from one source after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{Found, Repaired, Restored, Sources, TEMPORARY};
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
use crate::marker::Marker;
use crate::progress::Callback;
use crate::publish;
use crate::verify::Report;

/// Where something came from that no source had.
const MADE: &str = "made again";

/// A repair on its way.
pub(super) struct Work<'a> {
    root: &'a Path,
    marker: &'a Marker,
    /// Path and digest of what is still to be restored.
    pub needed: BTreeMap<String, Sha256>,
    pub done: Repaired,
}

impl<'a> Work<'a> {
    pub fn new(root: &'a Path, found: &'a Found, report: &Report) -> Self {
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
    pub fn run(&mut self, sources: Sources<'_>, progress: Callback<'_>) -> Result<()> {
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
