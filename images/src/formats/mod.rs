//! Disk images in the formats that hypervisors and clouds take.
//!
//! Each but plain qcow2 is written here, streamed from the raw disk without its holes. The same disk and
//! [`Identity`] give the same bytes.

mod gce;
pub(crate) mod magic;
mod ova;
mod qcow2;
mod sparse;
mod vhd;
mod vmdk;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::sparse::Disk;
pub(crate) use self::sparse::data_ranges;
use crate::assemble::RawDisk;
use crate::disk::DiskInput;
use crate::error::{Error, Result};
use crate::manifest::Artifact;
use crate::pack::RootCompression;
use crate::progress::{ProgressFn, stage};
use crate::sparse_digest::digest;
use crate::tools::ToolsTree;

/// A format of disk images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// The disk's bytes, as a sparse file.
    Raw,
    /// QEMU's format, version 3, not compressed.
    Qcow2,
    /// The same with compressed clusters (zstd; QEMU 5.1 and later).
    Qcow2Compressed,
    /// VMware's stream-optimised VMDK.
    Vmdk,
    /// Fixed VHD, for Azure and Hyper-V.
    Vhd,
    /// `disk.raw` in a tar archive, for Google Compute Engine.
    Gce,
    /// A virtual appliance with a VMDK.
    Ova,
}

impl Format {
    /// All formats.
    pub const ALL: [Format; 7] = [
        Format::Raw,
        Format::Qcow2,
        Format::Qcow2Compressed,
        Format::Vmdk,
        Format::Vhd,
        Format::Gce,
        Format::Ova,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Qcow2Compressed => "qcow2-compressed",
            Format::Vmdk => "vmdk",
            Format::Vhd => "vhd",
            Format::Gce => "gce",
            Format::Ova => "ova",
        }
    }

    /// How its files' names end, behind a dot.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Qcow2Compressed => "compressed.qcow2",
            Format::Gce => "gce.tar.gz",
            other => other.name(),
        }
    }

    /// The format with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    fn stage(self) -> &'static str {
        match self {
            Format::Raw => "image/raw",
            Format::Qcow2 => "image/qcow2",
            Format::Qcow2Compressed => "image/qcow2-compressed",
            Format::Vmdk => "image/vmdk",
            Format::Vhd => "image/vhd",
            Format::Gce => "image/gce",
            Format::Ova => "image/ova",
        }
    }
}

/// What formats say about an image besides its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of the image.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Ids derive from it.
    pub seed: [u8; 32],
    /// Time in headers, seconds since 1970.
    pub epoch: u64,
    /// How its root is packed.
    pub root_compression: RootCompression,
}

/// Makes the wanted formats of a raw disk in `out`; the raw file is moved or left.
pub(crate) fn make(
    input: &DiskInput,
    disk: &RawDisk,
    tools: &ToolsTree,
    out: &Path,
    progress: ProgressFn,
) -> Result<Vec<Artifact>> {
    let identity = Identity {
        name: input.name.clone(),
        version: input.version.clone(),
        seed: input.seed,
        epoch: input.epoch,
        root_compression: input.root_compression,
    };
    let (raw_wanted, others): (Vec<Format>, Vec<Format>) = input
        .formats
        .iter()
        .partition(|format| **format == Format::Raw);
    let one = |format: &Format| {
        stage(progress, format.stage(), || match format {
            Format::Raw => synced(disk),
            other => artifact(*other, &convert(*other, disk.path, &identity, tools)?),
        })
    };
    // One reads the raw file to hash it, the others to convert it.
    let (raws, others): (Result<Vec<Artifact>>, Result<Vec<Artifact>>) = rayon::join(
        || raw_wanted.iter().map(one).collect(),
        || {
            disk.wait()?;
            others.iter().map(one).collect()
        },
    );
    let made = [raws?, others?].concat();
    let mut artifacts = Vec::new();
    for format in &input.formats {
        let Some(artifact) = made.iter().find(|made| made.kind == format.name()) else {
            continue;
        };
        artifacts.push(moved(input, artifact, format.extension(), out)?);
    }
    Ok(artifacts)
}

/// Moves a file that was made to its name in `out`.
fn moved(input: &DiskInput, artifact: &Artifact, extension: &str, out: &Path) -> Result<Artifact> {
    let target = out.join(format!("{}-{}.{extension}", input.name, input.version));
    fs::rename(&artifact.path, &target).map_err(Error::io("rename to", &target))?;
    Ok(Artifact {
        path: target,
        ..artifact.clone()
    })
}

/// The same for a file that is no disk.
pub(crate) fn publish(
    input: &DiskInput,
    kind: &str,
    extension: &str,
    path: &Path,
    out: &Path,
) -> Result<Artifact> {
    let (sha256, size) = digest(path)?;
    let artifact = Artifact {
        kind: kind.to_owned(),
        path: path.to_owned(),
        sha256,
        size,
    };
    moved(input, &artifact, extension, out)
}

