//! Reading a finished repository: what an image build takes packages from, without any network.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::closure::{self, Wishes};
use crate::deb822;
use crate::digest::Sha256;
use crate::error::{Error, Result};
use crate::files;
use crate::layout::{self, Layout};
use crate::marker::{self, Marker};
use crate::openpgp::Keyring;
use crate::progress::Callback;
use crate::proof::{self, Base, Document, Verdict};
use crate::publish;
use crate::resolve::Resolver;
use crate::rpm;
use crate::universe::{IndexText, Universe};
use crate::verify;

/// No Packages file of an offline repository is larger, in bytes.
const PACKAGES_LIMIT: u64 = 1 << 30;

/// A package in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryPackage {
    /// Package name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Architecture.
    pub architecture: String,
    /// The `.deb`.
    pub path: PathBuf,
    /// Its SHA-256, as the marker and the index say.
    pub sha256: Sha256,
    /// Its size in bytes.
    pub size: u64,
    /// Whether its control file says `Essential: yes`.
    pub essential: bool,
}

/// A package of a closure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosurePackage {
    /// The package.
    pub package: RepositoryPackage,
    /// Whether the closure of the essential packages contains it.
    pub essential: bool,
    /// The package that first needed it, `group request`, or `essential`.
    pub why: String,
}

/// An opened repository: its marker is parsed (and its signature checked), its index is verified and parsed,
/// and every package is there with its listed size.
#[derive(Debug)]
pub struct Repository {
    path: PathBuf,
    marker: Marker,
    found: Option<layout::Found>,
    universe: Universe,
    packages: Vec<RepositoryPackage>,
}

