//! Disk images in the formats that hypervisors and clouds take.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::disk::DiskInput;
use crate::error::{Error, Result};
use crate::manifest::Artifact;
use crate::progress::{ProgressFn, stage};
use crate::tools::ToolsTree;

/// A format of disk images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The disk's bytes, as a sparse file.
    Raw,
    /// QEMU's format, version 3, not compressed.
    Qcow2,
}

impl Format {
    /// All formats.
    pub const ALL: [Format; 2] = [Format::Raw, Format::Qcow2];

    /// Its name, which is the file extension too.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        }
    }

    /// The format with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }
}

/// Makes the wanted formats of a raw disk in `out`; the raw file is moved or left.
pub(crate) fn make(
    input: &DiskInput,
    raw: &Path,
    tools: &ToolsTree,
    out: &Path,
    progress: ProgressFn,
) -> Result<Vec<Artifact>> {
    let path = |format: Format| {
        out.join(format!(
            "{}-{}.{}",
            input.name,
            input.version,
            format.name()
        ))
    };
    let raw_digest = || -> Result<Option<Artifact>> {
        if !input.formats.contains(&Format::Raw) {
            return Ok(None);
        }
        stage(progress, "image/raw", || artifact(Format::Raw, raw)).map(Some)
    };
    let qcow2 = || -> Result<Option<Artifact>> {
        if !input.formats.contains(&Format::Qcow2) {
            return Ok(None);
        }
        stage(progress, "image/qcow2", || {
            let made = convert(raw, tools)?;
            artifact(Format::Qcow2, &made)
        })
        .map(Some)
    };
    // One reads the raw file to hash it, the other to convert it.
    let (raw_artifact, qcow2) = rayon::join(raw_digest, qcow2);
    let made = [(Format::Raw, raw_artifact?), (Format::Qcow2, qcow2?)];
    let mut artifacts = Vec::new();
    for format in &input.formats {
        let found = made.iter().find(|(kind, _)| kind == format);
        let Some((_, Some(artifact))) = found else {
            continue;
        };
        let target = path(*format);
        fs::rename(&artifact.path, &target).map_err(Error::io("rename to", &target))?;
        artifacts.push(Artifact {
            path: target,
            ..artifact.clone()
        });
    }
    Ok(artifacts)
}

/// Converts with `qemu-img`, whose qcow2 files depend on nothing but the content.
fn convert(raw: &Path, tools: &ToolsTree) -> Result<std::path::PathBuf> {
    let folder = raw.parent().unwrap_or(raw);
    tools
        .sandbox()
        .map_ids(false)
        .bind(folder, "/work")
        .workdir("/work")
        .run(
            // Unordered writes by several coroutines would depend on their timing.
            &[
                "qemu-img",
                "convert",
                "-m",
                "1",
                "-f",
                "raw",
                "-O",
                "qcow2",
                "disk.raw",
                "disk.qcow2",
            ],
            None,
        )?;
    let path = folder.join("disk.qcow2");
    File::open(&path)
        .and_then(|file| file.sync_all())
        .map_err(Error::io("flush", &path))?;
    Ok(path)
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

/// SHA-256 in hex and size of a file.
///
/// # Errors
/// When it cannot be read.
pub fn digest(path: &Path) -> Result<(String, u64)> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 4 << 20];
    let mut size = 0;
    loop {
        match file.read(&mut buffer).map_err(Error::io("read", path))? {
            0 => return Ok((hex::encode(hash.finalize()), size)),
            length => {
                hash.update(&buffer[..length]);
                size += length as u64;
            }
        }
    }
}
