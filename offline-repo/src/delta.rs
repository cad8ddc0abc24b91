//! What a bundle holds when it is made against an older one (`--since`): only files that the older repository lacks.
//!
//! `repo_delta`, its first file, says which repository it continues and which files come from there. The marker is that of the
//! whole new repository, so what is put together from both is proved like any other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::bundle_reader::BundleFile;
use crate::digest::Sha256;
use crate::error::{Error, Result};
use crate::files;
use crate::marker::Marker;
use crate::progress::Callback;
use crate::verify;

/// Its name in a bundle; no repository has such a file.
pub const NAME: &str = "repo_delta";
/// The version of the format.
const SCHEMA: u32 = 1;
/// No such file is larger, in bytes.
pub(crate) const LIMIT: u64 = 64 << 20;

/// What a delta takes from the repository that it continues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delta {
    schema: u32,
    /// Manifest digest of the older repository.
    pub since: Sha256,
    /// Files of the new repository whose content the older one has, sorted.
    pub kept: Vec<String>,
}

impl Delta {
    /// What the repository `new` has in common with `old`.
    pub fn between(old: &Marker, new: &Marker) -> Self {
        let there: BTreeSet<&Sha256> = old.files.iter().map(|(_, sha256)| sha256).collect();
        let kept = new.files.iter().filter(|(_, d)| there.contains(d));
        Delta {
            schema: SCHEMA,
            since: old.manifest,
            kept: kept.map(|(path, _)| path.clone()).collect(),
        }
    }

    /// Reads the document.
    pub fn parse(text: &[u8]) -> std::result::Result<Self, String> {
        let delta: Delta =
            serde_json::from_slice(text).map_err(|e| format!("its {NAME} cannot be read: {e}"))?;
        match delta.schema {
            SCHEMA => Ok(delta),
            other => Err(format!("its {NAME} has schema {other}, not {SCHEMA}")),
        }
    }

    /// The document.
    pub fn to_text(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("plain data");
        text + "\n"
    }

    /// Whether a file comes from the older repository.
    pub fn keeps(&self, path: &str) -> bool {
        self.kept
            .binary_search_by(|kept| kept.as_str().cmp(path))
            .is_ok()
    }
}

/// The marker of an older repository, a folder or a bundle. A bundle is proved while it is read.
pub fn marker_of(old: &Path, progress: Callback<'_>) -> Result<Marker> {
    if old.is_dir() {
        return Marker::load(old);
    }
    let read = verify::read_bundle(old, None, &|_| false, progress)?;
    if read.delta.is_some() {
        return Err(Error::Bundle {
            path: old.to_path_buf(),
            message: "is itself a delta: give the repository that it was installed to".into(),
        });
    }
    read.report.into_result(old)?;
    Ok(read.marker)
}

/// Puts the files that `delta` keeps below `root`, from the older repository in `old`: a folder or a bundle.
pub(crate) fn complete(
    delta: &Delta,
    marker: &Marker,
    old: &Path,
    root: &Path,
    progress: Callback<'_>,
) -> Result<()> {
    let since = marker_of(old, progress)?;
    if since.manifest != delta.since {
        return Err(Error::Bundle {
            path: old.to_path_buf(),
            message: format!(
                "has the manifest {}, the delta continues {}",
                since.manifest, delta.since
            ),
        });
    }
    let mut wanted: BTreeMap<Sha256, Vec<&str>> = BTreeMap::new();
    for path in &delta.kept {
        if let Some(sha256) = marker.sha256(path) {
            wanted.entry(sha256).or_default().push(path);
        }
    }
    match old.is_dir() {
        true => copy_from_folder(&wanted, &since, old, root),
        false => copy_from_bundle(&wanted, &since, old, root, progress),
    }
}

type Wanted<'a> = BTreeMap<Sha256, Vec<&'a str>>;

fn copy_from_folder(wanted: &Wanted<'_>, since: &Marker, old: &Path, root: &Path) -> Result<()> {
    for (path, sha256) in &since.files {
        let source = old.join(path);
        for target in wanted.get(sha256).into_iter().flatten() {
            let file = File::open(&source).map_err(|e| Error::io("open", &source, e));
            place(&mut file?, &root.join(target))?;
        }
    }
    Ok(())
}

fn copy_from_bundle(
    wanted: &Wanted<'_>,
    since: &Marker,
    old: &Path,
    root: &Path,
    progress: Callback<'_>,
) -> Result<()> {
    let source = BundleFile::open(old)?;
    let each = &mut |path: &str, content: &mut dyn Read| {
        let targets = since.sha256(path).and_then(|sha256| wanted.get(&sha256));
        let mut targets = targets.into_iter().flatten();
        let Some(first) = targets.next() else {
            return source.skip(content);
        };
        let first = root.join(first);
        place(content, &first)?;
        targets.try_for_each(|other| {
            let copy = |mut file: File| place(&mut file, &root.join(other));
            File::open(&first)
                .map_err(|e| Error::io("open", &first, e))
                .and_then(copy)
        })
    };
    source.read("since", each, progress).map(drop)
}

/// The older repository may hold the same content twice: the first copy counts.
fn place(content: &mut dyn Read, target: &Path) -> Result<()> {
    files::create_dirs(files::parent(target))?;
    let fail = |e| Error::io("write", target, e);
    match File::create_new(target) {
        Ok(mut file) => io::copy(content, &mut file).map(drop).map_err(fail),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            io::copy(content, &mut io::sink()).map(drop).map_err(fail)
        }
        Err(e) => Err(fail(e)),
    }
}
