//! Certificates as OpenSSL sees them: good for what they are meant for, and for nothing else.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use super::issue::{Leaf, Signer, intermediate, leaf, self_signed};
use super::keys::Key;
use super::*;
use crate::deployment::{Deployment, Machine};
use crate::fragment::{NodeFragment, SecretFile};
use crate::secrets::{DeploymentSecret, SECRET_BYTES};
use crate::seed;
use crate::values::Domain;

const DEPLOYMENT: &str = r#"
schema = 1
name = "shop"
domain = "shop.example"
[network]
subnet = "10.10.10.0/24"
[[meta]]
name = "meta"
address = "10.10.10.10"
[[cluster]]
name = "pg-meta"
[[cluster.member]]
seq = 1
address = "10.10.10.10"
role = "primary"
[[cluster.member]]
seq = 2
address = "10.10.10.20"
role = "replica"
[[cluster]]
name = "pg-test"
vip = "10.10.10.3"
[[cluster.member]]
seq = 1
address = "10.10.10.11"
role = "primary"
[[cluster.member]]
seq = 2
address = "10.10.10.12"
role = "replica"
name = "spare"
[[cluster]]
name = "pg-other"
[[cluster.member]]
seq = 1
address = "10.10.10.31"
role = "primary"
"#;

fn deployment() -> Deployment {
    Deployment::parse(DEPLOYMENT).unwrap()
}

fn secret() -> DeploymentSecret {
    DeploymentSecret::from_bytes([7; SECRET_BYTES])
}

fn fragment(machine: &str, generation: u32) -> SecretFile {
    let text = seed::node_fragment(&deployment(), machine, &secret(), generation, &[]).unwrap();
    NodeFragment::parse(&text).unwrap().secret
}

fn machine(name: &str) -> Machine {
    deployment().machine(name).unwrap()
}

fn mint(name: &str) -> Mint {
    let portal = vec![Domain::parse("h.shop.example").unwrap()];
    Mint::new(fragment(name, 1), deployment(), machine(name), portal)
}

fn openssl(arguments: &[&str], folder: &Path) -> (bool, String) {
    let output = Command::new("openssl")
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the program openssl is needed for this test");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// Whether `chain` (leaf and intermediate) is good for a server or client under the deployment's authority; `name` is
/// one it must bear.
fn verify(chain: &str, purpose: &str, name: &[&str]) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let ca = ca_certificate(&secret(), 1, &deployment()).unwrap();
    fs::write(folder.path().join("ca"), ca).unwrap();
    fs::write(folder.path().join("chain"), chain).unwrap();
    let mut arguments = vec![
        "verify",
        "-x509_strict",
        "-CAfile",
        "ca",
        "-untrusted",
        "chain",
    ];
    arguments.extend(["-purpose", purpose]);
    arguments.extend(name);
    arguments.push("chain");
    openssl(&arguments, folder.path())
}

fn good(chain: &str, name: &[&str]) {
    for purpose in ["sslserver", "sslclient"] {
        let (right, said) = verify(chain, purpose, name);
        assert!(right, "{purpose} {name:?}: {said}");
    }
}

#[test]
fn leaves_are_good_for_their_names() {
    for node in ["pg-test-1", "spare"] {
        let chain = mint(node).certificate("cluster", "node").unwrap();
        for name in [
            "pg-test",
            "pg-test.shop.example",
            "pg-test-1",
            "pg-test-2",
            "spare",
        ] {
            good(&chain, &["-verify_hostname", name]);
        }
        for address in ["10.10.10.11", "10.10.10.12", "10.10.10.3"] {
            good(&chain, &["-verify_ip", address]);
        }
    }
    let meta = mint("meta").certificate("meta", "node").unwrap();
    for name in [
        "meta",
        "meta.shop.example",
        "pg-meta-1",
        "h.shop.example",
        "localhost",
    ] {
        good(&meta, &["-verify_hostname", name]);
    }
    good(&meta, &["-verify_ip", "10.10.10.10"]);
    good(&meta, &["-verify_ip", "127.0.0.1"]);
    let cluster = mint("meta").certificate("cluster", "node").unwrap();
    good(&cluster, &["-verify_hostname", "pg-meta"]);
    good(&cluster, &["-verify_ip", "10.10.10.10"]);
    // A member of pg-meta that is no meta node speaks for the cluster, but for no meta node.
    let replica = mint("pg-meta-2").certificate("cluster", "node").unwrap();
    good(&replica, &["-verify_hostname", "pg-meta.shop.example"]);
    good(&replica, &["-verify_ip", "10.10.10.20"]);
    assert!(!verify(&replica, "sslserver", &["-verify_ip", "10.10.10.10"]).0);
}

