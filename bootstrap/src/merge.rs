//! The deployment as it is at present: the declared members, and in clusters that scale by themselves those that came.
//!
//! A declared member stays whether it lives or not, since a machine that is off must raise an alarm; its checks mark it
//! down. Nobody else is believed to be a member of a cluster that does not scale.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::deployment::{Cluster, Deployment, Machine, Member, insert_sorted};
use crate::members::{LiveCluster, LiveMember, Members};
use crate::values::{MemberRole, Name};

/// Number of a member that nobody declared; declared ones count from 1.
pub const UNDECLARED: u32 = 0;

impl Deployment {
    /// Adds what is known of the members. `own` is this machine, which may have joined without being known yet.
    #[must_use]
    pub fn with_members(&self, members: &Members, own: &Machine) -> Deployment {
        let mut merged = self.clone();
        let mut taken = merged.addresses();
        let names: Vec<Name> = merged
            .clusters
            .iter()
            .map(|cluster| cluster.name.clone())
            .collect();
        let none = LiveCluster::default();
        for cluster in &mut merged.clusters {
            let live = members.cluster(cluster.name.as_str()).unwrap_or(&none);
            if cluster.autoscale {
                if let Some(member) = joined(cluster, own) {
                    taken.insert(member.address);
                    add(cluster, member);
                }
                for (name, member) in &live.members {
                    let right = !member.leaving()
                        && belongs(name, cluster, &names)
                        && self.network.subnet.holds(member.address);
                    let known = cluster
                        .members
                        .iter()
                        .any(|other| other.instance == name.as_str());
                    if right && !known && taken.insert(member.address) {
                        add(cluster, undeclared(name, member));
                    }
                }
            }
            mark(cluster, live);
        }
        merged
    }

    /// Every address that has a meaning already.
    pub(crate) fn addresses(&self) -> BTreeSet<Ipv4Addr> {
        let mut addresses: BTreeSet<Ipv4Addr> = self.meta.iter().map(|meta| meta.address).collect();
        addresses.extend(self.network.gateway);
        for cluster in &self.clusters {
            addresses.extend(cluster.vip);
            addresses.extend(cluster.members.iter().map(|member| member.address));
        }
        addresses
    }
}

/// This machine, when it is a member of the cluster without being declared.
fn joined(cluster: &Cluster, own: &Machine) -> Option<Member> {
    let member = own.member.as_ref()?;
    (member.cluster == cluster.name && member.seq == UNDECLARED).then(|| Member {
        instance: member.instance.clone(),
        name: own.name.clone(),
        seq: UNDECLARED,
        address: own.address,
        role: member.role,
        live: false,
        leader: false,
    })
}

fn undeclared(name: &Name, member: &LiveMember) -> Member {
    Member {
        instance: name.to_string(),
        name: name.clone(),
        seq: UNDECLARED,
        address: member.address,
        role: MemberRole::Replica,
        live: false,
        leader: false,
    }
}

/// Declared members by number, then the others by name.
fn add(cluster: &mut Cluster, member: Member) {
    let key = |member: &Member| {
        (
            member.seq == UNDECLARED,
            member.seq,
            member.instance.clone(),
        )
    };
    insert_sorted(&mut cluster.members, member, |a, b| key(a) < key(b));
}

/// Whether a name is one of this cluster, and not of another whose name is longer.
fn belongs(name: &Name, cluster: &Cluster, clusters: &[Name]) -> bool {
    let within = |cluster: &Name| {
        let rest = name.as_str().strip_prefix(cluster.as_str());
        rest.is_some_and(|rest| rest.starts_with('-'))
    };
    let longer = |other: &&Name| other.as_str().len() > cluster.name.as_str().len();
    within(&cluster.name) && !clusters.iter().filter(longer).any(within)
}

fn mark(cluster: &mut Cluster, live: &LiveCluster) {
    let is = |name: &Option<Name>, member: &Member| {
        name.as_ref()
            .is_some_and(|name| name.as_str() == member.instance)
    };
    for member in &mut cluster.members {
        member.live = live.members.contains_key(member.instance.as_str());
        member.leader = is(&live.leader, member);
    }
    let mut members = cluster.members.iter();
    if let Some(leader) = members.find(|member| is(&live.last_leader, member)) {
        cluster.leader = Some(leader.clone());
    }
    cluster.founder.clone_from(&live.founder);
}
