//! The RPM packages of a finished repository, as its metadata lists them.

use std::path::Path;

use super::repomd::Repomd;
use super::universe::Universe;
use super::{file_name, repodata};
use crate::compression::{self, Codec};
use crate::digest::Sha256;
use crate::error::{Error, Result};
use crate::files;
use crate::marker::Marker;
use crate::repository::RepositoryPackage;

/// No metadata file of an offline repository is larger, in bytes, packed or unpacked.
const METADATA_LIMIT: u64 = 1 << 30;

/// Packages of the repository in `root`, each of which must be there; none if it is not for dnf.
pub(crate) fn packages(root: &Path, marker: &Marker) -> Result<Vec<RepositoryPackage>> {
    let packages = listed(root, marker)?;
    let is_there = |package: &RepositoryPackage| {
        let metadata = package.path.symlink_metadata();
        metadata.is_ok_and(|m| m.is_file() && m.len() == package.size)
    };
    match packages.iter().find(|package| !is_there(package)) {
        None => Ok(packages),
        Some(package) => {
            let file = package.path.file_name().unwrap_or_default();
            let message = format!("missing or wrong {}", file.to_string_lossy());
            Err(incomplete(root, message))
        }
    }
}

/// Packages as the metadata lists them. Everything that is read is compared with the marker.
pub(crate) fn listed(root: &Path, marker: &Marker) -> Result<Vec<RepositoryPackage>> {
    if marker.sha256(repodata::REPOMD).is_none() {
        return Ok(Vec::new());
    }
    let origin = root.join(repodata::REPOMD).display().to_string();
    let repomd = Repomd::parse(&origin, &read_verified(root, marker, repodata::REPOMD)?)?;
    let primary = repomd
        .file("primary")
        .ok_or_else(|| incomplete(root, "its repomd.xml lists no primary".into()))?;
    let packed = read_verified(root, marker, &primary.path)?;
    let codec = Codec::of_name(&primary.path);
    let text = compression::decompress(&primary.path, codec, &packed, METADATA_LIMIT)?;
    let mut universe = Universe::of_all_architectures();
    universe
        .read_primary(&text[..], 0)
        .map_err(|message| Error::invalid(root.join(&primary.path).display(), message))?;
    let found = universe
        .ids()
        .map(|id| package(root, marker, &universe, id));
    found.collect()
}

fn incomplete(path: &Path, message: String) -> Error {
    Error::Incomplete {
        path: path.to_path_buf(),
        message,
    }
}

fn read_verified(root: &Path, marker: &Marker, name: &str) -> Result<Vec<u8>> {
    let bytes = files::read_bounded(&root.join(name), METADATA_LIMIT)?;
    match marker.sha256(name) {
        Some(expected) if Sha256::of(&bytes) == expected => Ok(bytes),
        _ => Err(incomplete(root, format!("wrong {name}"))),
    }
}

fn package(
    root: &Path,
    marker: &Marker,
    universe: &Universe,
    id: u32,
) -> Result<RepositoryPackage> {
    let (name, evr, architecture) = (
        universe.name(id),
        universe.evr(id),
        universe.architecture(id),
    );
    let (file, sha256, size) = (universe.path(id), universe.sha256(id), universe.size(id));
    let path = root.join(file);
    if file != file_name(name, evr, architecture) || marker.sha256(file) != Some(sha256) {
        return Err(incomplete(
            root,
            format!("its metadata and its marker do not agree on {name}"),
        ));
    }
    Ok(RepositoryPackage {
        name: name.to_string(),
        version: evr.to_string(),
        architecture: architecture.to_string(),
        path,
        sha256,
        size,
        essential: false,
    })
}