impl Repository {
    /// Opens a repository folder; with keys, one of them must have signed its marker.
    pub fn open(path: &Path, keyring: Option<&Keyring>) -> Result<Self> {
        let marker = Marker::load(path)?;
        if let Some(keyring) = keyring {
            marker.check_signature(&path.join(marker::NAME).display().to_string(), keyring)?;
        }
        let found = layout::detect(&marker);
        let universe = universe(path, &marker, found.as_ref())?;
        let mut packages = universe
            .ids()
            .map(|id| package(path, &marker, found.as_ref(), &universe, id))
            .collect::<Result<Vec<_>>>()?;
        packages.extend(rpm::repository::packages(path, &marker)?);
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Repository {
            path: path.to_path_buf(),
            marker,
            found,
            universe,
            packages,
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Digest of the manifest, the repository's identity.
    pub fn manifest(&self) -> Sha256 {
        self.marker.manifest
    }

    /// Digest of the lock of the tools tree whose packages it carries.
    pub fn tools_lock(&self) -> Option<Sha256> {
        self.marker.sha256(&publish::tools_lock_name())
    }

    /// Where its files lie; `None` if it is for dnf only.
    pub fn layout(&self) -> Option<Layout> {
        self.found.as_ref().map(|found| found.layout)
    }

    /// All packages, sorted by name.
    pub fn packages(&self) -> &[RepositoryPackage] {
        &self.packages
    }

    /// Resolves requests (names, `name=version`, alternatives) from this repository alone, sorted by name.
    pub fn closure(
        &self,
        requests: &[String],
        include_essential: bool,
    ) -> Result<Vec<ClosurePackage>> {
        let wishes = Wishes {
            groups: [("request".to_string(), requests.to_vec())].into(),
            include_essential,
            recommends: false,
        };
        let resolver = Resolver::new(&self.universe)?;
        let chosen = closure::closure(&resolver, &wishes)?;
        let found = chosen.into_iter().map(|chosen| {
            Ok(ClosurePackage {
                package: package(
                    &self.path,
                    &self.marker,
                    self.found.as_ref(),
                    &self.universe,
                    chosen.id,
                )?,
                essential: chosen.essential,
                why: chosen.why,
            })
        });
        found.collect()
    }

    /// What the repository says about its groups and the states that they install on; nothing for a repository that was
    /// made without groups.
    pub fn document(&self) -> Result<Option<Document>> {
        if self.marker.sha256(proof::NAME).is_none() {
            return Ok(None);
        }
        let text = read_verified(&self.path, &self.marker, proof::NAME)?;
        let origin = self.path.join(proof::NAME).display().to_string();
        Document::parse(&origin, &text).map(Some)
    }

    /// Proves or refutes that each group of the repository with one of these names (all if none is given) installs on
    /// `base` from this repository alone.
    ///
    /// # Errors
    /// A name that is not one of a group; those of [`proof::prove`].
    pub fn prove(&self, base: Base<'_>, names: &[String]) -> Result<Vec<Verdict>> {
        let origin = self.path.display().to_string();
        let mut groups = self
            .document()?
            .map(|document| document.groups)
            .unwrap_or_default();
        if let Some(name) = names.iter().find(|name| !groups.contains_key(*name)) {
            let known: Vec<&str> = groups.keys().map(String::as_str).collect();
            let message = format!(
                "has no group '{}', it has: {}",
                name.escape_debug(),
                known.join(", ")
            );
            return Err(Error::invalid(origin, message));
        }
        groups.retain(|name, _| names.is_empty() || names.contains(name));
        let found = self
            .found
            .as_ref()
            .ok_or_else(|| incomplete(&self.path, "it is not for apt".into()))?;
        let index = IndexText {
            origin: self.path.join(&found.packages).display().to_string(),
            text: read_verified(&self.path, &self.marker, &found.packages)?.into(),
            priority: 0,
        };
        proof::prove(index, self.universe.native(), base, &groups)
    }

    /// Compares every file with the marker, content included.
    pub fn verify(&self) -> Result<marker::Report> {
        self.marker.compare(&self.path)
    }
}

/// The packages of a bundle, sorted by name: it is read and proved, and only its metadata is unpacked for a moment.
pub fn packages_of_bundle(path: &Path, progress: Callback<'_>) -> Result<Vec<RepositoryPackage>> {
    let is_metadata = |name: &str| !name.ends_with(".deb") && !name.ends_with(".rpm");
    let listed = |name: &str| {
        let file = name.rsplit('/').next().unwrap_or(name);
        matches!(file, "Packages" | "Release") || name.starts_with("repodata/")
    };
    let keep = |name: &str| is_metadata(name) && listed(name);
    let read = verify::read_bundle(path, None, &keep, progress)?;
    read.report.into_result(path)?;
    let folder = tempfile::tempdir().map_err(|e| Error::io("create a folder for", path, e))?;
    for (name, bytes) in &read.kept {
        publish::write(folder.path(), name, bytes)?;
    }
    let (root, marker) = (folder.path(), &read.marker);
    let found = layout::detect(marker);
    let universe = universe(root, marker, found.as_ref())?;
    let of = |id| self::listed(root, marker, found.as_ref(), &universe, id);
    let mut packages = universe.ids().map(of).collect::<Result<Vec<_>>>()?;
    packages.extend(rpm::repository::listed(root, marker)?);
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(packages)
}

/// What differs between two repositories, by package name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Name and version of packages that only the new one has.
    pub added: Vec<(String, String)>,
    /// Name and version of packages that only the old one has.
    pub removed: Vec<(String, String)>,
    /// Name, old and new version of packages whose content differs.
    pub changed: Vec<(String, String, String)>,
}

impl Difference {
    /// Whether both have the same packages with the same content.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// Compares the packages of two repositories.
pub fn diff(old: &Repository, new: &Repository) -> Difference {
    let by_name = |r: &'_ Repository| -> BTreeMap<String, (String, Sha256)> {
        let entry = |p: &RepositoryPackage| (p.name.clone(), (p.version.clone(), p.sha256));
        r.packages.iter().map(entry).collect()
    };
    let (old, new) = (by_name(old), by_name(new));
    let mut difference = Difference::default();
    for (name, (version, sha256)) in &new {
        match old.get(name) {
            None => difference.added.push((name.clone(), version.clone())),
            Some((_, before)) if before == sha256 => {}
            Some((before, _)) => {
                let change = (name.clone(), before.clone(), version.clone());
                difference.changed.push(change);
            }
        }
    }
    let gone = old.iter().filter(|(name, _)| !new.contains_key(*name));
    difference.removed = gone
        .map(|(name, (version, _))| (name.clone(), version.clone()))
        .collect();
    difference
}

fn incomplete(path: &Path, message: String) -> Error {
    Error::Incomplete {
        path: path.to_path_buf(),
        message,
    }
}

/// A small file of the repository, compared with the marker.
fn read_verified(path: &Path, marker: &Marker, name: &str) -> Result<String> {
    let expected = marker
        .sha256(name)
        .ok_or_else(|| incomplete(path, format!("its marker lists no {name}")))?;
    let bytes = files::read_bounded(&path.join(name), PACKAGES_LIMIT)?;
    if Sha256::of(&bytes) != expected {
        return Err(incomplete(path, format!("wrong {name}")));
    }
    String::from_utf8(bytes)
        .map_err(|_| Error::invalid(path.join(name).display(), "is not UTF-8 text"))
}

/// The packages for apt; none if the repository is for dnf only.
fn universe(path: &Path, marker: &Marker, found: Option<&layout::Found>) -> Result<Universe> {
    let Some(found) = found else {
        return match marker.sha256(rpm::repodata::REPOMD) {
            Some(_) => Universe::parse(Vec::new(), "all"),
            None => Err(incomplete(path, "its marker lists no index".into())),
        };
    };
    let origin = path.join(&found.release).display().to_string();
    let release = read_verified(path, marker, &found.release)?;
    let index = IndexText {
        origin: path.join(&found.packages).display().to_string(),
        text: read_verified(path, marker, &found.packages)?.into(),
        priority: 0,
    };
    Universe::parse(vec![index], &architecture(&origin, &release)?)
}

/// The architecture other than "all" that the Release file names.
fn architecture(origin: &str, text: &str) -> Result<String> {
    let stanza = deb822::parse_one(text).map_err(|e| e.at(origin))?;
    let listed = stanza.get("Architectures").unwrap_or_default();
    Ok(listed
        .split_ascii_whitespace()
        .find(|a| *a != "all")
        .unwrap_or("all")
        .to_string())
}

/// A package whose file is there with the listed size.
fn package(
    root: &Path,
    marker: &Marker,
    found: Option<&layout::Found>,
    universe: &Universe,
    id: u32,
) -> Result<RepositoryPackage> {
    let package = listed(root, marker, found, universe, id)?;
    let metadata = package.path.symlink_metadata();
    match metadata.is_ok_and(|m| m.is_file() && m.len() == package.size) {
        true => Ok(package),
        false => Err(incomplete(
            root,
            format!("missing or wrong {}", universe.path(id)),
        )),
    }
}

/// A package as the index and the marker list it.
fn listed(
    root: &Path,
    marker: &Marker,
    found: Option<&layout::Found>,
    universe: &Universe,
    id: u32,
) -> Result<RepositoryPackage> {
    let (name, version, architecture) = (
        universe.name(id),
        universe.version(id),
        universe.architecture(id),
    );
    let file = universe.path(id);
    let (sha256, size) = (universe.sha256(id), universe.size(id));
    let path = root.join(file);
    let expected = found.map(|found| found.layout.package_path(name, version, architecture));
    if expected.as_deref() != Some(file) || marker.sha256(file) != Some(sha256) {
        return Err(incomplete(
            root,
            format!("its index and its marker do not agree on {name}"),
        ));
    }
    Ok(RepositoryPackage {
        name: name.to_string(),
        version: version.to_string(),
        architecture: architecture.to_string(),
        path,
        sha256,
        size,
        essential: universe.is_essential(id),
    })
}
