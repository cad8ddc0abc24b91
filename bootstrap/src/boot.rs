//! `run`: from metadata to a machine that is ready. Every step can be repeated, and the whole can be killed at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::applied::{Applied, NETWORK, RECORD, WATCH, network_digest};
use crate::apply::Applier;
use crate::catalogue::Catalogue;
use crate::checks;
use crate::context::Image;
use crate::data_disk;
use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::files;
use crate::lasting::{self, Ledger};
use crate::members::Members;
use crate::metadata::{Metadata, Raw};
use crate::mounts;
use crate::networkd;
use crate::plan::Plan;
use crate::planner::Inputs;
use crate::record;
use crate::role;
use crate::sources;
use crate::start::start_all;
use crate::status::{NodeStatus, Publisher, STATUS_FILE, ServiceState, State, Status};
use crate::units::{self, UnitState};
use crate::upgrade::UpgradeStatus;

/// How long to wait for an address: a DHCP server's answer under load, or a driver that loads late.
const ADDRESS_WAIT: Duration = Duration::from_secs(120);

/// How long to wait for others to be done with writing.
const LOCK_WAIT: Duration = Duration::from_secs(120);

/// The network's own units.
const NETWORK_UNITS: [&str; 2] = ["systemd-networkd.service", "systemd-resolved.service"];

/// Follows the members.
const WATCH_UNIT: &str = "farrow-watch.service";

/// Where everything is.
#[derive(Debug, Clone)]
pub struct Options {
    /// NoCloud folder, instead of looking for a source.
    pub metadata: Option<PathBuf>,
    /// Saved facts, instead of looking at the machine.
    pub facts: Option<PathBuf>,
    /// Service catalogue.
    pub services: PathBuf,
    /// Description of the image.
    pub image: Image,
}

/// Configures this machine, and gives its last status.
pub fn run(options: &Options) -> Status {
    let publisher = Publisher::new(Path::new(STATUS_FILE));
    let mut status = Status::new(options.image.clone());
    status.upgrade = UpgradeStatus::probe();
    publisher.publish(&mut status);
    let accepted = data_disk::attach()
        // A disk may be attached later than the machine is started, so it is tried again.
        .map_err(|error| (State::Failed, error))
        .and_then(|()| accept(options, record::members()).map_err(|error| (State::Refused, error)));
    match accepted {
        Err((state, error)) => {
            log::error!("{error}");
            status.fail(state, &error);
        }
        Ok(accepted) => {
            status.node = Some(node_status(&accepted.plan));
            publisher.publish(&mut status);
            status = configure(options, &accepted, status, &publisher);
        }
    }
    publisher.publish(&mut status);
    publisher.show_card(&status);
    status
}

/// Writes everything below a folder and starts nothing; gives the paths that were written.
///
/// # Errors
/// What would be refused at boot, `FR-IO`, `FR-ACCOUNT`.
pub fn render(options: &Options, root: &Path) -> Result<Vec<String>> {
    let accepted = accept(options, Members::default())?;
    let applier = Applier::new(root)?;
    let mut paths = applier.write_network(&accepted.plan)?.paths;
    paths.extend(applier.write_services(&accepted.plan)?.paths);
    Ok(paths)
}

/// What was read and found right.
struct Accepted {
    raw: Raw,
    metadata: Metadata,
    members: Members,
    catalogue: Catalogue,
    plan: Plan,
}

fn accept(options: &Options, members: Members) -> Result<Accepted> {
    let raw = match &options.metadata {
        Some(folder) => sources::read_seed(folder, &folder.display().to_string())?,
        None => sources::find()?,
    };
    log::info!("metadata from {}", raw.source);
    let metadata = Metadata::merge(&raw)?;
    let catalogue = Catalogue::load(&options.services)?;
    let facts = read_facts(options)?;
    let inputs = Inputs {
        metadata: &metadata,
        facts: &facts,
        members: &members,
        catalogue: &catalogue,
        image: &options.image,
    };
    let plan = match Plan::compute(&inputs) {
        Err(error) if needs_address(&metadata, &facts, &error) => {
            let facts = ask_for_address(&metadata, error)?;
            Plan::compute(&Inputs {
                facts: &facts,
                ..inputs
            })
        }
        other => other,
    }?;
    Ok(Accepted {
        raw,
        metadata,
        members,
        catalogue,
        plan,
    })
}