/// Everything that a stolen node of pg-test can sign with.
struct Thief {
    signer: Signer,
    certificate: String,
}

impl Thief {
    fn new(node: &str, cluster: &str) -> Self {
        let held = fragment(node, 1);
        Thief {
            signer: Signer::cluster(&held.clusters[cluster], 1, &deployment(), cluster),
            certificate: held.intermediates[cluster].clone(),
        }
    }

    fn sign(&self, names: &[&str], addresses: &[&str]) -> String {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let addresses: Vec<Ipv4Addr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let content = Leaf {
            deployment: &deployment(),
            machine: "x",
            names: &names,
            addresses: &addresses,
        };
        let key = Key::derive(|_| zeroize::Zeroizing::new([9; SECRET_BYTES]));
        leaf(&self.signer, &key, &content).unwrap() + &self.certificate
    }
}

#[test]
fn a_stolen_node_signs_for_nobody_else() {
    let thief = Thief::new("pg-test-1", "pg-test");
    good(&thief.sign(&["pg-test"], &["10.10.10.12"]), &[]);
    let names = [
        "meta",
        "meta.shop.example",
        "pg-meta",
        "pg-meta-1",
        "pg-meta-1.shop.example",
        "h.shop.example",
        "shop.example",
        "localhost",
        "pg-other",
        "pg-other-1.shop.example",
        "pg-test.example",
        "example",
        "xpg-test",
    ];
    for name in names {
        let (right, said) = verify(&thief.sign(&["pg-test", name], &[]), "sslserver", &[]);
        assert!(
            !right && said.contains("permitted subtree violation"),
            "{name}: {said}"
        );
    }
    for address in [
        "10.10.10.10",
        "10.10.10.20",
        "10.10.10.31",
        "127.0.0.1",
        "10.10.10.2",
    ] {
        let (right, said) = verify(&thief.sign(&["pg-test"], &[address]), "sslserver", &[]);
        assert!(
            !right && said.contains("permitted subtree violation"),
            "{address}: {said}"
        );
    }
    let replica = Thief::new("pg-meta-2", "pg-meta");
    for (names, addresses) in [
        (vec!["meta"], vec![]),
        (vec!["pg-meta-1"], vec![]),
        (vec![], vec!["10.10.10.10"]),
    ] {
        assert!(!verify(&replica.sign(&names, &addresses), "sslserver", &[]).0);
    }
}

/// Who trusts one issuer believes its leaves, with the chain that servers send, and no other's.
#[test]
fn anchors_admit_one_issuer() {
    let folder = tempfile::tempdir().unwrap();
    let believes = |anchor: &str, chain: &str| {
        fs::write(folder.path().join("anchor"), anchor).unwrap();
        fs::write(folder.path().join("chain"), chain).unwrap();
        let arguments = [
            "verify",
            "-x509_strict",
            "-CAfile",
            "anchor",
            "-untrusted",
            "chain",
            "chain",
        ];
        openssl(&arguments, folder.path()).0
    };
    let (meta, test, other) = (mint("meta"), mint("pg-test-1"), mint("pg-other-1"));
    let leaves = [
        meta.certificate("meta", "x").unwrap(),
        test.certificate("cluster", "x").unwrap(),
        other.certificate("cluster", "x").unwrap(),
    ];
    for (anchor, expected) in [
        (meta.anchor("meta").unwrap(), [true, false, false]),
        (test.anchor("meta").unwrap(), [true, false, false]),
        (test.anchor("cluster").unwrap(), [false, true, false]),
        (other.anchor("cluster").unwrap(), [false, false, true]),
        (meta.ca_certificate().unwrap(), [true, true, true]),
    ] {
        assert_eq!(
            [0, 1, 2].map(|index| believes(&anchor, &leaves[index])),
            expected
        );
    }
    // pg-meta has members of both kinds, and all of them agree on it.
    let replica = mint("pg-meta-2");
    let anchors = meta.anchor("cluster").unwrap();
    assert_eq!(anchors, replica.anchor("cluster").unwrap());
    assert!(believes(
        &anchors,
        &meta.certificate("cluster", "x").unwrap()
    ));
    assert!(believes(
        &anchors,
        &replica.certificate("cluster", "x").unwrap()
    ));
    assert!(!believes(&anchors, &leaves[1]));
}

