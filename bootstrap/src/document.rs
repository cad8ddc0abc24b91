//! The deployment document as it is written: every key of the format, nothing checked beyond each value by itself.
//!
//! [`DeploymentFile`] (as written) becomes [`crate::Deployment`] (valid) in [`crate::deployment`]; what one machine was
//! given besides it is merged in [`crate::metadata::Metadata`].

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::availability::{DEFAULT_RPO, HbaRule, Rto, Service};
use crate::tuning::Tuning;
use crate::values::{Domain, Line, MemberRole, Name, SqlName, Subnet};

/// The version of the format this crate reads.
pub const SCHEMA: u32 = 1;

/// A deployment document, as written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeploymentFile {
    /// Format version.
    pub schema: u32,
    /// Name of the deployment.
    pub name: Name,
    /// DNS domain of the platform's names (default: the deployment's name).
    pub domain: Option<Domain>,
    /// Upstream time servers of the meta nodes (default: none, the meta nodes are the source).
    #[serde(default)]
    pub ntp: Vec<Domain>,
    /// Which consensus store (default: etcd).
    #[serde(default)]
    pub dcs: Dcs,
    /// Addresses.
    pub network: NetworkFile,
    /// The infrastructure machines.
    #[serde(default)]
    pub meta: Vec<MetaFile>,
    /// Database clusters.
    #[serde(default)]
    pub cluster: Vec<ClusterFile>,
    /// Portal entries besides the catalogue's.
    #[serde(default)]
    pub portal: Vec<Portal>,
    /// Sizes of virtual machines; the bootstrap ignores them.
    #[serde(default)]
    pub qemu: Qemu,
}

/// The consensus store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dcs {
    /// etcd on the meta nodes.
    #[default]
    Etcd,
}

/// `[network]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkFile {
    /// The machines' subnet.
    pub subnet: Subnet,
    /// Default gateway (default: none).
    pub gateway: Option<Ipv4Addr>,
    /// Upstream resolvers of the meta nodes' DNS (default: none).
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
}

/// `[[meta]]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetaFile {
    /// Machine name.
    pub name: Name,
    /// Its address.
    pub address: Ipv4Addr,
}

/// `[[cluster]]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterFile {
    /// Cluster name.
    pub name: Name,
    /// Virtual address that follows the primary (default: none).
    pub vip: Option<Ipv4Addr>,
    /// Whether any machine that names this cluster and has its secret may join (default: no). It may have no members declared.
    #[serde(default)]
    pub autoscale: bool,
    /// Minutes after which another member founds the cluster when the declared primary has not; 0: never (default: 10).
    #[serde(default = "ten")]
    pub bootstrap_fallback_minutes: u32,
    /// Its machines.
    #[serde(default)]
    pub member: Vec<MemberFile>,
    /// Business users.
    #[serde(default)]
    pub user: Vec<User>,
    /// Business databases.
    #[serde(default)]
    pub database: Vec<Database>,
    /// Services on ports besides the usual four.
    #[serde(default)]
    pub service: Vec<Service>,
    /// Who may log in from where, besides the built-in rules.
    #[serde(default)]
    pub hba: Vec<HbaRule>,
    /// How fast it fails over (default: norm).
    #[serde(default)]
    pub rto: Rto,
    /// Bytes of WAL that a replica may lack and still be promoted; 0 means synchronous replication (default: 1 MiB).
    #[serde(default = "default_rpo")]
    pub rpo: u64,
    /// Which workload PostgreSQL's sizes are for (default: auto).
    #[serde(default)]
    pub tuning: Tuning,
    /// PostgreSQL parameters.
    #[serde(default)]
    pub parameters: BTreeMap<SqlName, Line>,
}

/// `[[cluster.member]]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberFile {
    /// Number in the cluster, from 1.
    pub seq: u32,
    /// Its address.
    pub address: Ipv4Addr,
    /// What it starts as.
    pub role: MemberRole,
    /// Machine name (default: `<cluster>-<seq>`, on a meta address the meta's name).
    pub name: Option<Name>,
}

/// `[[cluster.user]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Role name.
    pub name: SqlName,
    /// Roles it is a member of.
    #[serde(default)]
    pub roles: Vec<SqlName>,
    /// Whether it may connect through PgBouncer.
    #[serde(default)]
    pub pgbouncer: bool,
    /// Whether it is a superuser.
    #[serde(default)]
    pub superuser: bool,
    /// Comment on the role.
    #[serde(default = "empty_line")]
    pub comment: Line,
}

/// `[[cluster.database]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// Database name.
    pub name: SqlName,
    /// Owner: a user of the cluster, or `postgres` (the default).
    #[serde(default = "postgres")]
    pub owner: SqlName,
    /// Extensions to create.
    #[serde(default)]
    pub extensions: Vec<SqlName>,
    /// Schemas to create.
    #[serde(default)]
    pub schemas: Vec<SqlName>,
    /// Whether PgBouncer serves it (default: yes).
    #[serde(default = "yes")]
    pub pgbouncer: bool,
    /// Comment on the database.
    #[serde(default = "empty_line")]
    pub comment: Line,
}

/// `[[portal]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Portal {
    /// Name of the entry.
    pub name: Name,
    /// Host name it answers to.
    pub domain: Domain,
    /// `address:port` behind it.
    pub endpoint: Line,
    /// First path to show.
    #[serde(default = "slash")]
    pub path: Line,
}

/// `[qemu]`: sizes of virtual machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Qemu {
    /// Memory in MiB (default: 1024).
    pub memory_mib: u32,
    /// Processors (default: 2).
    pub cpus: u32,
    /// Disk in GiB (default: 8).
    pub disk_gib: u32,
    /// Other sizes for single machines.
    pub machine: BTreeMap<Name, QemuMachine>,
}

/// `[qemu.machine.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QemuMachine {
    /// Memory in MiB.
    pub memory_mib: Option<u32>,
    /// Processors.
    pub cpus: Option<u32>,
    /// Disk in GiB.
    pub disk_gib: Option<u32>,
}

impl Default for Qemu {
    fn default() -> Self {
        Qemu {
            memory_mib: 1024,
            cpus: 2,
            disk_gib: 8,
            machine: BTreeMap::new(),
        }
    }
}

fn default_rpo() -> u64 {
    DEFAULT_RPO
}

fn ten() -> u32 {
    10
}

fn yes() -> bool {
    true
}

fn empty_line() -> Line {
    Line::parse("").unwrap_or_else(|_| unreachable!())
}

fn slash() -> Line {
    Line::parse("/").unwrap_or_else(|_| unreachable!())
}

fn postgres() -> SqlName {
    SqlName::parse("postgres").unwrap_or_else(|_| unreachable!())
}
