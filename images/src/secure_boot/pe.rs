//! Signatures of EFI programs.
//!
//! Formats: Microsoft's "Windows Authenticode Portable Executable Signature Format" (2008) and "PE Format"; the UEFI specification 2.10,
//! section 32.2.4, refers to both.

use sha2::{Digest, Sha256};
use x509_cert::der::asn1::ObjectIdentifier;

use super::Result;
use super::signer::Signer;
use crate::uki::{Pe, half, word};

/// The type of what is signed, SPC_INDIRECT_DATA_OBJID.
const INDIRECT_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.4");
/// The beginning of the signed content: SPC_PE_IMAGE_DATAOBJ with no flags and an empty file name, then the
/// algorithm SHA-256 and the header of its 32 bytes.
#[rustfmt::skip]
const CONTENT: [u8; 44] = [
    0x30, 0x17, 0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x0f,
    0x30, 0x09, 0x03, 0x01, 0x00, 0xa0, 0x04, 0xa2, 0x02, 0x80, 0x00,
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00,
    0x04, 0x20,
];
/// Offsets from the optional header (PE32+): checksum, number of data directories, the directory of certificates.
const CHECKSUM: usize = 64;
const DIRECTORIES: usize = 108;
const CERTIFICATES: usize = 144;
/// WIN_CERT_REVISION_2_0 and WIN_CERT_TYPE_PKCS_SIGNED_DATA.
const REVISION: u16 = 0x0200;
const PKCS_SIGNED_DATA: u16 = 2;

/// The program with its signature; one that is there is replaced.
///
/// # Errors
/// A reason when it is not a PE file of the expected form.
pub fn sign(program: &[u8], signer: &Signer) -> Result<Vec<u8>> {
    let mut signed = program.to_vec();
    let optional = unsigned(&mut signed)?;
    let mut content = CONTENT.to_vec();
    content.extend_from_slice(&digest(&signed, optional));
    let mut document = signer.sign_content(INDIRECT_DATA, &content)?;
    document.resize(document.len().next_multiple_of(8), 0);
    let place = signed.len() as u32;
    let length = document.len() as u32 + 8;
    signed.extend_from_slice(&length.to_le_bytes());
    signed.extend_from_slice(&REVISION.to_le_bytes());
    signed.extend_from_slice(&PKCS_SIGNED_DATA.to_le_bytes());
    signed.extend_from_slice(&document);
    signed[optional + CERTIFICATES..][..4].copy_from_slice(&place.to_le_bytes());
    signed[optional + CERTIFICATES + 4..][..4].copy_from_slice(&length.to_le_bytes());
    Ok(signed)
}

/// Takes a signature off and pads to eight bytes; the offset of the optional header.
fn unsigned(program: &mut Vec<u8>) -> Result<usize> {
    let pe = Pe::parse(program).map_err(str::to_owned)?;
    let optional = pe.start + 24;
    let headers = &program[optional..];
    if headers.len() < CERTIFICATES + 8
        || word(headers, DIRECTORIES) < 5
        || usize::from(half(&program[pe.start..], 20)) < CERTIFICATES + 8
    {
        return Err("it has no place for a signature".to_owned());
    }
    check_order(&pe, program)?;
    let old = word(headers, CERTIFICATES) as usize;
    if old != 0 {
        if old > program.len() {
            return Err("its signature lies outside of the file".to_owned());
        }
        program.truncate(old);
    }
    program[optional + CERTIFICATES..][..8].fill(0);
    program.resize(program.len().next_multiple_of(8), 0);
    Ok(optional)
}

/// The digest covers headers and sections in the order of the file; where those follow each other without a gap, that is the
/// file as it is.
fn check_order(pe: &Pe, program: &[u8]) -> Result<()> {
    let mut sections: Vec<(u64, u64)> = pe
        .headers(program)
        .map(|h| (u64::from(word(h, 20)), u64::from(word(h, 16))))
        .filter(|(_, size)| *size > 0)
        .collect();
    sections.sort_unstable();
    let mut end = u64::from(pe.size_of_headers);
    for (start, size) in sections {
        if start != end {
            return Err("there are gaps between its sections".to_owned());
        }
        end += size;
    }
    match end <= program.len() as u64 {
        true => Ok(()),
        false => Err("a section lies outside of the file".to_owned()),
    }
}

/// The digest of a program without a signature: all of it but for checksum and directory of certificates.
fn digest(program: &[u8], optional: usize) -> [u8; 32] {
    let (checksum, certificates) = (optional + CHECKSUM, optional + CERTIFICATES);
    Sha256::new()
        .chain_update(&program[..checksum])
        .chain_update(&program[checksum + 4..certificates])
        .chain_update(&program[certificates + 8..])
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secure_boot::keys::tests::signer;
    use crate::uki::tests::stub;

    #[test]
    fn a_program_is_signed_the_same_twice_and_again() {
        let program = stub();
        let one = sign(&program, signer()).unwrap();
        assert_eq!(one, sign(&program, signer()).unwrap());
        assert_eq!(one, sign(&one, signer()).unwrap(), "signed anew");
        let at = word(&one, 0x98 + CERTIFICATES) as usize;
        let length = word(&one, 0x98 + CERTIFICATES + 4) as usize;
        assert_eq!((at, at + length), (program.len(), one.len()));
        assert_eq!((word(&one, at) as usize, half(&one, at + 6)), (length, 2));
        assert_eq!(crate::secure_boot::signer::signers(&one[at + 8..]), 1);
    }

    #[test]
    fn other_files_are_refused() {
        let mut gap = stub();
        // The section's place in the file, after headers that end at 0x600.
        gap[0x98 + 240 + 20] = 1;
        for program in [&b"MZ"[..], &gap[..], &stub()[..0x610]] {
            assert!(sign(program, signer()).is_err());
        }
    }
}
