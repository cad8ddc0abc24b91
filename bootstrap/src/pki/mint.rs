//! What one node can make: its own leaf certificates, and their chains.

use std::net::Ipv4Addr;
use std::sync::OnceLock;

use zeroize::Zeroizing;

use super::der::Certificate;
use super::issue::{Leaf, Signer, anchor, intermediate, leaf, self_signed};
use super::keys::Key;
use super::names::{Scope, has_own_intermediate, is_meta, meta_names, push_name, unique};
use crate::deployment::{Deployment, Machine};
use crate::error::{Error, Invalid, Result};
use crate::fragment::SecretFile;
use crate::secrets::cluster_secret;
use crate::values::{Domain, Name};

/// Makes certificates for one machine.
pub struct Mint {
    secret: SecretFile,
    deployment: Deployment,
    machine: Machine,
    portal: Vec<Domain>,
    /// What a meta node signs with; made once, since each signature costs an emulated machine milliseconds.
    meta: OnceLock<Option<MetaIssuer>>,
}

struct MetaIssuer {
    ca: String,
    anchor: String,
    certificate: String,
    signer: Signer,
}

/// What a certificate is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Clients and members of the machine's cluster.
    Cluster,
    /// The infrastructure.
    Meta,
}

impl Kind {
    fn parse(text: &str) -> std::result::Result<Self, String> {
        match text {
            "cluster" => Ok(Kind::Cluster),
            "meta" => Ok(Kind::Meta),
            _ => Err(format!("{text:?} is no certificate: cluster or meta")),
        }
    }
}

impl Mint {
    /// A mint with what a machine holds. `portal` are the names of the web interfaces.
    pub fn new(
        secret: SecretFile,
        deployment: Deployment,
        machine: Machine,
        portal: Vec<Domain>,
    ) -> Self {
        Mint {
            secret,
            deployment,
            machine,
            portal,
            meta: OnceLock::new(),
        }
    }

    /// The deployment's authority in PEM.
    ///
    /// # Errors
    /// When the machine was given neither it nor the deployment secret.
    pub fn ca_certificate(&self) -> std::result::Result<String, String> {
        match (self.meta(), &self.secret.ca) {
            (Some(issuer), _) => Ok(issuer.ca.clone()),
            (None, Some(ca)) => Ok(with_newline(ca)),
            (None, None) => Err(missing("secret.ca")),
        }
    }

    /// The issuers of a kind of leaf as authorities of their own, in PEM. What trusts these believes nobody else, whatever
    /// the rest of the deployment's issuers sign.
    ///
    /// # Errors
    /// When the machine was not given them.
    pub fn anchor(&self, kind: &str) -> std::result::Result<String, String> {
        match Kind::parse(kind)? {
            Kind::Meta => self.meta_anchor(),
            Kind::Cluster => self.cluster_anchors(),
        }
    }

    fn meta_anchor(&self) -> std::result::Result<String, String> {
        match (self.meta(), &self.secret.meta_ca) {
            (Some(issuer), _) => Ok(issuer.anchor.clone()),
            (None, Some(ca)) => Ok(with_newline(ca)),
            (None, None) => Err(missing("secret.meta_ca")),
        }
    }

    fn cluster_anchors(&self) -> std::result::Result<String, String> {
        let name = self.cluster_name()?;
        let cluster = self.deployment.cluster(name.as_str());
        let cluster = cluster.ok_or_else(|| format!("there is no cluster {name}"))?;
        let mut anchors = String::new();
        let mut members = cluster.members.iter();
        if members.any(|member| is_meta(&self.deployment, member.address)) {
            anchors += &self.meta_anchor()?;
        }
        if has_own_intermediate(&self.deployment, cluster) {
            let signer = self.cluster_signer()?;
            anchors += &anchor(&signer).map_err(|error| error.to_string())?;
        }
        Ok(anchors)
    }

    /// A leaf and its issuer's certificate in PEM. Each purpose has a key of its own.
    ///
    /// # Errors
    /// When the machine cannot sign such leaves.
    pub fn certificate(&self, kind: &str, purpose: &str) -> std::result::Result<String, String> {
        let kind = Kind::parse(kind)?;
        let key = self.key(purpose)?;
        let (issuer, scope) = self.issuer(kind)?;
        let (names, addresses) = match kind {
            Kind::Cluster => self.cluster_names(&scope)?,
            Kind::Meta => self.meta_names(),
        };
        let content = Leaf {
            deployment: &self.deployment,
            machine: self.machine.name.as_str(),
            names: &names,
            addresses: &addresses,
        };
        let signed = match self.meta() {
            Some(meta) => leaf(&meta.signer, &key, &content),
            None => leaf(&self.cluster_signer()?, &key, &content),
        };
        let signed = signed.map_err(|error| error.to_string())?;
        Ok(signed + &issuer)
    }

