//! The command line: arguments, output and exit codes. The work is the library's.

mod install;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bootstrap::boot::{self, Options};
use bootstrap::follow::{self, Followed};
use bootstrap::inventory;
use bootstrap::status::{STATUS_FILE, State};
use bootstrap::store::{self, Access};
use bootstrap::upgrade::{self, UpgradeStatus};
use bootstrap::watch;
use bootstrap::{Error, Facts, Image, Plan, Result, Status};
use clap::{Args, Parser, Subcommand};
use systemd_journal_logger::JournalLog;

/// Where an image has its service catalogue.
const SERVICES: &str = "/usr/lib/farrow/services";

/// Where an image describes itself.
const IMAGE: &str = "/usr/lib/farrow/image.json";

/// Configures a Farrow machine from its metadata.
#[derive(Debug, Parser)]
#[command(name = "farrow-bootstrap", version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what `run` would do, for the machine with a NoCloud folder.
    Plan(PlanArgs),
    /// Configure this machine: network, files, services.
    Run(RunArgs),
    /// Show what the last run came to; exits with 0 when the machine is ready.
    Status(StatusArgs),
    /// Print this machine's facts as JSON, for `plan --facts`.
    Facts,
    /// Follow the members of clusters for ever: who comes and goes, who leads.
    Watch(WatchArgs),
    /// Leave the cluster in order: hand over if this member leads, stop the database, keep the data.
    Leave(LeaveArgs),
    /// Write another version beside the running one, try it at the next boot, and keep it when it is ready then.
    Upgrade(install::UpgradeArgs),
    /// Keep the version on trial once this machine is ready, or go back to the one before.
    #[command(hide = true)]
    Assess(WatchArgs),
    /// Bring the configuration to what the members recorded by `watch` make of it.
    #[command(hide = true)]
    Follow(WatchArgs),
    /// Make a data folder as initdb would, from the image's template if it was made with the same options.
    #[command(hide = true)]
    Initdb(InitdbArgs),
    /// Set up who may do what in the consensus store; names and passwords come on standard input.
    #[command(hide = true)]
    StoreAccess,
    /// Write the inventory into the database "meta", if this machine's instance leads it.
    #[command(hide = true)]
    Inventory(WatchArgs),
}

#[derive(Debug, Args)]
struct LeaveArgs {
    /// Only hand over, and only if this machine is going down
    #[arg(long)]
    at_shutdown: bool,
}

#[derive(Debug, Args)]
struct InitdbArgs {
    /// What initdb made when the image was baked
    #[arg(long, value_name = "DIR")]
    template: PathBuf,
    /// PostgreSQL's own initdb
    #[arg(long, value_name = "FILE")]
    program: PathBuf,
    /// What initdb is told, the data folder last
    #[arg(last = true, value_name = "ARGUMENT")]
    arguments: Vec<String>,
}

#[derive(Debug, Args)]
struct WatchArgs {
    /// Service catalogue
    #[arg(long, value_name = "DIR", default_value = SERVICES)]
    services: PathBuf,
    /// Description of the image
    #[arg(long, value_name = "FILE", default_value = IMAGE)]
    image: PathBuf,
}

#[derive(Debug, Args)]
struct PlanArgs {
    /// NoCloud folder: user-data, and if need be meta-data and network-config
    #[arg(long, value_name = "DIR")]
    metadata: PathBuf,
    #[command(flatten)]
    inputs: InputArgs,
    /// Show the content of every file
    #[arg(long)]
    full: bool,
    /// Show only what differs from what this machine was given last
    #[arg(long, conflicts_with_all = ["full", "facts"])]
    diff: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// NoCloud folder (default: look for a source)
    #[arg(long, value_name = "DIR")]
    metadata: Option<PathBuf>,
    #[command(flatten)]
    inputs: InputArgs,
    /// Only write the files, below this folder
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Print the status, or the paths written, as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// Status document
    #[arg(long, value_name = "FILE", default_value = STATUS_FILE)]
    file: PathBuf,
    /// Print the document as it is
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct InputArgs {
    /// Facts of the machine (default: this machine's)
    #[arg(long, value_name = "FILE")]
    facts: Option<PathBuf>,
    /// Service catalogue
    #[arg(long, value_name = "DIR", default_value = SERVICES)]
    services: PathBuf,
    /// Description of the image
    #[arg(long, value_name = "FILE", default_value = IMAGE)]
    image: PathBuf,
}

/// Only a description that was asked for must exist: plans are made on machines that are no image.
fn image(path: &Path) -> Result<Image> {
    match Image::load(path) {
        Err(Error::Io { .. }) if path == Path::new(IMAGE) => Ok(Image::default()),
        other => other,
    }
}

impl InputArgs {
    fn facts(&self) -> Result<Facts> {
        self.facts
            .as_deref()
            .map_or_else(|| Ok(Facts::probe()), Facts::load)
    }
}

/// Runs the command.
pub fn run(cli: Cli) -> ExitCode {
    let done = match cli.command {
        Command::Plan(args) => plan(&args),
        Command::Run(args) => configure(args),
        Command::Status(args) => status(&args),
        Command::Facts => facts(),
        Command::Watch(args) => watch(&args),
        Command::Leave(args) => leave(&args),
        Command::Follow(args) => follow(&args, follow::follow),
        Command::Upgrade(args) => install::run(&args),
        Command::Assess(args) => assess(&args),
        Command::Initdb(args) => initdb(&args),
        Command::StoreAccess => store_access(),
        Command::Inventory(args) => follow(&args, inventory::store),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            ExitCode::from(2)
        }
    }
}

