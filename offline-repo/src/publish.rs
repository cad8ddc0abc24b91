//! A repository folder from verified packages: signed, flat or with a pool, usable by stock apt and stock dnf over HTTP and as
//! `file:`.
//!
//! `.deb` packages make it an apt repository, `.rpm` packages a yum repository, both make it both.

mod beside;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use crate::additions::{self, Additions};
use crate::digest::Sha256;
use crate::error::{Error, Result};
use crate::fetch::Fetched;
use crate::files::{self, Staging};
use crate::indexes;
use crate::layout::Layout;
use crate::lock::{Format, LockedPackage};
use crate::marker;
use crate::progress::{Callback, Progress};
use crate::proof::{self, Document, Groups, RequiredBase};
use crate::rpm;
use crate::rpm::metadata::{Elements, Place, elements};
use crate::rpm::package::Package;
use crate::rpm::repodata;
use crate::signer::Signer;
pub use beside::beside_names;
pub(crate) use beside::is_beside;

/// Folder of a tools tree's packages in a repository.
pub const TOOLS: &str = "tools";

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
    /// Where its files lie.
    pub layout: Layout,
    /// What to ask for to get each group of the repository.
    pub groups: Groups,
    /// States that every group must install on.
    pub bases: Vec<RequiredBase>,
    /// What comes from no archive.
    pub additions: Additions,
}

/// A finished repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The folder, `OUT/NAME`.
    pub path: PathBuf,
    /// Files beside it: key (`.asc`, `.gpg`), source entries (`.sources` and `.list` for apt, `.repo` for dnf).
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
    publish_with_tools(fetched, None, options, signer, out, progress)
}

/// The same with the packages of a tools tree and their lock in the folder [`TOOLS`], which no index lists: with them
/// images are baked from the repository alone.
pub fn publish_with_tools(
    fetched: &Fetched,
    tools: Option<&Fetched>,
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
    let mut described = place_packages(fetched, options, staging.path(), progress)?;
    let (layout, epoch) = (options.layout, options.epoch);
    let own = additions::write(&options.additions, layout, epoch, staging.path())?;
    described.extend(own.stanzas.into_iter().map(Described::Stanza));
    described.extend(own.elements.into_iter().map(Described::Elements));
    let packages = described.len();
    let (stanzas, elements) = split(described);
    let families = Families {
        apt: !stanzas.is_empty() || elements.is_empty(),
        yum: !elements.is_empty(),
    };
    let lock = fetched.lock().to_text().into_bytes();
    let mut small = vec![(lock_name(&options.name), lock)];
    let index = || match families.apt {
        true => indexes::signed(&stanzas, fetched.lock(), options, signer),
        false => Ok(Vec::new()),
    };
    // Compressing the index takes one core, proving what is in it the other one.
    let proof = || proof_file(fetched, options, &stanzas, &elements);
    let (index, proof) = rayon::join(index, proof);
    small.extend(index?);
    small.extend(proof?);
    if families.yum {
        let modules = modules(fetched)?;
        small.extend(repodata::files(
            &elements,
            modules.as_deref(),
            signer,
            options.epoch,
        )?);
    }
    let mut listed = packages_of(fetched, options.layout);
    listed.extend(own.listed);
    if let Some(tools) = tools {
        small.push((tools_lock_name(), tools.lock().to_text().into_bytes()));
        listed.extend(place_tools(tools, staging.path())?);
    }
    for (path, bytes) in &small {
        write(staging.path(), path, bytes)?;
    }
    let hashed = small
        .iter()
        .map(|(path, bytes)| (path.clone(), Sha256::of(bytes)));
    listed.extend(hashed);
    let manifest = write_marker(listed, options, signer, staging.path())?;
    let beside = beside::write(options, families, signer, out)?;
    files::normalise(staging.path(), options.epoch)?;
    staging.install(marker::NAME)?;
    Ok(Published {
        path: target,
        beside,
        manifest,
        packages,
        bytes: fetched.packages().map(|(p, _)| p.size).sum(),
    })
}

/// Name of the lock inside the repository `name`: what was chosen, and from which signed indexes.
pub fn lock_name(name: &str) -> String {
    format!("{name}.lock")
}

/// Which clients a repository is for.
#[derive(Debug, Clone, Copy)]
struct Families {
    apt: bool,
    yum: bool,
}

/// What the indexes say about a package.
enum Described {
    Stanza(String),
    Elements(Elements),
}

fn split(described: Vec<Described>) -> (Vec<String>, Vec<Elements>) {
    let (mut stanzas, mut elements) = (Vec::new(), Vec::new());
    for package in described {
        match package {
            Described::Stanza(stanza) => stanzas.push(stanza),
            Described::Elements(found) => elements.push(found),
        }
    }
    (stanzas, elements)
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

/// Puts the packages in place and returns their stanzas or elements, in the order of the lock.
fn place_packages(
    fetched: &Fetched,
    options: &PublishOptions,
    into: &Path,
    progress: Callback<'_>,
) -> Result<Vec<Described>> {
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
            let described = place_package(package, source, options, into)?;
            progress(Progress::Item {
                name: &package.name,
                done: done.fetch_add(1, Ordering::Relaxed) + 1,
                total,
            });
            Ok(described)
        })
        .collect()
}

