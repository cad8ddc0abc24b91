//! What templates see: the declared part (the same for all machines) and this node's facts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use minijinja::Value;
use minijinja::value::Serde;
use serde::{Deserialize, Serialize};

use crate::catalogue::{Catalogue, Service};
use crate::deployment::{Deployment, Machine, insert_sorted};
use crate::document::Portal;
use crate::error::{Error, Invalid, Result};
use crate::render::Renderer;
use crate::service::ServiceFile;
use crate::tree;
use crate::tuning::{self, Sizes};
use crate::values::{Domain, Line, Role};

/// What the image says of itself, `/usr/lib/farrow/image.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Recipe name.
    #[serde(default)]
    pub name: String,
    /// Version.
    #[serde(default)]
    pub version: String,
    /// Digest of the lock it was made from.
    #[serde(default)]
    pub lock: String,
    /// Name of the embedded repository.
    #[serde(default)]
    pub repository: String,
    /// dm-verity root hash of the running root; empty when unknown.
    #[serde(default)]
    pub root_hash: String,
    /// Whether what is written below `/etc` lasts: on a machine that got its packages one by one and is no image.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub etc_lasts: bool,
}

impl Image {
    /// Reads `image.json`, and the root hash from this machine's kernel command line.
    ///
    /// # Errors
    /// `FR-IO`, `FR-IMAGE`.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
        let mut image: Image = tree::read_json(&text).map_err(|error| {
            let invalid = Invalid::new("FR-IMAGE", error.field, error.message, "");
            Error::from(invalid.in_document(&path.display().to_string()))
        })?;
        let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
        if let Some(hash) = cmdline
            .split_whitespace()
            .find_map(|word| word.strip_prefix("farrow.roothash="))
        {
            hash.clone_into(&mut image.root_hash);
        }
        Ok(image)
    }
}

/// What this node adds to its declaration.
#[derive(Debug, Clone)]
pub struct Local {
    /// Interface with the node's address.
    pub interface: String,
    /// Instance id; the machine's name when the cloud gave none.
    pub instance_id: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Processors.
    pub cpus: u32,
    /// Size of the file system with the data in MiB.
    pub data_mib: u64,
    /// The image.
    pub image: Image,
}

/// The platform as declared: who runs what. The same on every machine.
pub struct Platform<'a> {
    deployment: &'a Deployment,
    machines: Vec<Machine>,
    /// Services of each machine, by name, in the order of `machines`.
    services: Vec<Vec<&'a Service>>,
    hosts: BTreeMap<Ipv4Addr, Vec<String>>,
    portal: Vec<Portal>,
}

/// Makes a map for templates.
fn map(pairs: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    Value::from_pairs(pairs)
}

fn serialized(value: impl Serialize) -> Value {
    Value::from(Serde(value))
}

fn text(value: impl ToString) -> Value {
    Value::from(value.to_string())
}

fn optional(value: Option<impl ToString>) -> Value {
    value.map_or(Value::from(()), text)
}

impl<'a> Platform<'a> {
    /// Decides which services run on which machine, and what follows: portal entries and DNS names.
    ///
    /// # Errors
    /// `FR-TEMPLATE` when a service's `when`, portal or DNS name cannot be evaluated.
    pub fn new(
        deployment: &'a Deployment,
        catalogue: &'a Catalogue,
        renderer: &Renderer,
    ) -> Result<Self> {
        let machines = deployment.machines();
        let mut platform = Platform {
            deployment,
            services: Vec::new(),
            hosts: machine_names(deployment, &machines),
            machines,
            portal: deployment.portal.clone(),
        };
        for machine in &platform.machines {
            let context = platform.declared(machine);
            let mut here = Vec::new();
            for (name, service) in &catalogue.services {
                let holds = || {
                    renderer.holds(
                        name.as_str(),
                        "when",
                        service.file.when.as_deref(),
                        &context,
                    )
                };
                if has_role(&service.file, machine) && holds()? {
                    here.push(service);
                }
            }
            platform.services.push(here);
        }
        platform.add_dns_names(renderer)?;
        platform.add_portal();
        Ok(platform)
    }

    fn add_dns_names(&mut self, renderer: &Renderer) -> Result<()> {
        for (machine, services) in self.machines.iter().zip(&self.services) {
            let context = self.declared(machine);
            for service in services {
                for name in &service.file.dns.names {
                    let name = renderer
                        .text(service.file.name.as_str(), "dns.names", name, &context)?
                        .text;
                    self.hosts.entry(machine.address).or_default().push(name);
                }
            }
        }
        Ok(())
    }

