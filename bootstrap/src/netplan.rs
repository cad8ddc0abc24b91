//! The network configuration of a seed: the part of netplan's version 2 format that servers with fixed or DHCP
//! addresses need. Anything else is refused by name, since half a network is worse than none.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::Deserialize;

use crate::error::{Error, Invalid, Result};
use crate::toml_text;
use crate::values::parse_cidr;
use crate::yaml;

const DOCUMENT: &str = "network-config";
const CODE: &str = "FR-NETWORK";

/// The Ethernet interfaces to configure, by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Interfaces.
    pub ethernets: Vec<Ethernet>,
}

/// One Ethernet interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ethernet {
    /// Key in the document; the interface's name when nothing else identifies it.
    pub id: String,
    /// Hardware address, lower case.
    pub mac: Option<String>,
    /// Interface name or pattern.
    pub name: Option<String>,
    /// Addresses with prefix length.
    pub addresses: Vec<(Ipv4Addr, u8)>,
    /// Whether to ask a DHCP server.
    pub dhcp4: bool,
    /// Destination (`None`: default) and gateway.
    pub routes: Vec<(Option<(Ipv4Addr, u8)>, Ipv4Addr)>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Search domains.
    pub search: Vec<String>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default)]
    ethernets: BTreeMap<String, EthernetFile>,
    #[serde(rename = "renderer")]
    _renderer: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EthernetFile {
    #[serde(default, rename = "match")]
    matches: MatchFile,
    #[serde(rename = "set-name")]
    _set_name: Option<String>,
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    dhcp4: bool,
    #[serde(default)]
    dhcp6: bool,
    gateway4: Option<Ipv4Addr>,
    #[serde(default)]
    routes: Vec<RouteFile>,
    #[serde(default)]
    nameservers: NameserversFile,
    mtu: Option<u32>,
    #[serde(rename = "optional")]
    _optional: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MatchFile {
    macaddress: Option<String>,
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteFile {
    to: String,
    via: Ipv4Addr,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NameserversFile {
    #[serde(default)]
    addresses: Vec<Ipv4Addr>,
    #[serde(default)]
    search: Vec<String>,
}

/// Reads a network configuration, with or without the outer `network` key.
///
/// # Errors
/// `FR-NETWORK`, `FR-YAML`.
pub fn parse(text: &str) -> Result<NetworkConfig> {
    let Some(tree) = yaml::parse(DOCUMENT, text)? else {
        return Err(refuse("", "is empty".into()));
    };
    let inner = tree.get("network").unwrap_or(&tree);
    let file: File = toml_text::read_tree(DOCUMENT, CODE, inner, "")?;
    if file.version != 2 {
        return Err(refuse(
            "version",
            format!("version {} is not known: write version 2", file.version),
        ));
    }
    let mut ethernets = Vec::new();
    for (id, ethernet) in file.ethernets {
        ethernets.push(read_ethernet(id, ethernet)?);
    }
    Ok(NetworkConfig { ethernets })
}

fn refuse(field: &str, message: String) -> Error {
    let hint =
        "known are ethernets with match, addresses, dhcp4, gateway4, routes, nameservers, mtu";
    Invalid::new(CODE, field, message, hint)
        .in_document(DOCUMENT)
        .into()
}

fn read_ethernet(id: String, file: EthernetFile) -> Result<Ethernet> {
    let field = format!("ethernets.{id}");
    // Both end up in files whose lines have a meaning of their own.
    for text in file
        .matches
        .name
        .iter()
        .chain(&file.nameservers.search)
        .chain([&id])
    {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_*?[]@:".contains(&b);
        if text.is_empty() || text.len() > 253 || !text.bytes().all(plain) {
            return Err(refuse(&field, format!("{text:?} is not a name")));
        }
    }
    if file.dhcp6 {
        return Err(refuse(
            &format!("{field}.dhcp6"),
            "IPv6 is not supported".into(),
        ));
    }
    let mac = file
        .matches
        .macaddress
        .map(|mac| parse_mac(&mac))
        .transpose();
    let mac = mac.map_err(|message| refuse(&format!("{field}.match.macaddress"), message))?;
    let mut addresses = Vec::new();
    for text in &file.addresses {
        addresses.push(
            parse_cidr(text).map_err(|message| refuse(&format!("{field}.addresses"), message))?,
        );
    }
    let mut routes: Vec<_> = file
        .gateway4
        .into_iter()
        .map(|gateway| (None, gateway))
        .collect();
    for route in file.routes {
        let to = match route.to.as_str() {
            "default" | "0.0.0.0/0" => None,
            text => Some(
                parse_cidr(text).map_err(|message| refuse(&format!("{field}.routes"), message))?,
            ),
        };
        routes.push((to, route.via));
    }
    Ok(Ethernet {
        id,
        mac,
        name: file.matches.name,
        addresses,
        dhcp4: file.dhcp4,
        routes,
        dns: file.nameservers.addresses,
        search: file.nameservers.search,
        mtu: file.mtu,
    })
}

fn parse_mac(text: &str) -> std::result::Result<String, String> {
    let text = text.to_ascii_lowercase();
    let bytes: Vec<&str> = text.split(':').collect();
    let right = |byte: &&str| byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit());
    if bytes.len() == 6 && bytes.iter().all(right) {
        return Ok(text);
    }
    Err(format!(
        "{text:?} is not a hardware address such as 52:54:00:12:34:56"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server() {
        let text = "network:\n  version: 2\n  ethernets:\n    lan:\n      match: {macaddress: '52:54:00:AA:00:01'}\n      addresses: [10.10.10.11/24]\n      routes: [{to: default, via: 10.10.10.1}]\n      nameservers: {addresses: [10.10.10.10], search: [pigsty]}\n";
        let config = parse(text).unwrap();
        let lan = &config.ethernets[0];
        assert_eq!(lan.mac.as_deref(), Some("52:54:00:aa:00:01"));
        assert_eq!(lan.addresses, [("10.10.10.11".parse().unwrap(), 24)]);
        assert_eq!(lan.routes, [(None, "10.10.10.1".parse().unwrap())]);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, expected) in [
            ("version: 1\nconfig: []", "unknown field `config`"),
            ("version: 1", "version 1 is not known"),
            ("version: 2\nbonds: {}", "unknown field `bonds`"),
            (
                "version: 2\nethernets: {a: {addresses: ['fe80::1/64']}}",
                "ethernets.a.addresses: ",
            ),
            (
                "version: 2\nethernets: {a: {match: {macaddress: x}}}",
                "hardware address",
            ),
            (
                "version: 2\nethernets: {\"a\\n[Route]\": {dhcp4: true}}",
                "is not a name",
            ),
            ("", "is empty"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
