//! Writes what this crate reads: the seed of a machine. For the builder, and for tests of the readers.

use serde::Serialize;

use crate::deployment::{Cluster, Deployment};
use crate::document::SCHEMA;
use crate::error::{Error, Invalid, Result};
use crate::fragment::{Check, NodeFragment, SecretFile};
use crate::mime::{self, Part};
use crate::pki;
use crate::secrets::{DeploymentSecret, cluster_secret};
use crate::userdata::{DEPLOYMENT_TYPE, NODE_TYPE};
use crate::values::Role;

/// The node fragment of a machine: the deployment secret for a meta node; for the others their cluster's secret and
/// intermediate certificate, and the authority.
///
/// # Errors
/// `FR-NODE-UNKNOWN` when the deployment has no such machine.
pub fn node_fragment(
    deployment: &Deployment,
    machine: &str,
    secret: &DeploymentSecret,
    generation: u32,
    checks: &[Check],
) -> Result<String> {
    let Some(found) = deployment.machine(machine) else {
        let message = format!("there is no machine {machine} in {}", deployment.name);
        return Err(Invalid::new("FR-NODE-UNKNOWN", "", message, "")
            .in_document("deployment")
            .into());
    };
    let mut secrets = SecretFile {
        generation,
        ..SecretFile::default()
    };
    match (found.role, &found.member) {
        (Role::Meta, _) => secrets.deployment = Some(secret.clone()),
        (Role::Database, Some(member)) => {
            if let Some(cluster) = deployment.cluster(member.cluster.as_str()) {
                add_cluster(&mut secrets, deployment, cluster, secret)?;
            }
        }
        (Role::Database, None) => {}
    }
    to_toml(&NodeFragment {
        schema: SCHEMA,
        node: Some(found.name),
        secret: secrets,
        check: checks.to_vec(),
        ..NodeFragment::default()
    })
}

/// The node fragment of any machine that joins a cluster with `autoscale = true`.
///
/// # Errors
/// None in practice: the names in it are valid ones.
pub fn joining_fragment(
    deployment: &Deployment,
    cluster: &Cluster,
    secret: &DeploymentSecret,
    generation: u32,
    checks: &[Check],
) -> Result<String> {
    let mut secrets = SecretFile {
        generation,
        ..SecretFile::default()
    };
    add_cluster(&mut secrets, deployment, cluster, secret)?;
    to_toml(&NodeFragment {
        schema: SCHEMA,
        cluster: Some(cluster.name.clone()),
        secret: secrets,
        check: checks.to_vec(),
        ..NodeFragment::default()
    })
}

/// What members of a cluster hold.
fn add_cluster(
    secrets: &mut SecretFile,
    deployment: &Deployment,
    cluster: &Cluster,
    secret: &DeploymentSecret,
) -> Result<()> {
    let (name, generation) = (&cluster.name, secrets.generation);
    let own = cluster_secret(secret, generation, name.as_str());
    secrets.clusters.insert(name.clone(), own);
    secrets.ca = Some(pki::ca_certificate(secret, generation, deployment)?);
    secrets.meta_ca = Some(pki::meta_ca_certificate(secret, generation, deployment)?);
    let certificate = pki::cluster_certificate(secret, generation, deployment, cluster)?;
    secrets.intermediates.insert(name.clone(), certificate);
    Ok(())
}

fn to_toml(value: &impl Serialize) -> Result<String> {
    toml::to_string(value).map_err(|error| {
        Error::io(
            "serialise",
            "node fragment".as_ref(),
            std::io::Error::other(error),
        )
    })
}

/// User-data of a machine.
pub fn user_data(deployment_text: &str, node_fragment: &str) -> String {
    let part = |content_type: &str, body: &str| Part {
        content_type: content_type.to_owned(),
        body: body.to_owned(),
    };
    mime::write(&[
        part(DEPLOYMENT_TYPE, deployment_text),
        part(NODE_TYPE, node_fragment),
    ])
}

/// NoCloud meta-data.
pub fn meta_data(instance_id: &str, hostname: &str) -> String {
    format!("instance-id: {instance_id:?}\nlocal-hostname: {hostname:?}\n")
}

/// A network interface of a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Key in the document.
    pub id: String,
    /// Hardware address.
    pub mac: String,
    /// Addresses with prefix length, `10.10.10.10/24`.
    pub addresses: Vec<String>,
    /// Whether to ask a DHCP server.
    pub dhcp4: bool,
}

/// NoCloud network-config, netplan version 2.
pub fn network_config(interfaces: &[Interface]) -> String {
    let mut text = String::from("version: 2\nethernets:\n");
    for Interface {
        id,
        mac,
        addresses,
        dhcp4,
    } in interfaces
    {
        text += &format!("  {id}:\n    match:\n      macaddress: \"{mac}\"\n    dhcp4: {dhcp4}\n");
        if !addresses.is_empty() {
            text += &format!("    addresses: {addresses:?}\n");
        }
    }
    text
}
