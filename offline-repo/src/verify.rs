//! A repository folder compared with its marker: every file's content, on all cores, the largest files first.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::bundle_reader::BundleFile;
use crate::delta::{self, Delta};
use crate::digest::{HashingWriter, Sha256};
use crate::error::{Error, Result};
use crate::files;
use crate::marker::{self, Marker};
use crate::openpgp::Keyring;
use crate::progress::{Callback, Progress};
use crate::publish::beside_names;

/// What differs between a marker and the files beside it. Empty lists: the repository is complete.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Listed, and not there.
    pub missing: Vec<String>,
    /// There, and not listed.
    pub extra: Vec<String>,
    /// There with other content, unreadable, or not a regular file.
    pub wrong: Vec<String>,
}

impl Report {
    /// Whether everything is as listed.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty() && self.wrong.is_empty()
    }

    /// One line that names the first few differences.
    pub fn summary(&self) -> String {
        let part = |what: &str, names: &[String]| match names.split_first() {
            None => None,
            Some((first, [])) => Some(format!("{what} {first}")),
            Some((first, rest)) => Some(format!("{what} {first} and {} more", rest.len())),
        };
        let parts = [
            part("missing", &self.missing),
            part("wrong", &self.wrong),
            part("extra", &self.extra),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// One line for each difference, `missing: PATH`.
    pub fn lines(&self) -> Vec<String> {
        let named = |what: &'static str, paths: &[String]| -> Vec<String> {
            paths.iter().map(|path| format!("{what}: {path}")).collect()
        };
        [
            named("missing", &self.missing),
            named("extra", &self.extra),
            named("wrong", &self.wrong),
        ]
        .concat()
    }

    /// An error unless everything is as listed.
    pub fn into_result(self, path: &Path) -> Result<()> {
        match self.is_complete() {
            true => Ok(()),
            false => Err(Error::Incomplete {
                path: path.to_path_buf(),
                message: self.summary(),
            }),
        }
    }
}

/// Verifies a repository folder: the signature of its marker, by the key beside it if none is given, then every file.
pub fn folder(
    path: &Path,
    keyring: Option<&Keyring>,
    progress: Callback<'_>,
) -> Result<(Marker, Report)> {
    let marker = Marker::load(path)?;
    let own = match keyring {
        Some(_) => None,
        None => key_beside(path)?,
    };
    if let Some(keyring) = keyring.or(own.as_ref()) {
        let origin = path.join(marker::NAME).display().to_string();
        marker.check_signature(&origin, keyring)?;
    }
    let report = compare(&marker, path, progress)?;
    Ok((marker, report))
}

/// The key that lies beside a repository, if there is one.
pub(crate) fn key_beside(path: &Path) -> Result<Option<Keyring>> {
    let path = path
        .canonicalize()
        .map_err(|e| Error::io("find", path, e))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let [armoured, ..] = beside_names(&name);
    let key = files::parent(&path).join(armoured);
    match key.is_file() {
        true => Keyring::from_files(&[&files::read_bounded(&key, 1 << 20)?]).map(Some),
        false => Ok(None),
    }
}

/// Verifies a bundle as it is read; nothing is unpacked.
pub fn bundle(
    path: &Path,
    keyring: Option<&Keyring>,
    progress: Callback<'_>,
) -> Result<(Marker, Report)> {
    let read = read_bundle(path, keyring, &|_| false, progress)?;
    Ok((read.marker, read.report))
}

/// A bundle that was read and compared with its marker.
pub(crate) struct ReadBundle {
    pub marker: Marker,
    pub report: Report,
    /// What it takes from an older repository.
    pub delta: Option<Delta>,
    /// Contents of the files that were asked for.
    pub kept: BTreeMap<String, Vec<u8>>,
}

