//! The valid deployment: what is left when every contradiction of the document has been refused.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::Serialize;

use crate::availability::{HbaRule, Rto, Service, Timers};
use crate::contradictions::{self, machine_name, no_primary};
use crate::document::{ClusterFile, Database, Dcs, DeploymentFile, MetaFile, Portal, Qemu, User};
use crate::error::{Invalid, Result};
use crate::pki;
use crate::toml_text;
use crate::tree::Tree;
use crate::tuning::Tuning;
use crate::values::{Domain, Line, MemberRole, Name, Role, SqlName, Subnet};

const DOCUMENT: &str = "deployment";

/// The cluster every meta node is a member of.
pub const META_CLUSTER: &str = "pg-meta";

/// A deployment in which names and addresses are unique and every reference leads somewhere. Lists are sorted, so that
/// the order in the document does not matter.
#[derive(Debug, Clone, Serialize)]
pub struct Deployment {
    /// Name.
    pub name: Name,
    /// DNS domain.
    pub domain: Domain,
    /// Consensus store.
    pub dcs: Dcs,
    /// Upstream time servers, as given.
    pub ntp: Vec<Domain>,
    /// Addresses.
    pub network: Network,
    /// Meta nodes by address; at least one.
    pub meta: Vec<Meta>,
    /// Clusters by name.
    pub clusters: Vec<Cluster>,
    /// The document's own portal entries by domain.
    pub portal: Vec<Portal>,
    /// Sizes of virtual machines.
    pub qemu: Qemu,
}

/// Addresses of a deployment.
#[derive(Debug, Clone, Serialize)]
pub struct Network {
    /// The machines' subnet.
    pub subnet: Subnet,
    /// Default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Upstream resolvers.
    pub dns: Vec<Ipv4Addr>,
}

/// A meta node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Meta {
    /// Machine name.
    pub name: Name,
    /// Its address.
    pub address: Ipv4Addr,
    /// Number, from 1, in the order of addresses.
    pub seq: u32,
}

/// A database cluster.
#[derive(Debug, Clone, Serialize)]
pub struct Cluster {
    /// Name.
    pub name: Name,
    /// Virtual address.
    pub vip: Option<Ipv4Addr>,
    /// Whether machines may join that are not declared.
    pub autoscale: bool,
    /// How long its other members wait for the declared primary to found it; 0: for ever.
    pub bootstrap_fallback_minutes: u32,
    /// Members by number, then those that joined; at most one is primary.
    pub members: Vec<Member>,
    /// The declared primary; only a cluster that scales by itself may have none.
    pub primary: Option<Member>,
    /// The member that leads, as far as is known; before that the declared primary.
    pub leader: Option<Member>,
    /// Instance that founds it in place of the declared primary, which did not.
    pub founder: Option<Name>,
    /// Users by name.
    pub users: Vec<User>,
    /// Databases by name.
    pub databases: Vec<Database>,
    /// Services on ports besides the usual four, by port.
    pub services: Vec<Service>,
    /// Rules for logging in besides the built-in ones, in the document's order.
    pub hba: Vec<HbaRule>,
    /// How fast it fails over.
    pub rto: Rto,
    /// The timers of that.
    pub timers: Timers,
    /// Bytes of WAL that a promoted replica may lack; 0 means synchronous replication.
    pub rpo: u64,
    /// Which workload PostgreSQL's sizes are for.
    pub tuning: Tuning,
    /// PostgreSQL parameters.
    pub parameters: BTreeMap<SqlName, Line>,
}

/// A member of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Member {
    /// `<cluster>-<seq>`.
    pub instance: String,
    /// Machine name.
    pub name: Name,
    /// Number in the cluster; 0 for one that joined.
    pub seq: u32,
    /// Its address.
    pub address: Ipv4Addr,
    /// What it starts as.
    pub role: MemberRole,
    /// Whether it is known to live.
    pub live: bool,
    /// Whether it is known to lead.
    pub leader: bool,
}

/// A machine of the deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Name and host name.
    pub name: Name,
    /// Its address.
    pub address: Ipv4Addr,
    /// What it is for.
    pub role: Role,
    /// Its number among the meta nodes.
    pub meta_seq: Option<u32>,
    /// Its place in a cluster.
    pub member: Option<MemberRef>,
}

/// A machine's place in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberRef {
    /// Cluster name.
    pub cluster: Name,
    /// Number in the cluster.
    pub seq: u32,
    /// `<cluster>-<seq>`.
    pub instance: String,
    /// What it starts as.
    pub role: MemberRole,
}

/// Size of a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct QemuSize {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processors.
    pub cpus: u32,
    /// Disk in GiB.
    pub disk_gib: u32,
}

impl Deployment {
    /// Reads and checks a deployment document.
    ///
    /// # Errors
    /// `FR-DEPLOYMENT-…`, with the field and its place in the text.
    pub fn parse(text: &str) -> Result<Self> {
        let tree = toml_text::parse(DOCUMENT, "FR-DEPLOYMENT-SYNTAX", text)?;
        Self::from_tree(&tree, text)
    }

    /// Checks a deployment document that was parsed; `text` is what its places refer to.
    ///
    /// # Errors
    /// As for [`Deployment::parse`].
    pub fn from_tree(tree: &Tree, text: &str) -> Result<Self> {
        let file: DeploymentFile =
            toml_text::read_tree(DOCUMENT, "FR-DEPLOYMENT-FIELD", tree, text)?;
        Self::validate(file)
            .map_err(|invalid| toml_text::locate(invalid.in_document(DOCUMENT), tree, text).into())
    }

