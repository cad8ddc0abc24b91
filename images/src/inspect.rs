//! Looking at images again: are they what their manifest says, and where do two differ.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::manifest::{Artifact, Manifest};
use crate::partitions::{self, Layout, SECTOR};
use crate::sparse_digest::digest;
use crate::verity;

/// Checks every artefact of a manifest against its size and digest, and in a raw image the root against the root hash.
///
/// # Errors
/// [`Error::Verify`] names the first artefact that differs.
pub fn verify(manifest_path: &Path) -> Result<Manifest> {
    let manifest = Manifest::read(manifest_path)?;
    let folder = manifest_path.parent().unwrap_or(Path::new("."));
    manifest.artifacts.par_iter().try_for_each(|artifact| {
        verify_artifact(&manifest, artifact, &folder.join(&artifact.path))
    })?;
    Ok(manifest)
}

fn verify_artifact(manifest: &Manifest, artifact: &Artifact, path: &Path) -> Result<()> {
    let differs = |what: &str, expected: &str, found: &str| Error::Verify {
        path: path.to_owned(),
        reason: format!("its {what} is {found}, the manifest says {expected}"),
    };
    let (sha256, size) = digest(path)?;
    if size != artifact.size {
        return Err(differs(
            "size",
            &artifact.size.to_string(),
            &size.to_string(),
        ));
    }
    if sha256 != artifact.sha256 {
        return Err(differs("sha-256", &artifact.sha256, &sha256));
    }
    if artifact.kind == "raw" {
        let found = root_hash(path)?;
        if found != manifest.root_hash {
            return Err(differs("root hash", &manifest.root_hash, &found));
        }
    }
    Ok(())
}

/// The dm-verity root hash of the first root partition of a raw image, computed from its data, after comparing the whole
/// hash tree.
///
/// # Errors
/// When there is no such partition or its tree does not match the data.
pub fn root_hash(raw: &Path) -> Result<String> {
    let refuse = |reason: &str| Error::Verify {
        path: raw.to_owned(),
        reason: reason.to_owned(),
    };
    let io = |what| Error::io(what, raw);
    let mut file = File::open(raw).map_err(io("open"))?;
    let layout = partitions::read(&mut file, raw)?;
    let find = |name: &str| {
        let partition = layout.partitions.iter().find(|p| p.name == name);
        partition.ok_or_else(|| refuse(&format!("it has no partition {name}")))
    };
    let (root, hashes) = (find("root-a")?, find("verity-a")?);
    let mut superblock = [0; 512];
    file.read_exact_at(&mut superblock, hashes.start * SECTOR)
        .map_err(io("read"))?;
    let (blocks, salt, uuid) = verity::parse_superblock(&superblock)
        .map_err(|reason| refuse(&format!("partition verity-a: {reason}")))?;
    let size = blocks * verity::BLOCK as u64;
    if size > root.sectors * SECTOR {
        return Err(refuse("the hash tree covers more than the root partition"));
    }
    file.seek(SeekFrom::Start(root.start * SECTOR))
        .map_err(io("read"))?;
    let tree = verity::build_from(&mut file, size, &salt, uuid).map_err(io("read"))?;
    let mut stored = vec![0; tree.bytes.len()];
    file.read_exact_at(&mut stored, hashes.start * SECTOR)
        .map_err(io("read"))?;
    if stored != tree.bytes {
        return Err(refuse("the root partition does not match its hash tree"));
    }
    Ok(hex::encode(tree.root_hash))
}

/// The first difference of two raw images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Name of the partition it lies in; `table` outside of all.
    pub partition: String,
    /// Offset in bytes from the partition's (or, for `table`, the disk's) start.
    pub offset: u64,
}

/// Compares two raw images byte by byte; `None` when they are the same.
///
/// # Errors
/// When one cannot be read, or the first has no partition table.
pub fn first_difference(one: &Path, other: &Path) -> Result<Option<Difference>> {
    let mut first = File::open(one).map_err(Error::io("open", one))?;
    let layout = partitions::read(&mut first, one)?;
    first.rewind().map_err(Error::io("read", one))?;
    let second = File::open(other).map_err(Error::io("open", other))?;
    let offset = differing_byte(first, second).map_err(Error::io("compare", other))?;
    Ok(offset.map(|offset| place(&layout, offset)))
}

fn place(layout: &Layout, offset: u64) -> Difference {
    let sector = offset / SECTOR;
    let within = |p: &&partitions::Partition| (p.start..p.start + p.sectors).contains(&sector);
    match layout.partitions.iter().find(within) {
        Some(p) => Difference {
            partition: p.name.clone(),
            offset: offset - p.start * SECTOR,
        },
        None => Difference {
            partition: "table".to_owned(),
            offset,
        },
    }
}

/// Offset of the first byte that differs, or the shorter length.
fn differing_byte(mut one: impl Read, mut other: impl Read) -> std::io::Result<Option<u64>> {
    const PIECE: u64 = 1 << 20;
    let mut offset = 0;
    loop {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        one.by_ref().take(PIECE).read_to_end(&mut a)?;
        other.by_ref().take(PIECE).read_to_end(&mut b)?;
        if a != b {
            let same = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
            return Ok(Some(offset + same as u64));
        }
        if a.is_empty() {
            return Ok(None);
        }
        offset += a.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_differing_byte() {
        let mut long = vec![1; 3 << 20];
        let same = long.clone();
        assert_eq!(differing_byte(&long[..], &same[..]).unwrap(), None);
        assert_eq!(differing_byte(&long[..], &same[..100]).unwrap(), Some(100));
        long[(2 << 20) + 5] = 2;
        assert_eq!(
            differing_byte(&long[..], &same[..]).unwrap(),
            Some((2 << 20) + 5)
        );
    }
}