/// A cluster that grows may name the whole subnet but what belongs to others.
#[test]
fn a_growing_cluster_has_the_subnet_less_what_is_taken() {
    let deployment = deployment();
    let cluster = deployment.cluster("pg-test").unwrap();
    let scope = Scope::of_growing_cluster(&deployment, cluster);
    let mut thief = Thief::new("pg-test-1", "pg-test");
    let authority = Signer::authority(&secret(), 1, &deployment);
    thief.certificate = intermediate(&authority, &thief.signer, Some(&scope)).unwrap();
    good(
        &thief.sign(&["pg-test-9f.pg-test.shop.example"], &["10.10.10.77"]),
        &[],
    );
    for address in ["10.10.10.10", "10.10.10.20", "10.10.10.31", "10.10.11.1"] {
        assert!(!scope.has_address(address.parse().unwrap()), "{address}");
        let (right, said) = verify(&thief.sign(&["pg-test"], &[address]), "sslserver", &[]);
        assert!(
            !right && said.contains("subtree violation"),
            "{address}: {said}"
        );
    }
}

#[test]
fn an_intermediate_makes_no_further_authority() {
    let thief = Thief::new("pg-test-1", "pg-test");
    let sub = Signer::cluster(
        &fragment("pg-other-1", 1).clusters["pg-other"],
        1,
        &deployment(),
        "pg-other",
    );
    let scope = Scope {
        names: vec!["meta".into()],
        networks: vec![("10.10.10.10".parse().unwrap(), Ipv4Addr::BROADCAST)],
        ..Scope::default()
    };
    let made = intermediate(&thief.signer, &sub, Some(&scope)).unwrap();
    let forged = Thief {
        signer: sub,
        certificate: made + &thief.certificate,
    };
    let (right, said) = verify(&forged.sign(&["pg-test"], &[]), "sslserver", &[]);
    assert!(
        !right && said.contains("path length constraint exceeded"),
        "{said}"
    );
}

#[test]
fn certificates_say_what_they_should() {
    let folder = tempfile::tempdir().unwrap();
    let held = mint("pg-test-1");
    for (file, text) in [
        ("ca", held.ca_certificate().unwrap()),
        (
            "intermediate",
            fragment("pg-test-1", 1)
                .intermediates
                .pop_first()
                .unwrap()
                .1,
        ),
        ("leaf", held.certificate("cluster", "node").unwrap()),
        (
            "key",
            held.private_key("cluster", "node").unwrap().to_string(),
        ),
    ] {
        fs::write(folder.path().join(file), text).unwrap();
    }
    let shown = |file: &str| openssl(&["x509", "-noout", "-text", "-in", file], folder.path()).1;
    for (file, wanted) in [
        (
            "ca",
            vec![
                "CA:TRUE, pathlen:1",
                "Certificate Sign, CRL Sign",
                "Not Before: Jan  1 00:00:00 2020 GMT",
                "Not After : Dec 31 00:00:00 2099 GMT",
                "Authority Key Identifier",
            ],
        ),
        (
            "intermediate",
            vec![
                "CA:TRUE, pathlen:0",
                "Name Constraints: critical",
                "Basic Constraints: critical",
                "Key Usage: critical",
                "IP:10.10.10.11/255.255.255.255",
                "DNS:pg-test.shop.example",
            ],
        ),
        (
            "leaf",
            vec![
                "CA:FALSE",
                "TLS Web Server Authentication, TLS Web Client Authentication",
                "Digital Signature",
                "Subject Key Identifier",
                "Authority Key Identifier",
            ],
        ),
    ] {
        let text = shown(file);
        for part in wanted {
            assert!(text.contains(part), "{file} lacks {part}: {text}");
        }
    }
    assert!(
        !shown("leaf").contains("Subject: O=shop, OU=pg-test-1, CN"),
        "a leaf has a common name"
    );
    let public = openssl(&["pkey", "-in", "key", "-pubout"], folder.path());
    let certified = openssl(&["x509", "-in", "leaf", "-noout", "-pubkey"], folder.path());
    assert!(
        public.0 && public.1 == certified.1,
        "{} {}",
        public.1,
        certified.1
    );
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    for (node, kind) in [
        ("meta", "meta"),
        ("meta", "cluster"),
        ("pg-test-1", "cluster"),
    ] {
        let (one, other) = (mint(node), mint(node));
        assert_eq!(
            one.certificate(kind, "a").unwrap(),
            other.certificate(kind, "a").unwrap()
        );
        assert_eq!(
            one.private_key(kind, "a").unwrap(),
            other.private_key(kind, "a").unwrap()
        );
        assert_ne!(
            one.private_key(kind, "a").unwrap(),
            one.private_key(kind, "b").unwrap()
        );
        assert_eq!(
            one.ca_certificate().unwrap(),
            mint("pg-test-1").ca_certificate().unwrap()
        );
    }
    assert_ne!(
        mint("pg-test-1").private_key("cluster", "a"),
        mint("spare").private_key("cluster", "a")
    );
    let deployment = deployment();
    let signed =
        |generation| self_signed(&Signer::authority(&secret(), generation, &deployment)).unwrap();
    assert_ne!(signed(1), signed(2));
}

