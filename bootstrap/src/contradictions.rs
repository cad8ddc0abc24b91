//! Refuses deployment documents that contradict themselves. Each complaint names the field and says what to change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::deployment::META_CLUSTER;
use crate::document::{ClusterFile, DeploymentFile, MemberFile, Portal, SCHEMA};
use crate::error::Invalid;
use crate::scaling;
use crate::values::{MemberRole, Name};

type Check = std::result::Result<(), Box<Invalid>>;

/// All checks that need more than one value.
pub(crate) fn check(file: &DeploymentFile) -> Check {
    check_schema(file.schema)?;
    check_addresses(file)?;
    check_meta(file)?;
    check_clusters(file)?;
    check_machine_names(file)?;
    check_portal(&file.portal)?;
    check_qemu(file)
}

/// The machine's name: the meta node's on its address, the given one, or `<cluster>-<seq>`.
pub(crate) fn machine_name(
    cluster: &Name,
    member: &MemberFile,
    meta: &BTreeMap<Ipv4Addr, Name>,
) -> std::result::Result<Name, String> {
    match (meta.get(&member.address), &member.name) {
        (Some(name), _) | (None, Some(name)) => Ok(name.clone()),
        (None, None) => Name::parse(&format!("{cluster}-{}", member.seq)),
    }
}

fn check_schema(schema: u32) -> Check {
    if schema == SCHEMA {
        return Ok(());
    }
    let message = format!("schema {schema} is not known");
    let hint = format!("this version reads schema {SCHEMA}");
    Err(Invalid::new(
        "FR-DEPLOYMENT-SCHEMA",
        "schema",
        message,
        hint,
    ))
}

fn check_addresses(file: &DeploymentFile) -> Check {
    let mut owners: BTreeMap<Ipv4Addr, String> = BTreeMap::new();
    let subnet = file.network.subnet;
    let inside = |field: String, address: Ipv4Addr| {
        if subnet.holds(address) {
            return Ok(());
        }
        let message = format!("{address} is not a machine's address in the subnet {subnet}");
        let hint = "change the address, or network.subnet";
        Err(Invalid::new("FR-DEPLOYMENT-SUBNET", field, message, hint))
    };
    if let Some(gateway) = file.network.gateway {
        inside("network.gateway".into(), gateway)?;
        owners.insert(gateway, "the gateway".into());
    }
    for (m, meta) in file.meta.iter().enumerate() {
        let field = format!("meta[{m}].address");
        inside(field.clone(), meta.address)?;
        claim(
            &mut owners,
            field,
            meta.address,
            format!("meta node {}", meta.name),
        )?;
    }
    // A meta node and its member of a cluster are one machine, so members have a list of their own.
    let mut members: BTreeMap<Ipv4Addr, String> = BTreeMap::new();
    for (c, cluster) in file.cluster.iter().enumerate() {
        for (m, member) in cluster.member.iter().enumerate() {
            let field = format!("cluster[{c}].member[{m}].address");
            inside(field.clone(), member.address)?;
            claim(
                &mut members,
                field,
                member.address,
                format!("{}-{}", cluster.name, member.seq),
            )?;
        }
    }
    owners.extend(members);
    for (c, cluster) in file.cluster.iter().enumerate() {
        if let Some(vip) = cluster.vip {
            let field = format!("cluster[{c}].vip");
            inside(field.clone(), vip)?;
            claim(
                &mut owners,
                field,
                vip,
                format!("the virtual address of {}", cluster.name),
            )?;
        }
    }
    Ok(())
}

fn claim(
    owners: &mut BTreeMap<Ipv4Addr, String>,
    field: String,
    address: Ipv4Addr,
    owner: String,
) -> Check {
    if let Some(other) = owners.insert(address, owner.clone()) {
        let message = format!("{other} and {owner} share the address {address}");
        let hint = "give each machine its own address";
        return Err(Invalid::new(
            "FR-DEPLOYMENT-ADDRESS-TWICE",
            field,
            message,
            hint,
        ));
    }
    Ok(())
}