fn read_facts(options: &Options) -> Result<Facts> {
    options
        .facts
        .as_deref()
        .map_or_else(|| Ok(Facts::probe()), Facts::load)
}

/// Whether the machine is unknown only because nobody has given it an address yet.
fn needs_address(metadata: &Metadata, facts: &Facts, error: &Error) -> bool {
    let nothing = metadata.network.is_none() && role::own_addresses(metadata, facts).is_empty();
    nothing && error.code() == "FR-NODE-UNKNOWN"
}

/// A cloud's network tells a machine its address by DHCP.
fn ask_for_address(metadata: &Metadata, error: Error) -> Result<Facts> {
    let (path, text) = networkd::dhcp_everywhere();
    files::write_if_changed(Path::new(&path), text.as_bytes(), 0o644, None)?;
    units::queue("restart", &NETWORK_UNITS[..1])?;
    wait_until(|facts| !role::own_addresses(metadata, facts).is_empty()).ok_or(error)
}

fn wait_until(wanted: impl Fn(&Facts) -> bool) -> Option<Facts> {
    let end = Instant::now() + ADDRESS_WAIT;
    loop {
        let facts = Facts::probe();
        if wanted(&facts) {
            return Some(facts);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn node_status(plan: &Plan) -> NodeStatus {
    NodeStatus {
        name: plan.node.name.clone(),
        role: plan.node.role,
        cluster: plan.node.cluster.clone(),
        instance: plan.node.instance.clone(),
        address: plan.node.address,
    }
}

fn configure(
    options: &Options,
    accepted: &Accepted,
    mut status: Status,
    publisher: &Publisher,
) -> Status {
    let (plan, applier, before) = match prepare(options, accepted) {
        Ok(prepared) => prepared,
        Err(error) => {
            log::error!("{error}");
            status.fail(State::Failed, &error);
            return status;
        }
    };
    status.plan_digest = plan.digest().ok();
    start_watch(&plan, accepted);
    status = start_all(&plan, status, publisher, applier.accounts(), before);
    let failed = status
        .services
        .iter()
        .filter(|service| service.state != ServiceState::Healthy);
    let failed: Vec<&str> = failed.map(|service| service.name.as_str()).collect();
    if !failed.is_empty() {
        let error = Error::Services {
            services: failed.join(", "),
        };
        status.fail(State::Failed, &error);
        return status;
    }
    status.enter(State::Ready);
    status.checks = plan.checks.iter().map(checks::pending).collect();
    publisher.publish(&mut status);
    checks::run_all(&plan.checks, &mut status, publisher);
    status
}

/// Members are followed from now on: a replica may wait long for its cluster to be founded. What the watching process
/// itself goes by are the documents and facts, so it is restarted when they are new.
fn start_watch(plan: &Plan, accepted: &Accepted) {
    if plan.node.cluster.is_none() {
        return;
    }
    let digest = accepted.raw.digest();
    let mut applied = Applied::load(Path::new(RECORD));
    let verb = if applied.has(WATCH, &digest) {
        "start"
    } else {
        "restart"
    };
    match units::queue(verb, &[WATCH_UNIT]) {
        Ok(()) => applied.record(WATCH, &digest),
        Err(error) => log::warn!("{error}"),
    }
}

/// Network first, then the plan once more with the facts it brought, then all files.
fn prepare(
    options: &Options,
    accepted: &Accepted,
) -> Result<(Plan, Applier, BTreeMap<String, UnitState>)> {
    sources::keep(&accepted.raw, Path::new(sources::KEPT_COPY))?;
    let applier = Applier::new(Path::new("/"))?;
    set_host_name(&accepted.plan.node.name)?;
    let lasting = options.image.etc_lasts.then(|| Ledger::new(Path::new("/")));
    if let Some(ledger) = &lasting {
        ledger.claim(&lasting::paths(&accepted.plan))?;
        files::link_if_changed(Path::new(lasting::WANTS), lasting::UNIT)?;
    }
    applier.write_network(&accepted.plan)?;
    start_network(&network_digest(&accepted.plan));
    let address = accepted.plan.node.address;
    let mut facts = wait_for_address(address)?;
    if options.facts.is_some() {
        facts = read_facts(options)?;
    }
    let _lock = lock()?;
    record::write(record::FACTS, &facts)?;
    let plan = Plan::compute(&Inputs {
        metadata: &accepted.metadata,
        facts: &facts,
        members: &accepted.members,
        catalogue: &accepted.catalogue,
        image: &options.image,
    })?;
    for target in mounts::mount_all(&plan.mounts)? {
        log::info!("mounted {target}");
    }
    if let Some(ledger) = &lasting {
        ledger.claim(&lasting::paths(&plan))?;
    }
    let changes = applier.write_services(&plan)?;
    log::info!("{} files written", changes.paths.len());
    let gone = record::units_that_are_gone(&plan)?;
    if !gone.is_empty() {
        let units: Vec<&str> = gone.iter().map(String::as_str).collect();
        log::info!("stopping {}: no longer wanted here", units.join(", "));
        units::queue("stop", &units)?;
    }
    for path in remove_what_is_gone(&plan, lasting.as_ref())? {
        log::info!("removed {path}");
    }
    let before = read_units(&plan, &changes.units)?;
    Ok((plan, applier, before))
}

/// Removes files that an earlier plan had and this one has not; gives their paths. Where `/etc` lasts, that is whatever the
/// plan does not have, and what was there before is put back.
pub(crate) fn remove_what_is_gone(plan: &Plan, lasting: Option<&Ledger>) -> Result<Vec<String>> {
    match lasting {
        Some(ledger) => ledger.release(&lasting::paths(plan)),
        None => record::remove_what_is_gone(plan, Path::new(record::OWNED)),
    }
}

/// Another run, or a change of members, is over in seconds.
fn lock() -> Result<impl Sized> {
    let end = Instant::now() + LOCK_WAIT;
    loop {
        if let Some(lock) = record::try_lock()? {
            return Ok(lock);
        }
        if Instant::now() >= end {
            return Err(Error::Timeout {
                what: "another run of farrow-bootstrap writes configuration".into(),
                seconds: LOCK_WAIT.as_secs(),
            });
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// What the services' units are like; systemd reads its unit files again if it has not seen all of them. It reads those
/// of a unit that was not loaded by itself, and reading all takes seconds on a slow machine.
pub(crate) fn read_units(
    plan: &Plan,
    changed: &BTreeSet<String>,
) -> Result<BTreeMap<String, UnitState>> {
    let names: Vec<&str> = plan
        .services
        .iter()
        .filter_map(|service| service.unit.as_deref())
        .collect();
    let before = units::states(&names)?;
    let others = changed.iter().any(|unit| !names.contains(&unit.as_str()));
    if !others
        && before
            .values()
            .all(|state| !state.stale && state.load != "not-found")
    {
        return Ok(before);
    }
    units::daemon_reload()?;
    units::states(&names)
}

fn set_host_name(name: &str) -> Result<()> {
    let path = Path::new("/proc/sys/kernel/hostname");
    if fs::read_to_string(path).is_ok_and(|found| found.trim() == name) {
        return Ok(());
    }
    nix::unistd::sethostname(name)
        .map_err(|error| Error::io("set the host name in", path, error.into()))
}

/// Starts networkd and resolved; running ones are restarted when their files changed, which keeps addresses as they are.
/// Nothing is waited for but the address, which comes next.
fn start_network(digest: &str) {
    let mut applied = Applied::load(Path::new(RECORD));
    let verb = if applied.has(NETWORK, digest) {
        "start"
    } else {
        "restart"
    };
    match units::queue(verb, &NETWORK_UNITS) {
        Ok(()) => applied.record(NETWORK, digest),
        Err(error) => log::warn!("{error}"),
    }
}

fn wait_for_address(address: Ipv4Addr) -> Result<Facts> {
    let has = |facts: &Facts| {
        facts
            .interfaces
            .iter()
            .any(|interface| interface.addresses.contains(&address))
    };
    wait_until(has).ok_or_else(|| Error::Timeout {
        what: format!("no interface got the address {address}"),
        seconds: ADDRESS_WAIT.as_secs(),
    })
}
