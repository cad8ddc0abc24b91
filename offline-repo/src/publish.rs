//! A repository folder from verified packages: flat, signed, usable by stock apt over HTTP and as `file:`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use crate::compression;
use crate::deb;
use crate::digest::Sha256;
use crate::error::{Error, Result};
use crate::fetch::Fetched;
use crate::files::{self, Staging};
use crate::lock::LockedPackage;
use crate::marker;
use crate::metadata::{self, ReleaseInput};
use crate::progress::{Callback, Progress};
use crate::signer::Signer;

/// How a repository is named and dated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishOptions {
    /// Name of the repository and of its folder, for example "pigsty".
    pub name: String,
    /// Codename of the distribution, for example "trixie".
    pub codename: String,
    /// Date of everything in it, seconds since 1970 (`SOURCE_DATE_EPOCH`).
    pub epoch: u64,
    /// URL in the source entries; `None`: `http://h.NAME/NAME/`.
    pub url: Option<String>,
}

/// A finished repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The folder, `OUT/NAME`.
    pub path: PathBuf,
    /// Files beside it: key (`.asc`, `.gpg`), source entries (`.sources`, `.list`).
    pub beside: Vec<PathBuf>,
    /// Digest of the manifest, the repository's identity.
    pub manifest: Sha256,
    /// Number of packages.
    pub packages: usize,
    /// Bytes of all packages.
    pub bytes: u64,
}

/// Builds `OUT/NAME` in a temporary folder beside it and puts it in place in one step, marker included.
pub fn publish(
    fetched: &Fetched,
    options: &PublishOptions,
    signer: &Signer,
    out: &Path,
    progress: Callback<'_>,
) -> Result<Published> {
    check_name(&options.name)?;
    files::create_dirs(out)?;
    let _held = files::lock_dir(out)?;
    let target = out.join(&options.name);
    let staging = Staging::new(&target)?;
    let stanzas = copy_packages(fetched, staging.path(), progress)?;
    let indexes = write_indexes(&stanzas, staging.path())?;
    write(
        staging.path(),
        &lock_name(&options.name),
        fetched.lock().to_text().as_bytes(),
    )?;
    write_release(fetched, options, signer, &indexes, staging.path())?;
    let manifest = write_marker(fetched, signer, options.epoch, staging.path())?;
    let beside = write_beside(options, signer, out)?;
    files::normalise(staging.path(), options.epoch)?;
    staging.install(marker::NAME)?;
    Ok(Published {
        path: target,
        beside,
        manifest,
        packages: stanzas.len(),
        bytes: fetched.packages().map(|(p, _)| p.size).sum(),
    })
}

/// Name of the lock inside the repository `name`: what was chosen, and from which signed indexes.
pub fn lock_name(name: &str) -> String {
    format!("{name}.lock")
}

/// Names of files that lie beside a repository `name`.
pub fn beside_names(name: &str) -> [String; 4] {
    ["asc", "gpg", "list", "sources"].map(|ending| format!("{name}.{ending}"))
}

/// A repository's name becomes a folder, a host name and a file name.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let is_valid = name.len() <= 63
        && name
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    match is_valid {
        true => Ok(()),
        false => Err(Error::invalid(
            format!("repository name '{}'", name.escape_debug()),
            "must be lower-case letters, digits and dashes",
        )),
    }
}

/// Copies the packages and returns their stanzas, in the order of the lock.
fn copy_packages(fetched: &Fetched, into: &Path, progress: Callback<'_>) -> Result<Vec<String>> {
    let packages: Vec<(&LockedPackage, &Path)> = fetched.packages().collect();
    let total = packages.len() as u64;
    progress(Progress::Stage {
        name: "publish",
        items: total,
        bytes: packages.iter().map(|(p, _)| p.size).sum(),
    });
    let done = AtomicU64::new(0);
    packages
        .par_iter()
        .map(|(package, source)| {
            let stanza = copy_package(package, source, into)?;
            progress(Progress::Item {
                name: &package.name,
                done: done.fetch_add(1, Ordering::Relaxed) + 1,
                total,
            });
            Ok(stanza)
        })
        .collect()
}