fn check_meta(file: &DeploymentFile) -> Check {
    let code = "FR-DEPLOYMENT-META";
    if file.meta.is_empty() {
        let hint = "add [[meta]] with name and address";
        return Err(Invalid::new(code, "meta", "there is no meta node", hint));
    }
    for (m, meta) in file.meta.iter().enumerate() {
        let holder = file.cluster.iter().find_map(|cluster| {
            let member = cluster
                .member
                .iter()
                .find(|member| member.address == meta.address)?;
            Some((cluster, member))
        });
        let field = format!("meta[{m}].address");
        match holder {
            None => {
                let message = format!("{} is no member of {META_CLUSTER}", meta.address);
                let hint = format!(
                    "add a [[cluster.member]] with this address to the cluster {META_CLUSTER}"
                );
                return Err(Invalid::new(code, field, message, hint));
            }
            Some((cluster, _)) if cluster.name.as_str() != META_CLUSTER => {
                let message = format!(
                    "{} is a member of {}, not of {META_CLUSTER}",
                    meta.address, cluster.name
                );
                let hint = "a meta node belongs to the meta cluster only";
                return Err(Invalid::new(code, field, message, hint));
            }
            Some((_, member)) if member.name.as_ref().is_some_and(|name| *name != meta.name) => {
                let message = format!("the machine at {} has two names", meta.address);
                let hint = format!("leave the member's name out: it is {}", meta.name);
                return Err(Invalid::new(code, field, message, hint));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// The complaint about a cluster without a primary.
pub(crate) fn no_primary(index: usize, cluster: &Name) -> Box<Invalid> {
    let message = format!("cluster {cluster} has no primary");
    let hint = "give exactly one member role = \"primary\"";
    Invalid::new(
        "FR-DEPLOYMENT-PRIMARY",
        format!("cluster[{index}].member"),
        message,
        hint,
    )
}

fn check_clusters(file: &DeploymentFile) -> Check {
    let names = file.cluster.iter().map(|cluster| cluster.name.as_str());
    check_unique("cluster", "clusters are called", names)?;
    for (c, cluster) in file.cluster.iter().enumerate() {
        let field = format!("cluster[{c}]");
        // Each cluster has a user of its name in the store, where `root` may do everything.
        if cluster.name.as_str() == "root" {
            let message = "a cluster cannot be called root: that is the store's administrator";
            let field = format!("{field}.name");
            return Err(Invalid::new(
                "FR-DEPLOYMENT-NAME",
                field,
                message,
                "rename it",
            ));
        }
        if check_members(&field, cluster)?.is_none() && !cluster.autoscale {
            return Err(no_primary(c, &cluster.name));
        }
        scaling::check(&field, cluster)?;
        let users = cluster.user.iter().map(|user| user.name.as_str());
        check_unique(&format!("{field}.user"), "users are called", users)?;
        let databases = cluster
            .database
            .iter()
            .map(|database| database.name.as_str());
        check_unique(
            &format!("{field}.database"),
            "databases are called",
            databases,
        )?;
        check_owners(&field, cluster)?;
        check_services(&field, cluster)?;
    }
    Ok(())
}

/// Number of the primary, if there is one.
fn check_members(field: &str, cluster: &ClusterFile) -> Result<Option<u32>, Box<Invalid>> {
    let mut numbers = BTreeSet::new();
    let mut primary: Option<u32> = None;
    for (m, member) in cluster.member.iter().enumerate() {
        let field = format!("{field}.member[{m}]");
        let right = (1..=9999).contains(&member.seq);
        if !right || !numbers.insert(member.seq) {
            let complaint = if right {
                "taken twice"
            } else {
                "not in 1 to 9999"
            };
            let message = format!("seq {} is {complaint}", member.seq);
            let hint = format!("each member of {} needs its own number", cluster.name);
            let field = format!("{field}.seq");
            return Err(Invalid::new("FR-DEPLOYMENT-SEQ", field, message, hint));
        }
        if member.role == MemberRole::Primary
            && let Some(first) = primary.replace(member.seq)
        {
            let (name, second) = (&cluster.name, member.seq);
            let message = format!("{name}-{first} and {name}-{second} are both primary");
            let hint = "make all but one a replica";
            let field = format!("{field}.role");
            return Err(Invalid::new("FR-DEPLOYMENT-PRIMARY", field, message, hint));
        }
    }
    Ok(primary)
}

fn check_owners(field: &str, cluster: &ClusterFile) -> Check {
    for (d, database) in cluster.database.iter().enumerate() {
        let known = cluster.user.iter().any(|user| user.name == database.owner);
        if !known && database.owner.as_str() != "postgres" {
            let message = format!("{} is no user of cluster {}", database.owner, cluster.name);
            let hint = format!("add [[cluster.user]] with name = \"{}\"", database.owner);
            let field = format!("{field}.database[{d}].owner");
            return Err(Invalid::new("FR-DEPLOYMENT-OWNER", field, message, hint));
        }
    }
    Ok(())
}

fn check_services(field: &str, cluster: &ClusterFile) -> Check {
    let names = cluster.service.iter().map(|service| service.name.as_str());
    check_unique(&format!("{field}.service"), "services are called", names)?;
    let mut ports = BTreeSet::from([5433, 5434, 5436, 5438]);
    for (index, service) in cluster.service.iter().enumerate() {
        let name = service.name.as_str();
        if ["primary", "replica", "default", "offline"].contains(&name) {
            let field = format!("{field}.service[{index}].name");
            let message = format!("every cluster has a service {name} already");
            let code = "FR-DEPLOYMENT-NAME-TWICE";
            return Err(Invalid::new(code, field, message, "choose another name"));
        }
        let field = format!("{field}.service[{index}].port");
        let code = "FR-DEPLOYMENT-PORT";
        if !(5433..=5499).contains(&service.port) {
            let message = format!("port {} is not in 5433 to 5499", service.port);
            return Err(Invalid::new(code, field, message, "choose one of those"));
        }
        if !ports.insert(service.port) {
            let message = format!("port {} belongs to another service", service.port);
            return Err(Invalid::new(code, field, message, "choose a free one"));
        }
    }
    Ok(())
}

fn check_unique<'a>(field: &str, what: &str, names: impl Iterator<Item = &'a str>) -> Check {
    let mut seen = BTreeSet::new();
    for (index, name) in names.enumerate() {
        if !seen.insert(name) {
            let field = format!("{field}[{index}].name");
            let message = format!("two {what} {name}");
            return Err(Invalid::new(
                "FR-DEPLOYMENT-NAME-TWICE",
                field,
                message,
                "rename one of them",
            ));
        }
    }
    Ok(())
}

fn check_machine_names(file: &DeploymentFile) -> Check {
    let meta = meta_names(file);
    check_unique(
        "meta",
        "meta nodes are called",
        file.meta.iter().map(|meta| meta.name.as_str()),
    )?;
    let mut seen: BTreeMap<Name, Ipv4Addr> = file
        .meta
        .iter()
        .map(|m| (m.name.clone(), m.address))
        .collect();
    for (c, cluster) in file.cluster.iter().enumerate() {
        for (m, member) in cluster.member.iter().enumerate() {
            let field = format!("cluster[{c}].member[{m}].name");
            let name = machine_name(&cluster.name, member, &meta).map_err(|message| {
                Invalid::new("FR-DEPLOYMENT-NAME", field.clone(), message, "")
            })?;
            if let Some(other) = seen.insert(name.clone(), member.address)
                && other != member.address
            {
                let message = format!(
                    "the machines at {other} and {} are both called {name}",
                    member.address
                );
                return Err(Invalid::new(
                    "FR-DEPLOYMENT-NAME-TWICE",
                    field,
                    message,
                    "rename one of them",
                ));
            }
        }
    }
    Ok(())
}

fn check_portal(portal: &[Portal]) -> Check {
    let mut seen = BTreeSet::new();
    for (index, entry) in portal.iter().enumerate() {
        if !seen.insert(&entry.domain) {
            let message = format!("two portal entries answer to {}", entry.domain);
            let field = format!("portal[{index}].domain");
            return Err(Invalid::new(
                "FR-DEPLOYMENT-NAME-TWICE",
                field,
                message,
                "change one of them",
            ));
        }
    }
    Ok(())
}

fn check_qemu(file: &DeploymentFile) -> Check {
    let meta = meta_names(file);
    let mut machines = BTreeSet::new();
    for cluster in &file.cluster {
        let names = cluster
            .member
            .iter()
            .filter_map(|member| machine_name(&cluster.name, member, &meta).ok());
        machines.extend(names);
    }
    for name in file.qemu.machine.keys() {
        if !machines.contains(name) {
            let names: Vec<&str> = machines.iter().map(Name::as_str).collect();
            let message = format!("there is no machine {name}");
            let hint = format!("the machines are {}", names.join(", "));
            return Err(Invalid::new(
                "FR-DEPLOYMENT-QEMU",
                format!("qemu.machine.{name}"),
                message,
                hint,
            ));
        }
    }
    Ok(())
}

/// Names of the meta nodes by address.
pub(crate) fn meta_names(file: &DeploymentFile) -> BTreeMap<Ipv4Addr, Name> {
    file.meta
        .iter()
        .map(|meta| (meta.address, meta.name.clone()))
        .collect()
}
