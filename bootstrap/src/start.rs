//! Starts the services: each as soon as those it waits for are healthy, all else side by side.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::accounts::Accounts;
use crate::applied::{Applied, RECORD, is_on_disk, service_digest};
use crate::files;
use crate::health;
use crate::plan::{Plan, Service, Task};
use crate::process::Program;
use crate::service::{Phase, Start};
use crate::status::{Publisher, ServiceState, ServiceStatus, Status};
use crate::units::{self, UnitState};

/// Stack of a service's thread: shallow code, and twenty of them should not count.
const STACK_BYTES: usize = 256 << 10;

/// Limit for the start of a unit without health check.
const START_LIMIT: Duration = Duration::from_secs(120);

/// First and longest time between two looks at whether a unit failed; it doubles with each, since a look costs an emulated
/// machine a good part of a second, and twenty services are looked at side by side.
const UNIT_PAUSE: Duration = Duration::from_secs(3);
const LONGEST_UNIT_PAUSE: Duration = Duration::from_secs(30);

/// Between two attempts of a task.
const TASK_PAUSE: Duration = Duration::from_secs(2);

/// How long services that nobody waits for let those go first that everything else waits for. On a slow machine, twenty
/// starts at once, and what monitoring costs from then on, would make the longest chain longer; on a fast one the others
/// are healthy long before.
const HEAD_START: Duration = Duration::from_secs(180);

/// Shortest and longest pause between two health checks. In between it is this part of what the start has taken so far:
/// whoever asks a slow machine often makes it slower.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const PAUSE_PART: u32 = 12;

/// What all services' threads share.
pub struct Board<'a> {
    status: Mutex<Status>,
    changed: Condvar,
    publisher: &'a Publisher,
    accounts: &'a Accounts,
    plan: &'a Plan,
    /// Digest of each service's configuration, and what those that run were started with.
    digests: BTreeMap<String, String>,
    applied: Mutex<Applied>,
    /// Units as they were before anything was started.
    before: BTreeMap<String, UnitState>,
    /// Services that wait for nothing and are waited for, here or elsewhere.
    first: Vec<String>,
}

/// Starts all services of a plan and waits until each is healthy or has failed; gives the status back. `before` is what
/// their units were like.
pub fn start_all(
    plan: &Plan,
    mut status: Status,
    publisher: &Publisher,
    accounts: &Accounts,
    before: BTreeMap<String, UnitState>,
) -> Status {
    let services = &plan.services;
    status.services = services.iter().map(waiting).collect();
    publisher.publish(&mut status);
    let mut digests = BTreeMap::new();
    for service in services {
        digests.insert(service.name.clone(), service_digest(plan, &service.name));
    }
    let board = Board {
        status: Mutex::new(status),
        changed: Condvar::new(),
        publisher,
        accounts,
        plan,
        digests,
        applied: Mutex::new(Applied::load(Path::new(RECORD))),
        before,
        first: first_services(services),
    };
    thread::scope(|scope| {
        for (index, service) in services.iter().enumerate() {
            let builder = thread::Builder::new()
                .name(service.name.clone())
                .stack_size(STACK_BYTES);
            let board = &board;
            let spawned = builder.spawn_scoped(scope, move || board.bring_up(index, service));
            if let Err(error) = spawned {
                board.set(index, ServiceState::Failed, 0.0, error.to_string());
            }
        }
    });
    board
        .status
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
}

fn first_services(services: &[Service]) -> Vec<String> {
    let wanted = |name: &String| services.iter().any(|other| other.after.contains(name));
    // What is only queued is waited for by other machines, and by services that do so in their own way.
    let awaited = |service: &Service| wanted(&service.name) || service.start == Start::NoBlock;
    let first = services
        .iter()
        .filter(|service| service.after.is_empty() && awaited(service));
    first.map(|service| service.name.clone()).collect()
}

fn waiting(service: &Service) -> ServiceStatus {
    ServiceStatus {
        name: service.name.clone(),
        unit: service.unit.clone(),
        state: ServiceState::Waiting,
        seconds: 0.0,
        message: String::new(),
    }
}

