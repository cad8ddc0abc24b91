//! The root hash of a file system, computed while it is read: what dm-verity will check at boot, checked before it is tried.
//!
//! Format: the kernel's `Documentation/admin-guide/device-mapper/verity.rst`, hash type 1 (salt before the data), SHA-256,
//! blocks of 4096 bytes.

use sha2::{Digest, Sha256};

/// Bytes of a data or hash block.
pub const BLOCK: usize = 4096;
const DIGEST: usize = 32;

/// What a hash partition's first bytes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Number of data blocks.
    pub blocks: u64,
    salt: Vec<u8>,
}

impl Superblock {
    /// Reads the first 512 bytes of a hash partition.
    ///
    /// # Errors
    /// Why it is none that the initial file system would open.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let bytes: &[u8; 512] = bytes
            .get(..512)
            .and_then(|b| b.try_into().ok())
            .ok_or("it is cut short")?;
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let known = [(8, 1), (12, 1), (64, BLOCK as u32), (68, BLOCK as u32)];
        if &bytes[..8] != b"verity\0\0"
            || &bytes[32..39] != b"sha256\0"
            || known.iter().any(|&(at, v)| word(at) != v)
        {
            return Err("it is not in the form that images have");
        }
        let length = usize::from(u16::from_le_bytes([bytes[80], bytes[81]]));
        let salt = bytes
            .get(88..88 + length)
            .filter(|_| length <= 256)
            .ok_or("its salt is too long")?;
        Ok(Superblock {
            blocks: u64::from(word(72)) | u64::from(word(76)) << 32,
            salt: salt.to_vec(),
        })
    }

    fn digest(&self, block: &[u8]) -> [u8; DIGEST] {
        Sha256::new()
            .chain_update(&self.salt)
            .chain_update(block)
            .finalize()
            .into()
    }
}

/// A tree about to be computed; of each level only the block that is being filled is kept.
pub struct Tree {
    superblock: Superblock,
    levels: Vec<Vec<u8>>,
}

impl Tree {
    /// A tree without data.
    pub fn new(superblock: Superblock) -> Self {
        Tree {
            superblock,
            levels: Vec::new(),
        }
    }

    /// Adds data, whole blocks.
    pub fn update(&mut self, data: &[u8]) {
        for block in data.chunks(BLOCK) {
            let digest = self.superblock.digest(block);
            self.push(0, digest);
        }
    }

    fn push(&mut self, level: usize, digest: [u8; DIGEST]) {
        if self.levels.len() == level {
            self.levels.push(Vec::with_capacity(BLOCK));
        }
        self.levels[level].extend_from_slice(&digest);
        if self.levels[level].len() == BLOCK {
            self.close(level);
        }
    }

    /// Hashes a level's block into the level above.
    fn close(&mut self, level: usize) {
        let mut block = std::mem::take(&mut self.levels[level]);
        block.resize(BLOCK, 0);
        let digest = self.superblock.digest(&block);
        self.push(level + 1, digest);
    }

    /// The root hash; none without data.
    pub fn root(mut self) -> Option<[u8; DIGEST]> {
        let mut level = 0;
        loop {
            let pending = self.levels.get(level)?.len();
            if level + 1 == self.levels.len() && pending == DIGEST {
                return self.levels[level][..].try_into().ok();
            }
            if pending > 0 {
                self.close(level);
            }
            level += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn superblock(blocks: u64, salt: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK];
        bytes[..8].copy_from_slice(b"verity\0\0");
        (bytes[8], bytes[12]) = (1, 1);
        bytes[32..38].copy_from_slice(b"sha256");
        bytes[64..68].copy_from_slice(&4096u32.to_le_bytes());
        bytes[68..72].copy_from_slice(&4096u32.to_le_bytes());
        bytes[72..80].copy_from_slice(&blocks.to_le_bytes());
        bytes[80..82].copy_from_slice(&(salt.len() as u16).to_le_bytes());
        bytes[88..88 + salt.len()].copy_from_slice(salt);
        bytes
    }

    /// Root hashes of `veritysetup format --salt 00…1f` (cryptsetup 2.6.1) over blocks filled with their number.
    #[test]
    fn root_hashes_of_veritysetup() {
        let salt: Vec<u8> = (0..32).collect();
        for (blocks, expected) in [
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
        ] {
            let found = Superblock::parse(&superblock(blocks, &salt)).unwrap();
            assert_eq!(found.blocks, blocks);
            let mut tree = Tree::new(found);
            (0..blocks).for_each(|i| tree.update(&[i as u8; BLOCK]));
            assert_eq!(
                hex::encode(tree.root().unwrap()),
                expected,
                "{blocks} blocks"
            );
        }
    }

    /// A level that is exactly full, and one block alone.
    #[test]
    fn sizes_at_the_edges() {
        let parsed = || Superblock::parse(&superblock(1, b"s")).unwrap();
        let digest = parsed().digest(&[0; BLOCK]);
        let root = |blocks: usize| {
            let mut tree = Tree::new(parsed());
            tree.update(&vec![0; blocks * BLOCK]);
            tree.root()
        };
        assert_eq!(root(0), None);
        assert_eq!(root(1), Some(digest));
        assert_eq!(root(128), Some(parsed().digest(&digest.repeat(128))));
        let full = parsed().digest(&digest.repeat(128));
        assert_eq!(root(128 * 128), Some(parsed().digest(&full.repeat(128))));
    }

    #[test]
    fn other_superblocks_are_refused() {
        let good = superblock(1, b"salt");
        for at in [0, 8, 12, 33, 64, 68, 81] {
            let mut bad = good.clone();
            bad[at] ^= 0x41;
            assert!(Superblock::parse(&bad).is_err(), "byte {at}");
        }
        assert!(Superblock::parse(&good[..511]).is_err());
    }
}