    /// The private key of a purpose's leaf in PEM.
    ///
    /// # Errors
    /// When the machine holds no secret.
    pub fn private_key(
        &self,
        kind: &str,
        purpose: &str,
    ) -> std::result::Result<Zeroizing<String>, String> {
        Kind::parse(kind)?;
        Ok(self.key(purpose)?.to_pem())
    }

    fn meta(&self) -> Option<&MetaIssuer> {
        let make = || {
            let secret = self.secret.deployment.as_ref()?;
            let generation = self.secret.generation;
            let authority = Signer::authority(secret, generation, &self.deployment);
            let signer = Signer::meta(secret, generation, &self.deployment);
            Some(MetaIssuer {
                ca: self_signed(&authority).ok()?,
                anchor: anchor(&signer).ok()?,
                certificate: intermediate(&authority, &signer, None).ok()?,
                signer,
            })
        };
        self.meta.get_or_init(make).as_ref()
    }

    fn cluster_name(&self) -> std::result::Result<&Name, String> {
        let member = self.machine.member.as_ref();
        member
            .map(|member| &member.cluster)
            .ok_or_else(|| "this machine belongs to no cluster".to_owned())
    }

    /// The issuer's certificate and what it may sign; none is everything.
    fn issuer(&self, kind: Kind) -> std::result::Result<(String, Option<Scope>), String> {
        if let Some(meta) = self.meta() {
            return Ok((meta.certificate.clone(), None));
        }
        if kind == Kind::Meta {
            return Err("this machine holds no deployment secret".to_owned());
        }
        let cluster = self.cluster_name()?;
        let text = self
            .secret
            .intermediates
            .get(cluster)
            .ok_or_else(|| missing(&format!("secret.intermediates.{cluster}")))?;
        let certificate = Certificate::from_pem(text)
            .ok_or_else(|| format!("secret.intermediates.{cluster} is no certificate"))?;
        Ok((with_newline(text), Some(certificate.scope)))
    }

    fn cluster_signer(&self) -> std::result::Result<Signer, String> {
        let cluster = self.cluster_name()?;
        let held = self.secret.clusters.get(cluster).cloned();
        let derive = |secret| cluster_secret(secret, self.secret.generation, cluster.as_str());
        let secret = held
            .or_else(|| self.secret.deployment.as_ref().map(derive))
            .ok_or_else(|| missing(&format!("secret.clusters.{cluster}")))?;
        Ok(Signer::cluster(
            &secret,
            self.secret.generation,
            &self.deployment,
            cluster.as_str(),
        ))
    }

    /// Keys of meta nodes derive from the deployment secret, so that a member of `pg-meta` that is no meta node cannot
    /// compute them.
    fn key(&self, purpose: &str) -> std::result::Result<Key, String> {
        Name::parse(purpose)?;
        let generation = self.secret.generation;
        let label = format!("leaf/{}/{purpose}", self.machine.name);
        if let Some(secret) = &self.secret.deployment {
            let material = |counter| secret.key_material(generation, &label, counter);
            return Ok(Key::derive(material));
        }
        let cluster = self.cluster_name()?;
        let secret = self
            .secret
            .clusters
            .get(cluster)
            .ok_or_else(|| missing(&format!("secret.clusters.{cluster}")))?;
        let material = |counter| secret.key_material(generation, &label, counter);
        Ok(Key::derive(material))
    }