impl Board<'_> {
    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn applied(&self) -> MutexGuard<'_, Applied> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, index: usize, state: ServiceState, seconds: f64, message: String) {
        let mut status = self.lock();
        let service = &mut status.services[index];
        service.state = state;
        service.seconds = (seconds * 1000.0).round() / 1000.0;
        service.message = message;
        match state {
            ServiceState::Failed => log::error!("{}: {}", service.name, service.message),
            ServiceState::Healthy => log::info!("{} is healthy after {seconds:.1} s", service.name),
            _ => {}
        }
        self.publisher.publish(&mut status);
        self.changed.notify_all();
    }

    fn bring_up(&self, index: usize, service: &Service) {
        if let Err(message) = self.wait_for_others(&service.after) {
            return self.set(index, ServiceState::Failed, 0.0, message);
        }
        if service.after.is_empty() && !self.first.contains(&service.name) {
            self.let_others_go_first();
        }
        let start = Instant::now();
        self.set(index, ServiceState::Starting, 0.0, String::new());
        let done = self.run_service(service);
        let seconds = start.elapsed().as_secs_f64();
        match done {
            Ok(()) => self.set(index, ServiceState::Healthy, seconds, String::new()),
            Err(message) => self.set(index, ServiceState::Failed, seconds, message),
        }
    }

    /// Shows what a service is waiting for while it is being started.
    fn note(&self, service: &Service, message: &str) {
        log::warn!("{}: {message}", service.name);
        let mut status = self.lock();
        if let Some(found) = status
            .services
            .iter_mut()
            .find(|found| found.name == service.name)
        {
            message.clone_into(&mut found.message);
        }
        self.publisher.publish(&mut status);
    }

    fn let_others_go_first(&self) {
        let end = Instant::now() + HEAD_START;
        let mut status = self.lock();
        loop {
            let mut first = status
                .services
                .iter()
                .filter(|service| self.first.contains(&service.name));
            let left = end.saturating_duration_since(Instant::now());
            let busy = |service: &ServiceStatus| {
                matches!(
                    service.state,
                    ServiceState::Waiting | ServiceState::Starting
                )
            };
            if left.is_zero() || !first.any(busy) {
                return;
            }
            status = match self.changed.wait_timeout(status, left) {
                Ok((status, _)) => status,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    fn wait_for_others(&self, names: &[String]) -> Result<(), String> {
        let mut status = self.lock();
        loop {
            let mut wanted = status
                .services
                .iter()
                .filter(|service| names.contains(&service.name));
            let mut pending = false;
            let failed = wanted.find(|service| {
                pending |= service.state != ServiceState::Healthy;
                service.state == ServiceState::Failed
            });
            if let Some(failed) = failed {
                return Err(format!("not started: {} is not healthy", failed.name));
            }
            if !pending {
                return Ok(());
            }
            status = self
                .changed
                .wait(status)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn run_service(&self, service: &Service) -> Result<(), String> {
        self.run_tasks(service, Phase::BeforeStart)?;
        if let Some(unit) = &service.unit {
            self.start_unit(service, unit)?;
            wait_healthy(service, unit, self.accounts, &|message| {
                self.note(service, message)
            })?;
        }
        self.run_tasks(service, Phase::AfterHealthy)
    }

    fn start_unit(&self, service: &Service, unit: &str) -> Result<(), String> {
        let state = self.before.get(unit).cloned().unwrap_or_default();
        if state.load == "not-found" {
            return Err(format!("there is no unit {unit}"));
        }
        let limit = service.health.as_ref().map_or(START_LIMIT, |health| {
            Duration::from_secs(health.timeout_seconds)
        });
        let running = state.active == "active" || state.active == "reloading";
        let digest = self.digests.get(&service.name).map_or("", String::as_str);
        let touched = !self.applied().has(&service.name, digest);
        // What is started now reads its files as they are. Recorded first, since the watching process would else take it for
        // one that runs with older files and reload it before it can be reloaded.
        if !running {
            self.applied().record(&service.name, digest);
        }
        let done = match (running, touched, &service.reload, service.start) {
            (true, false, _, _) => Ok(()),
            (true, true, Some(command), _) => {
                let words: Vec<&str> = command.iter().map(String::as_str).collect();
                crate::process::run(&words, limit).map(|_| ())
            }
            (true, true, None, _) => units::restart(unit, limit),
            // Whoever waits for a start is told of every other unit's progress as well; the health check knows better.
            (false, _, _, Start::Wait) if service.health.is_none() => units::start(unit, limit),
            (false, _, _, _) => units::queue("start", &[unit]),
        };
        if done.is_ok() && is_on_disk(self.plan, &service.name) {
            self.applied().record(&service.name, digest);
        }
        // With a health check, that decides: a unit may come up at its second attempt.
        match done {
            Err(error) if service.health.is_none() => Err(explain(unit, &error.to_string())),
            Err(error) => {
                log::warn!("{error}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn run_tasks(&self, service: &Service, phase: Phase) -> Result<(), String> {
        for task in service.tasks.iter().filter(|task| task.phase == phase) {
            self.run_task(task)
                .map_err(|message| format!("task {}: {message}", task.name))?;
        }
        Ok(())
    }

    fn run_task(&self, task: &Task) -> Result<(), String> {
        let creates = task.creates.as_deref().map(Path::new);
        if creates.is_some_and(Path::exists) {
            return Ok(());
        }
        let user = self
            .accounts
            .user(&task.user)
            .map_err(|error| error.to_string())?;
        let env = task
            .env
            .iter()
            .map(|(name, value)| (name.as_str(), value.text.as_str()));
        let limit = Duration::from_secs(task.timeout_seconds);
        let end = Instant::now() + limit;
        let mut program = Program {
            words: &task.command,
            user: Some((&task.user, user)),
            stdin: task.stdin.as_ref().map(|content| content.text.as_str()),
            env: env.collect(),
            limit,
        };
        loop {
            let outcome = program.run().map_err(|error| error.to_string())?;
            if outcome.success() {
                break;
            }
            let left = end.saturating_duration_since(Instant::now());
            if !task.retry || left <= TASK_PAUSE {
                return Err(program.failed(outcome.describe()).to_string());
            }
            log::info!("task {}: {}; once more", task.name, outcome.describe());
            thread::sleep(TASK_PAUSE);
            program.limit = left;
        }
        match creates {
            Some(path) if task.touch => files::write_if_changed(path, b"", 0o600, None)
                .map(|_| ())
                .map_err(|error| error.to_string()),
            _ => Ok(()),
        }
    }
}

/// Waits until the unit is healthy. One that fails meanwhile is started again: what it needs on another machine may come
/// later than here.
fn wait_healthy(
    service: &Service,
    unit: &str,
    accounts: &Accounts,
    note: &dyn Fn(&str),
) -> Result<(), String> {
    let Some(health) = &service.health else {
        return wait_active(unit);
    };
    let start = Instant::now();
    let end = start + Duration::from_secs(health.timeout_seconds);
    let mut unit_pause = UNIT_PAUSE;
    let mut next_look = Instant::now() + unit_pause;
    loop {
        let Err(message) = health::ask(&health.probe, accounts) else {
            return Ok(());
        };
        let now = Instant::now();
        if now >= end {
            return Err(explain(
                unit,
                &format!("not healthy after {} s: {message}", health.timeout_seconds),
            ));
        }
        if now >= next_look {
            if state(unit).active == "failed" {
                note(&explain(
                    unit,
                    &format!("{unit} failed and is started again"),
                ));
                units::start_again(unit).unwrap_or_else(|error| log::warn!("{error}"));
            }
            unit_pause = (unit_pause * 2).min(LONGEST_UNIT_PAUSE);
            next_look = now + unit_pause;
        }
        let pause = ((now - start) / PAUSE_PART).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        thread::sleep(pause.min(end - now));
    }
}

fn wait_active(unit: &str) -> Result<(), String> {
    let end = Instant::now() + START_LIMIT;
    loop {
        let state = state(unit);
        match state.active.as_str() {
            "active" => return Ok(()),
            "failed" => return Err(explain(unit, &format!("{unit} failed ({})", state.result))),
            // A oneshot unit is inactive again when it has done its work.
            "inactive" if state.result == "success" => return Ok(()),
            other if Instant::now() >= end => {
                return Err(explain(unit, &format!("{unit} is {other}")));
            }
            _ => thread::sleep(FIRST_PAUSE * 5),
        }
    }
}

fn state(unit: &str) -> UnitState {
    units::states(&[unit])
        .ok()
        .and_then(|mut states| states.remove(unit))
        .unwrap_or_default()
}

/// A message with the last lines of the unit's log, for whoever has only the console.
fn explain(unit: &str, message: &str) -> String {
    match units::last_words(unit).as_str() {
        "" => message.to_owned(),
        said => format!("{message}; its log ends with: {said}"),
    }
}
