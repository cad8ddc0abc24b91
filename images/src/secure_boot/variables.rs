//! OVMF's store of variables with keys in it: a machine whose firmware enforces Secure Boot.
//!
//! Formats: EFI_FIRMWARE_VOLUME_HEADER (UEFI Platform Initialization 1.8, volume 3); VARIABLE_STORE_HEADER and
//! AUTHENTICATED_VARIABLE_HEADER (EDK II, `MdeModulePkg/Include/Guid/VariableFormat.h`).

use super::keys::{ATTRIBUTES, DATABASE, GLOBAL, TIME, signature_list, wide};
use super::{Result, guid};
use crate::uki::{half, word};

/// gEfiAuthenticatedVariableGuid, at the start of the store.
const STORE: [u8; 16] = guid(
    0xaaf3_2c78,
    0x947b,
    0x439a,
    [0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92],
);
/// gEfiSecureBootEnableDisableGuid.
const ENABLE: [u8; 16] = guid(
    0xf0a3_0bc7,
    0xaf08,
    0x4556,
    [0x99, 0xc4, 0x00, 0x10, 0x09, 0xc9, 0x3a, 0x44],
);
/// Bytes of the store's header, of a variable's.
const STORE_HEADER: usize = 28;
const VARIABLE_HEADER: usize = 60;
/// How a variable begins, and the state of one that is in force (VAR_ADDED).
const START: [u8; 2] = [0xaa, 0x55];
const ADDED: u8 = 0x3f;

/// An empty store with one certificate as PK, KEK and db: only what that key signed is started.
///
/// # Errors
/// A reason when it is not a store of the expected form, or has no room.
pub fn with_certificate(empty: &[u8], certificate: &[u8]) -> Result<Vec<u8>> {
    let (mut at, end) = room(empty)?;
    let list = signature_list(certificate);
    let mut store = empty.to_vec();
    for (name, vendor, attributes, data) in [
        ("PK", GLOBAL, ATTRIBUTES, &list[..]),
        ("KEK", GLOBAL, ATTRIBUTES, &list),
        ("db", DATABASE, ATTRIBUTES, &list),
        // Non-volatile and for boot time only.
        ("SecureBootEnable", ENABLE, 3, &[1]),
    ] {
        let variable = variable(name, vendor, attributes, data);
        if at + variable.len() > end {
            return Err("the firmware's store of variables has no room".to_owned());
        }
        store[at..at + variable.len()].copy_from_slice(&variable);
        at = (at + variable.len()).next_multiple_of(4);
    }
    Ok(store)
}

/// Where the store's free space begins and ends.
fn room(store: &[u8]) -> Result<(usize, usize)> {
    let unknown = || "the firmware's store of variables is of an unknown form".to_owned();
    if store.len() < 64 || &store[40..44] != b"_FVH" {
        return Err(unknown());
    }
    let start = usize::from(half(store, 48));
    let header = store.get(start..start + STORE_HEADER).ok_or_else(unknown)?;
    if header[..16] != STORE {
        return Err(unknown());
    }
    let end = start + word(header, 16) as usize;
    if end > store.len() {
        return Err(unknown());
    }
    let mut at = (start + STORE_HEADER).next_multiple_of(4);
    while at + VARIABLE_HEADER <= end && store[at..at + 2] == START {
        let (name, data) = (word(store, at + 36) as usize, word(store, at + 40) as usize);
        at = at
            .checked_add(VARIABLE_HEADER)
            .and_then(|at| at.checked_add(name)?.checked_add(data))
            .ok_or_else(unknown)?
            .next_multiple_of(4);
    }
    Ok((at, end))
}

fn variable(name: &str, vendor: [u8; 16], attributes: u32, data: &[u8]) -> Vec<u8> {
    let mut name = wide(name);
    name.extend_from_slice(&[0, 0]);
    let mut bytes = vec![START[0], START[1], ADDED, 0];
    bytes.extend_from_slice(&attributes.to_le_bytes());
    // The monotonic counter is of another kind of authentication.
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&TIME);
    // The index of a public key, which nothing uses any more.
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&vendor);
    bytes.extend_from_slice(&name);
    bytes.extend_from_slice(data);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Vec<u8> {
        let mut store = vec![0xff; 4096];
        store[40..44].copy_from_slice(b"_FVH");
        store[48..50].copy_from_slice(&72u16.to_le_bytes());
        store[72..88].copy_from_slice(&STORE);
        store[88..92].copy_from_slice(&4000u32.to_le_bytes());
        store
    }

    #[test]
    fn variables_follow_each_other() {
        let store = with_certificate(&empty(), &[7; 301]).unwrap();
        let (at, end) = room(&store).unwrap();
        let list = 28 + 16 + 301;
        let lengths: [usize; 4] = [6 + list, 8 + list, 6 + list, 34 + 1];
        let expected: usize = lengths.iter().map(|l| (60 + l).next_multiple_of(4)).sum();
        assert_eq!((at, end), (100 + expected, 4072));
        assert_eq!(store[at..], empty()[at..]);
        let again = with_certificate(&store, &[7; 301]).unwrap();
        assert_eq!(again[..at], store[..at]);
    }

    #[test]
    fn other_stores_are_refused() {
        let mut other = empty();
        other[72] ^= 1;
        let mut cut = empty();
        cut.truncate(2000);
        for store in [&[][..], &other, &cut] {
            assert!(with_certificate(store, &[7; 301]).is_err());
        }
        assert!(with_certificate(&empty(), &[7; 3000]).is_err());
    }
}
