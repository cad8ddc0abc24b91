//! The network as files for systemd-networkd and systemd-resolved. Pure.

use std::fmt::Write;

use crate::context::machine_names;
use crate::deployment::{Deployment, Machine};
use crate::facts::Facts;
use crate::metadata::Metadata;
use crate::netplan::Ethernet;

/// Where networkd looks for what the administrator wrote.
const FOLDER: &str = "/etc/systemd/network";

/// Names of all machines. Who needs it reads it again by itself.
pub(crate) const HOSTS: &str = "/etc/hosts";

/// Names and texts of the files: networkd's, resolved's drop-in, host name and hosts.
/// `deployment` is the metadata's, with the members that are known.
pub fn files(
    metadata: &Metadata,
    deployment: &Deployment,
    machine: &Machine,
    facts: &Facts,
) -> Vec<(String, String)> {
    let mut files = vec![
        ("/etc/hostname".to_owned(), format!("{}\n", machine.name)),
        (HOSTS.to_owned(), hosts(deployment)),
        (
            "/etc/systemd/resolved.conf.d/farrow.conf".to_owned(),
            resolved(deployment),
        ),
    ];
    match &metadata.network {
        Some(network) => {
            for (index, ethernet) in network.ethernets.iter().enumerate() {
                let path = format!("{FOLDER}/10-farrow-{index}.network");
                files.push((path, ethernet_file(deployment, ethernet)));
            }
        }
        None if !has_address(machine, facts) => files.push(dhcp_everywhere()),
        None => {}
    }
    files
}

/// Asks for an address on every Ethernet interface: what is done where no network configuration was given.
pub fn dhcp_everywhere() -> (String, String) {
    let text = "[Match]\nName=en* eth*\n\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n";
    (format!("{FOLDER}/90-farrow-dhcp.network"), text.to_owned())
}

/// The interface that has, or will have, the machine's address.
pub fn interface(metadata: &Metadata, machine: &Machine, facts: &Facts) -> String {
    let ethernets = metadata
        .network
        .iter()
        .flat_map(|network| &network.ethernets);
    let mut configured = ethernets.filter(|e| {
        e.addresses
            .iter()
            .any(|(address, _)| *address == machine.address)
    });
    let present = facts
        .interfaces
        .iter()
        .find(|i| i.addresses.contains(&machine.address));
    if let Some(ethernet) = configured.next() {
        let by_mac = facts
            .interfaces
            .iter()
            .find(|i| Some(&i.mac) == ethernet.mac.as_ref());
        let exact = ethernet
            .name
            .as_ref()
            .filter(|name| !name.contains(['*', '?', '[']));
        return match (by_mac, exact) {
            (Some(interface), _) => interface.name.clone(),
            (None, Some(name)) => name.clone(),
            (None, None) => ethernet.id.clone(),
        };
    }
    present.map_or_else(|| "eth0".to_owned(), |interface| interface.name.clone())
}

fn has_address(machine: &Machine, facts: &Facts) -> bool {
    facts
        .interfaces
        .iter()
        .any(|interface| interface.addresses.contains(&machine.address))
}

fn hosts(deployment: &Deployment) -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost\n");
    for (address, names) in machine_names(deployment, &deployment.machines()) {
        let _ = writeln!(text, "{address} {}", names.join(" "));
    }
    text
}

/// Names of the deployment's domain are asked of the meta nodes. Link-local protocols are off: a machine answers to
/// the names it was given and to no others.
fn resolved(deployment: &Deployment) -> String {
    let meta: Vec<String> = deployment
        .meta
        .iter()
        .map(|meta| meta.address.to_string())
        .collect();
    format!(
        "[Resolve]\nDNS={}\nDomains={}\nDNSSEC=no\nLLMNR=no\nMulticastDNS=no\n",
        meta.join(" "),
        deployment.domain
    )
}

fn ethernet_file(deployment: &Deployment, ethernet: &Ethernet) -> String {
    let mut text = String::from("[Match]\n");
    let _ = match (&ethernet.mac, &ethernet.name) {
        (Some(mac), _) => writeln!(text, "MACAddress={mac}"),
        (None, Some(name)) => writeln!(text, "Name={name}"),
        (None, None) => writeln!(text, "Name={}", ethernet.id),
    };
    if let Some(mtu) = ethernet.mtu {
        let _ = writeln!(text, "\n[Link]\nMTUBytes={mtu}");
    }
    let dhcp = if ethernet.dhcp4 { "ipv4" } else { "no" };
    let _ = writeln!(
        text,
        "\n[Network]\nDHCP={dhcp}\nLinkLocalAddressing=no\nIPv6AcceptRA=no"
    );
    for (address, prefix) in &ethernet.addresses {
        let _ = writeln!(text, "Address={address}/{prefix}");
    }
    for server in &ethernet.dns {
        let _ = writeln!(text, "DNS={server}");
    }
    if !ethernet.search.is_empty() {
        let _ = writeln!(text, "Domains={}", ethernet.search.join(" "));
    }
    let mut routes = ethernet.routes.clone();
    let subnet = deployment.network.subnet;
    let inside = ethernet
        .addresses
        .iter()
        .any(|(address, _)| subnet.holds(*address));
    if let (true, true, Some(gateway)) = (inside, routes.is_empty(), deployment.network.gateway) {
        routes.push((None, gateway));
    }
    for (destination, gateway) in routes {
        let _ = writeln!(text, "\n[Route]\nGateway={gateway}");
        if let Some((address, prefix)) = destination {
            let _ = writeln!(text, "Destination={address}/{prefix}");
        }
    }
    text
}
