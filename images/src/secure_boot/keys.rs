//! Keys and certificates of one's own, and the files that enrol them.
//!
//! Formats: UEFI specification 2.10: EFI_SIGNATURE_LIST (section 32.4.1) and EFI_VARIABLE_AUTHENTICATION_2 (section 8.2.2).

use rsa::RsaPrivateKey;
use rsa::pkcs1v15::{Signature, SigningKey};
use rsa::pkcs8::{EncodePrivateKey, LineEnding};
use rsa::rand_core::{OsRng, RngCore};
use rsa::sha2::{Digest, Sha256};
use rsa::signature::Keypair;
use std::str::FromStr;
use std::time::Duration;
use x509_cert::builder::{Builder, CertificateBuilder, Profile};
use x509_cert::der::EncodePem;
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::SubjectPublicKeyInfoOwned;
use x509_cert::time::Validity;

use super::signer::Signer;
use super::{Result, encoding, guid};

/// EFI_GLOBAL_VARIABLE, the owner of PK and KEK.
pub(crate) const GLOBAL: [u8; 16] = guid(
    0x8be4_df61,
    0x93ca,
    0x11d2,
    [0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c],
);
/// EFI_IMAGE_SECURITY_DATABASE_GUID, the owner of db.
pub(crate) const DATABASE: [u8; 16] = guid(
    0xd719_b2cb,
    0x3d3a,
    0x4596,
    [0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f],
);
/// EFI_CERT_X509_GUID.
const X509: [u8; 16] = guid(
    0xa5c0_59a1,
    0x94e4,
    0x4aa7,
    [0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72],
);
/// EFI_CERT_TYPE_PKCS7_GUID.
const PKCS7: [u8; 16] = guid(
    0x4aaf_d29d,
    0x68df,
    0x49ee,
    [0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7],
);
/// Non-volatile, for boot and run time, written with a time-based authentication.
pub(crate) const ATTRIBUTES: u32 = 0x27;
/// WIN_CERT_TYPE_EFI_GUID.
const TYPE_GUID: u16 = 0x0ef1;
/// The time in what enrols keys (EFI_TIME): 1 January 2020, 00:00. Firmware takes a later one, or any while it has none.
pub(crate) const TIME: [u8; 16] = [0xe4, 0x07, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Bits of a key: what all firmware knows.
const BITS: usize = 2048;
/// Days that a certificate is valid; firmware does not look at it.
const DAYS: u64 = 3650;

/// A key with its certificate, as text.
#[derive(Debug)]
pub struct KeyPair {
    /// `PK`, `KEK` or `db`.
    pub name: &'static str,
    /// PKCS#8 in PEM. A secret.
    pub key: String,
    /// Certificate in PEM.
    pub certificate: String,
}

/// What enrols a certificate in the variable of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// The signature list.
    pub list: Vec<u8>,
    /// The list with its authentication, by the key above it.
    pub authenticated: Vec<u8>,
}

/// Makes a key for each of PK, KEK and db.
///
/// # Errors
/// A reason when the system has no random numbers.
pub fn generate(subject: &str) -> Result<[KeyPair; 3]> {
    Ok([
        key_pair("PK", subject)?,
        key_pair("KEK", subject)?,
        key_pair("db", subject)?,
    ])
}

fn key_pair(name: &'static str, subject: &str) -> Result<KeyPair> {
    let key = RsaPrivateKey::new(&mut OsRng, BITS).map_err(|e| e.to_string())?;
    let text = key
        .to_pkcs8_pem(LineEnding::LF)
        .map_err(|e| e.to_string())?;
    let signer = SigningKey::<Sha256>::new(key);
    let public = SubjectPublicKeyInfoOwned::from_key(signer.verifying_key());
    let mut serial = [0; 16];
    OsRng.fill_bytes(&mut serial);
    // A serial number is positive and has no leading zero (RFC 5280, 4.1.2.2).
    serial[0] = serial[0] & 0x3f | 0x40;
    let builder = CertificateBuilder::new(
        Profile::Root,
        SerialNumber::new(&serial).map_err(encoding)?,
        Validity::from_now(Duration::from_secs(DAYS * 86400)).map_err(encoding)?,
        Name::from_str(&format!("CN={subject} {name}")).map_err(encoding)?,
        public.map_err(|e| e.to_string())?,
        &signer,
    );
    let certificate = builder
        .and_then(|builder| builder.build::<Signature>())
        .map_err(|e| e.to_string())?;
    Ok(KeyPair {
        name,
        key: text.to_string(),
        certificate: certificate.to_pem(LineEnding::LF).map_err(encoding)?,
    })
}

