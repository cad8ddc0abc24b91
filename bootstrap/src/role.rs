//! Which machine of the deployment this is, and hence its role. Never a guess: what is missing or contradictory is
//! refused, naming the field.

use std::net::Ipv4Addr;

use crate::deployment::{Deployment, Machine};
use crate::error::{Error, Invalid, Result};
use crate::facts::Facts;
use crate::join;
use crate::metadata::Metadata;
use crate::values::Role;

/// Tag that names the role.
pub const ROLE_TAG: &str = "farrow:role";

/// Tag that names the cluster.
pub const CLUSTER_TAG: &str = "farrow:cluster";

/// Finds this machine in the deployment: named by the fragment, else by its address, else by host name or instance id.
/// An explicit role or cluster (fragment first, then tag) must agree with what the deployment says of the machine.
///
/// # Errors
/// `FR-NODE-UNKNOWN`, `FR-NODE-CONTRADICTION`.
pub fn identify(metadata: &Metadata, facts: &Facts) -> Result<Machine> {
    let machine = find(metadata, facts)?;
    check_role(metadata, &machine)?;
    check_cluster(metadata, &machine)?;
    Ok(machine)
}

/// The addresses of this machine in the deployment's subnet: the configured ones, else those it already has.
pub fn own_addresses(metadata: &Metadata, facts: &Facts) -> Vec<Ipv4Addr> {
    let subnet = metadata.deployment.network.subnet;
    let configured = metadata
        .network
        .iter()
        .flat_map(|network| &network.ethernets);
    let configured = configured
        .flat_map(|ethernet| &ethernet.addresses)
        .map(|(address, _)| *address);
    let mut own: Vec<Ipv4Addr> = configured
        .filter(|address| subnet.holds(*address))
        .collect();
    if own.is_empty() {
        let present = facts
            .interfaces
            .iter()
            .flat_map(|interface| &interface.addresses);
        own = present
            .copied()
            .filter(|address| subnet.holds(*address))
            .collect();
    }
    let mut unique = Vec::new();
    for address in own {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    unique
}

fn find(metadata: &Metadata, facts: &Facts) -> Result<Machine> {
    let deployment = &metadata.deployment;
    let own = own_addresses(metadata, facts);
    if let Some(name) = &metadata.fragment.node {
        let machine = deployment
            .machine(name.as_str())
            .ok_or_else(|| unknown(deployment, "node", format!("there is no machine {name}")))?;
        return agree(machine, &own, "node");
    }
    let mut matches = deployment
        .machines()
        .into_iter()
        .filter(|machine| own.contains(&machine.address));
    if let Some(machine) = matches.next() {
        if let Some(other) = matches.next() {
            let message = format!(
                "this machine has the addresses of {} and of {}",
                machine.name, other.name
            );
            let hint = "give it one of them, or name it in the node fragment: node = \"…\"";
            return Err(contradiction("addresses", message, hint));
        }
        return Ok(machine);
    }
    let names = [
        ("local-hostname", &metadata.local_hostname),
        ("instance-id", &metadata.instance_id),
    ];
    for (field, name) in names {
        if let Some(machine) = name.as_deref().and_then(|name| deployment.machine(name)) {
            return agree(machine, &own, field);
        }
    }
    if let Some(machine) = join::joining(metadata, &own)? {
        return Ok(machine);
    }
    let message = match own.as_slice() {
        [] => format!(
            "this machine has no address in {}",
            deployment.network.subnet
        ),
        own => {
            let own: Vec<String> = own.iter().map(Ipv4Addr::to_string).collect();
            format!("no machine has the address {}", own.join(" or "))
        }
    };
    Err(unknown(deployment, "addresses", message))
}

/// A machine that is named must not have another machine's address.
fn agree(machine: Machine, own: &[Ipv4Addr], field: &str) -> Result<Machine> {
    if own.is_empty() || own.contains(&machine.address) {
        return Ok(machine);
    }
    let own: Vec<String> = own.iter().map(Ipv4Addr::to_string).collect();
    let message = format!(
        "{} has the address {}, but this machine has {}",
        machine.name,
        machine.address,
        own.join(" and ")
    );
    Err(contradiction(
        field,
        message,
        "correct the address here or in the deployment",
    ))
}

fn check_role(metadata: &Metadata, machine: &Machine) -> Result<()> {
    let tag = metadata.tags.get(ROLE_TAG);
    let (field, role) = match (metadata.fragment.role, tag) {
        (Some(role), _) => ("role", role.as_str()),
        (None, Some(tag)) => (ROLE_TAG, tag.as_str()),
        (None, None) => return Ok(()),
    };
    if ![Role::Meta, Role::Database]
        .iter()
        .any(|known| known.as_str() == role)
    {
        let message = format!("{role:?} is no role");
        return Err(contradiction(
            field,
            message,
            "write meta or database, or leave it out",
        ));
    }
    if role != machine.role.as_str() {
        let message = format!(
            "the role is {role}, but in the deployment {} is a {} node",
            machine.name, machine.role
        );
        return Err(contradiction(
            field,
            message,
            "leave the role out, or correct the deployment",
        ));
    }
    Ok(())
}

fn check_cluster(metadata: &Metadata, machine: &Machine) -> Result<()> {
    let tag = metadata.tags.get(CLUSTER_TAG);
    let (field, cluster) = match (&metadata.fragment.cluster, tag) {
        (Some(cluster), _) => ("cluster", cluster.as_str()),
        (None, Some(tag)) => (CLUSTER_TAG, tag.as_str()),
        (None, None) => return Ok(()),
    };
    let own = machine
        .member
        .as_ref()
        .map(|member| member.cluster.as_str());
    if own != Some(cluster) {
        let own = own.unwrap_or("no cluster");
        let message = format!(
            "the cluster is {cluster}, but in the deployment {} belongs to {own}",
            machine.name
        );
        return Err(contradiction(
            field,
            message,
            "leave the cluster out, or correct the deployment",
        ));
    }
    Ok(())
}

fn unknown(deployment: &Deployment, field: &str, message: String) -> Error {
    let machines: Vec<String> = deployment
        .machines()
        .iter()
        .map(|machine| format!("{} ({})", machine.name, machine.address))
        .collect();
    let hint = format!(
        "the machines of {} are {}",
        deployment.name,
        machines.join(", ")
    );
    Invalid::new("FR-NODE-UNKNOWN", field, message, hint)
        .in_document("metadata")
        .into()
}

fn contradiction(field: &str, message: String, hint: &str) -> Error {
    Invalid::new("FR-NODE-CONTRADICTION", field, message, hint)
        .in_document("metadata")
        .into()
}