#[test]
fn what_a_node_cannot_make_is_an_error() {
    let node = mint("pg-test-1");
    assert!(
        node.certificate("meta", "x")
            .unwrap_err()
            .contains("no deployment secret")
    );
    assert!(
        node.certificate("other", "x")
            .unwrap_err()
            .contains("cluster or meta")
    );
    assert!(node.private_key("cluster", "../x").is_err());
    let bare = Mint::new(
        SecretFile::default(),
        deployment(),
        machine("pg-test-1"),
        Vec::new(),
    );
    assert!(bare.ca_certificate().unwrap_err().contains("secret.ca"));
    assert!(
        bare.certificate("cluster", "x")
            .unwrap_err()
            .contains("secret.clusters.pg-test")
    );
}

#[test]
fn fragments_that_do_not_fit_are_refused() {
    let right = fragment("pg-test-1", 1);
    let check =
        |secret: &SecretFile, node: &str| check_fragment(secret, &deployment(), &machine(node));
    check(&right, "pg-test-1").unwrap();
    check(&fragment("meta", 1), "meta").unwrap();
    let pg_test = crate::values::Name::parse("pg-test").unwrap();
    let mut cases = Vec::new();
    let mut wrong = right.clone();
    wrong.generation = 2;
    cases.push((
        wrong,
        "pg-test-1",
        "secret.intermediates.pg-test",
        "generation 2",
    ));
    let mut wrong = right.clone();
    wrong.ca = fragment("pg-test-1", 2).ca;
    cases.push((
        wrong,
        "pg-test-1",
        "secret.intermediates.pg-test",
        "not signed by secret.ca",
    ));
    let mut wrong = right.clone();
    wrong.clusters = fragment("pg-other-1", 1).clusters;
    cases.push((
        wrong,
        "pg-test-1",
        "secret.clusters.pg-test",
        "no secret for the certificate",
    ));
    let mut wrong = right.clone();
    wrong
        .intermediates
        .insert(pg_test.clone(), "nonsense".into());
    cases.push((
        wrong,
        "pg-test-1",
        "secret.intermediates.pg-test",
        "no certificate",
    ));
    let mut wrong = right.clone();
    wrong.ca = None;
    cases.push((wrong, "pg-test-1", "secret.ca", "no authority"));
    let mut other = fragment("pg-other-1", 1);
    let stolen = other.intermediates.pop_first().unwrap().1;
    let mut wrong = right.clone();
    wrong.intermediates.insert(pg_test, stolen);
    cases.push((
        wrong,
        "pg-test-1",
        "secret.intermediates.pg-test",
        "does not belong to its secret",
    ));
    let renamed = Deployment::parse(&DEPLOYMENT.replace("name = \"shop\"", "name = \"store\""));
    let error = check_fragment(&right, &renamed.unwrap(), &machine("pg-test-1")).unwrap_err();
    assert!(error.to_string().contains("deployment store"), "{error}");
    for (secret, node, field, message) in cases {
        let error = check(&secret, node).unwrap_err();
        assert_eq!(error.code(), "FR-NODE-CERTIFICATE");
        assert_eq!(error.field(), field);
        assert!(error.to_string().contains(message), "{error}");
    }
}

/// Truncated and altered certificates are no certificates, and never a panic.
#[test]
fn broken_certificates_are_read_without_panic() {
    use super::der::Certificate;
    use base64::Engine;
    let pem = fragment("pg-test-1", 1)
        .intermediates
        .pop_first()
        .unwrap()
        .1;
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = base64::engine::general_purpose::STANDARD
        .decode(body)
        .unwrap();
    for length in 0..der.len() {
        assert!(Certificate::from_der(&der[..length]).is_none());
    }
    for index in 0..der.len() {
        let mut altered = der.clone();
        altered[index] ^= 0x55;
        let _ = Certificate::from_der(&altered);
    }
}

#[test]
fn names_that_cover_others_are_refused() {
    for (from, to, complaint) in [
        ("name = \"pg-other\"", "name = \"example\"", "shop.example"),
        ("name = \"pg-other\"", "name = \"meta\"", "meta"),
        ("name = \"spare\"", "name = \"pg-other\"", "pg-other"),
        ("name = \"spare\"", "name = \"pg-meta-1\"", "pg-meta-1"),
    ] {
        let text = DEPLOYMENT.replace(from, to);
        let error = Deployment::parse(&text).unwrap_err();
        assert_eq!(error.code(), "FR-DEPLOYMENT-TRUST", "{to}: {error}");
        assert!(error.to_string().contains(complaint), "{to}: {error}");
    }
}
