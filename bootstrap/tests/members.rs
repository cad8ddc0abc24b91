//! Plans that know who is there: joined members come and go, declared ones stay, names follow the leader.

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bootstrap::members::{LiveCluster, LiveMember, LiveRole, from_etcd, from_patroni};
use bootstrap::values::Name;
use bootstrap::{Catalogue, Deployment, Members, Metadata, Plan};
use proptest::prelude::*;

fn real_catalogue() -> Catalogue {
    Catalogue::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/services")).unwrap()
}

/// The two-node deployment, and a cluster that scales by itself.
fn growing() -> String {
    support::deployment_text() + "\n[[cluster]]\nname = \"pg-auto\"\nautoscale = true\n"
}

fn members(cluster: &str, leader: Option<&str>, list: &[(&str, &str)]) -> Members {
    let name = |text: &str| Name::parse(text).unwrap();
    let live = |address: &str| LiveMember {
        address: address.parse().unwrap(),
        role: LiveRole::Replica,
        state: "streaming".into(),
        timeline: Some(1),
        tags: BTreeMap::new(),
    };
    let list = list
        .iter()
        .map(|(member, address)| (name(member), live(address)));
    let found = LiveCluster {
        leader: leader.map(name),
        last_leader: leader.map(name),
        founder: None,
        members: list.collect(),
    };
    Members {
        clusters: [(name(cluster), found)].into(),
    }
}

fn plan(machine: &str, members: &Members) -> Plan {
    support::plan_with(
        &support::raw(&growing(), machine),
        &real_catalogue(),
        members,
    )
    .unwrap()
}

fn text_of<'a>(plan: &'a Plan, path: &str) -> Option<&'a str> {
    let file = plan.all_files().find(|file| file.path == path);
    file.map(|file| file.content.text.as_str())
}

#[test]
fn who_joins_is_monitored_and_named() {
    let before = plan("meta", &Members::default());
    let after = plan(
        "meta",
        &members(
            "pg-auto",
            Some("pg-auto-b"),
            &[("pg-auto-a", "10.10.10.51"), ("pg-auto-b", "10.10.10.52")],
        ),
    );
    let diff = after.diff(&before);
    for path in [
        "/etc/prometheus/targets/pgsql/pg-auto-a.yml",
        "/etc/prometheus/targets/node/pg-auto-b.yml",
        "/etc/hosts.d/pg-auto-a",
        "/etc/hosts.d/pg-auto",
    ] {
        assert!(
            diff.added.iter().any(|added| added == path),
            "{path}: {:?}",
            diff.added
        );
    }
    assert!(diff.removed.is_empty() && diff.changed.contains(&"/etc/nginx/nginx.conf".to_owned()));
    assert!(!diff.services.contains("patroni") && !diff.services.contains("etcd"));
    assert!(
        text_of(&after, "/etc/hosts.d/pg-auto")
            .unwrap()
            .contains("10.10.10.52 pg-auto pg-auto.")
    );
    assert!(
        text_of(&after, "/etc/hosts")
            .unwrap()
            .contains("10.10.10.51 pg-auto-a")
    );
    let gone = before.diff(&after).removed;
    assert!(gone.contains(&"/etc/hosts.d/pg-auto-a".to_owned()));
    let each = |path: &str| {
        after
            .files
            .iter()
            .any(|file| file.path == path && file.each)
    };
    assert!(
        gone.iter().all(|path| each(path)),
        "only files made one for each: {gone:?}"
    );
}

#[test]
fn declared_members_stay_and_strangers_do_not_come() {
    let text = support::deployment_text();
    let plan = |members: &Members| {
        support::plan_with(&support::raw(&text, "meta"), &real_catalogue(), members).unwrap()
    };
    let before = plan(&Members::default());
    // Neither who is off nor who pushes into a cluster that does not scale changes anything.
    for other in [
        members("pg-test", None, &[]),
        members(
            "pg-test",
            Some("pg-test-1"),
            &[("pg-test-1", "10.10.10.11"), ("pg-test-9", "10.10.10.66")],
        ),
        members(
            "pg-other",
            Some("pg-other-1"),
            &[("pg-other-1", "10.10.10.66")],
        ),
    ] {
        assert!(plan(&other).diff(&before).is_empty());
    }
}

