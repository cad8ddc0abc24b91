//! What several test programs need: fixtures, and golden files.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};

use bootstrap::facts::Interface;
use bootstrap::fragment::Check;
use bootstrap::metadata::Raw;
use bootstrap::secrets::{DeploymentSecret, SECRET_BYTES};
use bootstrap::{Catalogue, Deployment, Facts, Image, Inputs, Members, Metadata, Plan, seed};

/// A file of the fixtures.
pub fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(path)
}

/// The two-node deployment.
pub fn deployment_text() -> String {
    fs::read_to_string(data("deployments/two-nodes.toml")).unwrap()
}

/// The secret of all fixtures.
pub fn secret() -> DeploymentSecret {
    DeploymentSecret::from_bytes([7; SECRET_BYTES])
}

/// What `farrow seed` would give a machine.
pub fn raw(deployment_text: &str, machine: &str) -> Raw {
    let deployment = Deployment::parse(deployment_text).unwrap();
    let address = deployment.machine(machine).unwrap().address;
    let check = Check {
        name: "hello".into(),
        command: "echo hello".into(),
        timeout_seconds: 5,
    };
    let fragment = seed::node_fragment(&deployment, machine, &secret(), 1, &[check]).unwrap();
    let interface = seed::Interface {
        id: "private".into(),
        mac: "52:54:00:00:00:01".into(),
        addresses: vec![format!("{address}/24")],
        dhcp4: false,
    };
    let network = seed::network_config(&[interface]);
    let user_data = seed::user_data(deployment_text, &fragment);
    Raw::from_seed(
        "test",
        user_data,
        &seed::meta_data(machine, machine),
        Some(network),
    )
    .unwrap()
}

/// Facts of a small virtual machine.
pub fn facts() -> Facts {
    let interface = |name: &str, mac: &str| Interface {
        name: name.into(),
        mac: mac.into(),
        addresses: Vec::new(),
    };
    Facts {
        interfaces: vec![
            interface("ens3", "52:54:00:00:00:02"),
            interface("ens4", "52:54:00:00:00:01"),
        ],
        memory_mib: 2048,
        cpus: 2,
        data_mib: 0,
    }
}

/// An image.
pub fn image() -> Image {
    Image {
        name: "pigsty".into(),
        version: "1.0.0".into(),
        lock: "ab".repeat(32),
        repository: "pigsty".into(),
        root_hash: "cd".repeat(32),
        etc_lasts: false,
    }
}

/// The plan of a machine.
pub fn plan(raw: &Raw, catalogue: &Catalogue) -> bootstrap::Result<Plan> {
    plan_with(raw, catalogue, &Members::default())
}

/// The plan of a machine that knows of others.
pub fn plan_with(raw: &Raw, catalogue: &Catalogue, members: &Members) -> bootstrap::Result<Plan> {
    Plan::compute(&Inputs {
        metadata: &Metadata::merge(raw)?,
        facts: &facts(),
        members,
        catalogue,
        image: &image(),
    })
}

/// Compares with a golden file; `UPDATE_GOLDEN=1` writes it instead.
pub fn golden(path: &Path, actual: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, actual).unwrap();
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        actual,
        expected,
        "{} differs; UPDATE_GOLDEN=1 accepts what is new",
        path.display()
    );
}
