//! Which machine is this? A table of what a machine may be told, and what follows.

mod support;

use bootstrap::metadata::Raw;
use bootstrap::{Facts, Metadata, role};

/// Own address in the network configuration, address already there, host name, fragment, tags → machine or error.
struct Case(
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
    Result<&'static str, (&'static str, &'static str)>,
);

const META: &str = "10.10.10.10";
const TEST: &str = "10.10.10.11";
const UNKNOWN: &str = "10.10.10.77";
const CONTRADICTION: &str = "FR-NODE-CONTRADICTION";
const NOBODY: &str = "FR-NODE-UNKNOWN";

#[rustfmt::skip]
const CASES: &[Case] = &[
    Case(META, "", "", "", &[], Ok("meta")),
    Case(TEST, "", "", "", &[], Ok("pg-test-1")),
    Case("", TEST, "", "", &[], Ok("pg-test-1")),
    Case("", "192.168.0.5", "pg-test-1", "", &[], Ok("pg-test-1")),
    Case("", "", "meta", "", &[], Ok("meta")),
    Case("", "", "", "node = \"pg-test-1\"", &[], Ok("pg-test-1")),
    Case(META, "", "", "role = \"meta\"", &[], Ok("meta")),
    Case(META, "", "", "cluster = \"pg-meta\"", &[("farrow:role", "meta")], Ok("meta")),
    Case(TEST, "", "", "", &[("farrow:role", "database"), ("farrow:cluster", "pg-test")], Ok("pg-test-1")),
    // The configured address is the one that counts: the other may be left from the image's first boot.
    Case(TEST, META, "", "", &[], Ok("pg-test-1")),
    Case("", "", "", "", &[], Err((NOBODY, "addresses"))),
    Case(UNKNOWN, "", "", "", &[], Err((NOBODY, "addresses"))),
    Case("", "", "somebody", "", &[], Err((NOBODY, "addresses"))),
    Case("", "", "", "node = \"pg-test-9\"", &[], Err((NOBODY, "node"))),
    Case(UNKNOWN, "", "meta", "", &[], Err((CONTRADICTION, "local-hostname"))),
    Case(META, "", "", "node = \"pg-test-1\"", &[], Err((CONTRADICTION, "node"))),
    Case(TEST, "", "", "role = \"meta\"", &[], Err((CONTRADICTION, "role"))),
    Case(META, "", "", "role = \"database\"", &[], Err((CONTRADICTION, "role"))),
    Case(TEST, "", "", "", &[("farrow:role", "meta")], Err((CONTRADICTION, "farrow:role"))),
    Case(TEST, "", "", "", &[("farrow:role", "boss")], Err((CONTRADICTION, "farrow:role"))),
    Case(TEST, "", "", "cluster = \"pg-meta\"", &[], Err((CONTRADICTION, "cluster"))),
    Case(TEST, "", "", "", &[("farrow:cluster", "pg-meta")], Err((CONTRADICTION, "farrow:cluster"))),
];

#[test]
fn table() {
    for (index, Case(configured, present, name, fragment, tags, expected)) in
        CASES.iter().enumerate()
    {
        let node = format!("schema = 1\n{fragment}\n");
        let network = format!("version: 2\nethernets: {{lan: {{addresses: [{configured}/24]}}}}");
        let raw = Raw {
            source: "test".into(),
            user_data: bootstrap::seed::user_data(&support::deployment_text(), &node),
            instance_id: None,
            local_hostname: (!name.is_empty()).then(|| (*name).to_owned()),
            tags: tags
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            network_config: (!configured.is_empty()).then_some(network),
        };
        let mut facts: Facts = support::facts();
        facts.interfaces[0]
            .addresses
            .extend(present.parse::<std::net::Ipv4Addr>());
        let metadata = Metadata::merge(&raw).unwrap();
        let found = role::identify(&metadata, &facts);
        let found = found
            .as_ref()
            .map(|machine| machine.name.as_str())
            .map_err(|error| (error.code(), error.field()));
        assert_eq!(found, *expected, "case {index}");
    }
}

#[test]
fn a_machine_with_two_members_addresses_is_refused() {
    let mut facts = support::facts();
    facts.interfaces[0].addresses = vec![META.parse().unwrap(), TEST.parse().unwrap()];
    let mut raw = support::raw(&support::deployment_text(), "meta");
    raw.network_config = None;
    raw.user_data = format!("#farrow-deployment\n{}", support::deployment_text());
    let error = role::identify(&Metadata::merge(&raw).unwrap(), &facts).unwrap_err();
    assert_eq!((error.code(), error.field()), (CONTRADICTION, "addresses"));
}
