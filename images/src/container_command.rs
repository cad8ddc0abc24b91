//! What is told to systemd-nspawn, ip and nft, as values.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::sandbox::container::inside;

/// The switch between the machines of a fleet.
const BRIDGE: &str = "br0";
/// The name of a machine's interface on the segment: what QEMU's second card is called by udev.
const INTERFACE: &str = "ens4";
/// The table of nft that holds nothing but [`Fault`]s.
const TABLE: &str = "bridge farrow";

/// Files below `/etc` of every container: chronyd may not set the host's clock, and is to serve time all the same
/// (`-x`: leave the clock alone; `-F 0`: no filter for system calls, which would refuse what nspawn's already did).
/// systemd would try to unmount what makes up the root, and complain.
pub(crate) const ETC: [(&str, &str); 5] = [
    (
        "systemd/system/chrony.service.d/zz-container.conf",
        "[Unit]\nConditionCapability=\n",
    ),
    ("default/chrony", "DAEMON_OPTS=\"-F 0 -x\"\n"),
    ("systemd/system/var.mount.d/container.conf", KEEP),
    ("systemd/system/etc.mount.d/container.conf", KEEP),
    ("systemd/system/www-.mount.d/container.conf", KEEP),
];
const KEEP: &str = "[Unit]\nDefaultDependencies=no\n";

/// Something that is wrong with the segment on request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Frames of a machine are lost: all, only those from and to one other machine, only those of one port.
    Cut {
        /// The other machine.
        from: Option<String>,
        /// TCP or UDP port, on either side.
        port: Option<u16>,
    },
    /// A share of a machine's frames is lost, by chance, in each direction.
    Loss {
        /// Percent.
        percent: u8,
    },
}

/// systemd-nspawn for one machine; see [`inside`] for the paths.
pub(crate) fn nspawn(name: &str) -> Vec<String> {
    let mut argv: Vec<String> = [
        "systemd-nspawn",
        "--quiet",
        // Nothing of the host's systemd is asked: it may not have one.
        "--register=no",
        "--keep-unit",
        "--boot",
        "--console=pipe",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        // networkd's.
        "--capability=CAP_NET_ADMIN",
    ]
    .map(str::to_owned)
    .into();
    argv.push(format!("--machine={name}"));
    argv.push(format!("--directory={}", inside::ROOT));
    argv.push(format!("--network-namespace-path={}", inside::NETWORK));
    argv
}

/// For `ip -batch`: the switch, with an address from which the host's connections come.
pub(crate) fn switch(address: Ipv4Addr, prefix: u8) -> String {
    format!(
        "link set lo up\nlink add {BRIDGE} type bridge forward_delay 0 mcast_snooping 0\naddress add {address}/{prefix} dev {BRIDGE}\nlink set {BRIDGE} up\n"
    )
}

/// The name of the switch's port for the machine of that number.
pub(crate) fn port(index: usize) -> String {
    format!("m{index}")
}

/// For `ip -batch`: a machine's cable.
pub(crate) fn link(index: usize, mac: &str) -> String {
    let (port, network) = (port(index), inside::NETWORK);
    format!(
        "link add {port} type veth peer name {INTERFACE} address {mac} netns {network}\nlink set {port} master {BRIDGE} up\n"
    )
}

/// For `nft -f`: replaces all faults by these, each of the machine with that number; `number` finds that of a name.
pub(crate) fn faults(faults: &[(usize, Fault)], number: &dyn Fn(&str) -> Option<usize>) -> String {
    let mut chains: [(&str, Vec<String>); 3] =
        ["prerouting", "forward", "postrouting"].map(|hook| (hook, Vec::new()));
    for (index, fault) in faults {
        let own = port(*index);
        let [(_, before), (_, forward), (_, after)] = &mut chains;
        match fault {
            Fault::Loss { percent } => {
                let chance = format!("numgen random mod 100 < {percent} drop");
                before.push(format!("iifname {own} {chance}"));
                after.push(format!("oifname {own} {chance}"));
            }
            Fault::Cut {
                from,
                port: number_of_port,
            } => {
                let what = frames(*number_of_port);
                match from.as_deref().map(number) {
                    None => {
                        before.extend(what.iter().map(|what| format!("iifname {own} {what}drop")));
                        after.extend(what.iter().map(|what| format!("oifname {own} {what}drop")));
                    }
                    Some(Some(other)) => {
                        let other = port(other);
                        for what in &what {
                            forward.push(format!("iifname {own} oifname {other} {what}drop"));
                            forward.push(format!("iifname {other} oifname {own} {what}drop"));
                        }
                    }
                    Some(None) => {}
                }
            }
        }
    }
    // Made before it is deleted, so that it need not be known whether it is there (nft(8)).
    let mut text = format!("table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n");
    for (hook, rules) in &chains {
        let _ = writeln!(
            text,
            "  chain {hook} {{\n    type filter hook {hook} priority 0;"
        );
        for rule in rules {
            let _ = writeln!(text, "    {rule}");
        }
        text.push_str("  }\n");
    }
    text + "}\n"
}

/// Matches for frames of a port on either side, or for all.
fn frames(port: Option<u16>) -> Vec<String> {
    match port {
        None => vec![String::new()],
        Some(port) => ["sport", "dport"]
            .map(|side| format!("ether type ip meta l4proto {{ tcp, udp }} th {side} {port} "))
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_booted_without_the_hosts_systemd() {
        let argv = nspawn("meta");
        for word in [
            "--register=no",
            "--keep-unit",
            "--boot",
            "--machine=meta",
            "--directory=/run/farrow/root",
            "--network-namespace-path=/run/farrow/net",
        ] {
            assert!(argv.iter().any(|known| known == word), "{word}");
        }
    }

    #[test]
    fn cables_and_switch() {
        assert_eq!(
            link(2, "52:54:00:00:00:01"),
            "link add m2 type veth peer name ens4 address 52:54:00:00:00:01 netns /run/farrow/net\nlink set m2 master br0 up\n"
        );
        assert!(switch([10, 0, 0, 254].into(), 24).contains("address add 10.0.0.254/24 dev br0\n"));
    }

    #[test]
    fn faults_become_rules() {
        let number = |name: &str| (name == "other").then_some(1);
        let cut = |from: Option<&str>, port| Fault::Cut {
            from: from.map(str::to_owned),
            port,
        };
        let cases: [(Fault, &[&str]); 4] = [
            (cut(None, None), &["iifname m0 drop", "oifname m0 drop"]),
            (
                cut(Some("other"), None),
                &["iifname m0 oifname m1 drop", "iifname m1 oifname m0 drop"],
            ),
            (
                cut(None, Some(2379)),
                &[
                    "iifname m0 ether type ip meta l4proto { tcp, udp } th dport 2379 drop",
                    "oifname m0 ether type ip meta l4proto { tcp, udp } th sport 2379 drop",
                ],
            ),
            (
                Fault::Loss { percent: 20 },
                &["iifname m0 numgen random mod 100 < 20 drop"],
            ),
        ];
        for (fault, rules) in cases {
            let text = faults(&[(0, fault)], &number);
            for rule in rules {
                assert!(text.contains(&format!("    {rule}\n")), "{rule} in\n{text}");
            }
        }
        assert!(!faults(&[], &number).contains("drop"));
    }
}
