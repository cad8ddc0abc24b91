//! `farrow up`: from a recipe and a deployment to machines that are ready.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bootstrap::Deployment;
use images::qemu_command::{DiskBus, Firmware, ImageFormat as DiskFormat};
use images::tools::ToolsTree;
use serde_json::json;

use crate::bake;
use crate::cli::UpArgs;
use crate::control::{self, Control};
use crate::deployment;
use crate::diagnostic::{Diagnostic, Result};
use crate::interrupt;
use crate::locks::{self, Upgrade};
use crate::machines::joining::Joining;
use crate::machines::{self, Machines, Planned, TICK, containers, qemu, wait_ready};
use crate::recipe::{ImageFormat, Recipe};
use crate::session::{Done, Session};
use crate::stages;

/// Lock, repository, tools, image, machines; then waits for ctrl-C, or stops when `--until-ready` says so.
pub fn run(session: &Session, args: &UpArgs) -> Result<()> {
    let recipe = Recipe::load(&args.recipe)?;
    if args.containers {
        containers::check_processor(&recipe)?;
        containers::check_possible()?;
    }
    let loaded = deployment::load(&args.deployment)?;
    let catalogue = stages::catalogue()?;
    let out = std::path::absolute(&args.out).map_err(|e| Diagnostic::io("find", &args.out, e))?;
    let secret = deployment::secret(session, &loaded.deployment)?;
    let seeds = deployment::seeds(&loaded, &secret, &args.check)?;
    check_delays(&loaded.deployment, &args.start_delays)?;

    let path = out.join(format!("{}.lock", recipe.name));
    let lock = locks::lock(session, &recipe, &path, &Upgrade::Nothing)?;
    let repository = stages::repository(session, &recipe, &lock, &Default::default(), &out)?;
    let kind = stages::tools_recipe(recipe.processor()?);
    let tools = stages::tools_of(session, kind, stages::ToolsSource::Archive)?;
    let credentials = out.join("credentials.json");
    deployment::write_credentials(&credentials, &loaded.deployment, &secret)?;
    session.add_file("credentials", &credentials)?;
    session.add_file("ca", &deployment::ca_path(&credentials))?;
    let planned = machines::plan(&loaded.deployment, &catalogue, seeds, &args.check);
    let inputs = Inputs {
        args,
        recipe: &recipe,
        repository: &repository.path,
        tools: &tools,
        run_dir: out.join("run").join(loaded.deployment.name.to_string()),
        out: &out,
    };
    let joining = Joining {
        catalogue,
        secret,
        loaded,
    };
    let boot = match args.containers {
        true => Boot::Containers(from_tree(session, &inputs, &joining.loaded.deployment)?),
        false => Boot::Qemu(from_image(session, &inputs)?),
    };
    control::check_free(&inputs.run_dir)?;
    let (machines, control) = session.stage("boot", |stage| {
        interrupt::clean_on_interrupt(&inputs.run_dir);
        let machines = Arc::new(Mutex::new(boot.start(planned, &args.start_delays)?));
        let control = Control::start(&inputs.run_dir, &machines, joining)?;
        wait_ready(
            &machines,
            Duration::from_secs(args.timeout),
            stage,
            &mut |_| (),
        )?;
        Ok(Done::made((machines, control)))
    })?;
    report(session, &machines)?;
    if !args.until_ready {
        wait_for_interrupt(session, &machines)?;
    }
    session.detail("shutting the machines down");
    drop(control);
    machines.lock().expect("no panic holds it").stop()
}

/// What machines are started from.
struct Inputs<'a> {
    args: &'a UpArgs,
    recipe: &'a Recipe,
    repository: &'a Path,
    tools: &'a ToolsTree,
    run_dir: PathBuf,
    out: &'a Path,
}

/// How machines are started.
enum Boot {
    Qemu(qemu::Boot),
    Containers(containers::Boot),
}

impl Boot {
    fn start(self, planned: Vec<Planned>, delays: &machines::Delays) -> Result<Machines> {
        match self {
            Boot::Qemu(boot) => Machines::in_qemu(boot, planned, delays),
            Boot::Containers(boot) => Machines::in_containers(boot, planned, delays),
        }
    }
}

/// An image of all formats that `up` leaves behind.
fn from_image(session: &Session, inputs: &Inputs<'_>) -> Result<qemu::Boot> {
    let formats = [ImageFormat::Raw, ImageFormat::Qcow2];
    let image = bake::image(
        session,
        inputs.recipe,
        inputs.repository,
        inputs.tools,
        &formats,
        None,
        &inputs.out.join("image"),
    )?;
    Ok(qemu::Boot {
        tools: inputs.tools.clone(),
        architecture: inputs.recipe.processor()?,
        image: image.path("image-qcow2")?,
        format: DiskFormat::Qcow2,
        firmware: Firmware::default(),
        data_mib: None,
        disk_bus: DiskBus::default(),
        run_dir: inputs.run_dir.clone(),
        cache: session.paths.cache.clone(),
        keep_disks: inputs.args.keep_disks,
    })
}

/// The tree that an image would be packed from.
fn from_tree(
    session: &Session,
    inputs: &Inputs<'_>,
    deployment: &Deployment,
) -> Result<containers::Boot> {
    Ok(containers::Boot {
        tools: inputs.tools.clone(),
        tree: bake::tree(session, inputs.recipe, inputs.repository, inputs.tools)?.path,
        repository: (
            inputs.repository.to_owned(),
            Path::new("/www").join(&inputs.recipe.repository),
        ),
        run_dir: inputs.run_dir.clone(),
        keep_disks: inputs.args.keep_disks,
        host: containers::host_address(deployment)?,
    })
}

fn check_delays(deployment: &Deployment, delays: &[(String, Duration)]) -> Result<()> {
    let machines = deployment.machines();
    let names: Vec<String> = machines
        .iter()
        .map(|machine| machine.name.to_string())
        .collect();
    match delays.iter().find(|(name, _)| !names.contains(name)) {
        None => Ok(()),
        Some((unknown, _)) => Err(Diagnostic::invalid(
            "FR-DEPLOYMENT-NODE",
            format!("--start-delays names `{unknown}`, which the deployment does not have"),
        )
        .with_hint(format!("its machines are: {}", names.join(", ")))),
    }
}

/// The endpoints and where the time went.
fn report(session: &Session, machines: &Mutex<Machines>) -> Result<()> {
    let machines = machines.lock().expect("no panic holds it");
    session.say("");
    session.say(&machines.table());
    session.say("");
    for stage in session.stages() {
        let note = if stage.reused { "  unchanged" } else { "" };
        session.say(&format!("{:>8.1} s  {}{note}", stage.seconds, stage.name));
    }
    session.finish(json!({"ready": true, "nodes": machines.to_json()}))
}

fn wait_for_interrupt(session: &Session, machines: &Mutex<Machines>) -> Result<()> {
    interrupt::handle_gracefully();
    session.say("\nready; ctrl-C shuts the machines down");
    while !interrupt::requested() {
        machines
            .lock()
            .expect("no panic holds it")
            .check_running()?;
        std::thread::sleep(TICK);
    }
    Ok(())
}