fn plan(args: &PlanArgs) -> Result<ExitCode> {
    let inputs = &args.inputs;
    if args.diff {
        let image = image(&inputs.image)?;
        let difference = follow::difference(&args.metadata, &inputs.services, &image)?;
        if args.json {
            println!("{}", serde_json::json!(difference));
        } else {
            print!("{}", difference.to_text());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let plan: Plan = bootstrap::explain(
        &args.metadata,
        &inputs.services,
        &image(&inputs.image)?,
        &inputs.facts()?,
    )?;
    if args.json {
        println!("{}", plan.to_json()?);
    } else {
        print!("{}", plan.to_text(args.full));
    }
    Ok(ExitCode::SUCCESS)
}

fn configure(args: RunArgs) -> Result<ExitCode> {
    start_log();
    let image = image(&args.inputs.image)?;
    let options = Options {
        metadata: args.metadata,
        facts: args.inputs.facts,
        services: args.inputs.services,
        image,
    };
    if let Some(root) = &args.root {
        let paths = boot::render(&options, root)?;
        if args.json {
            println!("{}", serde_json::json!({ "written": paths }));
        } else {
            paths.iter().for_each(|path| println!("{path}"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let status = boot::run(&options);
    // In the journal its lines would only repeat what was logged.
    if args.json || !systemd_journal_logger::connected_to_journal() {
        print_status(&status, args.json)?;
    }
    Ok(match status.state {
        State::Ready => ExitCode::SUCCESS,
        State::Refused => ExitCode::from(2),
        State::Failed | State::Configuring => ExitCode::FAILURE,
    })
}

fn assess(args: &WatchArgs) -> Result<ExitCode> {
    start_log();
    upgrade::assess(&image(&args.image)?)?;
    Ok(ExitCode::SUCCESS)
}

fn status(args: &StatusArgs) -> Result<ExitCode> {
    let mut status = Status::load(&args.file)?;
    // What came of an upgrade is known only after the machine was ready.
    if args.file == Path::new(STATUS_FILE) {
        status.upgrade = UpgradeStatus::probe();
    }
    print_status(&status, args.json)?;
    Ok(if status.ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn print_status(status: &Status, json: bool) -> Result<()> {
    if json {
        let text = serde_json::to_string(status);
        println!(
            "{}",
            text.map_err(|error| Error::io("serialise", Path::new("status"), error.into()))?
        );
    } else {
        print!("{}", status.card());
    }
    Ok(())
}

/// Logs to the journal when systemd connected this process to it, else to standard error.
fn start_log() {
    if !systemd_journal_logger::connected_to_journal()
        || JournalLog::new().is_ok_and(|log| log.install().is_err())
    {
        let _ = log::set_logger(&StandardError);
    }
    log::set_max_level(log::LevelFilter::Info);
}

struct StandardError;

impl log::Log for StandardError {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        eprintln!(
            "{}: {}",
            record.level().as_str().to_lowercase(),
            record.args()
        );
    }

    fn flush(&self) {}
}

fn facts() -> Result<ExitCode> {
    let text = serde_json::to_string_pretty(&Facts::probe());
    println!(
        "{}",
        text.map_err(|error| Error::io("serialise", Path::new("facts"), error.into()))?
    );
    Ok(ExitCode::SUCCESS)
}

fn watch(args: &WatchArgs) -> Result<ExitCode> {
    start_log();
    let text = |path: &Path| path.display().to_string();
    watch::watch(&[
        "--services".into(),
        text(&args.services),
        "--image".into(),
        text(&args.image),
    ])?;
    Ok(ExitCode::SUCCESS)
}

fn follow(args: &WatchArgs, work: impl Fn(&Path, &Image) -> Result<Followed>) -> Result<ExitCode> {
    start_log();
    Ok(match work(&args.services, &image(&args.image)?)? {
        Followed::Done => ExitCode::SUCCESS,
        Followed::Busy => ExitCode::from(watch::BUSY),
        Followed::Pending => ExitCode::from(watch::PENDING),
        Followed::Failed => ExitCode::FAILURE,
    })
}

fn initdb(args: &InitdbArgs) -> Result<ExitCode> {
    start_log();
    bootstrap::initdb::initdb(&args.template, &args.program, &args.arguments)?;
    Ok(ExitCode::SUCCESS)
}

fn store_access() -> Result<ExitCode> {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map_err(|error| Error::io("read", Path::new("standard input"), error))?;
    Access::parse(&text)?.set_up(Path::new(store::SOCKET))?;
    Ok(ExitCode::SUCCESS)
}

fn leave(args: &LeaveArgs) -> Result<ExitCode> {
    start_log();
    bootstrap::leave::leave(args.at_shutdown)?;
    Ok(ExitCode::SUCCESS)
}

fn complain(error: &Error) {
    eprintln!("error[{}]: {error}", error.code());
    if let Some(hint) = error.hint() {
        eprintln!("hint: {hint}");
    }
}
