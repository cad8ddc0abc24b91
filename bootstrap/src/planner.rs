//! Computes the plan: `(metadata, facts, members, catalogue, image) → Plan`. Pure: no file, clock or random number is read.

use std::collections::BTreeMap;

use crate::catalogue::Catalogue;
use crate::context::{Image, Local, Platform};
use crate::deployment::Machine;
use crate::error::{Invalid, Result};
use crate::facts::Facts;
use crate::members::Members;
use crate::metadata::Metadata;
use crate::networkd;
use crate::pki::{self, Mint};
use crate::plan::{self, Directory, Identity, Mount, Plan};
use crate::plan_service::Planner;
use crate::render::{Keyring, Renderer};
use crate::role;
use crate::service::Mode;
use crate::values::{Domain, Role};

/// GPT name of the partition with the embedded repository.
const REPOSITORY_PARTITION: &str = "repo";

/// Everything a plan depends on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// What the machine was told.
    pub metadata: &'a Metadata,
    /// What it is.
    pub facts: &'a Facts,
    /// Who else is there; nothing known at first.
    pub members: &'a Members,
    /// What can run on it.
    pub catalogue: &'a Catalogue,
    /// What it was booted from.
    pub image: &'a Image,
}

impl Plan {
    /// Computes the plan of the machine that the metadata describes.
    ///
    /// # Errors
    /// A machine that is not in the deployment, or a catalogue that cannot be rendered for it.
    pub fn compute(inputs: &Inputs<'_>) -> Result<Plan> {
        let metadata = inputs.metadata;
        let machine = role::identify(metadata, inputs.facts)?;
        pki::check_fragment(&metadata.fragment.secret, &metadata.deployment, &machine)?;
        let own_cluster = machine
            .member
            .as_ref()
            .map(|member| member.cluster.to_string());
        let keyring = Keyring::new(metadata.fragment.secret.clone(), own_cluster);
        let renderer = Renderer::new(inputs.catalogue, keyring);
        let deployment = metadata.deployment.with_members(inputs.members, &machine);
        let platform = Platform::new(&deployment, inputs.catalogue, &renderer)?;
        let portal = platform.portal_names();
        refuse_foreign_portal(inputs, &portal)?;
        // Of the declared deployment: a certificate must not change with every machine that comes and goes.
        renderer.set_mint(Mint::new(
            metadata.fragment.secret.clone(),
            metadata.deployment.clone(),
            machine.clone(),
            portal,
        ));
        let interface = networkd::interface(metadata, &machine, inputs.facts);
        let local = Local {
            interface: interface.clone(),
            instance_id: metadata
                .instance_id
                .clone()
                .unwrap_or_else(|| machine.name.to_string()),
            memory_mib: inputs.facts.memory_mib,
            cpus: inputs.facts.cpus,
            data_mib: inputs.facts.data_mib,
            image: inputs.image.clone(),
        };
        let mut planner = Planner {
            renderer: &renderer,
            context: platform.full(&machine, &local),
            owners: BTreeMap::new(),
            plan: empty(inputs, &machine, interface),
        };
        planner.add_network(networkd::files(
            metadata,
            &deployment,
            &machine,
            inputs.facts,
        ))?;
        let here = platform.services_of(&machine);
        for name in inputs.catalogue.order()? {
            if let Some(service) = here.iter().find(|service| service.file.name == *name) {
                planner.add_service(service, here)?;
            }
        }
        planner.plan.directories.insert(0, data_directory());
        Ok(planner.plan)
    }
}

/// The catalogue's pages must not have names for which some cluster's certificates are good.
fn refuse_foreign_portal(inputs: &Inputs<'_>, portal: &[Domain]) -> Result<()> {
    let deployment = &inputs.metadata.deployment;
    for domain in portal {
        if let Some(cluster) = pki::covering_cluster(deployment, domain.as_str()) {
            let message = format!(
                "the page {domain} has a name of cluster {}: its certificates would be good for it",
                cluster.name
            );
            let hint = "rename the cluster or its machines";
            let invalid = Invalid::new("FR-DEPLOYMENT-TRUST", "cluster", message, hint);
            return Err(invalid.in_document("deployment").into());
        }
    }
    Ok(())
}

fn empty(inputs: &Inputs<'_>, machine: &Machine, interface: String) -> Plan {
    let member = machine.member.as_ref();
    let mut mounts = Vec::new();
    if machine.role == Role::Meta && !inputs.image.repository.is_empty() {
        mounts.push(Mount {
            partition: REPOSITORY_PARTITION.to_owned(),
            target: format!("/www/{}", inputs.image.repository),
            kind: "erofs".to_owned(),
        });
    }
    Plan {
        schema: plan::SCHEMA,
        node: Identity {
            deployment: inputs.metadata.deployment.name.to_string(),
            name: machine.name.to_string(),
            role: machine.role,
            cluster: member.map(|member| member.cluster.to_string()),
            instance: member.map(|member| member.instance.clone()),
            member_role: member.map(|member| member.role),
            address: machine.address,
            interface,
        },
        network: Vec::new(),
        mounts,
        directories: Vec::new(),
        files: Vec::new(),
        links: Vec::new(),
        services: Vec::new(),
        checks: inputs.metadata.fragment.check.clone(),
    }
}

/// The image has a link /data -> /var/data, since the root itself is read-only. What it leads to must be there before
/// anything below /data is.
fn data_directory() -> Directory {
    Directory {
        path: "/var/data".to_owned(),
        owner: "root".to_owned(),
        group: "root".to_owned(),
        mode: Mode(0o755),
    }
}
