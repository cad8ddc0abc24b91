//! By what the content of a file tells its format.

use super::{Format, vhd, vmdk};

/// Bytes of a VHD's footer, with which it ends.
pub(crate) const VHD_FOOTER: u64 = vhd::FOOTER as u64;
/// Offset of a qcow2's incompatible features' lowest byte, and the feature "other compression than deflate" in it.
const QCOW2_FEATURES: (usize, u8) = (79, 1 << 3);
/// Offset of a tar header's magic.
const TAR: usize = 257;
/// Offset of a GPT's header on a disk with sectors of 512 bytes.
const GPT: usize = 512;

/// The format of a file that starts with these 1024 bytes, and whose last 512 begin with `end`.
pub(crate) fn format(start: &[u8; 1024], end: &[u8; 8]) -> Option<Format> {
    let at = |offset: usize, magic: &[u8]| start[offset..].starts_with(magic);
    let format = if at(0, b"QFI\xfb") {
        match start[QCOW2_FEATURES.0] & QCOW2_FEATURES.1 {
            0 => Format::Qcow2,
            _ => Format::Qcow2Compressed,
        }
    } else if at(0, vmdk::MAGIC) {
        Format::Vmdk
    } else if at(0, b"\x1f\x8b") {
        Format::Gce
    } else if at(TAR, b"ustar") {
        Format::Ova
    } else if end == vhd::COOKIE {
        Format::Vhd
    } else if at(GPT, b"EFI PART") {
        Format::Raw
    } else {
        return None;
    };
    Some(format)
}
