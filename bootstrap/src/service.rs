//! `service.toml` as it is written. Texts marked "template" and "expression" are rendered by [`crate::render`].

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::values::{Name, Role};

/// A service of the catalogue.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceFile {
    /// Format version.
    pub schema: u32,
    /// Name, the folder's.
    pub name: Name,
    /// One line for people.
    pub description: String,
    /// Machines it runs on: meta nodes, and machines with a cluster member.
    pub roles: Vec<Role>,
    /// Expression over declared facts; the service is left out where it is false.
    pub when: Option<String>,
    /// systemd unit; a service without one only writes files and runs tasks.
    pub unit: Option<String>,
    /// Services that must be healthy first.
    #[serde(default)]
    pub after: Vec<String>,
    /// Whether `systemctl start` is waited for.
    #[serde(default)]
    pub start: Start,
    /// Directories to make.
    #[serde(default)]
    pub directory: Vec<DirectoryFile>,
    /// Files to write.
    #[serde(default)]
    pub file: Vec<TemplateFile>,
    /// Symbolic links to make.
    #[serde(default)]
    pub link: Vec<LinkFile>,
    /// Commands to run.
    #[serde(default)]
    pub task: Vec<TaskFile>,
    /// Ports it listens on.
    #[serde(default)]
    pub port: Vec<Port>,
    /// How to tell that it works (default: its unit is active).
    pub health: Option<HealthFile>,
    /// Where its metrics are.
    pub metrics: Option<Metrics>,
    /// Its entry in the portal.
    pub portal: Option<PortalFile>,
    /// DNS names that lead to it.
    #[serde(default)]
    pub dns: DnsFile,
    /// What to do when its files changed (default: restart the unit).
    pub reload: Option<ReloadFile>,
}

/// How a unit is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// `systemctl start` must succeed.
    #[default]
    Wait,
    /// The job is queued; health decides. For units that are up only when others are.
    NoBlock,
}

/// `[[directory]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryFile {
    /// Absolute path, a template.
    pub path: String,
    /// Owner.
    #[serde(default = "root")]
    pub owner: String,
    /// Group.
    #[serde(default = "root")]
    pub group: String,
    /// Mode.
    #[serde(default = "mode_755")]
    pub mode: Mode,
    /// Expression.
    pub when: Option<String>,
}

/// `[[file]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateFile {
    /// Absolute path, a template.
    pub path: String,
    /// Name of the template.
    pub template: String,
    /// Owner.
    #[serde(default = "root")]
    pub owner: String,
    /// Group.
    #[serde(default = "root")]
    pub group: String,
    /// Mode (default: 0644, secret files 0600).
    pub mode: Option<Mode>,
    /// Never shown.
    #[serde(default)]
    pub secret: bool,
    /// Expression.
    pub when: Option<String>,
    /// Expression that gives a list: one file per item.
    pub for_each: Option<String>,
    /// Whether the unit is restarted or reloaded when the file changed (default: yes).
    #[serde(default = "yes")]
    pub restart: bool,
}

/// `[[link]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkFile {
    /// Absolute path, a template.
    pub path: String,
    /// Where it points, a template.
    pub target: String,
    /// Expression.
    pub when: Option<String>,
}

/// When a task runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Before the unit is started.
    BeforeStart,
    /// Once it is healthy.
    AfterHealthy,
}

/// `[[task]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskFile {
    /// Name, unique in the service.
    pub name: String,
    /// When.
    pub phase: Phase,
    /// Program and arguments, templates.
    pub command: Vec<String>,
    /// User (default: root).
    #[serde(default = "root")]
    pub user: String,
    /// Template for standard input.
    pub stdin: Option<String>,
    /// Environment; values are templates.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Expression.
    pub when: Option<String>,
    /// Path, a template: the task is skipped when it exists.
    pub creates: Option<String>,
    /// Make the file `creates` after success.
    #[serde(default)]
    pub touch: bool,
    /// Repeat until it succeeds.
    #[serde(default)]
    pub retry: bool,
    /// Limit for all attempts together.
    #[serde(default = "sixty")]
    pub timeout_seconds: u64,
}

