//! Signs certificates: authority, intermediates, leaves.

use std::net::{IpAddr, Ipv4Addr};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose,
    NameConstraints, SanType, SerialNumber, date_time_ymd,
};
use sha2::{Digest, Sha256};

use super::keys::Key;
use super::names::Scope;
use crate::deployment::{Cluster, Deployment};
use crate::error::{Error, Invalid, Result};
use crate::secrets::{ClusterSecret, DeploymentSecret, cluster_secret};

/// Certificates are valid from a day before any machine's wrong clock, to one that nobody will see: what ends them is a
/// new generation.
const FIRST_YEAR: i32 = 2020;
const LAST_YEAR: i32 = 2099;

/// What authorities do.
const AUTHORITY_USAGES: [KeyUsagePurpose; 2] =
    [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];

/// Bytes of a serial number; RFC 5280 §4.1.2.2 allows 20.
const SERIAL_BYTES: usize = 16;

/// Somebody who signs.
pub(super) struct Signer {
    pub(super) key: Key,
    subject: DistinguishedName,
}

impl Signer {
    /// The deployment's authority.
    pub(super) fn authority(
        secret: &DeploymentSecret,
        generation: u32,
        deployment: &Deployment,
    ) -> Self {
        let key = Key::derive(|counter| secret.key_material(generation, "ca", counter));
        let subject = subject(deployment, None, &format!("Farrow CA {generation}"));
        Signer { key, subject }
    }

    /// Who signs for the meta nodes.
    pub(super) fn meta(
        secret: &DeploymentSecret,
        generation: u32,
        deployment: &Deployment,
    ) -> Self {
        let key = Key::derive(|counter| secret.key_material(generation, "meta", counter));
        let subject = subject(deployment, None, &format!("Farrow meta CA {generation}"));
        Signer { key, subject }
    }

    /// Who signs for a cluster.
    pub(super) fn cluster(
        secret: &ClusterSecret,
        generation: u32,
        deployment: &Deployment,
        cluster: &str,
    ) -> Self {
        let key = Key::derive(|counter| secret.key_material(generation, "intermediate", counter));
        let common_name = format!("Farrow cluster CA {generation}");
        let subject = subject(deployment, Some(cluster), &common_name);
        Signer { key, subject }
    }

    fn issuer(&self) -> Issuer<'_, &Key> {
        let mut params = params(&self.key, self.subject.clone(), "");
        params.key_usages = AUTHORITY_USAGES.to_vec();
        Issuer::new(params, &self.key)
    }
}

fn subject(deployment: &Deployment, unit: Option<&str>, common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, deployment.name.as_str());
    if let Some(unit) = unit {
        name.push(DnType::OrganizationalUnitName, unit);
    }
    if !common_name.is_empty() {
        name.push(DnType::CommonName, common_name);
    }
    name
}

/// What all certificates have in common. The serial number is a hash of the key and of everything that tells two
/// certificates of an issuer apart.
fn params(key: &Key, subject: DistinguishedName, distinct: &str) -> CertificateParams {
    let mut hash = Sha256::new();
    hash.update(key.point());
    hash.update(distinct);
    let mut serial = hash.finalize()[..SERIAL_BYTES].to_vec();
    // Positive, and of the same length for all.
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(FIRST_YEAR, 1, 1);
    params.not_after = date_time_ymd(LAST_YEAR, 12, 31);
    params.serial_number = Some(SerialNumber::from(serial));
    params.distinguished_name = subject;
    params.use_authority_key_identifier_extension = true;
    params.key_identifier_method = KeyIdMethod::PreSpecified(key.identifier());
    params
}

fn authority_params(signer: &Signer, path_length: u8, scope: Option<&Scope>) -> CertificateParams {
    let distinct = format!("{path_length} {scope:?}");
    let mut params = params(&signer.key, signer.subject.clone(), &distinct);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = AUTHORITY_USAGES.to_vec();
    params.name_constraints = scope.map(constraints);
    params
}

fn constraints(scope: &Scope) -> NameConstraints {
    let network = |(address, mask): &(Ipv4Addr, Ipv4Addr)| {
        GeneralSubtree::IpAddress(CidrSubnet::V4(address.octets(), mask.octets()))
    };
    let names = scope.names.iter().cloned().map(GeneralSubtree::DnsName);
    NameConstraints {
        permitted_subtrees: names.chain(scope.networks.iter().map(network)).collect(),
        excluded_subtrees: scope.excluded.iter().map(network).collect(),
    }
}

