//! dm-verity: the hash tree of a file system and its root hash.
//!
//! Format: the kernel's `Documentation/admin-guide/device-mapper/verity.rst`, hash type 1 (salt before the data), SHA-256,
//! blocks of 4096 bytes, with the superblock that cryptsetup's `veritysetup` writes and reads. Own code, since it hashes
//! on all processors and needs no device-mapper; `veritysetup verify` is the oracle of its test.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Bytes of a data or hash block.
pub const BLOCK: usize = 4096;
/// Data is read in pieces of this many bytes.
const PIECE: usize = 8 << 20;

/// A hash partition's content and what it proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashTree {
    /// Superblock and tree; a multiple of [`BLOCK`] bytes.
    pub bytes: Vec<u8>,
    /// The hash on top of the tree.
    pub root_hash: [u8; 32],
}

/// Makes the hash tree of a file whose size is a multiple of [`BLOCK`].
///
/// # Errors
/// When the file cannot be read or has another size.
pub fn build(data: &Path, salt: &[u8; 32], uuid: [u8; 16]) -> Result<HashTree> {
    let io = |what| Error::io(what, data);
    let mut file = File::open(data).map_err(io("open"))?;
    let size = file.metadata().map_err(io("read"))?.len();
    build_from(&mut file, size, salt, uuid).map_err(io("hash"))
}

/// Makes the hash tree of the next `size` bytes of a reader.
///
/// # Errors
/// When they cannot be read, or `size` is zero or no multiple of [`BLOCK`].
pub fn build_from(
    data: &mut impl Read,
    size: u64,
    salt: &[u8; 32],
    uuid: [u8; 16],
) -> std::io::Result<HashTree> {
    if size == 0 || !size.is_multiple_of(BLOCK as u64) {
        return Err(std::io::Error::other(
            "its size is no multiple of 4096 bytes",
        ));
    }
    let mut digests: Vec<[u8; 32]> = Vec::with_capacity((size / BLOCK as u64) as usize);
    let mut left = size;
    let mut piece = vec![0; PIECE];
    while left > 0 {
        let length = left.min(PIECE as u64) as usize;
        data.read_exact(&mut piece[..length])?;
        digests.par_extend(
            piece[..length]
                .par_chunks(BLOCK)
                .map(|block| digest(salt, block)),
        );
        left -= length as u64;
    }
    let mut levels = Vec::new();
    while digests.len() > 1 {
        let mut level: Vec<u8> = digests.concat();
        level.resize(level.len().next_multiple_of(BLOCK), 0);
        digests = level
            .par_chunks(BLOCK)
            .map(|block| digest(salt, block))
            .collect();
        levels.push(level);
    }
    let mut bytes = superblock(size / BLOCK as u64, salt, uuid);
    // The level nearest to the root lies first.
    bytes.extend(levels.into_iter().rev().flatten());
    Ok(HashTree {
        bytes,
        root_hash: digests[0],
    })
}

fn digest(salt: &[u8; 32], block: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(salt)
        .chain_update(block)
        .finalize()
        .into()
}

/// The superblock, padded to a block.
fn superblock(data_blocks: u64, salt: &[u8; 32], uuid: [u8; 16]) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"verity\0\0");
    put(8, &1u32.to_le_bytes());
    put(12, &1u32.to_le_bytes());
    put(16, &uuid);
    put(32, b"sha256");
    put(64, &(BLOCK as u32).to_le_bytes());
    put(68, &(BLOCK as u32).to_le_bytes());
    put(72, &data_blocks.to_le_bytes());
    put(80, &(salt.len() as u16).to_le_bytes());
    put(88, salt);
    bytes
}

/// The fields of a superblock that are needed to make its tree again: data blocks, salt, uuid.
///
/// # Errors
/// A reason when these are not the first 512 bytes of a hash partition as [`build`] makes it.
pub fn parse_superblock(
    bytes: &[u8],
) -> std::result::Result<(u64, [u8; 32], [u8; 16]), &'static str> {
    let array = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
    let blocks = u64::from_le_bytes(array(72).ok_or("it is cut short")?);
    let salt = bytes
        .get(88..120)
        .and_then(|b| b.try_into().ok())
        .ok_or("it is cut short")?;
    let uuid = bytes[16..32].try_into().map_err(|_| "it is cut short")?;
    if superblock(blocks, &salt, uuid)[..120] != bytes[..120] || blocks == 0 || blocks > 1 << 40 {
        return Err("it is not a hash partition of an image");
    }
    Ok((blocks, salt, uuid))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Root hashes of `veritysetup format --salt 00…1f --uuid …` (cryptsetup 2.6.1) over blocks filled with their number.
    #[test]
    fn root_hashes_of_veritysetup() {
        let mut salt = [0; 32];
        (0..32u8).for_each(|i| salt[usize::from(i)] = i);
        for (blocks, expected) in ROOT_HASHES {
            let data: Vec<u8> = (0..blocks).flat_map(|i| [i as u8; BLOCK]).collect();
            let tree = build_from(&mut &data[..], data.len() as u64, &salt, [0x11; 16]).unwrap();
            assert_eq!(hex::encode(tree.root_hash), expected, "{blocks} blocks");
            if blocks == 129 {
                // The whole file, with a level of two blocks.
                let file = hex::encode(Sha256::digest(&tree.bytes));
                assert_eq!(
                    file,
                    "cedf3f95078204dd0f2a04bd73cd9927fe8e60d8a13b6b101ab747a9e617a1cd"
                );
            }
            let fields = parse_superblock(&tree.bytes).unwrap();
            assert_eq!(fields, (blocks as u64, salt, [0x11; 16]));
        }
    }

    const ROOT_HASHES: [(usize, &str); 3] = [
        (
            2,
            "bd780675f50010ed023fd1f07e98f029a6aaf25a8f6ee33ec94b4b4e847e4b2e",
        ),
        (
            129,
            "6093a2333523050b628581510028976d3d3e9c62458642a83727e6df641397a4",
        ),
        (
            20000,
            "7612ba67ccc30f45e920e0dd846ef9233196d1206a5cc3198fdd451298d77941",
        ),
    ];

    #[test]
    fn wrong_sizes_and_superblocks() {
        for size in [0, 1, 4097] {
            assert!(build_from(&mut &[0; 8192][..], size, &[0; 32], [0; 16]).is_err());
        }
        let tree = build_from(&mut &[0; 8192][..], 8192, &[0; 32], [0; 16]).unwrap();
        for at in [0, 8, 33, 64, 80] {
            let mut bytes = tree.bytes.clone();
            bytes[at] ^= 0x80;
            assert!(parse_superblock(&bytes).is_err(), "byte {at}");
        }
        assert!(parse_superblock(&tree.bytes[..100]).is_err());
    }
}