    /// Portal entries lead to the first machine that runs the service; their names resolve to the meta nodes.
    fn add_portal(&mut self) {
        let mut known: BTreeSet<Domain> = self
            .portal
            .iter()
            .map(|entry| entry.domain.clone())
            .collect();
        for (machine, services) in self.machines.iter().zip(&self.services) {
            for service in services {
                let Some(portal) = &service.file.portal else {
                    continue;
                };
                let domain =
                    Domain::parse(&format!("{}.{}", portal.domain, self.deployment.domain));
                let endpoint = Line::parse(&format!("{}:{}", machine.address, portal.port));
                let (Ok(domain), Ok(endpoint), Ok(path)) =
                    (domain, endpoint, Line::parse(&portal.path))
                else {
                    continue;
                };
                if known.insert(domain.clone()) {
                    let name = service.file.name.clone();
                    let entry = Portal {
                        name,
                        domain,
                        endpoint,
                        path,
                    };
                    insert_sorted(&mut self.portal, entry, |a, b| a.domain < b.domain);
                }
            }
        }
        for meta in &self.deployment.meta {
            let names = self.hosts.entry(meta.address).or_default();
            names.extend(self.portal.iter().map(|entry| entry.domain.to_string()));
        }
        for names in self.hosts.values_mut() {
            let mut seen = BTreeSet::new();
            names.retain(|name| seen.insert(name.clone()));
        }
    }

    /// Names of the web interfaces.
    pub fn portal_names(&self) -> Vec<Domain> {
        let domains = self.portal.iter().map(|entry| entry.domain.clone());
        domains.collect()
    }

    /// Services of a machine, by name.
    pub fn services_of(&self, machine: &Machine) -> &[&'a Service] {
        let index = self.machines.iter().position(|other| other == machine);
        index.map_or(&[], |index| &self.services[index])
    }

    /// Context of expressions that every machine evaluates for every other.
    fn declared(&self, machine: &Machine) -> Value {
        map([
            ("node", Value::from_pairs(self.declared_node(machine))),
            ("deployment", Value::from_pairs(self.declared_deployment())),
            ("cluster", self.cluster_of(machine)),
        ])
    }

    /// Context of everything else.
    pub fn full(&self, machine: &Machine, local: &Local) -> Value {
        let mut node = self.declared_node(machine);
        let image = &local.image;
        node.extend([
            ("interface", text(&local.interface)),
            ("instance_id", text(&local.instance_id)),
            ("memory_mib", Value::from(local.memory_mib)),
            ("cpus", Value::from(local.cpus)),
            ("data_mib", Value::from(local.data_mib)),
            ("root_hash", text(&image.root_hash)),
            ("image", serialized(image)),
        ]);
        let mut deployment = self.declared_deployment();
        let machines = self
            .machines
            .iter()
            .zip(&self.services)
            .map(|(machine, services)| {
                let mut fields = self.declared_node(machine);
                fields.retain(|(key, _)| !matches!(*key, "hostname" | "prefix"));
                let names = services.iter().map(|service| text(&service.file.name));
                fields.push(("services", names.collect()));
                Value::from_pairs(fields)
            });
        let hosts = self.hosts.iter().map(|(address, names)| {
            map([
                ("address", text(address)),
                ("names", names.iter().map(text).collect()),
            ])
        });
        deployment.extend([
            ("machines", machines.collect()),
            ("hosts", hosts.collect()),
            ("portal", serialized(&self.portal)),
        ]);
        let repository = &image.repository;
        let first = self
            .deployment
            .meta
            .first()
            .map(|meta| meta.address.to_string())
            .unwrap_or_default();
        map([
            ("node", Value::from_pairs(node)),
            ("deployment", Value::from_pairs(deployment)),
            ("cluster", self.cluster_of(machine)),
            ("sizes", self.sizes(machine, local)),
            ("services", self.targets()),
            (
                "repository",
                map([
                    ("name", text(repository)),
                    ("path", text(format!("/www/{repository}"))),
                    ("url", text(format!("http://{first}/{repository}"))),
                ]),
            ),
        ])
    }

    fn cluster_of(&self, machine: &Machine) -> Value {
        let name = machine
            .member
            .as_ref()
            .map(|member| member.cluster.as_str());
        let cluster = name.and_then(|name| self.deployment.cluster(name));
        cluster.map_or(Value::from(()), serialized)
    }

