//! A machine that nobody declared joins a cluster that takes it: its name follows from the instance id.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use sha2::{Digest, Sha256};

use crate::deployment::{Cluster, Deployment, Machine, MemberRef};
use crate::error::{Error, Invalid, Result};
use crate::merge::UNDECLARED;
use crate::metadata::Metadata;
use crate::role::CLUSTER_TAG;
use crate::values::{MemberRole, Name, Role};

/// Longest name of a machine, which is one DNS label.
const MAX_NAME: usize = 63;

/// The machine that the metadata makes a member, when it names a cluster that scales by itself; none otherwise. `own` are
/// its addresses in the deployment's subnet.
///
/// # Errors
/// `FR-NODE-UNKNOWN`, `FR-NODE-CONTRADICTION`.
pub(crate) fn joining(metadata: &Metadata, own: &[Ipv4Addr]) -> Result<Option<Machine>> {
    let deployment = &metadata.deployment;
    let tag = metadata.tags.get(CLUSTER_TAG).map(String::as_str);
    let named = metadata.fragment.cluster.as_ref().map(Name::as_str).or(tag);
    let cluster = named.and_then(|name| deployment.cluster(name));
    let Some(cluster) = cluster.filter(|cluster| cluster.autoscale) else {
        return Ok(None);
    };
    if metadata.fragment.node.is_some() {
        return Ok(None);
    }
    let id = metadata.instance_id.as_deref().unwrap_or_default();
    machine(deployment, cluster, id, own).map(Some)
}

/// The machine with that instance id and one of those addresses, as a member of the cluster.
///
/// # Errors
/// `FR-NODE-UNKNOWN`, `FR-NODE-CONTRADICTION`.
pub fn machine(
    deployment: &Deployment,
    cluster: &Cluster,
    id: &str,
    own: &[Ipv4Addr],
) -> Result<Machine> {
    // A virtual address that this machine holds at the moment is not its own.
    let others = deployment.addresses();
    let own: Vec<Ipv4Addr> = own
        .iter()
        .copied()
        .filter(|address| !others.contains(address))
        .collect();
    let address = match own.as_slice() {
        [address] => *address,
        [] => {
            let message = format!(
                "this machine has no address of its own in {}",
                deployment.network.subnet
            );
            return Err(refuse(
                "FR-NODE-UNKNOWN",
                "addresses",
                message,
                "give it one, statically or by DHCP",
            ));
        }
        [first, second, ..] => {
            let message = format!("this machine has the addresses {first} and {second}");
            return Err(refuse(
                "FR-NODE-CONTRADICTION",
                "addresses",
                message,
                "give it one of them",
            ));
        }
    };
    let name = name(&cluster.name, id).ok_or_else(|| {
        let message = format!("{id:?} gives no name");
        let hint = "a member that is not declared is named by its instance id: letters and digits";
        refuse("FR-NODE-UNKNOWN", "instance-id", message, hint)
    })?;
    let taken: BTreeSet<Name> = names(deployment);
    if taken.contains(&name) {
        let message = format!("there is a {name} with another address");
        return Err(refuse(
            "FR-NODE-CONTRADICTION",
            "instance-id",
            message,
            "give each machine its own instance id",
        ));
    }
    Ok(Machine {
        name: name.clone(),
        address,
        role: Role::Database,
        meta_seq: None,
        member: Some(MemberRef {
            cluster: cluster.name.clone(),
            seq: UNDECLARED,
            instance: name.to_string(),
            role: MemberRole::Replica,
        }),
    })
}

fn names(deployment: &Deployment) -> BTreeSet<Name> {
    let machines = deployment.machines();
    machines.into_iter().map(|machine| machine.name).collect()
}

/// `<cluster>-<id>`, the id in lower case with every other character a dash. One that is too long is replaced by its digest.
pub fn name(cluster: &Name, instance_id: &str) -> Option<Name> {
    let lower = instance_id.to_ascii_lowercase();
    let prefix = format!("{cluster}-");
    let id = lower.strip_prefix(&prefix).unwrap_or(&lower);
    let parts = id.split(|c: char| !c.is_ascii_alphanumeric());
    let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    let mut id = parts.join("-");
    if id.is_empty() {
        return None;
    }
    if prefix.len() + id.len() > MAX_NAME {
        id = hex::encode(&Sha256::digest(instance_id)[..8]);
    }
    Name::parse(&format!("{prefix}{id}")).ok()
}

fn refuse(code: &'static str, field: &str, message: String, hint: &str) -> Error {
    Invalid::new(code, field, message, hint)
        .in_document("metadata")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_instance_ids() {
        let cluster = Name::parse("pg-auto").unwrap();
        let long = "x".repeat(70);
        for (id, expected) in [
            ("i-0abc", Some("pg-auto-i-0abc")),
            ("pg-auto-7", Some("pg-auto-7")),
            ("A.b_c--", Some("pg-auto-a-b-c")),
            ("../../etc", Some("pg-auto-etc")),
            ("", None),
            ("--", None),
            ("ä", None),
        ] {
            let found = name(&cluster, id);
            assert_eq!(found.as_ref().map(Name::as_str), expected, "{id}");
        }
        let short = name(&cluster, &long).unwrap();
        assert!(short.as_str().len() == 8 + 16 && name(&cluster, &(long + "y")).unwrap() != short);
    }
}
