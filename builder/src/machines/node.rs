//! One machine, whatever runs it.

use std::path::Path;
use std::time::Duration;

use images::container::Container;
use images::error::Result;
use images::qemu::Running;
use images::qemu_error::MachineError;
use images::qemu_fleet::Guest;
use images::qemu_watch::NodeStatus;

/// A machine in QEMU or as a container.
pub enum Node {
    /// In QEMU.
    Qemu(Box<Running>),
    /// As a container.
    Container(Box<Container>),
}

impl Node {
    fn guest(&self) -> &dyn Guest {
        match self {
            Node::Qemu(machine) => machine.as_ref(),
            Node::Container(machine) => machine.as_ref(),
        }
    }

    fn guest_mut(&mut self) -> &mut dyn Guest {
        match self {
            Node::Qemu(machine) => machine.as_mut(),
            Node::Container(machine) => machine.as_mut(),
        }
    }
}

impl Guest for Node {
    fn name(&self) -> &str {
        self.guest().name()
    }

    fn latest(&self) -> Option<&NodeStatus> {
        self.guest().latest()
    }

    fn console_quote(&self) -> String {
        self.guest().console_quote()
    }

    fn is_wanted(&self) -> bool {
        self.guest().is_wanted()
    }

    fn is_running(&mut self) -> Result<bool> {
        self.guest_mut().is_running()
    }

    fn poll(&mut self) -> (Vec<String>, Vec<NodeStatus>) {
        self.guest_mut().poll()
    }

    fn ended(&mut self) -> MachineError {
        self.guest_mut().ended()
    }

    fn press_power(&mut self) {
        self.guest_mut().press_power();
    }

    fn wait_stopped(&mut self, limit: Duration) -> Result<bool> {
        self.guest_mut().wait_stopped(limit)
    }

    fn end(&mut self) {
        self.guest_mut().end();
    }

    fn power_cut(&mut self) {
        self.guest_mut().power_cut();
    }

    fn host_port(&self, port: u16) -> Option<u16> {
        self.guest().host_port(port)
    }

    fn folder(&self) -> &Path {
        self.guest().folder()
    }
}
