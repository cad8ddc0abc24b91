//! `farrow image boot`: one machine from an image and a seed folder, up to its own report.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use images::qemu_command::ImageFormat as DiskFormat;
use images::seed::SeedFiles;
use serde_json::json;

use crate::cli::ImageBootArgs;
use crate::deployment::Macs;
use crate::diagnostic::{Diagnostic, Result};
use crate::interrupt;
use crate::machines::qemu::Boot;
use crate::machines::{Machines, Planned, wait_ready};
use crate::session::{Done, Session};
use crate::stages;

/// Boots, waits, reports; fails when the machine does not become ready or one of its seed's checks fails.
pub fn run(session: &Session, args: &ImageBootArgs) -> Result<()> {
    let image =
        std::path::absolute(&args.image).map_err(|e| Diagnostic::io("find", &args.image, e))?;
    let format = match image.extension().and_then(|extension| extension.to_str()) {
        Some("qcow2") => DiskFormat::Qcow2,
        Some("raw") => DiskFormat::Raw,
        _ => {
            return Err(Diagnostic::invalid(
                "FR-IMAGE-FORMAT",
                format!("{} is neither .raw nor .qcow2", image.display()),
            ));
        }
    };
    let tools = stages::tools(session, stages::ToolsSource::Present)?;
    let work = tempfile::Builder::new()
        .prefix("farrow-boot-")
        .tempdir()
        .map_err(|e| Diagnostic::io("create", &std::env::temp_dir(), e))?;
    interrupt::clean_on_interrupt(work.path());
    let boot = Boot {
        tools,
        image,
        format,
        run_dir: work.path().join("run"),
        cache: session.paths.cache.clone(),
        keep_disks: false,
    };
    let planned = planned(args)?;
    let outcome = session.stage("boot", |stage| {
        let machines = Mutex::new(Machines::in_qemu(boot, vec![planned], &[])?);
        wait_ready(&machines, Duration::from_secs(args.timeout), stage)?;
        Ok(Done::made(
            machines.into_inner().expect("no panic holds it"),
        ))
    });
    if let (Some(kept), Ok(log)) = (
        &args.serial_log,
        fs::read(work.path().join("run/machine/serial.log")),
    ) {
        super::write_file(kept, &log, 0o600)?;
    }
    let mut machines = outcome?;
    let nodes = machines.to_json();
    let failed = nodes
        .iter()
        .flat_map(|node| node["checks"].as_array().cloned().unwrap_or_default())
        .find(|check| check["exit"] != 0);
    machines.stop()?;
    if let Some(check) = failed {
        return Err(Diagnostic::failed(
            "FR-IMAGE-CHECK",
            format!(
                "check `{}` failed: {}",
                check["name"].as_str().unwrap_or("?"),
                check["stderr"].as_str().unwrap_or_default().trim()
            ),
        ));
    }
    session.say("ready");
    session.finish(json!({"ready": true, "nodes": nodes}))
}

/// A machine whose hardware addresses are those that its seed's network-config matches.
fn planned(args: &ImageBootArgs) -> Result<Planned> {
    let read = |name: &str| {
        let path = args.seed.join(name);
        fs::read_to_string(&path).map_err(|e| {
            Diagnostic::io("read", &path, e).with_hint("make the folder with `farrow seed`")
        })
    };
    let (user_data, network_config) = (read("user-data")?, read("network-config")?);
    let macs = hardware_addresses(&network_config, &args.seed)?;
    let checks = user_data
        .lines()
        .filter(|line| line.trim() == "[[check]]")
        .count();
    Ok(Planned {
        name: "machine".into(),
        meta: false,
        address: String::new(),
        size: (args.memory, args.cpus, 8),
        macs,
        ports: Vec::new(),
        seed: SeedFiles {
            user_data,
            meta_data: read("meta-data")?,
            network_config,
        },
        checks: vec![String::new(); checks],
    })
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
