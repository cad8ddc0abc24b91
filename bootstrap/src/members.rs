//! Who is there: what Patroni and the consensus store say of the clusters' members. Pure parsers of two formats, both from
//! outside: a machine of one cluster writes what machines of all others read.
//!
//! What changes all the time, such as positions in the write-ahead log, is left out, so that equality means "nothing to do".

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::values::Name;

/// Patroni's namespace in the store, as the catalogue configures it.
pub const NAMESPACE: &str = "/pg/";

/// Most members of a cluster that count, and most clusters: a store that is full of nonsense must not fill this machine.
const MOST: usize = 256;

/// Longest state and tag that count, in bytes.
const MAX_TEXT: usize = 128;

/// Most tags of a member.
const MOST_TAGS: usize = 32;

/// All that is known; nothing before anybody was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Clusters by name.
    #[serde(default)]
    pub clusters: BTreeMap<Name, LiveCluster>,
}

/// What is known of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveCluster {
    /// Name of the member that holds the leader key.
    pub leader: Option<Name>,
    /// Who holds it or held it last: what a name leads to until there is another leader.
    #[serde(default)]
    pub last_leader: Option<Name>,
    /// Member that founds the cluster in place of the declared primary, which did not.
    pub founder: Option<Name>,
    /// Members by name, which is the instance's.
    #[serde(default)]
    pub members: BTreeMap<Name, LiveMember>,
}

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveMember {
    /// Its address.
    pub address: Ipv4Addr,
    /// What it is at present.
    pub role: LiveRole,
    /// Patroni's word for its state: running, streaming, creating replica, stopped…
    pub state: String,
    /// PostgreSQL's timeline.
    pub timeline: Option<u64>,
    /// Patroni's tags, as text.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

/// What a member is at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LiveRole {
    /// Holds the leader key.
    Primary,
    /// Follows, and confirms each commit.
    Sync,
    /// Follows.
    Replica,
}

impl LiveRole {
    /// The name in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            LiveRole::Primary => "primary",
            LiveRole::Sync => "sync",
            LiveRole::Replica => "replica",
        }
    }
}

impl LiveMember {
    /// Whether the machine is leaving: Patroni says so before it ends, and its key stays until it runs out.
    pub fn leaving(&self) -> bool {
        matches!(self.state.as_str(), "stopped" | "stopping")
    }

    /// Whether PostgreSQL answers.
    pub fn running(&self) -> bool {
        matches!(
            self.state.as_str(),
            "running" | "streaming" | "in archive recovery"
        )
    }
}

/// Reads Patroni's `GET /cluster` (its documentation, "Patroni REST API", and `cluster_as_json` in its source).
///
/// # Errors
/// Why it is no such document. A member that makes no sense is left out instead.
pub fn from_patroni(body: &str) -> Result<LiveCluster, String> {
    let document: Value = serde_json::from_str(body).map_err(|error| error.to_string())?;
    let list = document["members"]
        .as_array()
        .ok_or("there is no list of members")?;
    let mut cluster = LiveCluster::default();
    for found in list.iter().take(MOST) {
        let Some(name) = found["name"]
            .as_str()
            .and_then(|name| Name::parse(name).ok())
        else {
            continue;
        };
        let role = match found["role"].as_str() {
            Some("leader" | "standby_leader") => LiveRole::Primary,
            Some("sync_standby" | "quorum_standby") => LiveRole::Sync,
            _ => LiveRole::Replica,
        };
        if role == LiveRole::Primary {
            cluster.leader = Some(name.clone());
        }
        let address = found["host"].as_str().and_then(|host| host.parse().ok());
        let address = address.or_else(|| address_of(found["api_url"].as_str()?));
        if let Some(address) = address {
            let state = short(found["state"].as_str().unwrap_or_default());
            let member = LiveMember {
                address,
                role,
                state,
                timeline: found["timeline"].as_u64(),
                tags: tags(&found["tags"]),
            };
            cluster.members.insert(name, member);
        }
    }
    Ok(cluster)
}

