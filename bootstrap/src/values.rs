//! Small values that are checked when they enter: names, domains, subnets, roles.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

macro_rules! text_value {
    ($(#[$meta:meta])* $name:ident, $check:ident) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks a text.
            ///
            /// # Errors
            /// What a right value looks like.
            pub fn parse(text: &str) -> Result<Self, String> {
                $check(text).map(|()| $name(text.to_owned()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text_value!(
    /// Name of a deployment, machine, cluster or service: one DNS label, `[a-z][a-z0-9-]*`, at most 63 characters.
    Name,
    check_name
);
text_value!(
    /// Name of a database, role, schema or extension: `[a-z_][a-z0-9_-]*`, at most 63 characters (PostgreSQL's NAMEDATALEN - 1).
    SqlName,
    check_sql_name
);
text_value!(
    /// DNS name of one or more labels, lower case, at most 253 characters.
    Domain,
    check_domain
);
text_value!(
    /// Value of a PostgreSQL parameter or a comment: one line without control characters.
    Line,
    check_line
);

text_value!(
    /// IPv4 addresses, `address/prefix`, as they stand in `pg_hba.conf`.
    Cidr,
    check_cidr
);

fn check_cidr(text: &str) -> Result<(), String> {
    parse_cidr(text).map(|_| ())
}

fn check_name(text: &str) -> Result<(), String> {
    let first = text.starts_with(|c: char| c.is_ascii_lowercase());
    let rest = text
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if first && rest && !text.ends_with('-') && text.len() <= 63 {
        return Ok(());
    }
    Err(format!(
        "{text:?} is not a name: a lower-case letter, then lower-case letters, digits and \"-\", at most 63 characters"
    ))
}

fn check_sql_name(text: &str) -> Result<(), String> {
    let first = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let rest = text
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
    if first && rest && text.len() <= 63 {
        return Ok(());
    }
    Err(format!(
        "{text:?} is not a name for SQL: a lower-case letter or \"_\", then lower-case letters, digits, \"_\" and \"-\", at most 63 characters"
    ))
}

fn check_domain(text: &str) -> Result<(), String> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if text.len() <= 253 && text.split('.').all(label) {
        return Ok(());
    }
    Err(format!(
        "{text:?} is not a domain: labels of lower-case letters, digits and \"-\", separated by dots"
    ))
}

fn check_line(text: &str) -> Result<(), String> {
    if text.len() <= 1024 && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(format!("{text:?} is not one line of text"))
}

/// An IPv4 subnet, e.g. `10.10.10.0/24`.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    network: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// Parses `address/prefix`; the host bits must be zero and 2 to 16 million hosts fit.
    ///
    /// # Errors
    /// What a right value looks like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (network, prefix) = parse_cidr(text)?;
        let subnet = Subnet { network, prefix };
        if !(8..=30).contains(&prefix) {
            return Err(format!(
                "{text:?} is not a subnet for machines: the prefix must be 8 to 30"
            ));
        }
        let base = Ipv4Addr::from(u32::from(network) & subnet.mask());
        if base != network {
            return Err(format!("{text:?} has host bits set: write {base}/{prefix}"));
        }
        Ok(subnet)
    }

    fn mask(self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix))
    }

    /// The address that all machines of the subnet begin with.
    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    /// The network part as a mask.
    pub fn netmask(self) -> Ipv4Addr {
        Ipv4Addr::from(self.mask())
    }

    /// Length of the network part in bits.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether the address can belong to a machine of this subnet (network and broadcast address cannot).
    pub fn holds(self, address: Ipv4Addr) -> bool {
        let (address, network) = (u32::from(address), u32::from(self.network));
        let host = address & !self.mask();
        address & self.mask() == network && host != 0 && host != !self.mask()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl fmt::Debug for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Subnet {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

/// Parses `address/prefix` as it stands in network files.
///
/// # Errors
/// What a right value looks like.
pub fn parse_cidr(text: &str) -> Result<(Ipv4Addr, u8), String> {
    text.split_once('/')
        .and_then(|(address, prefix)| Some((address.parse().ok()?, prefix.parse().ok()?)))
        .filter(|(_, prefix)| *prefix <= 32)
        .ok_or_else(|| {
            format!("{text:?} is not an IPv4 address with prefix, such as 10.10.10.10/24")
        })
}

/// What a machine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Infrastructure, and a member of `pg-meta`.
    Meta,
    /// Member of a database cluster.
    Database,
}

impl Role {
    /// The name in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Meta => "meta",
            Role::Database => "database",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a member of a cluster starts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberRole {
    /// Initialises the cluster; exactly one.
    Primary,
    /// Clones the primary, serves reads, may be promoted.
    Replica,
    /// A replica that serves only maintenance reads and is never promoted.
    Offline,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let long = "a".repeat(64);
        for (text, ok) in [
            ("pg-meta", true),
            ("a", true),
            ("", false),
            ("1a", false),
            ("a-", false),
            ("A", false),
            ("a_b", false),
            ("a/../b", false),
            (long.as_str(), false),
        ] {
            assert_eq!(Name::parse(text).is_ok(), ok, "{text}");
        }
        assert!(SqlName::parse("dbuser_meta").is_ok());
        assert!(SqlName::parse("x\"y").is_err());
        assert!(Domain::parse("p.pigsty").is_ok());
        assert!(Domain::parse("p..pigsty").is_err());
        assert!(Line::parse("a\nb").is_err());
    }

    #[test]
    fn subnets() {
        let subnet = Subnet::parse("10.10.10.0/24").unwrap();
        for (address, inside) in [
            ("10.10.10.10", true),
            ("10.10.10.0", false),
            ("10.10.10.255", false),
            ("10.10.11.1", false),
        ] {
            assert_eq!(subnet.holds(address.parse().unwrap()), inside, "{address}");
        }
        for text in [
            "10.10.10.1/24",
            "10.0.0.0/7",
            "10.0.0.0",
            "x/24",
            "10.0.0.0/31",
        ] {
            assert!(Subnet::parse(text).is_err(), "{text}");
        }
    }
}
