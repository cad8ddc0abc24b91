//! The machines that `farrow image boot` starts: those of a seed folder, or of a deployment made for the purpose.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use bootstrap::Deployment;
use bootstrap::seed::user_data;
use bootstrap::userdata::{self, Document};
use images::seed::SeedFiles;

use crate::cli::ImageBootArgs;
use crate::deployment::{self, Loaded, Macs};
use crate::diagnostic::{Diagnostic, Result};
use crate::machines::{self, Planned};
use crate::stages;

/// Size of a machine's disk in GiB.
const DISK_GIB: u64 = 8;
/// How long a check may take, in seconds.
const CHECK_SECONDS: u32 = 120;

/// What is started.
pub fn plan(args: &ImageBootArgs) -> Result<Vec<Planned>> {
    match &args.seed {
        Some(folder) => given(folder, args),
        None => made(args),
    }
}

/// One meta node and, when more are asked for, a cluster of database nodes; with secrets that nobody keeps.
fn made(args: &ImageBootArgs) -> Result<Vec<Planned>> {
    let text = deployment_text(args.nodes);
    let deployment = Deployment::parse(&text)
        .map_err(|error| deployment::from_bootstrap(&error, "the deployment", &text))?;
    let loaded = Loaded { text, deployment };
    let machines = loaded.deployment.machines();
    let checks: Vec<(String, String)> = machines
        .iter()
        .flat_map(|machine| {
            let name = machine.name.to_string();
            let of_machine = move |command: &String| (name.clone(), command.clone());
            args.check.iter().map(of_machine)
        })
        .collect();
    let seeds = deployment::seeds(&loaded, &deployment::new_secret()?, &checks)?;
    let catalogue = stages::catalogue()?;
    let planned = machines::plan(&loaded.deployment, &catalogue, seeds, &checks);
    let sized = planned.into_iter().map(|planned| Planned {
        size: (args.memory, args.cpus, DISK_GIB),
        ports: Vec::new(),
        ..planned
    });
    Ok(sized.collect())
}

fn deployment_text(nodes: u8) -> String {
    let member = |seq: u8, address: u8, role: &str| {
        format!(
            "\n[[cluster.member]]\nseq = {seq}\naddress = \"10.10.10.{address}\"\nrole = \"{role}\"\n"
        )
    };
    let mut text = String::from(
        "schema = 1\nname = \"boot-test\"\ndomain = \"boot.test\"\nntp = []\ndcs = \"etcd\"\n\
         \n[network]\nsubnet = \"10.10.10.0/24\"\n\
         \n[[meta]]\nname = \"meta\"\naddress = \"10.10.10.10\"\n\
         \n[[cluster]]\nname = \"pg-meta\"\n",
    );
    text += &member(1, 10, "primary");
    if nodes > 1 {
        text += "\n[[cluster]]\nname = \"pg-test\"\n";
    }
    for number in 1..nodes {
        let role = if number == 1 { "primary" } else { "replica" };
        text += &member(number, 10 + number, role);
    }
    text
}

/// The machine of a folder that `farrow seed` made, or all machines of the folder above.
fn given(folder: &Path, args: &ImageBootArgs) -> Result<Vec<Planned>> {
    if folder.join("user-data").exists() {
        return Ok(vec![read(folder, "machine", args)?]);
    }
    let entries = fs::read_dir(folder).map_err(|e| Diagnostic::io("list", folder, e))?;
    let mut folders: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("user-data").exists())
        .collect();
    folders.sort();
    if folders.is_empty() {
        // The message of the file that is missing.
        return Ok(vec![read(folder, "machine", args)?]);
    }
    folders
        .iter()
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            read(path, &name, args)
        })
        .collect()
}

/// A machine whose hardware addresses are those that its seed's network-config matches.
fn read(folder: &Path, name: &str, args: &ImageBootArgs) -> Result<Planned> {
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).map_err(|e| {
            Diagnostic::io("read", &path, e).with_hint("make the folder with `farrow seed`")
        })
    };
    let (own, network_config) = (read("user-data")?, read("network-config")?);
    let own_checks = own
        .lines()
        .filter(|line| line.trim() == "[[check]]")
        .count();
    let mut checks = vec![String::new(); own_checks];
    checks.extend(args.check.iter().cloned());
    Ok(Planned {
        name: name.to_owned(),
        meta: false,
        address: String::new(),
        size: (args.memory, args.cpus, DISK_GIB),
        macs: hardware_addresses(&network_config, folder)?,
        ports: Vec::new(),
        seed: SeedFiles {
            user_data: with_checks(&own, &args.check, folder)?,
            meta_data: read("meta-data")?,
            network_config,
        },
        checks,
    })
}

/// User-data with further checks in the machine's own part.
fn with_checks(own: &str, checks: &[String], folder: &Path) -> Result<String> {
    if checks.is_empty() {
        return Ok(own.to_owned());
    }
    let found = userdata::parse(own)
        .map_err(|error| Diagnostic::invalid(error.code(), error.to_string()))?;
    let (Some(Document::Toml(deployment)), Some(Document::Toml(mut node))) =
        (found.deployment, found.node)
    else {
        let message = format!(
            "{}: user-data has no node fragment in TOML, to which --check could add",
            folder.display()
        );
        return Err(Diagnostic::invalid("FR-SEED-CHECK", message)
            .with_hint("make the folder with `farrow seed`, or leave --check out"));
    };
    for (number, command) in (1..).zip(checks) {
        let command = toml::Value::from(command.as_str());
        let _ = write!(
            node,
            "\n[[check]]\nname = \"boot-{number}\"\ncommand = {command}\ntimeout_seconds = {CHECK_SECONDS}\n"
        );
    }
    Ok(user_data(&deployment, &node))
}

fn hardware_addresses(network_config: &str, seed: &Path) -> Result<Macs> {
    let mut found = network_config
        .split(|c: char| !(c.is_ascii_hexdigit() || c == ':'))
        .filter(|word| word.len() == 17 && word.matches(':').count() == 5);
    match (found.next(), found.next()) {
        (Some(user), Some(private)) => Ok(Macs {
            user: user.into(),
            private: private.into(),
        }),
        _ => Err(Diagnostic::invalid(
            "FR-SEED-NETWORK",
            format!(
                "{}: network-config names no two hardware addresses",
                seed.display()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deployments_of_any_size_are_valid() {
        for nodes in [1, 2, 5] {
            let deployment = Deployment::parse(&deployment_text(nodes)).unwrap();
            assert_eq!(deployment.machines().len(), usize::from(nodes));
        }
    }

    #[test]
    fn checks_are_added_to_what_a_seed_has() {
        let own = user_data("schema = 1\n", "schema = 1\n[[check]]\nname = \"a\"\n");
        let checks = ["echo \"b\" 'c'".to_owned()];
        let text = with_checks(&own, &checks, Path::new("seed")).unwrap();
        let Some(Document::Toml(node)) = userdata::parse(&text).unwrap().node else {
            panic!("{text}");
        };
        let node: toml::Table = node.parse().unwrap();
        let found = node["check"].as_array().unwrap();
        assert_eq!(found[1]["command"].as_str(), Some("echo \"b\" 'c'"));
        let other = with_checks("#farrow-deployment\n", &checks, Path::new("seed")).unwrap_err();
        crate::golden::golden("FR-SEED-CHECK", &other.render(false));
    }
}
