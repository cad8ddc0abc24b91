//! `farrow up`: from a recipe and a deployment to machines that are ready.

use std::time::Duration;

use images::qemu_command::ImageFormat as DiskFormat;
use serde_json::json;

use crate::bake;
use crate::cli::UpArgs;
use crate::deployment;
use crate::diagnostic::{Diagnostic, Result};
use crate::interrupt;
use crate::machines::{self, Boot, Machines};
use crate::recipe::{ImageFormat, Recipe};
use crate::session::{Done, Session};
use crate::stages;

/// How often the machines are looked after while they run.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// Lock, repository, tools, image, machines; then waits for ctrl-C, or stops when `--until-ready` says so.
pub fn run(session: &Session, args: &UpArgs) -> Result<()> {
    let recipe = Recipe::load(&args.recipe)?;
    let loaded = deployment::load(&args.deployment)?;
    let catalogue = stages::catalogue()?;
    let out = std::path::absolute(&args.out).map_err(|e| Diagnostic::io("find", &args.out, e))?;
    let secret = deployment::secret(session, &loaded.deployment)?;
    let seeds = deployment::seeds(&loaded, &secret, &args.check)?;

    let lock = stages::lock(
        session,
        &recipe,
        &out.join(format!("{}.lock", recipe.name)),
        false,
    )?;
    let repository = stages::repository(session, &recipe, &lock, &out)?;
    let tools = stages::tools(session, stages::ToolsSource::Archive)?;
    let formats = [ImageFormat::Raw, ImageFormat::Qcow2];
    let image = bake::image(
        session,
        &recipe,
        &repository.path,
        &tools,
        &formats,
        &out.join("image"),
    )?;
    let credentials = out.join("credentials.json");
    deployment::write_credentials(&credentials, &loaded.deployment, &secret)?;
    session.add_file("credentials", &credentials)?;

    let planned = machines::plan(&loaded.deployment, &catalogue, seeds, &args.check);
    let boot = Boot {
        tools: &tools,
        image: image.path("image-qcow2")?,
        format: DiskFormat::Qcow2,
        run_dir: out.join("run").join(loaded.deployment.name.to_string()),
        cache: session.paths.cache.clone(),
        keep_disks: args.keep_disks,
    };
    let mut machines = session.stage("boot", |stage| {
        interrupt::clean_on_interrupt(&boot.run_dir);
        let mut machines = Machines::start(&boot, planned)?;
        machines.wait_ready(Duration::from_secs(args.timeout), stage)?;
        Ok(Done::made(machines))
    })?;
    report(session, &machines)?;
    if !args.until_ready {
        wait_for_interrupt(session, &mut machines)?;
    }
    session.detail("shutting the machines down");
    machines.stop()?;
    Ok(())
}

/// The endpoints and where the time went.
fn report(session: &Session, machines: &Machines) -> Result<()> {
    session.say("");
    session.say(&machines.table());
    session.say("");
    for stage in session.stages() {
        let note = if stage.reused { "  unchanged" } else { "" };
        session.say(&format!("{:>8.1} s  {}{note}", stage.seconds, stage.name));
    }
    session.finish(json!({"ready": true, "nodes": machines.to_json()}))
}

fn wait_for_interrupt(session: &Session, machines: &mut Machines) -> Result<()> {
    interrupt::handle_gracefully();
    session.say("\nready; ctrl-C shuts the machines down");
    while !interrupt::requested() {
        machines.check_running()?;
        std::thread::sleep(WATCH_INTERVAL);
    }
    Ok(())
}
