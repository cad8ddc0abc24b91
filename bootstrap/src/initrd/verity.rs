//! The dm-verity superblock and the device-mapper table made from it.
//!
//! Format: the on-disk header of the kernel's `Documentation/admin-guide/device-mapper/verity.rst` user space, version
//! 1: 512 bytes at the start of the hash device. Only the root hash of the command line is trusted. A changed
//! superblock can only make the first read fail: salt and tree shape go into every digest up to the root.

use super::failure::{Failure, Step};

const HINT: &str = "the hash partition is damaged: boot another version, or write the image anew";
/// The only block size we make and accept, in bytes.
const BLOCK: u32 = 4096;

/// What the superblock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// UUID of the hash device, 32 hex digits without dashes.
    pub uuid: String,
    /// Number of 4096-byte data blocks.
    pub data_blocks: u64,
    /// Salt as hex digits; `-` when it is empty, as the table wants it.
    pub salt: String,
}

/// Parses the first 512 bytes of the hash partition.
pub fn parse(bytes: &[u8]) -> Step<Superblock> {
    let refuse =
        |what: &str| Failure::new("FR-INIT-VERITY", format!("verity superblock {what}"), HINT);
    let bytes: &[u8; 512] = bytes
        .get(..512)
        .and_then(|b| b.try_into().ok())
        .ok_or_else(|| refuse("is cut short"))?;
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if &bytes[..8] != b"verity\0\0" || word(8) != 1 || word(12) != 1 {
        return Err(refuse("is not there"));
    }
    if &bytes[32..39] != b"sha256\0" || word(64) != BLOCK || word(68) != BLOCK {
        return Err(refuse("names another hash or block size"));
    }
    let data_blocks = u64::from(word(72)) | u64::from(word(76)) << 32;
    let salt_size = usize::from(u16::from_le_bytes([bytes[80], bytes[81]]));
    if data_blocks == 0 || data_blocks > u64::MAX / u64::from(BLOCK) || salt_size > 256 {
        return Err(refuse("has impossible sizes"));
    }
    let salt = match salt_size {
        0 => "-".to_owned(),
        size => hex(&bytes[88..88 + size]),
    };
    Ok(Superblock {
        uuid: hex(&bytes[16..32]),
        data_blocks,
        salt,
    })
}

/// The parameters of the `verity` target; devices are `major:minor`.
///
/// No error mode is named, so that the kernel's default holds: a block that does not match is an I/O error.
pub fn table(superblock: &Superblock, data: &str, hash: &str, root_hash: &str) -> String {
    format!(
        "1 {data} {hash} {BLOCK} {BLOCK} {} 1 sha256 {root_hash} {}",
        superblock.data_blocks, superblock.salt
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut b = vec![0; 512];
        b[..8].copy_from_slice(b"verity\0\0");
        b[8] = 1;
        b[12] = 1;
        b[16..32].copy_from_slice(&[0xab; 16]);
        b[32..38].copy_from_slice(b"sha256");
        b[64..68].copy_from_slice(&BLOCK.to_le_bytes());
        b[68..72].copy_from_slice(&BLOCK.to_le_bytes());
        b[72..80].copy_from_slice(&7u64.to_le_bytes());
        b[80] = 2;
        b[88] = 0x0f;
        b[89] = 0xf0;
        b
    }

    #[test]
    fn superblock_and_table() {
        let superblock = parse(&sample()).unwrap();
        assert_eq!(superblock.uuid, "ab".repeat(16));
        assert_eq!(
            table(&superblock, "254:2", "254:3", "cafe"),
            "1 254:2 254:3 4096 4096 7 1 sha256 cafe 0ff0"
        );
    }

    #[test]
    fn damaged_superblocks_are_refused() {
        for (at, value) in [
            (0, 0),
            (8, 2),
            (12, 0),
            (33, 0),
            (65, 1),
            (72, 0),
            (81, 0xff),
        ] {
            let mut bytes = sample();
            bytes[at] = value;
            assert!(parse(&bytes).is_err(), "byte {at} = {value}");
        }
        assert!(parse(&sample()[..511]).is_err());
    }
}
