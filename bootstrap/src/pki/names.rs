//! Which names and addresses belong to whom.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::deployment::{Cluster, Deployment};
use crate::error::Invalid;
use crate::values::Subnet;

/// What the certificates of a cluster may name: the name constraints of its intermediate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// DNS names, each with everything below it.
    pub names: Vec<String>,
    /// Networks, as address and mask.
    pub networks: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// Networks in them that are not meant.
    pub excluded: Vec<(Ipv4Addr, Ipv4Addr)>,
}

/// The mask of a single address.
const HOST: Ipv4Addr = Ipv4Addr::BROADCAST;

impl Scope {
    /// What a cluster's certificates may name.
    pub fn new(deployment: &Deployment, cluster: &Cluster) -> Self {
        if cluster.autoscale {
            Self::of_growing_cluster(deployment, cluster)
        } else {
            Self::of_cluster(deployment, cluster)
        }
    }

    /// The declared members of a cluster, and its virtual address. Meta nodes are not in it, not even as members of
    /// `pg-meta`: they sign with what only the deployment secret gives.
    fn of_cluster(deployment: &Deployment, cluster: &Cluster) -> Self {
        let mut names = Vec::new();
        let mut networks = Vec::new();
        push_name(&mut names, deployment, cluster.name.as_str());
        for member in &cluster.members {
            if is_meta(deployment, member.address) {
                continue;
            }
            push_name(&mut names, deployment, member.name.as_str());
            push_name(&mut names, deployment, &member.instance);
            networks.push((member.address, HOST));
        }
        networks.extend(cluster.vip.map(|vip| (vip, HOST)));
        Scope {
            names: unique(names),
            networks,
            excluded: Vec::new(),
        }
    }

    /// A cluster that any machine of the subnet may join: all of the subnet less what the deployment gives to others.
    /// Members that are not declared are called `INSTANCE.CLUSTER.DOMAIN`.
    pub(super) fn of_growing_cluster(deployment: &Deployment, cluster: &Cluster) -> Self {
        let declared = Self::of_cluster(deployment, cluster);
        let subnet = deployment.network.subnet;
        let others = deployment
            .clusters
            .iter()
            .filter(|other| other.name != cluster.name);
        let taken = others.flat_map(|other| {
            let members = other.members.iter().map(|member| member.address);
            members.chain(other.vip)
        });
        let taken: BTreeSet<Ipv4Addr> = deployment
            .meta
            .iter()
            .map(|meta| meta.address)
            .chain(taken)
            .chain(deployment.network.gateway)
            .collect();
        Scope {
            names: declared.names,
            networks: vec![network(subnet)],
            excluded: taken.into_iter().map(|address| (address, HOST)).collect(),
        }
    }

    /// Whether a DNS name is in it.
    pub fn has_name(&self, name: &str) -> bool {
        self.names.iter().any(|permitted| covers(permitted, name))
    }

    /// Whether an address is in it.
    pub fn has_address(&self, address: Ipv4Addr) -> bool {
        let within = |list: &[(Ipv4Addr, Ipv4Addr)]| {
            list.iter().any(|(network, mask)| {
                u32::from(address) & u32::from(*mask) == u32::from(*network) & u32::from(*mask)
            })
        };
        within(&self.networks) && !within(&self.excluded)
    }
}

fn network(subnet: Subnet) -> (Ipv4Addr, Ipv4Addr) {
    (subnet.network(), subnet.netmask())
}

pub(super) fn is_meta(deployment: &Deployment, address: Ipv4Addr) -> bool {
    deployment.meta.iter().any(|meta| meta.address == address)
}

/// A name with and without the domain.
pub(super) fn push_name(names: &mut Vec<String>, deployment: &Deployment, name: &str) {
    names.push(name.to_owned());
    names.push(format!("{name}.{}", deployment.domain));
}

/// Every text once, in the order of its first place.
pub(super) fn unique(names: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    names
        .into_iter()
        .filter(|name| seen.insert(name.clone()))
        .collect()
}

/// RFC 5280 §4.2.1.10: a constraint permits the name itself and all below it.
fn covers(constraint: &str, name: &str) -> bool {
    name == constraint
        || name
            .strip_suffix(constraint)
            .is_some_and(|rest| rest.ends_with('.'))
}

/// Names of the meta nodes and of what they run.
pub(super) fn meta_names(deployment: &Deployment) -> Vec<String> {
    let mut names = Vec::new();
    for meta in &deployment.meta {
        push_name(&mut names, deployment, meta.name.as_str());
        let members = deployment
            .clusters
            .iter()
            .flat_map(|cluster| &cluster.members);
        for member in members.filter(|member| member.address == meta.address) {
            push_name(&mut names, deployment, &member.instance);
        }
    }
    names
}

/// The cluster whose certificates would be good for a name that is not its own.
pub(crate) fn covering_cluster<'a>(deployment: &'a Deployment, name: &str) -> Option<&'a Cluster> {
    deployment.clusters.iter().find(|cluster| {
        let scope = Scope::new(deployment, cluster);
        has_own_intermediate(deployment, cluster) && scope.has_name(name)
    })
}

/// Whether somebody without the deployment secret signs for the cluster.
pub(super) fn has_own_intermediate(deployment: &Deployment, cluster: &Cluster) -> bool {
    let mut members = cluster.members.iter();
    cluster.autoscale || members.any(|member| !is_meta(deployment, member.address))
}

/// Refuses names that would let one cluster pose as somebody else, such as a cluster named like the domain, whose
/// certificates would be good for everything below it. `order` is the clusters' order in the document.
pub(crate) fn overlap(
    deployment: &Deployment,
    order: &[String],
) -> std::result::Result<(), Box<Invalid>> {
    let mut others = vec![deployment.domain.to_string()];
    others.extend(meta_names(deployment));
    others.extend(
        deployment
            .portal
            .iter()
            .map(|entry| entry.domain.to_string()),
    );
    for cluster in &deployment.clusters {
        if !has_own_intermediate(deployment, cluster) {
            continue;
        }
        let scope = Scope::new(deployment, cluster);
        let clusters = deployment
            .clusters
            .iter()
            .filter(|other| other.name != cluster.name);
        let foreign = clusters.flat_map(|other| Scope::new(deployment, other).names);
        if let Some(name) = others
            .iter()
            .cloned()
            .chain(foreign)
            .find(|name| scope.has_name(name))
        {
            let index = order
                .iter()
                .position(|other| other == cluster.name.as_str())
                .unwrap_or_default();
            let message = format!(
                "a name of cluster {} is also, or contains, {name}: its certificates would be good for that",
                cluster.name
            );
            let hint = "rename the cluster or its machines";
            let field = format!("cluster[{index}].name");
            return Err(Invalid::new("FR-DEPLOYMENT-TRUST", field, message, hint));
        }
    }
    Ok(())
}
