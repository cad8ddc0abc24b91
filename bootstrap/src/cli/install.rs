//! `upgrade`: another version beside the running one, and what came of the last.

use std::path::PathBuf;
use std::process::ExitCode;

use bootstrap::upgrade::{self, Request, UpgradeStatus};
use bootstrap::{Image, Result};
use clap::Args;

use super::{IMAGE, image, start_log};

#[derive(Debug, Args)]
pub(super) struct UpgradeArgs {
    /// File, or address with http:// and an IPv4 address
    #[arg(value_name = "FILE|URL", required_unless_present = "status")]
    source: Option<String>,
    /// Show the running version and what came of the last upgrade
    #[arg(long, conflicts_with = "source")]
    status: bool,
    /// Only check the signature and show what would be done
    #[arg(long)]
    dry_run: bool,
    /// How long a boot of the new version may take until the machine is ready
    #[arg(long, value_name = "SECONDS", default_value_t = upgrade::READY_WITHIN_SECONDS, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    ready_within: u64,
    /// Restart the machine afterwards
    #[arg(long, conflicts_with_all = ["status", "dry_run"])]
    reboot: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Description of the image
    #[arg(long, value_name = "FILE", default_value = IMAGE)]
    image: PathBuf,
}

/// Installs a version, or shows what there is.
pub(super) fn run(args: &UpgradeArgs) -> Result<ExitCode> {
    start_log();
    let image = image(&args.image)?;
    let Some(source) = &args.source else {
        return versions(&image, args.json);
    };
    let request = Request {
        source: source.clone(),
        ready_within_seconds: args.ready_within,
        dry_run: args.dry_run,
    };
    let plan = upgrade::upgrade(&request, &image)?;
    if args.json {
        let (from, to) = (&plan.from, &plan.to);
        let document = serde_json::json!({"from": from, "to": to, "slot": plan.disk.other.letter, "written": !args.dry_run});
        println!("{document}");
    } else if args.dry_run {
        print!("{}", plan.to_text());
    } else {
        println!("version {} is tried at the next boot", plan.to.version);
    }
    if args.reboot {
        upgrade::assess::reboot()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What runs, and what came of the last upgrade.
fn versions(image: &Image, json: bool) -> Result<ExitCode> {
    let found = UpgradeStatus::probe();
    if json {
        println!("{}", serde_json::json!({"image": image, "upgrade": found}));
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "running  {} {} in slot {}",
        image.name,
        image.version,
        found.slot.as_deref().unwrap_or("none")
    );
    if let Some(record) = &found.last {
        let outcome = format!("{:?}", record.outcome).to_lowercase();
        let reason = record
            .reason
            .as_ref()
            .map_or_else(String::new, |reason| format!(": {reason}"));
        println!(
            "{outcome:<8} {} in slot {}{reason}",
            record.to.version, record.slot
        );
    }
    Ok(ExitCode::SUCCESS)
}
