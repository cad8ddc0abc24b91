//! Several machines at once: started, awaited and stopped together.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::qemu::{Host, Running, TICK};

use crate::qemu_error::MachineError;
use crate::qemu_machine::Machine;
use crate::qemu_watch::{NodeStatus, is_fatal};

/// How long machines may take to shut down without KVM.
const STOP_LIMIT: Duration = Duration::from_secs(90);

/// Something a machine said while it was waited for.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A line on its console.
    Console {
        /// The machine's name.
        machine: &'a str,
        /// The line, without terminal control.
        line: &'a str,
    },
    /// A new status document.
    Status {
        /// The machine's name.
        machine: &'a str,
        /// The document.
        status: &'a NodeStatus,
    },
}

/// One machine of a fleet, whatever runs it.
pub trait Guest {
    /// Its name.
    fn name(&self) -> &str;
    /// The last status document since it was switched on.
    fn latest(&self) -> Option<&NodeStatus>;
    /// Its console's last lines, each indented on a line of its own.
    fn console_quote(&self) -> String;
    /// Whether it is meant to be on: one that was switched off on request is not missed.
    fn is_wanted(&self) -> bool;
    /// Whether it is on.
    ///
    /// # Errors
    /// Its process cannot be asked.
    fn is_running(&mut self) -> Result<bool>;
    /// New console lines and status documents. Does not wait.
    fn poll(&mut self) -> (Vec<String>, Vec<NodeStatus>);
    /// The error for a machine that ended although it was wanted.
    fn ended(&mut self) -> MachineError;
    /// Asks it to shut down; [`Guest::wait_stopped`] tells whether it obeys.
    fn press_power(&mut self);
    /// Waits until it is off; false: it still runs after `limit`.
    ///
    /// # Errors
    /// Its process cannot be asked.
    fn wait_stopped(&mut self, limit: Duration) -> Result<bool>;
    /// Ends it without asking; what it flushed lasts.
    fn end(&mut self);
    /// Ends it at once, as if the power failed.
    fn power_cut(&mut self);
    /// The host's port that leads to its TCP port `port`.
    fn host_port(&self, port: u16) -> Option<u16>;
    /// The folder with its logs.
    fn folder(&self) -> &Path;
}

/// Machines that run side by side. Dropping it ends all of them at once, as the death of this process does.
#[derive(Debug)]
pub struct Fleet<M = Running> {
    /// The machines, in the order in which they were given.
    pub machines: Vec<M>,
    /// Whether a boot may fail while machines are waited for (false at first): a machine that falls back to its other
    /// image has to be given the time.
    pub tolerant: bool,
}

impl<M: Guest> Fleet<M> {
    /// The machine of that name.
    pub fn get(&mut self, name: &str) -> Option<&mut M> {
        self.machines.iter_mut().find(|m| m.name() == name)
    }

    /// Waits until every machine says that it is ready.
    ///
    /// # Errors
    /// As [`Fleet::wait_until`].
    pub fn wait_ready(&mut self, limit: Duration, report: &mut dyn FnMut(Event)) -> Result<()> {
        self.wait_until(limit, report, &|_, status| status.ready)
    }