/// Makes what enrols the three certificates: PK by itself, KEK by PK, db by KEK.
///
/// # Errors
/// A reason when a key cannot be read.
pub fn enrolments(keys: &[KeyPair; 3]) -> Result<[Enrolment; 3]> {
    let mut signers = Vec::new();
    for pair in keys {
        signers.push(Signer::from_pem(&pair.key, &pair.certificate)?);
    }
    let enrolment = |index: usize, by: usize, vendor: [u8; 16]| {
        let list = signature_list(&signers[index].certificate()?);
        let authenticated = authenticate(keys[index].name, vendor, &list, &signers[by])?;
        Ok::<_, String>(Enrolment {
            list,
            authenticated,
        })
    };
    Ok([
        enrolment(0, 0, GLOBAL)?,
        enrolment(1, 0, GLOBAL)?,
        enrolment(2, 1, DATABASE)?,
    ])
}

/// An EFI_SIGNATURE_LIST with one certificate. Its owner follows from it.
pub(crate) fn signature_list(certificate: &[u8]) -> Vec<u8> {
    let owner = Sha256::digest(certificate);
    let size = 16 + certificate.len() as u32;
    let mut list = X509.to_vec();
    list.extend_from_slice(&(28 + size).to_le_bytes());
    list.extend_from_slice(&0u32.to_le_bytes());
    list.extend_from_slice(&size.to_le_bytes());
    list.extend_from_slice(&owner[..16]);
    list.extend_from_slice(certificate);
    list
}

/// A variable's name as it is stored, without an end.
pub(crate) fn wide(name: &str) -> Vec<u8> {
    name.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn authenticate(name: &str, vendor: [u8; 16], list: &[u8], by: &Signer) -> Result<Vec<u8>> {
    let mut signed = wide(name);
    signed.extend_from_slice(&vendor);
    signed.extend_from_slice(&ATTRIBUTES.to_le_bytes());
    signed.extend_from_slice(&TIME);
    signed.extend_from_slice(list);
    let document = by.sign_detached(&signed)?;
    let mut output = TIME.to_vec();
    output.extend_from_slice(&(24 + document.len() as u32).to_le_bytes());
    output.extend_from_slice(&0x0200u16.to_le_bytes());
    output.extend_from_slice(&TYPE_GUID.to_le_bytes());
    output.extend_from_slice(&PKCS7);
    output.extend_from_slice(&document);
    output.extend_from_slice(list);
    Ok(output)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::LazyLock;

    static KEYS: LazyLock<[KeyPair; 3]> = LazyLock::new(|| generate("test").unwrap());
    static SIGNER: LazyLock<Signer> =
        LazyLock::new(|| Signer::from_pem(&KEYS[2].key, &KEYS[2].certificate).unwrap());

    /// A signer, the same for all tests of a run.
    pub(crate) fn signer() -> &'static Signer {
        &SIGNER
    }

    #[test]
    fn enrolments_are_lists_with_an_authentication() {
        let one = enrolments(&KEYS).unwrap();
        assert_eq!(one, enrolments(&KEYS).unwrap());
        for enrolment in &one {
            assert!(enrolment.authenticated.ends_with(&enrolment.list));
            let length = enrolment.authenticated.len() - enrolment.list.len() - 16;
            assert_eq!(
                enrolment.authenticated[16..20],
                (length as u32).to_le_bytes()
            );
            assert_eq!(
                enrolment.list[16..20],
                (enrolment.list.len() as u32).to_le_bytes()
            );
        }
    }

    #[test]
    fn a_certificate_of_another_key_is_refused() {
        let error = Signer::from_pem(&KEYS[0].key, &KEYS[1].certificate).unwrap_err();
        assert!(error.contains("another key"), "{error}");
        assert!(Signer::from_pem("no key", &KEYS[1].certificate).is_err());
        assert!(Signer::from_pem(&KEYS[0].key, "no certificate").is_err());
        assert!(!format!("{:?}", signer()).contains("PRIVATE"));
    }
}
