//! The plan: everything that is to be on a machine, as a value. Computed by a pure function of what the machine was
//! told, its facts and the catalogue; the same inputs give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::fragment::Check;
use crate::service::{Mode, Phase, Start};
use crate::values::{MemberRole, Role};

/// Version of the plan's JSON form.
pub const SCHEMA: u32 = 1;

/// What is to be on one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Format version.
    pub schema: u32,
    /// Who the machine is.
    pub node: Identity,
    /// Network files, written first.
    pub network: Vec<File>,
    /// File systems to mount.
    pub mounts: Vec<Mount>,
    /// Directories, parents before children.
    pub directories: Vec<Directory>,
    /// Files of all services.
    pub files: Vec<File>,
    /// Symbolic links.
    pub links: Vec<Link>,
    /// Services in an order in which they could start one by one.
    pub services: Vec<Service>,
    /// Commands to run when all is healthy.
    pub checks: Vec<Check>,
}

/// Who a machine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Deployment.
    pub deployment: String,
    /// Machine name and host name.
    pub name: String,
    /// Role.
    pub role: Role,
    /// Cluster.
    pub cluster: Option<String>,
    /// Instance.
    pub instance: Option<String>,
    /// What the instance starts as.
    pub member_role: Option<MemberRole>,
    /// Address.
    pub address: Ipv4Addr,
    /// Interface with that address.
    pub interface: String,
}

/// A text, hidden when it is secret: then only its digest is shown and serialised.
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    /// The text.
    pub text: String,
    /// Whether it must not be shown.
    pub secret: bool,
}

impl Content {
    /// SHA-256 in hex.
    pub fn digest(&self) -> String {
        hex::encode(Sha256::digest(&self.text))
    }

    /// What may be shown.
    pub fn shown(&self) -> String {
        if self.secret {
            format!("secret, sha256 {}", self.digest())
        } else {
            self.text.clone()
        }
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.shown())
    }
}

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.shown())
    }
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct File {
    /// Absolute path.
    pub path: String,
    /// Owner.
    pub owner: String,
    /// Group.
    pub group: String,
    /// Permission bits.
    pub mode: Mode,
    /// Text.
    pub content: Content,
    /// Service it belongs to; none for the engine's own.
    pub service: Option<String>,
    /// Whether a change restarts or reloads the service.
    pub restart: bool,
    /// Whether it was made one for each of something: it goes when that goes.
    #[serde(skip)]
    pub each: bool,
}

/// A directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Directory {
    /// Absolute path.
    pub path: String,
    /// Owner.
    pub owner: String,
    /// Group.
    pub group: String,
    /// Permission bits.
    pub mode: Mode,
}

/// A symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Absolute path.
    pub path: String,
    /// Where it points.
    pub target: String,
    /// Service it belongs to.
    pub service: String,
}

/// A file system that is mounted read-only when its partition exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// GPT partition name.
    pub partition: String,
    /// Where.
    pub target: String,
    /// File system type.
    pub kind: String,
}

/// A service to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Name.
    pub name: String,
    /// systemd unit.
    pub unit: Option<String>,
    /// Services of this machine that must be healthy first.
    pub after: Vec<String>,
    /// How it is started.
    pub start: Start,
    /// Commands around the start.
    pub tasks: Vec<Task>,
    /// How to tell that it works.
    pub health: Option<Health>,
    /// What to do instead of a restart when files changed.
    pub reload: Option<Vec<String>>,
}

/// A command of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Task {
    /// Name.
    pub name: String,
    /// When.
    pub phase: Phase,
    /// Program and arguments.
    pub command: Vec<String>,
    /// User.
    pub user: String,
    /// Standard input.
    pub stdin: Option<Content>,
    /// Environment.
    pub env: BTreeMap<String, Content>,
    /// Skipped when this exists.
    pub creates: Option<String>,
    /// Make `creates` after success.
    pub touch: bool,
    /// Repeat until success.
    pub retry: bool,
    /// Limit for all attempts.
    pub timeout_seconds: u64,
}

/// A health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// What is asked.
    pub probe: Probe,
    /// Limit from the start of the unit.
    pub timeout_seconds: u64,
}

/// What a health check asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// HTTP GET.
    Http {
        /// Address.
        url: String,
        /// Accepted status codes.
        status: Vec<u16>,
        /// Text the body must contain.
        contains: Option<String>,
    },
    /// A connection to `host:port` or `unix:/path`.
    Tcp {
        /// Address.
        address: String,
    },
    /// A command that exits with 0.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
        /// User.
        user: String,
    },
}

/// What differs between two plans of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PlanDiff {
    /// Paths only the new plan has.
    pub added: Vec<String>,
    /// Paths whose content, owner or mode differs.
    pub changed: Vec<String>,
    /// Paths only the old plan has.
    pub removed: Vec<String>,
    /// Services that are new, gone or described otherwise, and those with a changed file.
    pub services: BTreeSet<String>,
}

impl PlanDiff {
    /// Whether there is no difference.
    pub fn is_empty(&self) -> bool {
        *self == PlanDiff::default()
    }

    /// The difference for people, a line for each path and service.
    pub fn to_text(&self) -> String {
        let groups: [(&str, Vec<&String>); 4] = [
            ("+", self.added.iter().collect()),
            ("~", self.changed.iter().collect()),
            ("-", self.removed.iter().collect()),
            ("service", self.services.iter().collect()),
        ];
        let lines = groups
            .iter()
            .flat_map(|(sign, list)| list.iter().map(move |item| format!("{sign} {item}\n")));
        lines.collect()
    }
}

impl Plan {
    /// SHA-256 of the plan's JSON form, secrets standing in with their digests.
    ///
    /// # Errors
    /// None in practice: the plan holds nothing that JSON cannot.
    pub fn digest(&self) -> Result<String> {
        Ok(hex::encode(Sha256::digest(self.to_json()?)))
    }

    /// The plan as one line of JSON without secrets.
    ///
    /// # Errors
    /// None in practice, as above.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|error| crate::Error::io("serialise", "plan".as_ref(), error.into()))
    }

    /// Network files and services' files.
    pub fn all_files(&self) -> impl Iterator<Item = &File> {
        self.network.iter().chain(&self.files)
    }

    /// What differs from an older plan.
    pub fn diff(&self, old: &Plan) -> PlanDiff {
        let new_files: BTreeMap<&str, &File> = self
            .all_files()
            .map(|file| (file.path.as_str(), file))
            .collect();
        let old_files: BTreeMap<&str, &File> = old
            .all_files()
            .map(|file| (file.path.as_str(), file))
            .collect();
        let mut diff = PlanDiff::default();
        for (path, file) in &new_files {
            let before = old_files.get(path);
            if before.is_some_and(|before| before == file) {
                continue;
            }
            let list = if before.is_some() {
                &mut diff.changed
            } else {
                &mut diff.added
            };
            list.push((*path).to_owned());
            diff.services.extend(file.service.clone());
        }
        for (path, file) in &old_files {
            if !new_files.contains_key(path) {
                diff.removed.push((*path).to_owned());
                diff.services.extend(file.service.clone());
            }
        }
        for (one, other) in [(self, old), (old, self)] {
            let missing = one
                .services
                .iter()
                .filter(|service| !other.services.contains(service));
            diff.services
                .extend(missing.map(|service| service.name.clone()));
        }
        diff
    }
}
