//! What a change of members comes to: the same plan as at boot, from the documents that were accepted there, and of it only
//! what differs. Everything can be repeated; whoever is killed here is followed by one who does the rest.

use std::path::Path;
use std::time::Duration;

use crate::applied::{Applied, RECORD, service_digest};
use crate::apply::Applier;
use crate::boot::{read_units, remove_what_is_gone};
use crate::catalogue::Catalogue;
use crate::context::Image;
use crate::error::Result;
use crate::facts::Facts;
use crate::lasting::{self, Ledger};
use crate::metadata::{Metadata, Raw};
use crate::plan::{Plan, PlanDiff, Service};
use crate::planner::Inputs;
use crate::{process, record, sources, units};

/// Limit of a reload.
const LIMIT: Duration = Duration::from_secs(60);

/// The service that founds a cluster. Patroni takes the settings that all members share from its file only when it starts.
const FOUNDING: &str = "patroni";

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// All is as planned.
    Done,
    /// Somebody else writes configuration: try again soon.
    Busy,
    /// All is written, but a service does not run yet, and may have been started with what was there before: look again.
    Pending,
    /// A service could not be reloaded: try again later.
    Failed,
}

/// The plan that these documents give with the recorded facts and members.
///
/// # Errors
/// What would be refused at boot.
pub fn planned(raw: &Raw, services: &Path, image: &Image) -> Result<Plan> {
    Plan::compute(&Inputs {
        metadata: &Metadata::merge(raw)?,
        facts: &record::facts().unwrap_or_else(Facts::probe),
        members: &record::members(),
        catalogue: &Catalogue::load(services)?,
        image,
    })
}

/// What documents that a machine is about to be given would change on it.
///
/// # Errors
/// What would be refused at boot, and that nothing was accepted so far.
pub fn difference(metadata: &Path, services: &Path, image: &Image) -> Result<PlanDiff> {
    let new = sources::read_seed(metadata, &metadata.display().to_string())?;
    let old = planned(&sources::kept()?, services, image)?;
    Ok(planned(&new, services, image)?.diff(&old))
}

/// Brings this machine's configuration to what the recorded members make of it.
///
/// # Errors
/// What would be refused at boot, `FR-IO`.
pub fn follow(services: &Path, image: &Image) -> Result<Followed> {
    let Some(_lock) = record::try_lock()? else {
        return Ok(Followed::Busy);
    };
    let plan = planned(&sources::kept()?, services, image)?;
    let applier = Applier::new(Path::new("/"))?;
    let lasting = image.etc_lasts.then(|| Ledger::new(Path::new("/")));
    if let Some(ledger) = &lasting {
        ledger.claim(&lasting::paths(&plan))?;
    }
    let mut changes = applier.write_network(&plan)?;
    let written = applier.write_services(&plan)?;
    changes.paths.extend(written.paths);
    for path in &changes.paths {
        log::info!("wrote {path}");
    }
    let removed = remove_what_is_gone(&plan, lasting.as_ref())?;
    for path in &removed {
        log::info!("removed {path}");
    }
    let states = read_units(&plan, &written.units)?;
    let mut end = Followed::Done;
    let mut applied = Applied::load(Path::new(RECORD));
    for service in &plan.services {
        let digest = service_digest(&plan, &service.name);
        let Some(unit) = &service.unit else { continue };
        if applied.has(&service.name, &digest) {
            continue;
        }
        let state = states.get(unit).map_or("", |state| state.active.as_str());
        // What does not run is for the boot to start.
        if !matches!(state, "active" | "reloading") {
            if end == Followed::Done {
                end = Followed::Pending;
            }
            continue;
        }
        let done = if service.name == FOUNDING && founds(&plan) {
            units::restart(unit, LIMIT)
        } else {
            reload(service, unit)
        };
        match done {
            Ok(()) => {
                log::info!("reloaded {}", service.name);
                applied.record(&service.name, &digest);
            }
            Err(error) => {
                log::warn!("{}: {error}", service.name);
                end = Followed::Failed;
            }
        }
    }
    Ok(end)
}

/// Whether this member founds its cluster in place of the declared primary.
fn founds(plan: &Plan) -> bool {
    let members = record::members();
    let cluster = plan
        .node
        .cluster
        .as_deref()
        .and_then(|name| members.cluster(name));
    let founder = cluster.and_then(|cluster| cluster.founder.as_ref());
    founder.is_some_and(|founder| plan.node.instance.as_deref() == Some(founder.as_str()))
}

/// Lets a running service read its files again.
fn reload(service: &Service, unit: &str) -> Result<()> {
    let Some(command) = &service.reload else {
        return units::restart(unit, LIMIT);
    };
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    process::run(&words, LIMIT).map(|_| ())
}