/// Puts one package in its place and describes it.
fn place_package(
    package: &LockedPackage,
    source: &Path,
    options: &PublishOptions,
    into: &Path,
) -> Result<Described> {
    let path = options.layout.path_of(package);
    let target = into.join(&path);
    place(package, source, &target)?;
    match package.format() {
        Format::Deb => indexes::stanza(package, &target, &path).map(Described::Stanza),
        Format::Rpm => describe_rpm(package, &target, path, options.epoch).map(Described::Elements),
    }
}

/// The modular metadata of all upstreams: YAML documents one after the other.
fn modules(fetched: &Fetched) -> Result<Option<String>> {
    let files = fetched.lock().modules.iter().zip(fetched.modules());
    let texts = files.map(|(locked, path)| rpm::archive::modules_text(locked, path));
    let texts: Vec<String> = texts.collect::<Result<_>>()?;
    Ok((!texts.is_empty()).then(|| texts.concat()))
}

/// Gives a fetched file a second name in the repository, or copies it to another file system. The file itself was proved
/// when it was fetched, so that a link needs no second look; a copy is hashed. Whoever changes a repository's file in
/// place changes the cache's, too, which finds that out before it is used again.
fn place(package: &LockedPackage, source: &Path, target: &Path) -> Result<()> {
    files::create_dirs(files::parent(target))?;
    if fs::hard_link(source, target).is_ok() {
        return Ok(());
    }
    fs::copy(source, target).map_err(|e| Error::io("copy", source, e))?;
    let (actual, actual_size) = Sha256::of_file(target)?;
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
    Ok(())
}

/// The elements of a package, whose header must be the locked package's.
pub(crate) fn describe_rpm(
    locked: &LockedPackage,
    path: &Path,
    listed: String,
    epoch: u64,
) -> Result<Elements> {
    let package = Package::open(path)?;
    for (what, found, expected) in [
        ("name", &package.name, &locked.name),
        ("version", &package.evr(), &locked.version),
        ("architecture", &package.architecture, &locked.architecture),
    ] {
        if found != expected {
            return Err(Error::Rpm {
                path: path.to_path_buf(),
                message: format!(
                    "its {what} is '{}', the lock says '{expected}'",
                    found.escape_debug()
                ),
            });
        }
    }
    let place = Place {
        path: listed,
        size: locked.size,
        sha256: locked.sha256,
        time: epoch,
    };
    Ok(elements(&package, &place))
}

/// Writes a file of a folder that is being made.
pub(crate) fn write(root: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = root.join(name);
    files::create_dirs(files::parent(&path))?;
    fs::write(&path, bytes).map_err(|e| Error::io("write", &path, e))
}

/// Proves that the groups install on the bases, from what is published here alone: the verdicts as a file.
fn proof_file(
    fetched: &Fetched,
    options: &PublishOptions,
    stanzas: &[String],
    elements: &[Elements],
) -> Result<Option<(String, Vec<u8>)>> {
    if options.groups.is_empty() {
        return Ok(None);
    }
    let architecture = &fetched.lock().architecture;
    let (groups, bases) = (&options.groups, &options.bases);
    let document = match stanzas.is_empty() && !elements.is_empty() {
        true => Document::of(groups, bases, |base| {
            rpm::proof::prove(elements, architecture, base, groups)
        })?,
        false => Document::new(&stanzas.join("\n"), architecture, groups, bases)?,
    };
    match document.refuted() {
        Some(verdict) => verdict.clone().into_result().map(|()| None),
        None => {
            let text = document.to_text().into_bytes();
            Ok(Some((proof::NAME.to_string(), text)))
        }
    }
}

/// Puts the packages of a tools tree in place; returns their paths and digests.
fn place_tools(tools: &Fetched, root: &Path) -> Result<Vec<(String, Sha256)>> {
    let packages: Vec<(&LockedPackage, &Path)> = tools.packages().collect();
    packages
        .par_iter()
        .map(|(package, source)| {
            let path = tool_path(package);
            place(package, source, &root.join(&path))?;
            Ok((path, package.sha256))
        })
        .collect()
}

/// Path of a tools tree's package in a repository.
pub fn tool_path(package: &LockedPackage) -> String {
    format!("{TOOLS}/{}", package.file_name())
}

/// Path of the tools tree's lock in a repository.
pub fn tools_lock_name() -> String {
    format!("{TOOLS}/tools.lock")
}

fn packages_of(fetched: &Fetched, layout: Layout) -> Vec<(String, Sha256)> {
    let packages = fetched.packages();
    packages
        .map(|(p, _)| (layout.path_of(p), p.sha256))
        .collect()
}

/// Lists every file. Packages were hashed when they were fetched or copied, everything else was in memory.
fn write_marker(
    listed: Vec<(String, Sha256)>,
    options: &PublishOptions,
    signer: &Signer,
    root: &Path,
) -> Result<Sha256> {
    let (text, manifest) = marker::write(listed, signer, options.epoch)?;
    write(root, marker::NAME, text.as_bytes())?;
    Ok(manifest)
}
