//! A key with its certificate, and the PKCS#7 documents that it signs.

use std::fmt;

use cms::cert::{CertificateChoices, IssuerAndSerialNumber};
use cms::content_info::{CmsVersion, ContentInfo};
use cms::signed_data::{
    CertificateSet, EncapsulatedContentInfo, SignatureValue, SignedData, SignerIdentifier,
    SignerInfo, SignerInfos,
};
use rsa::RsaPrivateKey;
use rsa::pkcs1::DecodeRsaPrivateKey;
use rsa::pkcs1v15::SigningKey;
use rsa::pkcs8::DecodePrivateKey;
use rsa::sha2::{Digest, Sha256};
use rsa::signature::{Keypair, SignatureEncoding, Signer as _};
use x509_cert::Certificate;
use x509_cert::attr::Attribute;
use x509_cert::der::asn1::{Any, ObjectIdentifier, OctetString, SetOfVec};
use x509_cert::der::{DecodePem, Encode};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use super::{Result, encoding};

// Object identifiers of RFC 5652 and RFC 8017.
const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// A key and the certificate that names it.
#[derive(Clone)]
pub struct Signer {
    key: SigningKey<Sha256>,
    certificate: Certificate,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key stays out of logs.
        f.debug_struct("Signer").finish_non_exhaustive()
    }
}

impl Signer {
    /// Reads a key (PKCS#8 or PKCS#1) and its certificate, both PEM.
    ///
    /// # Errors
    /// A reason when one cannot be read, is not RSA, or is not the other's.
    pub fn from_pem(key: &str, certificate: &str) -> Result<Self> {
        let key = RsaPrivateKey::from_pkcs8_pem(key)
            .or_else(|_| RsaPrivateKey::from_pkcs1_pem(key))
            .map_err(|_| "the key is not an RSA key in PEM, unencrypted".to_owned())?;
        let certificate = Certificate::from_pem(certificate)
            .map_err(|_| "the certificate is not one in PEM".to_owned())?;
        Self::new(key, certificate)
    }

    /// A key and its certificate.
    ///
    /// # Errors
    /// When the certificate is another key's.
    pub fn new(key: RsaPrivateKey, certificate: Certificate) -> Result<Self> {
        let key = SigningKey::<Sha256>::new(key);
        let own = SubjectPublicKeyInfoOwned::from_key(key.verifying_key())
            .map_err(|error| error.to_string())?;
        if own != certificate.tbs_certificate.subject_public_key_info {
            return Err("the certificate belongs to another key".to_owned());
        }
        Ok(Self { key, certificate })
    }

    /// The certificate in DER.
    ///
    /// # Errors
    /// None in practice.
    pub fn certificate(&self) -> Result<Vec<u8>> {
        self.certificate.to_der().map_err(encoding)
    }

    /// A PKCS#7 document in DER that holds `content` (octets of a SEQUENCE) of type `kind`, with the attributes that Authenticode asks for.
    ///
    /// # Errors
    /// None in practice.
    pub fn sign_content(&self, kind: ObjectIdentifier, content: &[u8]) -> Result<Vec<u8>> {
        let attribute = |oid, value: Any| {
            let values = SetOfVec::try_from(vec![value]).map_err(encoding)?;
            Ok::<_, String>(Attribute { oid, values })
        };
        let digest = OctetString::new(Sha256::digest(content).to_vec()).map_err(encoding)?;
        let attributes = SetOfVec::try_from(vec![
            attribute(CONTENT_TYPE, Any::encode_from(&kind).map_err(encoding)?)?,
            attribute(MESSAGE_DIGEST, Any::encode_from(&digest).map_err(encoding)?)?,
        ])
        .map_err(encoding)?;
        let signed = attributes.to_der().map_err(encoding)?;
        let content = Any::new(x509_cert::der::Tag::Sequence, content).map_err(encoding)?;
        let document = self.document(kind, Some(content), Some(attributes), &signed)?;
        let document = ContentInfo {
            content_type: SIGNED_DATA,
            content: Any::encode_from(&document).map_err(encoding)?,
        };
        document.to_der().map_err(encoding)
    }

    /// A bare PKCS#7 SignedData in DER over `content`, which it does not hold, without attributes: what authenticates UEFI variables.
    ///
    /// # Errors
    /// None in practice.
    pub fn sign_detached(&self, content: &[u8]) -> Result<Vec<u8>> {
        let document = self.document(DATA, None, None, content)?;
        document.to_der().map_err(encoding)
    }

    fn document(
        &self,
        kind: ObjectIdentifier,
        content: Option<Any>,
        attributes: Option<SetOfVec<Attribute>>,
        signed: &[u8],
    ) -> Result<SignedData> {
        let digest_algorithm = with_null(SHA256)?;
        let certificate = &self.certificate.tbs_certificate;
        let signature = self.key.try_sign(signed).map_err(|e| e.to_string())?;
        let signer = SignerInfo {
            version: CmsVersion::V1,
            sid: SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
                issuer: certificate.issuer.clone(),
                serial_number: certificate.serial_number.clone(),
            }),
            digest_alg: digest_algorithm.clone(),
            signed_attrs: attributes,
            signature_algorithm: with_null(RSA)?,
            signature: SignatureValue::new(signature.to_vec()).map_err(encoding)?,
            unsigned_attrs: None,
        };
        let certificates = vec![CertificateChoices::Certificate(self.certificate.clone())];
        Ok(SignedData {
            // PKCS#7 1.5, which firmware reads, knows no other.
            version: CmsVersion::V1,
            digest_algorithms: SetOfVec::try_from(vec![digest_algorithm]).map_err(encoding)?,
            encap_content_info: EncapsulatedContentInfo {
                econtent_type: kind,
                econtent: content,
            },
            certificates: Some(CertificateSet(
                SetOfVec::try_from(certificates).map_err(encoding)?,
            )),
            crls: None,
            signer_infos: SignerInfos(SetOfVec::try_from(vec![signer]).map_err(encoding)?),
        })
    }
}

fn with_null(oid: ObjectIdentifier) -> Result<AlgorithmIdentifierOwned> {
    Ok(AlgorithmIdentifierOwned {
        oid,
        parameters: Some(Any::null()),
    })
}

/// The certificate of a PEM text in DER.
///
/// # Errors
/// A reason when it is none.
pub fn certificate_from_pem(text: &str) -> Result<Vec<u8>> {
    let certificate =
        Certificate::from_pem(text).map_err(|_| "it is not a certificate in PEM".to_owned())?;
    certificate.to_der().map_err(encoding)
}

/// Whether the bytes are a PKCS#7 document with one signer; for tests of what is written.
#[cfg(test)]
pub(crate) fn signers(document: &[u8]) -> usize {
    use x509_cert::der::Decode;
    // A header of four bytes, then zeros up to a multiple of eight.
    let length = 4 + usize::from(u16::from_be_bytes([document[2], document[3]]));
    let info = ContentInfo::from_der(&document[..length]).unwrap();
    let data: SignedData = info.content.decode_as().unwrap();
    data.signer_infos.0.len()
}