/// Copies one package. Not a hard link: whoever writes to the repository's file must not change the cache. The
/// kernel shares the blocks where the file system can. The copy is what gets hashed, so a damaged cache is found.
fn copy_package(package: &LockedPackage, source: &Path, into: &Path) -> Result<String> {
    let target = into.join(package.file_name());
    fs::copy(source, &target).map_err(|e| Error::io("copy", source, e))?;
    let (actual, actual_size) = Sha256::of_file(&target)?;
    if (actual, actual_size) != (package.sha256, package.size) {
        return Err(Error::Hash {
            name: format!("{} {}", package.name, package.version),
            origin: source.display().to_string(),
            expected: package.sha256.to_string(),
            actual: actual.to_string(),
            expected_size: package.size,
            actual_size,
        });
    }
    let control = deb::control(&target)?;
    metadata::package_stanza(&control, package).map_err(|message| Error::Deb {
        path: source.to_path_buf(),
        message,
    })
}

fn write(root: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = root.join(name);
    files::create_dirs(files::parent(&path))?;
    fs::write(&path, bytes).map_err(|e| Error::io("write", &path, e))
}

/// Packages in three forms, each also by its digest.
fn write_indexes(stanzas: &[String], root: &Path) -> Result<Vec<(String, Sha256, u64)>> {
    let text = stanzas.join("\n").into_bytes();
    let (gz, xz) = rayon::join(|| compression::gzip(&text), || compression::xz(&text));
    let mut indexes = Vec::new();
    for (name, bytes) in [("Packages", text), ("Packages.gz", gz), ("Packages.xz", xz)] {
        let sha256 = Sha256::of(&bytes);
        write(root, name, &bytes)?;
        write(root, &format!("by-hash/SHA256/{sha256}"), &bytes)?;
        indexes.push((name.to_string(), sha256, bytes.len() as u64));
    }
    Ok(indexes)
}

fn write_release(
    fetched: &Fetched,
    options: &PublishOptions,
    signer: &Signer,
    indexes: &[(String, Sha256, u64)],
    root: &Path,
) -> Result<()> {
    let mut architectures: Vec<String> = fetched
        .packages()
        .map(|(p, _)| p.architecture.clone())
        .collect();
    architectures.sort_unstable();
    architectures.dedup();
    let release = metadata::release(&ReleaseInput {
        name: &options.name,
        codename: &options.codename,
        architectures: &architectures,
        epoch: options.epoch,
        files: indexes,
    });
    write(root, "Release", release.as_bytes())?;
    write(
        root,
        "Release.gpg",
        signer
            .detach_armored(release.as_bytes(), options.epoch)?
            .as_bytes(),
    )?;
    write(
        root,
        "InRelease",
        signer.clearsign(&release, options.epoch)?.as_bytes(),
    )
}

/// Lists every file. Packages were hashed when they were copied; everything else is hashed here.
fn write_marker(fetched: &Fetched, signer: &Signer, epoch: u64, root: &Path) -> Result<Sha256> {
    let known: std::collections::HashMap<String, Sha256> = fetched
        .packages()
        .map(|(p, _)| (p.file_name(), p.sha256))
        .collect();
    let listed = files::walk(root)?.into_iter().map(|path| {
        let sha256 = match known.get(&path) {
            Some(sha256) => *sha256,
            None => Sha256::of_file(&root.join(&path))?.0,
        };
        Ok((path, sha256))
    });
    let (text, manifest) = marker::write(listed.collect::<Result<_>>()?, signer, epoch)?;
    write(root, marker::NAME, text.as_bytes())?;
    Ok(manifest)
}

fn write_beside(options: &PublishOptions, signer: &Signer, out: &Path) -> Result<Vec<PathBuf>> {
    let name = &options.name;
    let key = signer.public_key()?;
    let url = options
        .url
        .clone()
        .unwrap_or_else(|| format!("http://h.{name}/{name}/"));
    let contents = [
        key.armored.clone().into_bytes(),
        key.binary,
        metadata::list(&url, &format!("/etc/apt/keyrings/{name}.asc")).into_bytes(),
        metadata::sources(&url, &key.armored).into_bytes(),
    ];
    let mut paths = Vec::new();
    for (file, bytes) in beside_names(name).iter().zip(contents) {
        let path = out.join(file);
        files::write_atomic(&path, &bytes, 0o644)?;
        paths.push(path);
    }
    Ok(paths)
}