/// Reads a bundle once, keeping small files: those for which `keep` is true.
pub(crate) fn read_bundle(
    path: &Path,
    keyring: Option<&Keyring>,
    keep: &dyn Fn(&str) -> bool,
    progress: Callback<'_>,
) -> Result<ReadBundle> {
    let source = BundleFile::open(path)?;
    let (mut found, mut kept) = (BTreeMap::new(), BTreeMap::new());
    let contents = source.read(
        "verify",
        &mut |member, content| {
            let sink: Box<dyn Write> =
                match [marker::NAME, delta::NAME].contains(&member) || keep(member) {
                    true => Box::new(kept.entry(member.to_string()).or_insert_with(Vec::new)),
                    false => Box::new(std::io::sink()),
                };
            let mut hashing = HashingWriter::new(sink);
            std::io::copy(content, &mut hashing)
                .map_err(|e| source.fail(format!("'{member}' cannot be read: {e}")))?;
            let (_, sha256, _) = hashing.finish();
            match found.insert(member.to_string(), sha256) {
                None => Ok(()),
                Some(_) => Err(source.fail(format!("holds '{member}' twice"))),
            }
        },
        progress,
    )?;
    let origin = path.display().to_string();
    let text = kept.remove(marker::NAME).unwrap_or_default();
    let text = String::from_utf8(text).map_err(|_| Error::invalid(&origin, "is not UTF-8 text"))?;
    let marker = Marker::parse(&origin, &text)?;
    let own = Keyring::from_files(&[&contents.beside[0].1]);
    match keyring {
        Some(keyring) => marker.check_signature(&origin, keyring)?,
        None => marker.check_signature(&origin, &own?)?,
    }
    found.remove(marker::NAME);
    let delta = match found.remove(delta::NAME) {
        None => None,
        Some(_) => {
            let text = kept.remove(delta::NAME).unwrap_or_default();
            Some(Delta::parse(&text).map_err(|message| source.fail(message))?)
        }
    };
    let mut report = difference(&marker, found);
    // What is wrong with a file says more than that something is wrong with the tarball.
    if report.wrong.is_empty() {
        source.check(&contents)?;
    }
    if let Some(delta) = &delta {
        report.missing.retain(|path| !delta.keeps(path));
    }
    Ok(ReadBundle {
        marker,
        report,
        delta,
        kept,
    })
}

/// What differs between a marker and digests of files.
fn difference(marker: &Marker, mut found: BTreeMap<String, Sha256>) -> Report {
    let mut report = Report::default();
    for (path, expected) in &marker.files {
        match found.remove(path) {
            None => report.missing.push(path.clone()),
            Some(sha256) if sha256 != *expected => report.wrong.push(path.clone()),
            Some(_) => {}
        }
    }
    report.extra = found.into_keys().collect();
    report
}

/// Compares the files of a folder with a marker's lines, content included.
pub fn compare(marker: &Marker, repository: &Path, progress: Callback<'_>) -> Result<Report> {
    let mut present = BTreeMap::new();
    for path in files::walk(repository)? {
        let full = repository.join(&path);
        let metadata = full.symlink_metadata();
        let metadata = metadata.map_err(|e| Error::io("read", &full, e))?;
        // A link could point to the right content today and to other content tomorrow.
        present.insert(path, metadata.is_file().then_some(metadata.len()));
    }
    present.remove(marker::NAME);
    let (mut wrong, mut work) = (Vec::new(), Vec::new());
    let mut missing = Vec::new();
    for (path, sha256) in &marker.files {
        match present.remove(path) {
            None => missing.push(path.clone()),
            Some(None) => wrong.push(path.clone()),
            Some(Some(size)) => work.push((path.as_str(), sha256, size)),
        }
    }
    wrong.extend(hash_all(repository, work, progress)?);
    wrong.sort_unstable();
    Ok(Report {
        missing,
        extra: present.into_keys().collect(),
        wrong,
    })
}

/// Returns those whose content is not as listed.
fn hash_all(
    repository: &Path,
    mut work: Vec<(&str, &Sha256, u64)>,
    progress: Callback<'_>,
) -> Result<Vec<String>> {
    // The largest first, so that no thread is left alone with one at the end.
    work.sort_by_key(|(_, _, size)| std::cmp::Reverse(*size));
    let total = work.iter().map(|(_, _, size)| size).sum();
    progress(Progress::Stage {
        name: "verify",
        items: work.len() as u64,
        bytes: total,
    });
    let (done, wrong) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    files::on_all_cores(&work, |(path, expected, size)| {
        if !has_content(&repository.join(path), expected)? {
            let mut wrong = wrong.lock().expect("no thread panics with it");
            wrong.push(path.to_string());
        }
        progress(Progress::Bytes {
            done: done.fetch_add(*size, Ordering::Relaxed) + size,
            total,
        });
        Ok(())
    })?;
    Ok(wrong.into_inner().expect("no thread panics with it"))
}

/// Whether a file has this content. One that a damaged disk cannot give has not; one that this user may not read is an
/// error, since nothing is known about it.
fn has_content(path: &Path, expected: &Sha256) -> Result<bool> {
    match Sha256::of_file(path) {
        Ok((found, _)) => Ok(found == *expected),
        Err(Error::Io { source, .. })
            if source.raw_os_error() == Some(nix::errno::Errno::EIO as i32) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
