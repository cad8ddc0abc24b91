//! The image manifest: what was made, from what, and its digests.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk::DiskInput;
use crate::error::{Error, Result};
use crate::partitions::{Layout, SECTOR};

/// Version of the format.
const SCHEMA: u32 = 1;
/// The largest manifest that is read, in bytes: some thousand packages need less than a MiB.
const LIMIT: u64 = 64 << 20;

/// A file that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Format, for example `qcow2`.
    pub kind: String,
    /// Where it is; in a manifest only the file name.
    pub path: PathBuf,
    /// SHA-256, hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

/// A package in the image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Version in dpkg's form.
    pub version: String,
    /// Architecture.
    pub architecture: String,
    /// SHA-256 of the package file, hex.
    pub sha256: String,
}

/// Where an image comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Version of the builder.
    pub farrow: String,
    /// SHA-256 of the lock, hex.
    pub lock: String,
    /// SHA-256 of the repository's manifest, hex.
    pub repository: String,
    /// The packages of the root.
    pub packages: Vec<Package>,
}

/// A partition as the manifest tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionEntry {
    /// Name in the table.
    pub name: String,
    /// Unique id.
    pub uuid: String,
    /// Offset in bytes.
    pub offset: u64,
    /// Size in bytes.
    pub size: u64,
}

/// The manifest, `NAME.manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the format, 1.
    pub schema: u32,
    /// Name of the image.
    pub name: String,
    /// Its version.
    pub version: String,
    /// dm-verity root hash, hex.
    pub root_hash: String,
    /// Kernel release.
    pub kernel: String,
    /// Build time of the file systems, seconds since 1970.
    pub epoch: u64,
    /// Partitions in their order.
    pub partitions: Vec<PartitionEntry>,
    /// Images.
    pub artifacts: Vec<Artifact>,
    /// Origin.
    pub provenance: Provenance,
}

impl Manifest {
    pub(crate) fn new(
        input: &DiskInput,
        layout: &Layout,
        kernel: &str,
        root_hash: &str,
        artifacts: &[Artifact],
    ) -> Self {
        let entry = |partition: &crate::partitions::Partition| PartitionEntry {
            name: partition.name.clone(),
            uuid: partition.unique.text(),
            offset: partition.start * SECTOR,
            size: partition.sectors * SECTOR,
        };
        let named = |artifact: &Artifact| Artifact {
            path: artifact
                .path
                .file_name()
                .map(PathBuf::from)
                .unwrap_or_default(),
            ..artifact.clone()
        };
        let mut provenance = input.provenance.clone();
        provenance.packages.sort();
        Self {
            schema: SCHEMA,
            name: input.name.clone(),
            version: input.version.clone(),
            root_hash: root_hash.to_owned(),
            kernel: kernel.to_owned(),
            epoch: input.epoch,
            partitions: layout.partitions.iter().map(entry).collect(),
            artifacts: artifacts.iter().map(named).collect(),
            provenance,
        }
    }

    /// Parses a manifest; its artefacts must lie beside it.
    ///
    /// # Errors
    /// A reason when it is not JSON of this format.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let manifest: Self = serde_json::from_str(text).map_err(|e| e.to_string())?;
        if manifest.schema != SCHEMA {
            return Err(format!(
                "schema {} is not known, only {SCHEMA}",
                manifest.schema
            ));
        }
        let plain = |path: &Path| path.components().count() == 1 && path.file_name().is_some();
        match manifest
            .artifacts
            .iter()
            .find(|artifact| !plain(&artifact.path))
        {
            Some(wrong) => Err(format!("{} is not a file name", wrong.path.display())),
            None => Ok(manifest),
        }
    }

    /// Reads a manifest file.
    ///
    /// # Errors
    /// When it cannot be read or parsed.
    pub fn read(path: &Path) -> Result<Self> {
        let size = std::fs::metadata(path)
            .map_err(Error::io("read", path))?
            .len();
        let refuse = |reason: String| Error::Manifest {
            path: path.to_owned(),
            reason,
        };
        if size > LIMIT {
            return Err(refuse("it is too large".to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        Self::parse(&text).map_err(refuse)
    }

    /// Writes the manifest, whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).map_err(|e| Error::Manifest {
            path: path.to_owned(),
            reason: e.to_string(),
        })?;
        write_atomic(path, &[&json[..], b"\n"].concat())
    }
}

/// Writes a file through a temporary name in the same folder.
fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let attempt = || -> std::io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.as_file()
            .set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        std::fs::File::open(folder)?.sync_all()
    };
    attempt().map_err(Error::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        Manifest {
            schema: SCHEMA,
            name: "pigsty".to_owned(),
            version: "1".to_owned(),
            root_hash: "00".to_owned(),
            kernel: "6.12".to_owned(),
            epoch: 1,
            partitions: Vec::new(),
            artifacts: vec![Artifact {
                kind: "raw".to_owned(),
                path: "pigsty-1.raw".into(),
                sha256: "ab".to_owned(),
                size: 3,
            }],
            provenance: Provenance::default(),
        }
    }

    #[test]
    fn written_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pigsty.manifest.json");
        sample().write(&path).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), sample());
    }

    #[test]
    fn other_documents_are_refused() {
        let text = serde_json::to_string(&sample()).unwrap();
        let cases = [
            text.replace("\"schema\":1", "\"schema\":2"),
            text.replace("pigsty-1.raw", "../x"),
            text.replace("pigsty-1.raw", "/x"),
            text.replace("\"kernel\"", "\"colonel\""),
            text[1..].to_owned(),
        ];
        for case in cases {
            assert!(Manifest::parse(&case).is_err(), "{case}");
        }
    }
}
