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

/// Where databases are.
const DATA: &str = "/var";

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
        Facts {
            interfaces: probe_interfaces(),
            memory_mib: parse_memory(&memory),
            cpus,
            data_mib: file_system_mib(DATA),
        }
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
    fn this_machine_has_memory() {
        let facts = Facts::probe();
        assert!(facts.memory_mib > 0 && facts.cpus > 0);
        let text = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), facts);
    }
}
