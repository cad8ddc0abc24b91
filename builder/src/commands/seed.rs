//! `farrow seed`: each machine's metadata, as files and as NoCloud volumes.

use images::seed::SeedFiles;
use serde_json::json;

use crate::cli::SeedArgs;
use crate::deployment;
use crate::diagnostic::{Diagnostic, Result};
use crate::session::{Done, Session};
use crate::stages;

/// Writes them; everything is readable by its owner alone, since it holds secrets.
pub fn run(session: &Session, args: &SeedArgs) -> Result<()> {
    let loaded = deployment::load(&args.deployment)?;
    let secret = deployment::secret(session, &loaded.deployment)?;
    let seeds = match (&args.join, &args.instance_id, args.address) {
        (Some(cluster), Some(id), Some(address)) => {
            vec![deployment::joining(&loaded, &secret, cluster, id, address)?.1]
        }
        _ => deployment::seeds(&loaded, &secret, &args.check)?,
    };
    let out = std::path::absolute(&args.out).map_err(|e| Diagnostic::io("find", &args.out, e))?;
    let folders = deployment::write_seeds(&out, &seeds)?;
    deployment::write_credentials(&out.join("credentials.json"), &loaded.deployment, &secret)?;
    if !args.no_images {
        let tools = stages::tools(session, stages::ToolsSource::Archive)?;
        session.stage("seed", |stage| {
            for seed in &seeds {
                stage.step(&seed.machine);
                let volume = out.join(&seed.machine).join("seed.img");
                let files = SeedFiles {
                    user_data: seed.user_data.clone(),
                    meta_data: seed.meta_data.clone(),
                    network_config: seed.network_config.clone(),
                };
                files.write(&tools, &volume)?;
                session.add_file("seed", &volume)?;
            }
            Ok(Done::made(()))
        })?;
    }
    for folder in &folders {
        session.say(&folder.display().to_string());
    }
    session.finish(json!({"seeds": folders}))
}