#[test]
fn hostile_members_take_nobodys_place() {
    let before = plan("meta", &Members::default());
    for (name, address) in [
        ("pg-auto-x", "10.10.10.10"),
        ("pg-auto-x", "10.10.10.11"),
        ("pg-auto-x", "192.168.1.1"),
        ("pg-auto-x", "10.10.10.255"),
        ("meta", "10.10.10.60"),
        ("pg-test-1", "10.10.10.60"),
        ("h", "10.10.10.60"),
    ] {
        let after = plan("meta", &members("pg-auto", Some(name), &[(name, address)]));
        assert!(after.diff(&before).is_empty(), "{name} at {address}");
    }
}

#[test]
fn a_name_follows_its_leader() {
    let text = support::deployment_text()
        + "[[cluster]]\nname = \"pg-two\"\n[[cluster.member]]\nseq = 1\naddress = \"10.10.10.21\"\nrole = \"primary\"\n[[cluster.member]]\nseq = 2\naddress = \"10.10.10.22\"\nrole = \"replica\"\n";
    let address = |members: &Members| {
        let plan =
            support::plan_with(&support::raw(&text, "meta"), &real_catalogue(), members).unwrap();
        let hosts = text_of(&plan, "/etc/hosts.d/pg-two").unwrap();
        hosts
            .lines()
            .last()
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(address(&Members::default()), "10.10.10.21");
    assert_eq!(
        address(&members("pg-two", Some("pg-two-2"), &[])),
        "10.10.10.22"
    );
}

/// A machine that nobody declared: named by its instance id, with the secret of its cluster only.
#[test]
fn a_machine_joins_by_naming_its_cluster() {
    let mut raw = support::raw(&growing(), "pg-test-1");
    let deployment = Deployment::parse(&growing()).unwrap();
    let cluster = deployment.cluster("pg-auto").unwrap();
    let secret = support::secret();
    let fragment =
        bootstrap::seed::joining_fragment(&deployment, cluster, &secret, 1, &[]).unwrap();
    raw.user_data = bootstrap::seed::user_data(&growing(), &fragment);
    raw.instance_id = Some("i-0ABC".into());
    raw.local_hostname = None;
    raw.network_config = Some("version: 2\nethernets: {private: {match: {macaddress: \"52:54:00:00:00:01\"}, addresses: [10.10.10.51/24]}}".into());
    let alone = support::plan(&raw, &real_catalogue()).unwrap();
    assert_eq!(alone.node.instance.as_deref(), Some("pg-auto-i-0abc"));
    assert!(
        alone
            .services
            .iter()
            .any(|service| service.name == "patroni")
    );
    let config = text_of(&alone, "/etc/patroni/config.yml").unwrap();
    assert!(config.contains("\nbootstrap:") && config.contains("10.10.10.0/24"));
    // Its own key in the store, and others', change neither its database nor its address.
    let list = [
        ("pg-auto-i-0abc", "10.10.10.51"),
        ("pg-auto-x", "10.10.10.52"),
    ];
    let more = support::plan_with(
        &raw,
        &real_catalogue(),
        &members("pg-auto", Some("pg-auto-x"), &list),
    )
    .unwrap();
    let diff = more.diff(&alone);
    assert!(!diff.services.contains("patroni"), "{diff:?}");
    assert!(diff.services.contains("haproxy"));
    // Another's address or name, or a cluster that does not scale, are refused.
    for (address, cluster, id) in [
        ("10.10.10.11", "pg-auto", "x"),
        ("10.10.10.51", "pg-test", "x"),
        ("10.10.10.51", "pg-auto", "--"),
    ] {
        let mut raw = raw.clone();
        let fragment = format!("schema = 1\ncluster = \"{cluster}\"\n");
        raw.user_data = bootstrap::seed::user_data(&growing(), &fragment);
        raw.instance_id = Some(id.into());
        raw.network_config = Some(format!(
            "version: 2\nethernets: {{lan: {{addresses: [{address}/24]}}}}"
        ));
        let found = bootstrap::role::identify(&Metadata::merge(&raw).unwrap(), &support::facts());
        assert!(found.is_err(), "{address} {cluster} {id}");
    }
}

fn member(
    address: &str,
    role: LiveRole,
    state: &str,
    timeline: u64,
    tags: &[(&str, &str)],
) -> LiveMember {
    LiveMember {
        address: address.parse().unwrap(),
        role,
        state: state.into(),
        timeline: Some(timeline),
        tags: tags
            .iter()
            .map(|(k, v)| ((*k).into(), (*v).into()))
            .collect(),
    }
}

/// The documents are what Patroni 4.0.7 and etcd 3.5.16 answered on a running platform.
#[test]
fn patroni_and_etcd_tell_the_same() {
    let patroni = from_patroni(include_str!("data/members/cluster.json")).unwrap();
    let etcd = from_etcd(include_str!("data/members/range.json")).unwrap();
    assert_eq!(patroni.leader.as_ref().unwrap().as_str(), "pg-test-1");
    assert_eq!(Some(&patroni), etcd.cluster("pg-test"));
    assert_eq!(etcd.clusters.len(), 2);
    let tags = [("clonefrom", "true"), ("failover_priority", "100")];
    assert_eq!(
        patroni.members["pg-test-1"],
        member("10.10.10.11", LiveRole::Primary, "running", 1, &tags)
    );
    assert_eq!(
        patroni.members["pg-test-2"],
        member("10.10.10.12", LiveRole::Replica, "streaming", 1, &tags)
    );
    assert_eq!(etcd.changes(&etcd), Vec::<String>::new());
}

#[test]
fn nonsense_is_left_out() {
    let pair = |key: &str, value: &str| {
        format!(
            "{{\"key\": \"{}\", \"value\": \"{}\"}}",
            STANDARD.encode(key),
            STANDARD.encode(value)
        )
    };
    let good = r#"{"api_url": "http://10.0.0.1:8008/patroni", "state": "run\nning", "tags": {"a": [1], "b": 2}}"#;
    let pairs = [
        pair("/pg/c/members/c-1", good),
        pair("/pg/c/members/../../etc", good),
        pair("/pg/c/members/c-2", "[]"),
        pair("/pg/c/members/c-3", r#"{"api_url": "http://localhost/"}"#),
        pair("/pg/C/members/c-4", good),
        pair("/other/c/members/c-5", good),
        pair("/pg/c/sync", r#"{"sync_standby": "c-1"}"#),
        "{\"key\": \"!\", \"value\": 3}".to_owned(),
        "null".to_owned(),
    ];
    let body = format!("{{\"header\": {{}}, \"kvs\": [{}]}}", pairs.join(","));
    let members = from_etcd(&body).unwrap();
    let cluster = members.cluster("c").unwrap();
    assert_eq!(members.clusters.len(), 1);
    assert_eq!(cluster.members.len(), 1);
    let found = &cluster.members["c-1"];
    assert_eq!(
        (found.state.as_str(), found.role),
        ("running", LiveRole::Sync)
    );
    assert_eq!(found.tags, BTreeMap::from([("b".into(), "2".into())]));
    for body in [
        "",
        "[]",
        "{}",
        "{\"error\": \"etcdserver: user name is empty\", \"code\": 3}",
    ] {
        assert!(
            from_etcd(body).is_err() && from_patroni(body).is_err(),
            "{body}"
        );
    }
}

const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\"members\"",
    "\"name\"",
    "\"pg-test-1\"",
    "\"host\"",
    "\"10.0.0.1\"",
    "\"role\"",
    "\"leader\"",
    "\"kvs\"",
    "\"key\"",
    "\"value\"",
    "\"header\"",
    "\"L3BnL2MvbGVhZGVy\"",
    "\"tags\"",
    "null",
    "1e999",
    "-1",
    "\"api_url\"",
    "\"http://1.2.3.4:8008/\"",
    "\\u0000",
    "\\ud800",
    "ä",
];

fn hostile() -> impl Strategy<Value = String> {
    let piece =
        prop_oneof![6 => prop::sample::select(PIECES).prop_map(str::to_owned), 1 => ".{0,6}"];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

/// What machines really say, with a few bytes changed.
fn damaged() -> impl Strategy<Value = String> {
    let good = prop::sample::select(vec![
        include_str!("data/members/cluster.json"),
        include_str!("data/members/range.json"),
    ]);
    let change = (any::<prop::sample::Index>(), prop::sample::select(PIECES));
    (good, prop::collection::vec(change, 1..4)).prop_map(|(good, changes)| {
        let mut text: Vec<char> = good.chars().collect();
        for (at, piece) in changes {
            let at = at.index(text.len());
            text.splice(at..(at + 1).min(text.len()), piece.chars());
        }
        text.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn hostile_answers_do_not_panic(text in prop_oneof![hostile(), damaged()]) {
        let _ = from_patroni(&text);
        if let Ok(members) = from_etcd(&text) {
            prop_assert!(members.changes(&members).is_empty());
            let text = serde_json::to_string(&members).unwrap();
            prop_assert_eq!(bootstrap::tree::read_json::<Members>(&text).unwrap(), members);
        }
    }
}
