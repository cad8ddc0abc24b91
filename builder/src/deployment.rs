//! Deployments on the operator's side: the document, the secret that is kept for it, and each machine's seed.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bootstrap::Deployment;
use bootstrap::deployment::Machine;
use bootstrap::fragment::Check;
use bootstrap::secrets::{
    ClusterSecret, DeploymentSecret, cluster_secret, deployment_password, password,
};
use sha2::{Digest, Sha256};

use crate::commands::write_file;
use crate::diagnostic::{Diagnostic, Result};
use crate::embedded;
use crate::session::Session;

/// The first generation of secrets; a rotation counts up.
const GENERATION: u32 = 1;
/// The address that QEMU's user-mode network gives its first guest (QEMU documentation, "Using the user mode network stack").
const USER_NETWORK_ADDRESS: &str = "10.0.2.15/24";
/// Users of every cluster, beside the deployment's own.
const PLATFORM_USERS: [&str; 3] = ["dbuser_dba", "dbuser_monitor", "replicator"];

/// A deployment document that was read and found valid.
pub struct Loaded {
    /// The document's text, as every machine gets it.
    pub text: String,
    /// What it says.
    pub deployment: Deployment,
}

/// What one machine's metadata volume holds.
pub struct Seed {
    /// The machine's name.
    pub machine: String,
    /// MIME message: the deployment and the machine's secret fragment.
    pub user_data: String,
    /// Instance id and hostname.
    pub meta_data: String,
    /// Addresses of both interfaces.
    pub network_config: String,
}

/// Reads a deployment: a file, or the name of one that farrow ships.
pub fn load(argument: &str) -> Result<Loaded> {
    let path = Path::new(argument);
    let (shown, text) = if path.is_file() {
        (
            argument.to_owned(),
            fs::read_to_string(path).map_err(|e| Diagnostic::io("read", path, e))?,
        )
    } else {
        let name = argument
            .strip_prefix("recipes/deployments/")
            .unwrap_or(argument);
        let name = name.strip_suffix(".toml").unwrap_or(name);
        match embedded::deployment(name) {
            Some(text) => (format!("recipes/deployments/{name}.toml"), text.to_owned()),
            None => return Err(not_found(argument)),
        }
    };
    match Deployment::parse(&text) {
        Ok(deployment) => Ok(Loaded { text, deployment }),
        Err(error) => Err(from_bootstrap(&error, &shown, &text)),
    }
}

fn not_found(argument: &str) -> Diagnostic {
    Diagnostic::invalid(
        "FR-DEPLOYMENT-NOTFOUND",
        format!("no deployment `{argument}`: neither a file nor one that farrow ships"),
    )
    .with_hint(format!(
        "farrow ships: {}",
        embedded::deployment_names().join(", ")
    ))
}

/// A bootstrap error about a text that the user wrote.
pub fn from_bootstrap(error: &bootstrap::Error, shown: &str, text: &str) -> Diagnostic {
    let mut found = Diagnostic::invalid(error.code(), error.to_string());
    found.hint = error.hint();
    found.at(
        shown,
        text,
        error.position().map(|position| position.span.clone()),
    )
}

/// The deployment's secret, made at the first use and kept in the state folder, readable by its owner alone.
pub fn secret(session: &Session, deployment: &Deployment) -> Result<DeploymentSecret> {
    let path = session
        .paths
        .state
        .join("deployments")
        .join(deployment.name.to_string())
        .join("secret");
    if !path.exists() {
        let secret = new_secret()?;
        write_file(&path, secret.to_hex().as_bytes(), 0o600)?;
    }
    let text = fs::read_to_string(&path).map_err(|e| Diagnostic::io("read", &path, e))?;
    DeploymentSecret::from_hex(text.trim()).map_err(|error| {
        Diagnostic::failed("FR-SECRET", format!("{}: {error}", path.display())).with_hint(
            "restore it from a backup; without it the passwords of running machines are lost",
        )
    })
}

/// A secret that nobody has.
pub fn new_secret() -> Result<DeploymentSecret> {
    let mut bytes = [0; 32];
    fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .map_err(|e| Diagnostic::io("read", Path::new("/dev/urandom"), e))?;
    Ok(DeploymentSecret::from_bytes(bytes))
}

/// The seed of every machine; `checks` are commands that a machine runs once it is ready.
pub fn seeds(
    loaded: &Loaded,
    secret: &DeploymentSecret,
    checks: &[(String, String)],
) -> Result<Vec<Seed>> {
    let machines = loaded.deployment.machines();
    for (node, _) in checks {
        if !machines
            .iter()
            .any(|machine| machine.name.to_string() == *node)
        {
            let names: Vec<String> = machines
                .iter()
                .map(|machine| machine.name.to_string())
                .collect();
            return Err(Diagnostic::invalid(
                "FR-DEPLOYMENT-NODE",
                format!("--check names `{node}`, which the deployment does not have"),
            )
            .with_hint(format!("its machines are: {}", names.join(", "))));
        }
    }
    machines
        .iter()
        .map(|machine| seed(loaded, machine, secret, checks))
        .collect()
}

fn seed(
    loaded: &Loaded,
    machine: &Machine,
    secret: &DeploymentSecret,
    checks: &[(String, String)],
) -> Result<Seed> {
    let name = machine.name.to_string();
    let own: Vec<Check> = checks
        .iter()
        .filter(|(node, _)| *node == name)
        .enumerate()
        .map(|(index, (_, command))| Check {
            name: format!("check-{}", index + 1),
            command: command.clone(),
            timeout_seconds: 120,
        })
        .collect();
    let fragment =
        bootstrap::seed::node_fragment(&loaded.deployment, &name, secret, GENERATION, &own)
            .map_err(|error| Diagnostic::failed(error.code(), error.to_string()))?;
    let id = format!("{}-{name}", loaded.deployment.name);
    Ok(seed_of(loaded, machine, &fragment, &id))
}