    /// Waits until `done` holds for the last status document of every machine; it is given the machine's name.
    ///
    /// # Errors
    /// [`MachineError::Ended`], [`MachineError::Boot`] or [`MachineError::Node`] as soon as one machine cannot get
    /// there any more, [`MachineError::NotReady`] after `limit`.
    pub fn wait_until(
        &mut self,
        limit: Duration,
        report: &mut dyn FnMut(Event),
        done: &dyn Fn(&str, &NodeStatus) -> bool,
    ) -> Result<()> {
        let start = Instant::now();
        while !self.step(report, done)? {
            if start.elapsed() >= limit {
                return Err(self.not_ready(limit, done).into());
            }
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    /// Looks at every machine once; true when all have got where [`Fleet::wait_until`] waits for.
    ///
    /// # Errors
    /// As [`Fleet::wait_until`], but for the time.
    pub fn step(
        &mut self,
        report: &mut dyn FnMut(Event),
        done: &dyn Fn(&str, &NodeStatus) -> bool,
    ) -> Result<bool> {
        let mut open = false;
        for machine in &mut self.machines {
            // Asked before its files are read: what it wrote before it ended is not missed.
            let running = machine.is_running()?;
            check_progress(machine, self.tolerant, report)?;
            let reached = machine.latest().is_some_and(|s| done(machine.name(), s));
            if !reached && !running && machine.is_wanted() {
                return Err(machine.ended().into());
            }
            open |= !reached;
        }
        Ok(!open)
    }

    /// The error for a fleet of which some machines have not got there in time.
    pub fn not_ready(
        &self,
        limit: Duration,
        done: &dyn Fn(&str, &NodeStatus) -> bool,
    ) -> MachineError {
        let (mut waiting, mut tail) = (Vec::new(), String::new());
        for machine in &self.machines {
            let state = match machine.latest() {
                Some(status) if done(machine.name(), status) => continue,
                Some(status) => status.waiting_for(),
                None if !machine.is_wanted() => "switched off".to_owned(),
                None => "still booting".to_owned(),
            };
            waiting.push(format!("{} is {state}", machine.name()));
            let quote = machine.console_quote();
            tail += &format!("\n  console of {}:{quote}", machine.name());
        }
        MachineError::NotReady {
            seconds: limit.as_secs(),
            waiting: waiting.join("; "),
            tail,
        }
    }

    /// Shuts machines down at the same time: those that `chosen` holds for. True: each went down by itself within `limit`.
    ///
    /// # Errors
    /// A process cannot be asked.
    pub fn power_off_some(
        &mut self,
        limit: Duration,
        chosen: &dyn Fn(&str) -> bool,
    ) -> Result<bool> {
        let start = Instant::now();
        let machines = self.machines.iter_mut();
        let mut machines: Vec<&mut M> = machines.filter(|machine| chosen(machine.name())).collect();
        machines
            .iter_mut()
            .for_each(|machine| machine.press_power());
        let mut obeyed = true;
        for machine in machines {
            let left = limit.saturating_sub(start.elapsed());
            if !machine.wait_stopped(left)? {
                obeyed = false;
                machine.end();
            }
        }
        Ok(obeyed)
    }

    /// Shuts all machines down at the same time. True: each went down by itself within `limit`.
    ///
    /// # Errors
    /// A process cannot be asked.
    pub fn power_off(&mut self, limit: Duration) -> Result<bool> {
        self.power_off_some(limit, &|_| true)
    }

    /// Shuts all machines down with a limit that suits machines without KVM: those that `first` holds for before the others.
    ///
    /// # Errors
    /// As [`Fleet::power_off_some`].
    pub fn stop(&mut self, first: &dyn Fn(&str) -> bool) -> Result<bool> {
        let obeyed = self.power_off_some(STOP_LIMIT, first)?;
        Ok(self.power_off_some(STOP_LIMIT, &|name| !first(name))? && obeyed)
    }
}

impl Fleet {
    /// Starts all machines; they boot at the same time.
    ///
    /// # Errors
    /// The first machine that does not start; the others are ended.
    pub fn start(machines: Vec<Machine>, host: &Host) -> Result<Fleet> {
        let started: Result<Vec<_>> = machines
            .into_iter()
            .map(|machine| Running::start(machine, host))
            .collect();
        Ok(Fleet {
            machines: started?,
            tolerant: false,
        })
    }
}

/// Reports what is new and refuses what cannot end well.
fn check_progress(
    machine: &mut impl Guest,
    tolerant: bool,
    report: &mut dyn FnMut(Event),
) -> Result<()> {
    let (lines, statuses) = machine.poll();
    let name = machine.name();
    for line in &lines {
        report(Event::Console {
            machine: name,
            line,
        });
    }
    for status in &statuses {
        report(Event::Status {
            machine: name,
            status,
        });
    }
    if tolerant {
        return Ok(());
    }
    if let Some(line) = lines.iter().find(|line| is_fatal(line)) {
        return Err(MachineError::Boot {
            machine: name.to_owned(),
            line: line.trim().to_owned(),
            tail: machine.console_quote(),
        }
        .into());
    }
    match machine.latest() {
        Some(status) if status.state == "failed" || status.state == "refused" => {
            Err(node_error(name, status).into())
        }
        _ => Ok(()),
    }
}

/// A machine's own error, or the services that failed.
fn node_error(machine: &str, status: &NodeStatus) -> MachineError {
    let (message, hint) = match &status.error {
        Some(error) => {
            let place = error.place.as_deref().filter(|p| !p.is_empty());
            let place = place.map(|p| format!(" ({p})"));
            let place = place.unwrap_or_default();
            let message = format!("{}: {}{place}", error.code, error.message);
            (message, error.hint.clone())
        }
        None => {
            let failed = status.services.iter().filter(|s| s.state == "failed");
            let text = |s: &crate::qemu_watch::ServiceStatus| match &s.message {
                Some(message) => format!("{}: {message}", s.name),
                None => s.name.clone(),
            };
            (failed.map(text).collect::<Vec<_>>().join("; "), None)
        }
    };
    MachineError::Node {
        machine: machine.to_owned(),
        state: status.state.clone(),
        message,
        hint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_error_quotes_the_machine() {
        let cases = [
            (
                r#"{"state":"refused","error":{"code":"FR-ROLE","message":"no role","where":"node.role","hint":"name one"}}"#,
                "machine m: refused: FR-ROLE: no role (node.role)",
            ),
            (
                r#"{"state":"failed","services":[{"name":"etcd","state":"failed","message":"no quorum"},{"name":"x","state":"healthy"}]}"#,
                "machine m: failed: etcd: no quorum",
            ),
        ];
        for (line, expected) in cases {
            let status = NodeStatus::parse(line).unwrap();
            assert_eq!(node_error("m", &status).to_string(), expected);
        }
    }
}