/// Reads the answer of etcd's gateway to `POST /v3/kv/range` for the prefix [`NAMESPACE`] (etcd's documentation, "gRPC
/// gateway"): keys and values in base64. The keys are Patroni's: `CLUSTER/leader`, `CLUSTER/sync`, `CLUSTER/members/NAME`.
///
/// # Errors
/// Why it is no such document. A key that makes no sense is left out instead.
pub fn from_etcd(body: &str) -> Result<Members, String> {
    let document: Value = serde_json::from_str(body).map_err(|error| error.to_string())?;
    if let Some(message) = document["error"].as_str() {
        return Err(short(message));
    }
    if !document["header"].is_object() {
        return Err("there is no header".into());
    }
    let mut members = Members::default();
    let mut sync: BTreeMap<Name, Vec<String>> = BTreeMap::new();
    // The gateway leaves an empty list out.
    for pair in document["kvs"].as_array().into_iter().flatten() {
        let (Some(key), Some(value)) = (decoded(&pair["key"]), decoded(&pair["value"])) else {
            continue;
        };
        let Some((cluster, key)) = key
            .strip_prefix(NAMESPACE)
            .and_then(|rest| rest.split_once('/'))
        else {
            continue;
        };
        let Ok(name) = Name::parse(cluster) else {
            continue;
        };
        if members.clusters.len() >= MOST && !members.clusters.contains_key(&name) {
            continue;
        }
        let cluster = members.clusters.entry(name.clone()).or_default();
        match key.strip_prefix("members/") {
            Some(member) => add_member(cluster, member, &value),
            None if key == "leader" => cluster.leader = Name::parse(&value).ok(),
            None if key == "sync" => {
                sync.insert(name, sync_standbys(&value));
            }
            None => {}
        }
    }
    for (name, cluster) in &mut members.clusters {
        let sync = sync.remove(name).unwrap_or_default();
        for (name, member) in &mut cluster.members {
            if cluster.leader.as_ref() == Some(name) {
                member.role = LiveRole::Primary;
            } else if sync.iter().any(|other| other == name.as_str()) {
                member.role = LiveRole::Sync;
            }
        }
    }
    Ok(members)
}

fn add_member(cluster: &mut LiveCluster, name: &str, value: &str) {
    let (Ok(name), Ok(found)) = (Name::parse(name), serde_json::from_str::<Value>(value)) else {
        return;
    };
    let urls = [&found["api_url"], &found["conn_url"]];
    let address = urls.into_iter().find_map(|url| address_of(url.as_str()?));
    let Some(address) = address.filter(|_| cluster.members.len() < MOST) else {
        return;
    };
    let state = found["state"].as_str().unwrap_or_default();
    // As Patroni itself shows it.
    let replication = found["replication_state"].as_str();
    let state = replication.filter(|_| state == "running").unwrap_or(state);
    let member = LiveMember {
        address,
        role: LiveRole::Replica,
        state: short(state),
        timeline: found["timeline"].as_u64(),
        tags: tags(&found["tags"]),
    };
    cluster.members.insert(name, member);
}

/// Names in the value of the key `sync`: `{"leader": "a", "sync_standby": "b,c"}`.
fn sync_standbys(value: &str) -> Vec<String> {
    let found: Value = serde_json::from_str(value).unwrap_or_default();
    let list = found["sync_standby"].as_str().unwrap_or_default();
    list.split(',').take(MOST).map(str::to_owned).collect()
}

fn tags(found: &Value) -> BTreeMap<String, String> {
    let pairs = found.as_object().into_iter().flatten().take(MOST_TAGS);
    pairs
        .filter_map(|(key, value)| {
            let value = match value {
                Value::String(text) => short(text),
                Value::Bool(_) | Value::Number(_) => short(&value.to_string()),
                _ => return None,
            };
            Some((short(key), value))
        })
        .collect()
}