    /// PostgreSQL's sizes on this machine; none on a machine without database.
    fn sizes(&self, machine: &Machine, local: &Local) -> Value {
        let member = machine.member.as_ref();
        let Some(cluster) = member.and_then(|m| self.deployment.cluster(m.cluster.as_str())) else {
            return Value::from(());
        };
        let connections = cluster.parameters.get("max_connections");
        let machine = tuning::Machine {
            cpus: u64::from(local.cpus),
            memory_mib: local.memory_mib,
            data_mib: local.data_mib,
        };
        let connections = connections.and_then(|line| line.to_string().parse().ok());
        serialized(Sizes::of(cluster.tuning, machine, connections))
    }

    fn declared_node(&self, machine: &Machine) -> Vec<(&'static str, Value)> {
        let member = machine.member.as_ref();
        vec![
            ("name", text(&machine.name)),
            ("hostname", text(&machine.name)),
            ("address", text(machine.address)),
            (
                "prefix",
                Value::from(self.deployment.network.subnet.prefix()),
            ),
            ("role", text(machine.role)),
            ("cluster", optional(member.map(|member| &member.cluster))),
            (
                "seq",
                member.map_or(Value::from(()), |member| Value::from(member.seq)),
            ),
            ("instance", optional(member.map(|member| &member.instance))),
            (
                "member_role",
                member.map_or(Value::from(()), |member| serialized(member.role)),
            ),
        ]
    }

    fn declared_deployment(&self) -> Vec<(&'static str, Value)> {
        let deployment = self.deployment;
        vec![
            ("name", text(&deployment.name)),
            ("domain", text(&deployment.domain)),
            ("dcs", serialized(deployment.dcs)),
            ("ntp", serialized(&deployment.ntp)),
            ("subnet", text(deployment.network.subnet)),
            ("prefix", Value::from(deployment.network.subnet.prefix())),
            ("gateway", optional(deployment.network.gateway)),
            ("dns", deployment.network.dns.iter().map(text).collect()),
            ("meta", serialized(&deployment.meta)),
            ("clusters", serialized(&deployment.clusters)),
        ]
    }

    /// Every service of every machine, with its ports and metrics: Prometheus' targets, the firewall, the port table.
    fn targets(&self) -> Value {
        let pairs = self.machines.iter().zip(&self.services);
        pairs
            .flat_map(|(machine, services)| {
                services
                    .iter()
                    .map(|service| target(machine, &service.file))
            })
            .collect()
    }
}

fn target(machine: &Machine, service: &ServiceFile) -> Value {
    let member = machine.member.as_ref();
    let metrics = service.metrics.as_ref();
    let name = || machine.name.to_string();
    map([
        ("machine", text(&machine.name)),
        ("address", text(machine.address)),
        ("role", text(machine.role)),
        ("service", text(&service.name)),
        ("unit", optional(service.unit.as_ref())),
        (
            "cls",
            text(member.map_or_else(name, |member| member.cluster.to_string())),
        ),
        (
            "ins",
            text(member.map_or_else(name, |member| member.instance.clone())),
        ),
        ("ports", serialized(&service.port)),
        ("job", optional(metrics.map(|metrics| &metrics.job))),
        (
            "port",
            metrics.map_or(Value::from(()), |metrics| Value::from(metrics.port)),
        ),
        ("path", optional(metrics.map(|metrics| &metrics.path))),
        ("scheme", optional(metrics.map(|metrics| &metrics.scheme))),
    ])
}

fn has_role(service: &ServiceFile, machine: &Machine) -> bool {
    let meta = machine.role == Role::Meta && service.roles.contains(&Role::Meta);
    meta || (machine.member.is_some() && service.roles.contains(&Role::Database))
}

/// Names of the machines and their instances, short first, each with the domain too.
pub fn machine_names(
    deployment: &Deployment,
    machines: &[Machine],
) -> BTreeMap<Ipv4Addr, Vec<String>> {
    let mut hosts = BTreeMap::new();
    for machine in machines {
        let instance = machine
            .member
            .as_ref()
            .map(|member| member.instance.as_str());
        let mut names = Vec::new();
        for name in [Some(machine.name.as_str()), instance]
            .into_iter()
            .flatten()
        {
            names.extend([name.to_owned(), format!("{name}.{}", deployment.domain)]);
        }
        names.dedup();
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        hosts.insert(machine.address, names);
    }
    hosts
}
