//! The little of a certificate (RFC 5280 §4.1) that a node has to read: issuer, subject, key, signature and name constraints.

use std::net::Ipv4Addr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::Verifier;
use p256::ecdsa::{Signature, VerifyingKey};

use super::keys::POINT_BYTES;
use super::names::Scope;

/// Tags, X.690 §8.1.2.
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// `permittedSubtrees` and `excludedSubtrees` of NameConstraints.
const PERMITTED: u8 = 0xa0;
const EXCLUDED: u8 = 0xa1;
/// `dNSName` and `iPAddress` of GeneralName.
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

/// The extension nameConstraints, 2.5.29.30, as an OBJECT IDENTIFIER.
const NAME_CONSTRAINTS: [u8; 5] = [0x06, 0x03, 0x55, 0x1d, 0x1e];

/// A certificate as far as it was read.
pub(super) struct Certificate {
    signed: Vec<u8>,
    signature: Vec<u8>,
    /// DER of the issuer's name.
    pub(super) issuer: Vec<u8>,
    /// DER of the subject's name.
    pub(super) subject: Vec<u8>,
    /// The public key, an uncompressed point.
    pub(super) point: Vec<u8>,
    /// Name constraints; empty when there are none.
    pub(super) scope: Scope,
}

/// One DER element.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    /// With tag and length.
    whole: &'a [u8],
}

/// Takes one element off the front.
fn take<'a>(input: &mut &'a [u8]) -> Option<Element<'a>> {
    let (&tag, rest) = input.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 3 {
            return None;
        }
        let (bytes, after) = rest.split_at_checked(count)?;
        length = bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        rest = after;
    }
    let (content, after) = rest.split_at_checked(length)?;
    let whole = &input[..input.len() - after.len()];
    *input = after;
    Some(Element {
        tag,
        content,
        whole,
    })
}

/// Takes an element with a known tag.
fn expect<'a>(input: &mut &'a [u8], tag: u8) -> Option<Element<'a>> {
    take(input).filter(|element| element.tag == tag)
}

fn all(mut input: &[u8]) -> Vec<Element<'_>> {
    std::iter::from_fn(|| take(&mut input)).collect()
}

impl Certificate {
    /// Reads a certificate in PEM; none when it is not one, or not one of a P-256 key.
    pub(super) fn from_pem(text: &str) -> Option<Self> {
        let body = text
            .trim()
            .strip_prefix("-----BEGIN CERTIFICATE-----")?
            .strip_suffix("-----END CERTIFICATE-----")?;
        let body: String = body.split_whitespace().collect();
        Self::from_der(&STANDARD.decode(body).ok()?)
    }

    pub(super) fn from_der(der: &[u8]) -> Option<Self> {
        let mut input = der;
        let mut certificate = expect(&mut input, SEQUENCE)?.content;
        let signed = expect(&mut certificate, SEQUENCE)?;
        let _algorithm = take(&mut certificate)?;
        // A BIT STRING begins with the number of its unused bits.
        let signature = take(&mut certificate)?.content.get(1..)?;
        let mut fields = signed.content;
        expect(&mut fields, VERSION)?;
        let _serial = take(&mut fields)?;
        let _algorithm = take(&mut fields)?;
        let issuer = take(&mut fields)?;
        let _validity = take(&mut fields)?;
        let subject = take(&mut fields)?;
        let key = expect(&mut fields, SEQUENCE)?.content;
        let point = &key[key.len().checked_sub(POINT_BYTES)?..];
        let scope = fields_scope(fields)?;
        Some(Certificate {
            signed: signed.whole.to_vec(),
            signature: signature.to_vec(),
            issuer: issuer.whole.to_vec(),
            subject: subject.whole.to_vec(),
            point: point.to_vec(),
            scope,
        })
    }

    /// Whether the other certificate's key signed this one in the other's name.
    pub(super) fn is_signed_by(&self, other: &Certificate) -> bool {
        let verify = || {
            let key = VerifyingKey::from_sec1_bytes(&other.point).ok()?;
            let signature = Signature::from_der(&self.signature).ok()?;
            key.verify(&self.signed, &signature).ok()
        };
        self.issuer == other.subject && verify().is_some()
    }
}

fn fields_scope(fields: &[u8]) -> Option<Scope> {
    let mut scope = Scope::default();
    let Some(extensions) = all(fields)
        .into_iter()
        .find(|field| field.tag == EXTENSIONS)
    else {
        return Some(scope);
    };
    let mut list = extensions.content;
    for extension in all(expect(&mut list, SEQUENCE)?.content) {
        if !extension.content.starts_with(&NAME_CONSTRAINTS) {
            continue;
        }
        let value = all(extension.content)
            .into_iter()
            .find(|part| part.tag == OCTET_STRING)?;
        let mut value = value.content;
        for trees in all(expect(&mut value, SEQUENCE)?.content) {
            for tree in all(trees.content) {
                add_subtree(&mut scope, trees.tag, take(&mut { tree.content })?)?;
            }
        }
    }
    Some(scope)
}

fn add_subtree(scope: &mut Scope, side: u8, name: Element<'_>) -> Option<()> {
    match (side, name.tag) {
        (PERMITTED, DNS_NAME) => {
            let text = std::str::from_utf8(name.content).ok()?;
            scope.names.push(text.to_owned());
        }
        (PERMITTED | EXCLUDED, IP_ADDRESS) => {
            let bytes: [u8; 8] = name.content.try_into().ok()?;
            let [a, b, c, d, e, f, g, h] = bytes;
            let network = (Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h));
            if side == PERMITTED {
                scope.networks.push(network);
            } else {
                scope.excluded.push(network);
            }
        }
        // A constraint that was not understood must not be taken for none.
        _ => return None,
    }
    Some(())
}