/// The IPv4 address in `scheme://ADDRESS:PORT/…`.
fn address_of(url: &str) -> Option<Ipv4Addr> {
    let rest = url.split_once("://")?.1;
    let authority = rest.split(['/', '?']).next()?;
    let host = authority.rsplit('@').next()?;
    host.split(':').next()?.parse().ok()
}

fn decoded(value: &Value) -> Option<String> {
    let bytes = STANDARD.decode(value.as_str()?).ok()?;
    String::from_utf8(bytes).ok()
}

/// A text that may be shown: bounded, without control characters.
fn short(text: &str) -> String {
    let mut end = MAX_TEXT.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().filter(|c| !c.is_control()).collect()
}

impl Members {
    /// What is known of a cluster.
    pub fn cluster(&self, name: &str) -> Option<&LiveCluster> {
        self.clusters.get(name)
    }

    /// Keeps of `before` what a look does not tell: who led last, who may found a cluster.
    pub fn remember(&mut self, before: &Members) {
        for (name, cluster) in &mut self.clusters {
            let before = before.clusters.get(name);
            let last = before.and_then(|before| before.last_leader.clone());
            cluster.last_leader = cluster.leader.clone().or(last);
            if cluster.leader.is_none() {
                cluster.founder = before.and_then(|before| before.founder.clone());
            }
        }
    }

    /// Whether plans are the same: states and timelines are not in them.
    pub fn plans_as(&self, other: &Members) -> bool {
        let skeleton = |members: &Members| {
            let mut members = members.clone();
            for member in members
                .clusters
                .values_mut()
                .flat_map(|c| c.members.values_mut())
            {
                let state = if member.leaving() { "stopped" } else { "" };
                state.clone_into(&mut member.state);
                member.role = LiveRole::Replica;
                member.timeline = None;
                member.tags.clear();
            }
            members
        };
        skeleton(self) == skeleton(other)
    }

    /// What differs from `before`, one line for each thing.
    pub fn changes(&self, before: &Members) -> Vec<String> {
        let none = LiveCluster::default();
        let mut lines = Vec::new();
        let mut names: Vec<&Name> = self.clusters.keys().collect();
        names.extend(
            before
                .clusters
                .keys()
                .filter(|name| !self.clusters.contains_key(*name)),
        );
        for name in names {
            let old = before.clusters.get(name).unwrap_or(&none);
            let new = self.clusters.get(name).unwrap_or(&none);
            new.describe(old, name, &mut lines);
        }
        lines
    }
}

impl LiveCluster {
    fn describe(&self, before: &LiveCluster, cluster: &Name, lines: &mut Vec<String>) {
        if self.leader != before.leader {
            let shown =
                |leader: &Option<Name>| leader.as_ref().map_or("nobody".into(), Name::to_string);
            lines.push(format!(
                "{cluster}: {} leads, after {}",
                shown(&self.leader),
                shown(&before.leader)
            ));
        }
        for (name, member) in &self.members {
            let line = match before.members.get(name) {
                None => format!(
                    "{cluster}: {name} is there ({}), {}",
                    member.address, member.state
                ),
                Some(old) if old.address != member.address => {
                    format!(
                        "{cluster}: {name} moved from {} to {}",
                        old.address, member.address
                    )
                }
                Some(old) if old.state != member.state => {
                    format!("{cluster}: {name} is {}, was {}", member.state, old.state)
                }
                _ => continue,
            };
            lines.push(line);
        }
        for name in before
            .members
            .keys()
            .filter(|name| !self.members.contains_key(*name))
        {
            lines.push(format!("{cluster}: {name} is gone"));
        }
        if let Some(founder) = self
            .founder
            .as_ref()
            .filter(|_| before.founder != self.founder)
        {
            lines.push(format!(
                "{cluster}: {founder} may found it in place of the declared primary"
            ));
        }
    }
}
