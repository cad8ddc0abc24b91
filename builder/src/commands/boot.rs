//! `farrow image boot`: machines from an image, up to their own reports.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use images::architecture::Architecture;
use images::qemu_command::{DiskBus, Firmware, ImageFormat as DiskFormat};
use images::qemu_disks;
use images::qemu_fleet::Event;
use images::secure_boot::signer::certificate_from_pem;
use images::tools::ToolsTree;
use serde_json::{Value, json};

use crate::boot_report;
use crate::boot_seed;
use crate::boot_timeline::Seen;
use crate::cli::{BootDisk, ImageBootArgs};
use crate::diagnostic::{Diagnostic, Result};
use crate::interrupt;
use crate::machines::qemu::Boot;
use crate::machines::{Machines, wait_ready};
use crate::session::{Done, Session};
use crate::stages;

/// What was seen of a machine, since when it is on.
struct Watched {
    name: String,
    on: Instant,
    seen: Seen,
}

/// Boots, waits, reports; fails when a machine does not become ready or one of its checks fails.
pub fn run(session: &Session, args: &ImageBootArgs) -> Result<()> {
    let image =
        std::path::absolute(&args.image).map_err(|e| Diagnostic::io("find", &args.image, e))?;
    let (format, firmware) = (format(&image)?, firmware(args)?);
    let planned = boot_seed::plan(args)?;
    let (architecture, tools) = tools(session, &image, format)?;
    check_firmware(args, architecture)?;
    let work = tempfile::Builder::new()
        .prefix("farrow-boot-")
        .tempdir()
        .map_err(|e| Diagnostic::io("create", &std::env::temp_dir(), e))?;
    interrupt::clean_on_interrupt(work.path());
    let boot = Boot {
        tools,
        architecture,
        image,
        format,
        firmware,
        data_mib: args.data_disk,
        disk_bus: disk_bus(args.disk),
        run_dir: work.path().join("run"),
        cache: session.paths.cache.clone(),
        keep_disks: false,
    };
    let run_dir = boot.run_dir.clone();
    let mut started = None;
    let mut watched = Vec::new();
    let outcome = session.stage("boot", |stage| {
        let mut machines = Machines::in_qemu(boot, planned, &[])?;
        if args.tolerant {
            machines.tolerate_failures();
        }
        let machines = started.insert(Mutex::new(machines));
        watched = watch(machines);
        let mut note = |event: Event<'_>| note(&mut watched, event);
        wait_ready(
            machines,
            Duration::from_secs(args.timeout),
            stage,
            &mut note,
        )?;
        Ok(Done::made(()))
    });
    let nodes = started.map_or_else(Vec::new, |machines| {
        machines.into_inner().expect("no panic holds it").to_json()
    });
    // The machines and their disks are gone by now: nobody needs them any more.
    let nodes = with_timelines(nodes, &watched);
    let outcome = outcome.and_then(|()| refuse_failed(&nodes));
    keep(session, args, &run_dir, &watched, &nodes, &outcome)?;
    outcome.map_err(|error| error.with_result(json!({"ready": false, "nodes": nodes.clone()})))?;
    session.say("ready");
    session.finish(json!({"ready": true, "nodes": nodes}))
}

fn format(image: &Path) -> Result<DiskFormat> {
    match image.extension().and_then(|extension| extension.to_str()) {
        Some("qcow2") => Ok(DiskFormat::Qcow2),
        Some("raw") => Ok(DiskFormat::Raw),
        Some("vmdk") => Ok(DiskFormat::Vmdk),
        Some("vhd") => Ok(DiskFormat::Vhd),
        _ => Err(Diagnostic::invalid(
            "FR-IMAGE-FORMAT",
            format!("{} is none of .raw, .qcow2, .vmdk, .vhd", image.display()),
        )),
    }
}

/// What the image runs on, and the tools tree with its QEMU. What cannot be told is taken for amd64: the machine's firmware
/// then says what is wrong.
fn tools(session: &Session, image: &Path, format: DiskFormat) -> Result<(Architecture, ToolsTree)> {
    let present = |architecture| {
        let recipe = stages::tools_recipe(architecture);
        stages::tools_of(session, recipe, stages::ToolsSource::Present)
    };
    // Either tree can read an image, and there may be one of them only.
    let any = present(Architecture::Amd64);
    let any = any.or_else(|missing| present(Architecture::Arm64).map_err(|_| missing))?;
    let found = qemu_disks::architecture(image, format, &any)?;
    let architecture = found.unwrap_or(Architecture::Amd64);
    Ok((architecture, present(architecture)?))
}

/// Refuses a BIOS for machines that have none.
fn check_firmware(args: &ImageBootArgs, architecture: Architecture) -> Result<()> {
    if !args.bios || architecture.has_bios() {
        return Ok(());
    }
    let message = format!("machines of {} have no BIOS", architecture.debian());
    Err(Diagnostic::invalid("FR-IMAGE-FIRMWARE", message).with_hint("leave out --bios"))
}