/// A machine that joins a cluster without being declared, and its seed.
pub fn joining(
    loaded: &Loaded,
    secret: &DeploymentSecret,
    cluster: &str,
    instance_id: &str,
    address: Ipv4Addr,
) -> Result<(Machine, Seed)> {
    let refuse = |error: bootstrap::Error| {
        Diagnostic::invalid(error.code(), error.to_string()).with_hint(
            "write a cluster with autoscale = true, and an instance id and address that nobody has",
        )
    };
    let deployment = &loaded.deployment;
    let own = Some(address).filter(|address| deployment.network.subnet.holds(*address));
    let own: Vec<Ipv4Addr> = own.into_iter().collect();
    let found = deployment.cluster(cluster).filter(|found| found.autoscale);
    let Some(found) = found else {
        return Err(Diagnostic::invalid(
            "FR-DEPLOYMENT-NODE",
            format!("the deployment has no cluster `{cluster}` with autoscale = true"),
        ));
    };
    let machine = bootstrap::join::machine(deployment, found, instance_id, &own).map_err(refuse)?;
    let fragment = bootstrap::seed::joining_fragment(deployment, found, secret, GENERATION, &[])
        .map_err(refuse)?;
    let seed = seed_of(loaded, &machine, &fragment, instance_id);
    Ok((machine, seed))
}

fn seed_of(loaded: &Loaded, machine: &Machine, fragment: &str, instance_id: &str) -> Seed {
    let name = machine.name.to_string();
    let macs = Macs::of(&loaded.deployment, machine);
    let prefix = loaded.deployment.network.subnet.prefix();
    let interfaces = [
        bootstrap::seed::Interface {
            id: "user".into(),
            mac: macs.user,
            addresses: vec![USER_NETWORK_ADDRESS.into()],
            dhcp4: false,
        },
        bootstrap::seed::Interface {
            id: "private".into(),
            mac: macs.private,
            addresses: vec![format!("{}/{prefix}", machine.address)],
            dhcp4: false,
        },
    ];
    Seed {
        user_data: bootstrap::seed::user_data(&loaded.text, fragment),
        meta_data: bootstrap::seed::meta_data(instance_id, &name),
        network_config: bootstrap::seed::network_config(&interfaces),
        machine: name,
    }
}

/// A machine's two hardware addresses: QEMU's prefix, then bytes that follow from deployment and address.
pub struct Macs {
    /// Of the interface with the host's forwarded ports.
    pub user: String,
    /// Of the interface on the private segment.
    pub private: String,
}

impl Macs {
    /// The addresses of a machine, the same in its seed and in QEMU's arguments.
    pub fn of(deployment: &Deployment, machine: &Machine) -> Self {
        let digest = Sha256::digest(format!("{} {}", deployment.name, machine.address));
        let mac = |last: u8| {
            format!(
                "52:54:00:{:02x}:{:02x}:{:02x}",
                digest[0],
                digest[1],
                (digest[2] & 0xfe) | last
            )
        };
        Self {
            user: mac(0),
            private: mac(1),
        }
    }
}

/// The certificate of the deployment's authority, beside the credentials.
pub fn ca_path(credentials: &Path) -> PathBuf {
    credentials.with_file_name("ca.crt")
}

/// Writes what the operator needs: passwords per cluster and user, readable by its owner alone, and beside them the
/// authority's certificate, for `sslrootcert` and browsers.
pub fn write_credentials(
    path: &Path,
    deployment: &Deployment,
    secret: &DeploymentSecret,
) -> Result<()> {
    let mut clusters = BTreeMap::new();
    for cluster in &deployment.clusters {
        let own = cluster_secret(secret, GENERATION, &cluster.name.to_string());
        let names = cluster.users.iter().map(|user| user.name.to_string());
        let names = PLATFORM_USERS
            .iter()
            .map(|name| (*name).to_owned())
            .chain(names);
        clusters.insert(cluster.name.to_string(), passwords(&own, names));
    }
    let ca = bootstrap::pki::ca_certificate(secret, GENERATION, deployment)
        .map_err(|error| Diagnostic::failed(error.code(), error.to_string()))?;
    write_file(&ca_path(path), ca.as_bytes(), 0o644)?;
    let etcd_root = deployment_password(secret, GENERATION, "etcd-root");
    let document = serde_json::json!({
        "schema": 1,
        "deployment": deployment.name.to_string(),
        "clusters": clusters,
        "infrastructure": {"etcd-root": etcd_root},
    });
    write_file(path, format!("{document:#}\n").as_bytes(), 0o600)
}

fn passwords(
    secret: &ClusterSecret,
    names: impl Iterator<Item = String>,
) -> BTreeMap<String, String> {
    names
        .map(|name| (name.clone(), password(secret, GENERATION, &name)))
        .collect()
}

/// Writes each seed into a folder of its own, readable by its owner alone; returns the folders.
pub fn write_seeds(out: &Path, seeds: &[Seed]) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(out).map_err(|e| Diagnostic::io("create", out, e))?;
    seeds
        .iter()
        .map(|seed| {
            let dir = out.join(&seed.machine);
            fs::create_dir_all(&dir).map_err(|e| Diagnostic::io("create", &dir, e))?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))
                .map_err(|e| Diagnostic::io("protect", &dir, e))?;
            for (name, text) in [
                ("user-data", &seed.user_data),
                ("meta-data", &seed.meta_data),
                ("network-config", &seed.network_config),
            ] {
                write_file(&dir.join(name), text.as_bytes(), 0o600)?;
            }
            Ok(dir)
        })
        .collect()
}