/// `[[port]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// What it is for.
    pub name: String,
    /// Number.
    pub number: u16,
    /// tcp or udp.
    #[serde(default)]
    pub protocol: Protocol,
}

/// Transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// Kinds of health checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthKind {
    /// HTTP status and content.
    Http,
    /// A connection is accepted.
    Tcp,
    /// A command succeeds.
    Exec,
}

/// `[health]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthFile {
    /// Kind.
    pub kind: HealthKind,
    /// http: a template.
    pub url: Option<String>,
    /// http: accepted status codes (default: 200).
    #[serde(default)]
    pub status: StatusCodes,
    /// http: text the body must contain, a template.
    pub contains: Option<String>,
    /// tcp: `host:port` or `unix:/path`, a template.
    pub address: Option<String>,
    /// exec: program and arguments, templates.
    #[serde(default)]
    pub command: Vec<String>,
    /// exec: user.
    #[serde(default = "root")]
    pub user: String,
    /// Limit from the start of the unit.
    #[serde(default = "two_minutes")]
    pub timeout_seconds: u64,
}

/// Accepted status codes, written as one number or a list.
#[derive(Debug, Clone)]
pub struct StatusCodes(pub Vec<u16>);

impl Default for StatusCodes {
    fn default() -> Self {
        StatusCodes(vec![200])
    }
}

impl<'de> Deserialize<'de> for StatusCodes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StatusVisitor)
    }
}

struct StatusVisitor;

impl<'de> Visitor<'de> for StatusVisitor {
    type Value = StatusCodes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a status code or a list of them")
    }

    fn visit_i64<E: de::Error>(self, code: i64) -> Result<StatusCodes, E> {
        let code = u16::try_from(code).map_err(|_| E::custom("not a status code"))?;
        Ok(StatusCodes(vec![code]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<StatusCodes, A::Error> {
        let mut codes = Vec::new();
        while let Some(code) = list.next_element()? {
            codes.push(code);
        }
        Ok(StatusCodes(codes))
    }
}

/// `[metrics]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Job.
    pub job: String,
    /// Port.
    pub port: u16,
    /// Path (default: /metrics).
    #[serde(default = "metrics_path")]
    pub path: String,
    /// Scheme (default: http).
    #[serde(default = "http")]
    pub scheme: String,
}

/// `[portal]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortalFile {
    /// First label of the host name.
    pub domain: Name,
    /// Port behind it.
    pub port: u16,
    /// First path to show (default: /).
    #[serde(default = "slash")]
    pub path: String,
}

/// `[dns]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsFile {
    /// Names, templates.
    #[serde(default)]
    pub names: Vec<String>,
}

/// `[reload]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReloadFile {
    /// Program and arguments.
    pub command: Vec<String>,
}

/// Permission bits, written as octal text ("0640").
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mode(pub u32);

impl TryFrom<String> for Mode {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        u32::from_str_radix(&text, 8)
            .ok()
            .filter(|mode| *mode <= 0o7777 && text.len() >= 3)
            .map(Mode)
            .ok_or_else(|| format!("{text:?} is not a mode such as \"0640\""))
    }
}

impl From<Mode> for String {
    fn from(mode: Mode) -> String {
        mode.to_string()
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl fmt::Debug for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

fn root() -> String {
    "root".into()
}

fn mode_755() -> Mode {
    Mode(0o755)
}

fn yes() -> bool {
    true
}

fn sixty() -> u64 {
    60
}

fn two_minutes() -> u64 {
    120
}

fn metrics_path() -> String {
    "/metrics".into()
}

fn http() -> String {
    "http".into()
}

fn slash() -> String {
    "/".into()
}
