//! Facts about the machine this runs on: what no document can know. They can be saved and given back, so that a
//! plan can be made elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use nix::net::if_::InterfaceFlags;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Invalid, Result};
use crate::tree;

/// Where databases are: on a data disk, or in `/var`.
const DATA: [&str; 2] = ["/var/data", "/var"];

/// Facts of one machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// Network interfaces by name, loopback left out.
    pub interfaces: Vec<Interface>,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Processors this process may use.
    pub cpus: u32,
    /// Size of the file system with the data in MiB; 0 when it is not known.
    #[serde(default)]
    pub data_mib: u64,
}

/// What this machine may take of a host that it shares with others, and sees whole all the same: JSON with any
/// of these keys. Whoever runs the machine as a container writes it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Limits {
    memory_mib: Option<u64>,
    cpus: Option<u32>,
    data_mib: Option<u64>,
}

/// Where [`Limits`] are.
const LIMITS: &str = "/etc/farrow/limits.json";

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Kernel's name.
    pub name: String,
    /// Hardware address, lower case.
    #[serde(default)]
    pub mac: String,
    /// IPv4 addresses.
    #[serde(default)]
    pub addresses: Vec<Ipv4Addr>,
}

impl Facts {
    /// Looks at this machine. What cannot be read is left out: a plan that needs it says so.
    pub fn probe() -> Self {
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let cpus =
            std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
        let limits = fs::read_to_string(LIMITS).unwrap_or_default();
        let facts = Facts {
            interfaces: probe_interfaces(),
            memory_mib: parse_memory(&memory),
            cpus,
            data_mib: DATA
                .into_iter()
                .map(file_system_mib)
                .find(|&mib| mib > 0)
                .unwrap_or(0),
        };
        facts.limited(&limits)
    }

    /// No more than the document of limits allows; one that cannot be read limits nothing.
    fn limited(mut self, limits: &str) -> Self {
        let limits: Limits = tree::read_json(limits).unwrap_or_default();
        self.memory_mib = self.memory_mib.min(limits.memory_mib.unwrap_or(u64::MAX));
        self.cpus = self.cpus.min(limits.cpus.unwrap_or(u32::MAX));
        self.data_mib = self.data_mib.min(limits.data_mib.unwrap_or(u64::MAX));
        self
    }

    /// Reads facts saved as JSON.
    ///
    /// # Errors
    /// `FR-IO`, `FR-FACTS`.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
        tree::read_json(&text).map_err(|error| {
            let hint = "make it with `farrow-bootstrap facts`";
            let invalid = Invalid::new("FR-FACTS", error.field, error.message, hint);
            invalid.in_document(&path.display().to_string()).into()
        })
    }
}

/// Size of the file system that holds a folder, in MiB; 0 when there is no such folder.
fn file_system_mib(folder: &str) -> u64 {
    nix::sys::statvfs::statvfs(folder)
        .map_or(0, |found| (found.blocks() * found.fragment_size()) >> 20)
}

/// `MemTotal` of /proc/meminfo in MiB; 0 when it is not there.
fn parse_memory(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// Asks the kernel rather than /sys, which in a container may show another network namespace.
fn probe_interfaces() -> Vec<Interface> {
    let mut interfaces: BTreeMap<String, Interface> = BTreeMap::new();
    for found in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        if found.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            continue;
        }
        let name = found.interface_name;
        let interface = interfaces.entry(name.clone()).or_insert_with(|| Interface {
            name,
            ..Interface::default()
        });
        let Some(address) = found.address else {
            continue;
        };
        if let Some(address) = address.as_sockaddr_in() {
            interface.addresses.push(address.ip());
        }
        if let Some(mac) = address.as_link_addr().and_then(|link| link.addr()) {
            interface.mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        }
    }
    interfaces.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory() {
        assert_eq!(
            parse_memory("MemTotal:        2048000 kB\nMemFree: 1 kB\n"),
            2000
        );
        assert_eq!(parse_memory(""), 0);
    }

    #[test]
    fn limits_only_take_away() {
        let host = Facts {
            memory_mib: 4000,
            cpus: 2,
            ..Facts::default()
        };
        for (limits, memory_mib, cpus) in [
            ("", 4000, 2),
            (r#"{"memory_mib": 1024, "cpus": 8}"#, 1024, 2),
            (r#"{"cpus": 1}"#, 4000, 1),
        ] {
            let found = host.clone().limited(limits);
            assert_eq!((found.memory_mib, found.cpus), (memory_mib, cpus));
        }
    }

    #[test]
    fn this_machine_has_memory() {
        let facts = Facts::probe();
        assert!(facts.memory_mib > 0 && facts.cpus > 0);
        let text = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), facts);
    }
}
