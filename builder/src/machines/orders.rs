//! What can be asked of machines while they run.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use images::container_command::Fault;
use images::qemu_fleet::Guest;
use serde_json::{Value, json};

use super::node::Node;
use super::{Backend, Machines, Planned, TICK, node_json, prepare_run_dir};
use crate::diagnostic::{Diagnostic, Result};

/// How long a machine may take to shut down; without KVM it needs most of that.
const OFF_LIMIT: Duration = Duration::from_secs(90);

impl Machines {
    /// One object for each machine.
    pub fn list(&mut self) -> Result<Value> {
        let planned = &self.planned;
        let nodes = self.fleet.machines.iter_mut().zip(planned);
        nodes
            .map(|(node, planned)| {
                Ok(json!({
                    "name": planned.name,
                    "address": planned.address,
                    "on": node.is_running()?,
                    "wanted": node.is_wanted(),
                    "state": node.latest().map(|status| &status.state),
                    "ready": node.latest().is_some_and(|status| status.ready),
                    "folder": node.folder(),
                }))
            })
            .collect()
    }

    /// What a machine last said of itself; null while it has said nothing since it was switched on.
    pub fn status(&mut self, name: &str) -> Result<Value> {
        let (_, node) = self.find(name)?;
        node.poll();
        Ok(node
            .latest()
            .map_or(Value::Null, |status| status.document.clone()))
    }

    /// The host's id of a container's first process.
    pub fn first_process(&mut self, name: &str) -> Result<u32> {
        match self.find(name)? {
            (_, Node::Container(machine)) => machine.first_process().ok_or_else(|| {
                Diagnostic::failed("FR-MACHINE-OFF", format!("machine {name} is off"))
                    .with_hint(format!("switch it on: farrow machine power-on {name}"))
            }),
            _ => Err(only_containers("exec")),
        }
    }

    /// Makes a machine that was not there, and switches it on; the answer is what `up` reports of each.
    pub fn add(&mut self, planned: Planned) -> Result<Value> {
        let known = self
            .planned
            .iter()
            .find(|known| known.name == planned.name || known.address == planned.address);
        if let Some(known) = known {
            let message = format!("{} with {} runs already", known.name, known.address);
            return Err(Diagnostic::invalid("FR-MACHINE-TAKEN", message)
                .with_hint("give the machine an instance id and an address that nobody has"));
        }
        prepare_run_dir(
            self.backend.run_dir(),
            false,
            std::slice::from_ref(&planned),
        )?;
        let mut node = self.backend.machine(self.planned.len(), &planned)?;
        self.backend.power_on(&mut node)?;
        let document = node_json(&node, &planned);
        self.fleet.machines.push(node);
        self.planned.push(planned);
        Ok(document)
    }

    /// Switches a machine on.
    pub fn power_on(&mut self, name: &str) -> Result<()> {
        let (index, node) = self.find(name)?;
        if node.is_running()? {
            return Ok(());
        }
        self.waiting.retain(|(_, waiting)| *waiting != index);
        self.backend.power_on(&mut self.fleet.machines[index])
    }

    /// Takes a machine's power away.
    pub fn power_cut(&mut self, name: &str) -> Result<()> {
        self.find(name)?.1.power_cut();
        Ok(())
    }

    /// Adds a fault of a machine.
    pub fn add_fault(&mut self, name: &str, fault: Fault) -> Result<()> {
        let (index, _) = self.find(name)?;
        if let Fault::Cut {
            from: Some(other), ..
        } = &fault
        {
            self.find(other)?;
        }
        let names = self.names();
        self.containers("a fault")?.add_fault(index, fault, &names)
    }

    /// Ends the faults of a machine, or all.
    pub fn heal(&mut self, name: Option<&str>) -> Result<()> {
        let index = match name {
            Some(name) => Some(self.find(name)?.0),
            None => None,
        };
        let names = self.names();
        self.containers("heal")?.heal(index, &names)
    }

    fn names(&self) -> Vec<String> {
        let planned = self.planned.iter();
        planned.map(|planned| planned.name.clone()).collect()
    }

    fn containers(&mut self, what: &str) -> Result<&mut super::Containers> {
        match &mut self.backend {
            Backend::Containers(containers) => Ok(containers),
            Backend::Qemu(_) => Err(only_containers(what)),
        }
    }

    fn find(&mut self, name: &str) -> Result<(usize, &mut Node)> {
        let names = self.names();
        let nodes = self.fleet.machines.iter_mut().enumerate();
        let found = nodes.into_iter().find(|(_, node)| node.name() == name);
        found.ok_or_else(|| {
            Diagnostic::invalid(
                "FR-MACHINE-UNKNOWN",
                format!("no machine `{name}` runs here"),
            )
            .with_hint(format!("its machines are: {}", names.join(", ")))
        })
    }
}

/// Shuts a machine down in order, while others may use the fleet; true when it obeyed in time.
pub fn power_off(machines: &Mutex<Machines>, name: &str) -> Result<bool> {
    let lock = || machines.lock().expect("no panic holds it");
    let start = Instant::now();
    lock().find(name)?.1.press_power();
    while lock().find(name)?.1.is_running()? {
        if start.elapsed() > OFF_LIMIT {
            lock().find(name)?.1.end();
            return Ok(false);
        }
        std::thread::sleep(TICK);
    }
    Ok(true)
}

fn only_containers(what: &str) -> Diagnostic {
    let message = format!("{what}: only machines that run as containers can do this");
    Diagnostic::invalid("FR-MACHINE-VERB", message)
        .with_hint("start them with `farrow up --containers`")
}