    /// All names and addresses of the cluster, as far as the issuer may sign for them: a client reaches any member
    /// through HAProxy on any other, so they are one and the same to it.
    fn cluster_names(
        &self,
        scope: &Option<Scope>,
    ) -> std::result::Result<(Vec<String>, Vec<Ipv4Addr>), String> {
        let name = self.cluster_name()?;
        let cluster = self.deployment.cluster(name.as_str());
        let mut names = Vec::new();
        push_name(&mut names, &self.deployment, name.as_str());
        push_name(&mut names, &self.deployment, self.machine.name.as_str());
        if let Some(member) = &self.machine.member {
            push_name(&mut names, &self.deployment, &member.instance);
            let below = format!("{}.{name}.{}", member.instance, self.deployment.domain);
            names.push(below);
        }
        let mut addresses = vec![self.machine.address];
        for member in cluster.map_or(&[][..], |cluster| &cluster.members) {
            push_name(&mut names, &self.deployment, member.name.as_str());
            push_name(&mut names, &self.deployment, &member.instance);
            addresses.push(member.address);
        }
        addresses.extend(cluster.and_then(|cluster| cluster.vip));
        if let Some(scope) = scope {
            names.retain(|name| scope.has_name(name));
            addresses.retain(|address| scope.has_address(*address));
        }
        if !addresses.contains(&self.machine.address) {
            return Err(format!(
                "the certificate of cluster {name} is not good for {}; make the seed again",
                self.machine.address
            ));
        }
        Ok((unique(names), distinct(addresses)))
    }

    fn meta_names(&self) -> (Vec<String>, Vec<Ipv4Addr>) {
        let mut names = meta_names(&self.deployment);
        names.push(self.deployment.domain.to_string());
        names.extend(self.portal.iter().map(Domain::to_string));
        names.push("localhost".to_owned());
        let mut addresses: Vec<Ipv4Addr> = self
            .deployment
            .meta
            .iter()
            .map(|meta| meta.address)
            .collect();
        addresses.push(Ipv4Addr::LOCALHOST);
        (unique(names), addresses)
    }
}

fn distinct(mut addresses: Vec<Ipv4Addr>) -> Vec<Ipv4Addr> {
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn with_newline(pem: &str) -> String {
    format!("{}\n", pem.trim())
}

fn missing(field: &str) -> String {
    format!("this machine cannot make certificates; its node fragment needs {field}")
}

/// Checks that the certificates of a node fragment belong to its secrets and to one another.
///
/// # Errors
/// `FR-NODE-CERTIFICATE`, with the field.
pub fn check_fragment(
    secret: &SecretFile,
    deployment: &Deployment,
    machine: &Machine,
) -> Result<()> {
    let refuse = |field: String, message: String| -> Error {
        let hint = "make the seed again with `farrow seed`";
        Invalid::new("FR-NODE-CERTIFICATE", field, message, hint)
            .in_document("node fragment")
            .into()
    };
    let read = |field: &str, text: &str| {
        Certificate::from_pem(text).ok_or_else(|| {
            refuse(
                field.to_owned(),
                "this is no certificate of a P-256 key in PEM".to_owned(),
            )
        })
    };
    let ca = secret
        .ca
        .as_ref()
        .map(|text| read("secret.ca", text))
        .transpose()?;
    if let Some(text) = &secret.meta_ca {
        read("secret.meta_ca", text)?;
    }
    for (cluster, text) in &secret.intermediates {
        let field = format!("secret.intermediates.{cluster}");
        let certificate = read(&field, text)?;
        let Some(ca) = &ca else {
            let message = format!("there is no authority for the certificate of {cluster}");
            return Err(refuse("secret.ca".to_owned(), message));
        };
        if !certificate.is_signed_by(ca) {
            let message = format!("the certificate of {cluster} was not signed by secret.ca");
            return Err(refuse(field, message));
        }
        let Some(own) = secret.clusters.get(cluster) else {
            let message = format!("there is no secret for the certificate of {cluster}");
            return Err(refuse(format!("secret.clusters.{cluster}"), message));
        };
        let signer = Signer::cluster(own, secret.generation, deployment, cluster.as_str());
        // Key and name both, else nothing that is signed with it would be believed.
        let expected = Certificate::from_pem(&anchor(&signer)?);
        let fits = expected.is_some_and(|expected| {
            expected.point == certificate.point && expected.subject == certificate.subject
        });
        if !fits {
            let message = format!(
                "the certificate of {cluster} does not belong to its secret, to generation {} and to deployment {}",
                secret.generation, deployment.name
            );
            return Err(refuse(field, message));
        }
        let member = machine.member.as_ref();
        let own = member.is_some_and(|member| member.cluster == *cluster);
        if own && !certificate.scope.has_address(machine.address) {
            let message = format!(
                "the certificate of {cluster} is not good for {}",
                machine.address
            );
            return Err(refuse(field, message));
        }
    }
    Ok(())
}
