//! The inventory (CMDB): what the platform consists of, as tables in the database `meta` of the meta cluster. Kept by the meta
//! node whose instance leads that cluster.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::accounts::Accounts;
use crate::catalogue::Catalogue;
use crate::context::{Image, Platform};
use crate::deployment::{Deployment, META_CLUSTER, Machine};
use crate::error::Result;
use crate::facts::Facts;
use crate::follow::Followed;
use crate::members::{LiveMember, Members};
use crate::merge::UNDECLARED;
use crate::metadata::Metadata;
use crate::process::Program;
use crate::render::{Keyring, Renderer};
use crate::{record, role, sources};

/// Where Debian has each version of PostgreSQL.
const POSTGRESQL: &str = "/usr/lib/postgresql";

/// The database, which a deployment declares or not.
const DATABASE: &str = "meta";

/// Name of the tag with a machine's root hash, as the catalogue configures Patroni.
const IMAGE_TAG: &str = "farrow_image";

/// Tables and statements; `__DOCUMENT__` stands for the document.
const STATEMENTS: &str = include_str!("inventory.sql");

/// Limit of all statements.
const LIMIT: Duration = Duration::from_secs(30);

/// Writes the inventory if this machine's instance leads the meta cluster.
///
/// # Errors
/// What would be refused at boot, `FR-COMMAND`.
pub fn store(services: &Path, image: &Image) -> Result<Followed> {
    let metadata = Metadata::merge(&sources::kept()?)?;
    let facts = record::facts().unwrap_or_else(Facts::probe);
    let machine = role::identify(&metadata, &facts)?;
    let members = record::members();
    let meta = metadata.deployment.cluster(META_CLUSTER);
    let wanted = meta.is_some_and(|cluster| {
        cluster
            .databases
            .iter()
            .any(|database| database.name.as_str() == DATABASE)
    });
    let leader = members
        .cluster(META_CLUSTER)
        .and_then(|cluster| cluster.leader.as_ref());
    let own = machine
        .member
        .as_ref()
        .map(|member| member.instance.as_str());
    if !wanted || leader.is_none() || leader.map(|name| name.as_str()) != own {
        return Ok(Followed::Done);
    }
    let catalogue = Catalogue::load(services)?;
    let deployment = metadata.deployment.with_members(&members, &machine);
    let document = document(&deployment, &members, &catalogue, &machine, image)?;
    // As a literal: quotes doubled, and no backslash means anything (standard_conforming_strings).
    let literal = format!("'{}'", document.to_string().replace('\'', "''"));
    run(&STATEMENTS.replace("__DOCUMENT__", &literal))
}

/// The newest PostgreSQL's own psql: Debian's wrapper of that name is a Perl program that costs an emulated machine seconds.
fn psql() -> String {
    let versions = std::fs::read_dir(POSTGRESQL)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    versions.max().map_or_else(
        || "psql".to_owned(),
        |version| format!("{POSTGRESQL}/{version}/bin/psql"),
    )
}

fn run(statements: &str) -> Result<Followed> {
    let accounts = Accounts::load(Path::new("/"))?;
    let psql = psql();
    let words = [
        psql.as_str(),
        "-X",
        "-q",
        "-v",
        "ON_ERROR_STOP=1",
        "-d",
        DATABASE,
        "-f",
        "-",
    ]
    .map(str::to_owned);
    let options =
        "-c log_statement=none -c client_min_messages=warning -c synchronous_commit=local";
    let program = Program {
        words: &words,
        user: Some(("postgres", accounts.user("postgres")?)),
        stdin: Some(statements),
        env: vec![("PGHOST", "/run/postgresql"), ("PGOPTIONS", options)],
        limit: LIMIT,
    };
    let outcome = program.run()?;
    if outcome.success() {
        return Ok(Followed::Done);
    }
    // The database is made a moment after its cluster leads.
    log::info!("the inventory is not written yet: {}", outcome.describe());
    Ok(Followed::Pending)
}

/// All rows of all tables.
fn document(
    deployment: &Deployment,
    members: &Members,
    catalogue: &Catalogue,
    own: &Machine,
    image: &Image,
) -> Result<Value> {
    let renderer = Renderer::new(catalogue, Keyring::default());
    let platform = Platform::new(deployment, catalogue, &renderer)?;
    let (mut clusters, mut nodes, mut instances, mut services) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for cluster in &deployment.clusters {
        let live = members.cluster(cluster.name.as_str());
        let leader = live.and_then(|live| live.leader.as_ref());
        clusters.push(json!({"name": cluster.name, "vip": cluster.vip, "autoscale": cluster.autoscale, "leader": leader}));
        for member in &cluster.members {
            let found = live.and_then(|live| live.members.get(member.instance.as_str()));
            let declared = member.seq != UNDECLARED;
            instances.push(json!({
                "name": member.instance,
                "cluster": cluster.name,
                "node": member.name,
                "seq": declared.then_some(member.seq),
                "address": member.address,
                "declared_role": declared.then_some(member.role),
                "role": found.map(|found| found.role),
                "state": found.map(|found| &found.state),
                "timeline": found.and_then(|found| found.timeline),
                "live": found.is_some(),
            }));
        }
    }
    for machine in deployment.machines() {
        let hash = if machine.name == own.name {
            Some(image.root_hash.clone()).filter(|hash| !hash.is_empty())
        } else {
            live_member(members, &machine).and_then(|member| member.tags.get(IMAGE_TAG).cloned())
        };
        nodes.push(json!({"name": machine.name, "address": machine.address, "role": machine.role, "image": hash}));
        for service in platform.services_of(&machine) {
            let file = &service.file;
            let ports: Vec<u16> = file.port.iter().map(|port| port.number).collect();
            services.push(
                json!({"node": machine.name, "name": file.name, "unit": file.unit, "ports": ports}),
            );
        }
    }
    Ok(json!({"cluster": clusters, "node": nodes, "instance": instances, "service": services}))
}

fn live_member<'a>(members: &'a Members, machine: &Machine) -> Option<&'a LiveMember> {
    let member = machine.member.as_ref()?;
    let cluster = members.cluster(member.cluster.as_str())?;
    cluster.members.get(member.instance.as_str())
}