    fn validate(file: DeploymentFile) -> std::result::Result<Self, Box<Invalid>> {
        contradictions::check(&file)?;
        let machine_names = contradictions::meta_names(&file);
        let order: Vec<String> = file.cluster.iter().map(|c| c.name.to_string()).collect();
        let mut clusters = Vec::new();
        for (index, cluster) in file.cluster.into_iter().enumerate() {
            let cluster = valid_cluster(index, cluster, &machine_names)?;
            insert_sorted(&mut clusters, cluster, |a, b| a.name < b.name);
        }
        let domain = match file.domain {
            Some(domain) => domain,
            None => Domain::parse(file.name.as_str())
                .map_err(|message| Invalid::new("FR-DEPLOYMENT-FIELD", "name", message, ""))?,
        };
        let deployment = Deployment {
            name: file.name,
            domain,
            dcs: file.dcs,
            ntp: file.ntp,
            network: Network {
                subnet: file.network.subnet,
                gateway: file.network.gateway,
                dns: file.network.dns,
            },
            meta: sorted_meta(file.meta),
            clusters,
            portal: sorted(file.portal, |a, b| a.domain < b.domain),
            qemu: file.qemu,
        };
        pki::overlap(&deployment, &order)?;
        Ok(deployment)
    }

    /// All machines, by address.
    pub fn machines(&self) -> Vec<Machine> {
        let mut machines: BTreeMap<Ipv4Addr, Machine> = BTreeMap::new();
        for cluster in &self.clusters {
            for member in &cluster.members {
                let machine = Machine {
                    name: member.name.clone(),
                    address: member.address,
                    role: Role::Database,
                    meta_seq: None,
                    member: Some(MemberRef {
                        cluster: cluster.name.clone(),
                        seq: member.seq,
                        instance: member.instance.clone(),
                        role: member.role,
                    }),
                };
                machines.insert(member.address, machine);
            }
        }
        for meta in &self.meta {
            if let Some(machine) = machines.get_mut(&meta.address) {
                machine.role = Role::Meta;
                machine.meta_seq = Some(meta.seq);
            }
        }
        machines.into_values().collect()
    }

    /// The machine of that name.
    pub fn machine(&self, name: &str) -> Option<Machine> {
        self.machines()
            .into_iter()
            .find(|machine| machine.name.as_str() == name)
    }

    /// The cluster of that name.
    pub fn cluster(&self, name: &str) -> Option<&Cluster> {
        self.clusters
            .iter()
            .find(|cluster| cluster.name.as_str() == name)
    }

    /// Size of a machine in QEMU.
    pub fn qemu_size(&self, machine: &str) -> QemuSize {
        let own = self.qemu.machine.get(machine).cloned().unwrap_or_default();
        QemuSize {
            memory_mib: own.memory_mib.unwrap_or(self.qemu.memory_mib),
            cpus: own.cpus.unwrap_or(self.qemu.cpus),
            disk_gib: own.disk_gib.unwrap_or(self.qemu.disk_gib),
        }
    }
}

/// Puts an item where it belongs in a sorted list. Lists here are short, and the library's sort is a few kilobytes of
/// code for each type.
pub(crate) fn insert_sorted<T>(list: &mut Vec<T>, item: T, less: impl Fn(&T, &T) -> bool) {
    let at = list.partition_point(|other| !less(&item, other));
    list.insert(at, item);
}

fn sorted<T>(items: Vec<T>, less: impl Fn(&T, &T) -> bool) -> Vec<T> {
    let mut list = Vec::new();
    for item in items {
        insert_sorted(&mut list, item, &less);
    }
    list
}

fn sorted_meta(files: Vec<MetaFile>) -> Vec<Meta> {
    (1..)
        .zip(sorted(files, |a, b| a.address < b.address))
        .map(|(seq, MetaFile { name, address })| Meta { name, address, seq })
        .collect()
}

fn valid_cluster(
    index: usize,
    file: ClusterFile,
    meta: &BTreeMap<Ipv4Addr, Name>,
) -> std::result::Result<Cluster, Box<Invalid>> {
    let mut members = Vec::new();
    for member in &file.member {
        let member = Member {
            instance: format!("{}-{}", file.name, member.seq),
            name: machine_name(&file.name, member, meta).map_err(|message| {
                Invalid::new(
                    "FR-DEPLOYMENT-NAME",
                    format!("cluster[{index}].name"),
                    message,
                    "",
                )
            })?,
            seq: member.seq,
            address: member.address,
            role: member.role,
            live: false,
            leader: false,
        };
        insert_sorted(&mut members, member, |a, b| a.seq < b.seq);
    }
    let primary = members
        .iter()
        .find(|member| member.role == MemberRole::Primary);
    let primary = primary.cloned();
    if primary.is_none() && !file.autoscale {
        return Err(no_primary(index, &file.name));
    }
    Ok(Cluster {
        name: file.name,
        vip: file.vip,
        autoscale: file.autoscale,
        bootstrap_fallback_minutes: file.bootstrap_fallback_minutes,
        members,
        leader: primary.clone(),
        primary,
        founder: None,
        users: sorted(file.user, |a, b| a.name < b.name),
        databases: sorted(file.database, |a, b| a.name < b.name),
        services: sorted(file.service, |a, b| a.port < b.port),
        hba: file.hba,
        rto: file.rto,
        timers: file.rto.timers(),
        rpo: file.rpo,
        tuning: file.tuning,
        parameters: file.parameters,
    })
}