/// The authority's own certificate.
pub(super) fn self_signed(authority: &Signer) -> Result<String> {
    let params = authority_params(authority, 1, None);
    let made = params.signed_by(&authority.key, &authority.issuer());
    made.map(|certificate| certificate.pem()).map_err(failed)
}

/// An issuer as an authority of its own: what trusts only this believes nobody whom another issuer signed for. Its name
/// and key are those of the intermediate, so it stands in for that in any chain.
pub(super) fn anchor(signer: &Signer) -> Result<String> {
    let mut params = params(&signer.key, signer.subject.clone(), "anchor");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = AUTHORITY_USAGES.to_vec();
    let made = params.signed_by(&signer.key, &signer.issuer());
    made.map(|certificate| certificate.pem()).map_err(failed)
}

/// An intermediate certificate; without a scope nothing is constrained.
pub(super) fn intermediate(
    authority: &Signer,
    signer: &Signer,
    scope: Option<&Scope>,
) -> Result<String> {
    // An extension with an empty list would constrain nothing at all.
    if scope.is_some_and(|scope| scope.names.is_empty() || scope.networks.is_empty()) {
        return Err(unconstrained());
    }
    let params = authority_params(signer, 0, scope);
    let made = params.signed_by(&signer.key, &authority.issuer());
    made.map(|certificate| certificate.pem()).map_err(failed)
}

/// What a leaf says.
pub(super) struct Leaf<'a> {
    pub(super) deployment: &'a Deployment,
    pub(super) machine: &'a str,
    pub(super) names: &'a [String],
    pub(super) addresses: &'a [Ipv4Addr],
}

/// A leaf for servers and clients alike: each service is both, and etcd's gateway calls its own server with the server's
/// certificate.
pub(super) fn leaf(signer: &Signer, key: &Key, leaf: &Leaf<'_>) -> Result<String> {
    let mut alternatives = Vec::new();
    for name in leaf.names {
        let name = name.as_str().try_into().map_err(failed)?;
        alternatives.push(SanType::DnsName(name));
    }
    let addresses = leaf.addresses.iter();
    alternatives.extend(addresses.map(|address| SanType::IpAddress(IpAddr::V4(*address))));
    let distinct = format!("{:?} {:?}", leaf.names, leaf.addresses);
    let subject = subject(leaf.deployment, Some(leaf.machine), "");
    let mut params = params(key, subject, &distinct);
    params.subject_alt_names = alternatives;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let made = params.signed_by(key, &signer.issuer());
    made.map(|certificate| certificate.pem()).map_err(failed)
}

fn unconstrained() -> Error {
    let message = "a cluster without machines of its own gets no certificate";
    Invalid::new("FR-NODE-CERTIFICATE", "cluster", message, "")
        .in_document("deployment")
        .into()
}

fn failed(error: rcgen::Error) -> Error {
    Error::io(
        "sign",
        "certificate".as_ref(),
        std::io::Error::other(error.to_string()),
    )
}

/// The deployment's authority in PEM.
///
/// # Errors
/// None in practice: the names in it are valid ones.
pub fn ca_certificate(
    secret: &DeploymentSecret,
    generation: u32,
    deployment: &Deployment,
) -> Result<String> {
    self_signed(&Signer::authority(secret, generation, deployment))
}

/// The certificate by which the meta nodes' own servers are known, PEM.
///
/// # Errors
/// None in practice, as above.
pub fn meta_ca_certificate(
    secret: &DeploymentSecret,
    generation: u32,
    deployment: &Deployment,
) -> Result<String> {
    anchor(&Signer::meta(secret, generation, deployment))
}

/// The intermediate certificate of a cluster in PEM.
///
/// # Errors
/// `FR-NODE-CERTIFICATE` when all members are meta nodes, which sign with the deployment secret.
pub fn cluster_certificate(
    secret: &DeploymentSecret,
    generation: u32,
    deployment: &Deployment,
    cluster: &Cluster,
) -> Result<String> {
    let own = cluster_secret(secret, generation, cluster.name.as_str());
    let signer = Signer::cluster(&own, generation, deployment, cluster.name.as_str());
    let authority = Signer::authority(secret, generation, deployment);
    intermediate(&authority, &signer, Some(&Scope::new(deployment, cluster)))
}
