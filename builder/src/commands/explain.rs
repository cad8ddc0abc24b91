//! `farrow explain`: the first boot of a machine, rehearsed here.

use std::path::Path;

use crate::cli::ExplainArgs;
use crate::commands::write_file;
use crate::deployment;
use crate::diagnostic::{Diagnostic, Result};
use crate::embedded;
use crate::session::Session;

/// Prints the plan of a machine. Nothing secret is shown: contents of secret files appear as digests.
pub fn run(session: &Session, args: &ExplainArgs) -> Result<()> {
    let work =
        tempfile::tempdir().map_err(|e| Diagnostic::io("create", &std::env::temp_dir(), e))?;
    let services = work.path().join("services");
    for (path, content) in embedded::catalogue() {
        write_file(&services.join(path), content, 0o644)?;
    }
    let metadata = match (&args.metadata, &args.deployment, &args.node) {
        (Some(metadata), _, _) => metadata.clone(),
        (None, Some(name), Some(node)) => write_metadata(session, work.path(), name, node)?,
        // clap requires one of the two forms.
        _ => {
            return Err(Diagnostic::invalid(
                "FR-USAGE",
                "give a deployment with --node, or --metadata",
            ));
        }
    };
    let image = write_image(work.path())?;
    let facts = bootstrap::Facts::probe();
    let plan = bootstrap::explain(&metadata, &services, &image, &facts)
        .map_err(|error| refused(&error))?;
    session.say(plan.to_text(false).trim_end());
    session.finish(serde_json::json!({"plan": plan}))
}

/// The image that farrow itself would bake: its name and version.
fn write_image(work: &Path) -> Result<bootstrap::Image> {
    let path = work.join("image.json");
    let text = serde_json::json!({"name": "pigsty", "version": env!("CARGO_PKG_VERSION"), "repository": "pigsty"});
    write_file(&path, text.to_string().as_bytes(), 0o644)?;
    bootstrap::Image::load(&path).map_err(|error| refused(&error))
}

fn refused(error: &bootstrap::Error) -> Diagnostic {
    let mut found = Diagnostic::invalid(error.code(), error.to_string());
    found.hint = error.hint();
    found
}

fn write_metadata(
    session: &Session,
    work: &Path,
    name: &str,
    node: &str,
) -> Result<std::path::PathBuf> {
    let loaded = deployment::load(name)?;
    let secret = deployment::secret(session, &loaded.deployment)?;
    let seeds = deployment::seeds(&loaded, &secret, &[])?;
    let names: Vec<&str> = seeds.iter().map(|seed| seed.machine.as_str()).collect();
    if !names.contains(&node) {
        return Err(Diagnostic::invalid(
            "FR-DEPLOYMENT-NODE",
            format!("the deployment has no machine `{node}`"),
        )
        .with_hint(format!("its machines are: {}", names.join(", "))));
    }
    deployment::write_seeds(&work.join("seeds"), &seeds)?;
    Ok(work.join("seeds").join(node))
}