fn firmware(args: &ImageBootArgs) -> Result<Firmware> {
    let Some(path) = &args.secure_boot else {
        return Ok(match args.bios {
            true => Firmware::Bios,
            false => Firmware::Uefi,
        });
    };
    let text = fs::read_to_string(path).map_err(|e| Diagnostic::io("read", path, e))?;
    let certificate = certificate_from_pem(&text).map_err(|reason| {
        Diagnostic::invalid("FR-KEYS", format!("{}: {reason}", path.display()))
            .with_hint("make keys with `farrow image keys DIR`")
    })?;
    Ok(Firmware::SecureBoot(certificate))
}

fn disk_bus(disk: BootDisk) -> DiskBus {
    match disk {
        BootDisk::Virtio => DiskBus::Virtio,
        BootDisk::Nvme => DiskBus::Nvme,
        BootDisk::Scsi => DiskBus::VirtioScsi,
        BootDisk::Pvscsi => DiskBus::Pvscsi,
    }
}

fn watch(machines: &Mutex<Machines>) -> Vec<Watched> {
    let machines = machines.lock().expect("no panic holds it");
    let watched = machines.switched_on().map(|(name, on)| Watched {
        name: name.to_owned(),
        on,
        seen: Seen::default(),
    });
    watched.collect()
}

fn note(watched: &mut [Watched], event: Event<'_>) {
    let (Event::Console { machine, .. } | Event::Status { machine, .. }) = event;
    let Some(found) = watched.iter_mut().find(|found| found.name == machine) else {
        return;
    };
    let at = found.on.elapsed().as_secs_f64();
    match event {
        Event::Console { line, .. } => found.seen.console(at, line),
        Event::Status { status, .. } => found.seen.status(at, status),
    }
}

fn with_timelines(nodes: Vec<Value>, watched: &[Watched]) -> Vec<Value> {
    let add = |mut node: Value| {
        let found = watched.iter().find(|found| node["name"] == found.name[..]);
        node["timeline"] = json!(found.map(|found| found.seen.timeline()));
        node
    };
    nodes.into_iter().map(add).collect()
}

/// The first check that failed, as an error.
fn refuse_failed(nodes: &[Value]) -> Result<()> {
    let checks = nodes.iter().flat_map(|node| {
        let checks = node["checks"].as_array().into_iter().flatten();
        checks.map(move |check| (&node["name"], check))
    });
    let mut failed = checks.filter(|(_, check)| check["exit"] != 0);
    match failed.next() {
        None => Ok(()),
        Some((node, check)) => Err(Diagnostic::failed(
            "FR-IMAGE-CHECK",
            format!(
                "check `{}` of {} failed: {}",
                check["name"].as_str().unwrap_or("?"),
                node.as_str().unwrap_or("?"),
                check["stderr"].as_str().unwrap_or_default().trim()
            ),
        )),
    }
}

/// Writes the serial logs and the report, however the boot ended.
fn keep(
    session: &Session,
    args: &ImageBootArgs,
    run_dir: &Path,
    watched: &[Watched],
    nodes: &[Value],
    outcome: &Result<()>,
) -> Result<()> {
    let serial = |name: &str| fs::read(run_dir.join(name).join("serial.log")).unwrap_or_default();
    if let Some(kept) = &args.serial_log {
        for found in watched {
            let path = match watched.len() {
                1 => kept.clone(),
                _ => PathBuf::from(format!("{}.{}", kept.display(), found.name)),
            };
            super::write_file(&path, &serial(&found.name), 0o600)?;
        }
    }
    let Some(path) = &args.report else {
        return Ok(());
    };
    let machines = watched.iter().map(|found| boot_report::Machine {
        name: found.name.clone(),
        timeline: found.seen.timeline(),
        node: nodes
            .iter()
            .find(|node| node["name"] == found.name[..])
            .cloned()
            .unwrap_or_default(),
        serial: serial(&found.name),
    });
    let outcome = match outcome {
        Ok(()) => "ready".to_owned(),
        Err(error) => error.render(false),
    };
    let page = boot_report::page(
        &args.image.display().to_string(),
        &settings(args),
        &outcome,
        &machines.collect::<Vec<_>>(),
    );
    // The console of a machine may hold what is nobody else's business.
    super::write_file(path, page.as_bytes(), 0o600)?;
    session.add_file("boot-report", path)
}

fn settings(args: &ImageBootArgs) -> String {
    let firmware = match (args.bios, &args.secure_boot) {
        (true, _) => "BIOS",
        (false, Some(_)) => "UEFI with Secure Boot",
        (false, None) => "UEFI",
    };
    format!(
        "{firmware}, disk {}, {} processors, {} MiB",
        args.disk.name(),
        args.cpus,
        args.memory
    )
}