/// Writes a raw disk in another format to a new file beside it, and waits until it is on the disk. The file's name is
/// the format's.
///
/// # Errors
/// When the disk cannot be read, the file is there already or cannot be written, or `qemu-img` fails.
pub fn convert(
    format: Format,
    raw: &Path,
    identity: &Identity,
    tools: &ToolsTree,
) -> Result<PathBuf> {
    let path = raw.with_file_name(format!("image.{}", format.extension()));
    let disk = || Disk::open(raw);
    match format {
        Format::Raw => return Ok(raw.to_owned()),
        Format::Qcow2 => plain_qcow2(raw, &path, tools)?,
        Format::Qcow2Compressed => {
            // Who has the root packed well wants a small file, and has slow reads anyway.
            let bits = match identity.root_compression {
                RootCompression::Lz4 => qcow2::CLUSTER_BITS,
                RootCompression::Zstd => qcow2::LARGE_CLUSTER_BITS,
            };
            qcow2::write(&disk()?, &path, bits)?
        }
        Format::Vmdk => vmdk::write(&disk()?, &vmdk_name(identity), &path)?,
        Format::Vhd => vhd::write(&disk()?, identity, &path)?,
        Format::Gce => gce::write(&disk()?, identity, &path)?,
        Format::Ova => {
            let vmdk = raw.with_file_name("image.vmdk");
            let own = !vmdk.exists();
            if own {
                vmdk::write(&disk()?, &vmdk_name(identity), &vmdk)?;
            }
            ova::write(&vmdk, disk()?.size(), identity, &path)?;
            if own {
                fs::remove_file(&vmdk).map_err(Error::io("remove", &vmdk))?;
            }
        }
    }
    Ok(path)
}

fn vmdk_name(identity: &Identity) -> String {
    format!("{}-{}.vmdk", identity.name, identity.version)
}

/// Converts with `qemu-img`, whose plain qcow2 files depend on nothing but the content.
fn plain_qcow2(raw: &Path, path: &Path, tools: &ToolsTree) -> Result<()> {
    let folder = raw.parent().unwrap_or(raw);
    let inside = |path: &Path| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    let (raw, made) = (inside(raw), inside(path));
    // Unordered writes by several coroutines would depend on their timing, hence -m 1.
    let argv = [
        "qemu-img", "convert", "-m", "1", "-f", "raw", "-O", "qcow2", &raw, &made,
    ];
    tools
        .sandbox()
        .map_ids(false)
        .bind(folder, "/work")
        .workdir("/work")
        .run(&argv, None)?;
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(Error::io("flush", path))
}

/// The raw disk as an artefact, when it is on the disk; its digest needs a processor and syncing does not.
fn synced(disk: &RawDisk) -> Result<Artifact> {
    let (synced, digest) = rayon::join(
        || {
            disk.wait()?;
            let synced = File::open(disk.path).and_then(|file| file.sync_all());
            synced.map_err(Error::io("flush", disk.path))
        },
        || disk.digest(),
    );
    synced?;
    let (sha256, size) = digest?;
    Ok(Artifact {
        kind: Format::Raw.name().to_owned(),
        path: disk.path.to_owned(),
        sha256,
        size,
    })
}

fn artifact(format: Format, path: &Path) -> Result<Artifact> {
    let (sha256, size) = digest(path)?;
    Ok(Artifact {
        kind: format.name().to_owned(),
        path: path.to_owned(),
        sha256,
        size,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::FileExt;

    use sha2::{Digest, Sha256};

    use super::*;

    pub(crate) fn identity() -> Identity {
        Identity {
            name: "sample".to_owned(),
            version: "1.0".to_owned(),
            seed: [7; 32],
            epoch: 1_795_000_000,
            root_compression: RootCompression::default(),
        }
    }

    /// A disk of 67 MiB with text, random bytes and holes, at places where tables and clusters begin and end.
    pub(super) fn sample() -> (tempfile::TempDir, Disk) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        let file = File::create_new(&path).unwrap();
        file.set_len(67 << 20).unwrap();
        let text = "the same line again and again\n".repeat(20_000);
        let mut random = Vec::new();
        for n in 0..40_000u32 {
            random.extend(Sha256::digest(n.to_le_bytes()));
        }
        for (at, bytes) in [
            (0, text.as_bytes()),
            (5 << 20, &random),
            ((32 << 20) - 10, b"over the end of a table"),
            ((67 << 20) - 600_000, text.as_bytes()),
        ] {
            file.write_all_at(bytes, at).unwrap();
        }
        let disk = Disk::open(&path).unwrap();
        (folder, disk)
    }

    /// The bytes are the disk's, with nothing but zeros behind them.
    pub(super) fn assert_same(disk: &Disk, bytes: &[u8]) {
        let raw = fs::read(disk.path()).unwrap();
        assert!(bytes.len() >= raw.len());
        let (content, rest) = bytes.split_at(raw.len());
        assert!(content == raw, "another content");
        assert!(rest.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn names_are_known_and_files_have_names_of_their_own() {
        for format in Format::ALL {
            assert_eq!(Format::parse(format.name()), Some(format));
            let json = serde_json::to_string(&format).unwrap();
            assert_eq!(json, format!("\"{}\"", format.name()));
            let others = Format::ALL.iter().filter(|other| **other != format);
            assert!(
                others
                    .map(|other| other.extension())
                    .all(|other| other != format.extension())
            );
        }
    }
}
