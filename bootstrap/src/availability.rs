//! How fast a cluster fails over and what it may lose: the choices of a deployment and the timers that follow from them.
//!
//! Recovery-time modes and their numbers are those of Pigsty v4 (`pg_rto`); Patroni needs
//! `loop_wait + 2 * retry_timeout <= ttl`, see "Dynamic configuration settings" in its documentation.

use serde::{Deserialize, Serialize};

use crate::values::{Cidr, Name, SqlName};

/// Bytes of WAL that an asynchronous replica may lack and still be promoted: 1 MiB.
pub const DEFAULT_RPO: u64 = 1 << 20;

/// How long clients may be without a primary after its machine died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rto {
    /// Below 30 s; for a good network.
    Fast,
    /// Below 45 s.
    #[default]
    Norm,
    /// Below 90 s.
    Safe,
    /// Below 150 s; across places far from each other.
    Wide,
}

/// Timers in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Timers {
    /// Patroni: life of the leader's lease.
    pub ttl: u32,
    /// Patroni: pause between two looks.
    pub loop_wait: u32,
    /// Patroni: limit of retries against DCS and PostgreSQL.
    pub retry_timeout: u32,
    /// Patroni: how long a crashed primary may take to come back before another is chosen.
    pub primary_start_timeout: u32,
    /// HAProxy, in milliseconds: pause between two checks.
    pub inter: u32,
    /// The same while a server changes.
    pub fastinter: u32,
    /// The same while it is down.
    pub downinter: u32,
}

impl Rto {
    /// The timers of a mode.
    pub fn timers(self) -> Timers {
        let (patroni, haproxy) = match self {
            Rto::Fast => ([20, 5, 5, 15], [1000, 500, 1000]),
            Rto::Norm => ([30, 5, 10, 25], [2000, 1000, 2000]),
            Rto::Safe => ([60, 10, 20, 45], [3000, 1500, 3000]),
            Rto::Wide => ([120, 20, 30, 95], [4000, 2000, 4000]),
        };
        let [ttl, loop_wait, retry_timeout, primary_start_timeout] = patroni;
        let [inter, fastinter, downinter] = haproxy;
        Timers {
            ttl,
            loop_wait,
            retry_timeout,
            primary_start_timeout,
            inter,
            fastinter,
            downinter,
        }
    }
}

/// Where a service of HAProxy leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Destination {
    /// The pool, 6432.
    #[default]
    Pgbouncer,
    /// The server, 5432.
    Postgres,
}

/// Which members serve: the question that Patroni answers with 200.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Serves {
    /// The primary.
    Primary,
    /// Replicas.
    Replica,
    /// Primary and replicas.
    ReadOnly,
    /// Synchronous replicas.
    Sync,
    /// Asynchronous replicas.
    Async,
}

/// `[[cluster.service]]`: a port of every member besides the four usual ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Name.
    pub name: Name,
    /// Port, 5435 to 5499.
    pub port: u16,
    /// Who serves.
    pub serves: Serves,
    /// Pool or server (default: the pool).
    #[serde(default)]
    pub destination: Destination,
    /// Whether the primary serves when nobody else can (default: yes).
    #[serde(default = "yes")]
    pub fallback: bool,
}

/// `[[cluster.hba]]`: who may log in from where, besides the built-in rules, which come first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HbaRule {
    /// A user; with `role = true` the members of a role.
    pub user: SqlName,
    /// Whether `user` is a role whose members are meant.
    #[serde(default)]
    pub role: bool,
    /// A database; `all` means every one.
    pub database: SqlName,
    /// Addresses.
    pub address: Cidr,
    /// Whether they are refused.
    #[serde(default)]
    pub reject: bool,
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patroni_accepts_the_timers() {
        for rto in [Rto::Fast, Rto::Norm, Rto::Safe, Rto::Wide] {
            let timers = rto.timers();
            assert!(
                timers.loop_wait + 2 * timers.retry_timeout <= timers.ttl,
                "{rto:?}"
            );
        }
    }
}
