//! `watch`: looks every other second at who is there, and lets [`crate::follow`] do what a change comes to, in a process of
//! its own, so that this one stays small.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::facts::Facts;
use crate::founder::Patience;
use crate::members::Members;
use crate::metadata::Metadata;
use crate::observe::Source;
use crate::status::{STATUS_FILE, Status};
use crate::values::Role;
use crate::{process, record, role, sources};

/// Between two looks, and where a look itself takes long, this many times as long as it took, up to the longest: a change
/// is known everywhere within 10 s.
const PAUSE: Duration = Duration::from_secs(2);
const PAUSE_TIMES: u32 = 10;
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// First and longest time until what failed is tried again; it doubles.
const FIRST_RETRY: Duration = Duration::from_secs(4);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// After a change, this many times as long as it took nothing is changed: an emulated machine that boots needs its
/// processor for what it starts, and a change costs it seconds.
const REST: u32 = 10;

/// Until the first change on a machine that is being configured, by who knows the members as well.
const CONFIGURING: Duration = Duration::from_secs(60);

/// Limit of one change: it includes reloads.
const LIMIT: Duration = Duration::from_secs(300);

/// Exit code of a change that has to wait for others (EX_TEMPFAIL of sysexits.h).
pub const BUSY: u8 = 75;

/// Exit code of a change that is written, but not in use everywhere yet.
pub const PENDING: u8 = 76;

/// Watches for ever.
///
/// # Errors
/// When this machine has accepted no metadata, or is nobody's member.
pub fn watch(arguments: &[String]) -> Result<()> {
    let metadata = Metadata::merge(&sources::kept()?)?;
    let facts = record::facts().unwrap_or_else(Facts::probe);
    let machine = role::identify(&metadata, &facts)?;
    let Some(mut source) = Source::of(&metadata, &machine) else {
        log::info!("this machine is a member of no cluster: nothing to watch");
        return Ok(());
    };
    let mut patience = Patience::new(&metadata.deployment, &machine);
    let mut work = Work::new("follow", arguments);
    let mut inventory = (machine.role == Role::Meta).then(|| Work::new("inventory", arguments));
    drop((metadata, facts, machine));
    let mut members = record::members();
    let mut outage: Option<Instant> = None;
    loop {
        let start = Instant::now();
        let look = source.look();
        let pause = (start.elapsed() * PAUSE_TIMES).clamp(PAUSE, LONGEST_PAUSE);
        match look {
            Ok(mut found) => {
                if let Some(since) = outage.take() {
                    log::info!(
                        "members are known again after {} s",
                        since.elapsed().as_secs()
                    );
                }
                found.remember(&members);
                patience.watch(&mut found);
                let same = found.plans_as(&members);
                if note(&mut members, found) {
                    inventory.iter_mut().for_each(Work::ask);
                    if !same {
                        work.ask();
                    }
                }
            }
            Err(message) if outage.is_none() => {
                log::warn!("members are not known, keeping what was: {message}");
                outage = Some(Instant::now());
            }
            Err(_) => {}
        }
        work.go_on();
        inventory.iter_mut().for_each(Work::go_on);
        thread::sleep(pause);
    }
}

/// Records what was found; false when nothing is new. What cannot be recorded is found again at the next look.
fn note(members: &mut Members, found: Members) -> bool {
    if found == *members && Path::new(record::MEMBERS).exists() {
        return false;
    }
    for line in found.changes(members) {
        log::info!("{line}");
    }
    match record::write(record::MEMBERS, &found) {
        Ok(_) => {
            *members = found;
            true
        }
        Err(error) => {
            log::warn!("{error}");
            false
        }
    }
}

/// Changes that are to be made.
struct Work {
    command: Vec<String>,
    /// When to make them; none when all is done.
    at: Option<Instant>,
    retry: Duration,
    /// Not before this.
    rested: Instant,
}

impl Work {
    /// The first change is made soon: whoever watched before may have been killed before it made its last.
    fn new(command: &str, arguments: &[String]) -> Self {
        let mut command = vec![command.to_owned()];
        command.extend_from_slice(arguments);
        let ready = Status::load(Path::new(STATUS_FILE)).is_ok_and(|status| status.ready);
        let pause = if ready { FIRST_RETRY } else { CONFIGURING };
        Work {
            command,
            at: Some(Instant::now() + pause),
            retry: FIRST_RETRY,
            rested: Instant::now(),
        }
    }

    fn ask(&mut self) {
        self.at = Some(Instant::now());
        self.retry = FIRST_RETRY;
    }

    fn go_on(&mut self) {
        let now = Instant::now();
        if self.at.is_none_or(|at| at > now) || self.rested > now {
            return;
        }
        let outcome = process::run_self(&self.command, LIMIT);
        self.rested = Instant::now() + now.elapsed() * REST;
        match outcome {
            Ok(Some(0)) => self.at = None,
            Ok(Some(code)) if code == i32::from(BUSY) => {}
            other => {
                let pending = matches!(other, Ok(Some(code)) if code == i32::from(PENDING));
                if !pending {
                    let pause = self.retry.as_secs();
                    log::warn!("the change is not complete ({other:?}); again in {pause} s");
                }
                self.at = Some(Instant::now() + self.retry);
                self.retry = (self.retry * 2).min(LONGEST_RETRY);
            }
        }
    }
}
