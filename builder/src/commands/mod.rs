//! The commands: each reads its arguments, runs stages and reports.

mod boot;
mod cache;
mod explain;
mod image;
mod keys;
mod lock;
mod look;
mod machine;
mod new;
mod repo;
mod seed;
mod tools;
mod up;

use std::path::Path;

use clap::CommandFactory;

use crate::cli::{Cli, Command};
use crate::diagnostic::{Diagnostic, Result};
use crate::embedded;
use crate::session::Session;

/// Runs one command.
pub fn run(session: &Session, command: Command) -> Result<()> {
    let _in_use = match command.uses_cache() {
        true => crate::cache::hold(&session.paths.cache)?,
        false => None,
    };
    match command {
        Command::Up(args) => up::run(session, &args),
        Command::New { dir } => new::run(session, &dir),
        Command::Lock(args) => lock::run(session, &args),
        Command::Resolve(args) => lock::resolve(session, &args),
        Command::Repo(command) => repo::run(session, command),
        Command::Image(command) => image::run(session, command),
        Command::Machine(args) => machine::run(session, &args),
        Command::Seed(args) => seed::run(session, &args),
        Command::Explain(args) => explain::run(session, &args),
        Command::Cache(args) => cache::run(session, &args),
        Command::Bootstrap { out } => write_bootstrap(session, &out),
        Command::Tools(args) => tools::run(session, &args),
        Command::Completions { shell } => print_completions(shell),
        Command::Man { dir } => write_man_pages(session, &dir),
    }
}

fn write_bootstrap(session: &Session, out: &Path) -> Result<()> {
    write_file(out, embedded::BOOTSTRAP, 0o755)?;
    session.add_file("bootstrap", out)?;
    session.say(&format!("wrote {}", out.display()));
    session.finish(serde_json::json!({}))
}

fn print_completions(shell: clap_complete::Shell) -> Result<()> {
    clap_complete::generate(shell, &mut Cli::command(), "farrow", &mut std::io::stdout());
    Ok(())
}

fn write_man_pages(session: &Session, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Diagnostic::io("create", dir, e))?;
    clap_mangen::generate_to(Cli::command(), dir)
        .map_err(|e| Diagnostic::io("write man pages to", dir, e))?;
    session.say(&format!("wrote man pages to {}", dir.display()));
    session.finish(serde_json::json!({}))
}

/// Writes a file whole or not at all: a temporary name in the same folder, fsync, rename, fsync of the folder.
pub fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let inner = || -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut temporary = tempfile::Builder::new()
            .prefix(".farrow-")
            .permissions(std::fs::Permissions::from_mode(mode))
            .tempfile_in(folder)?;
        temporary.write_all(content)?;
        temporary
            .as_file()
            .set_permissions(std::fs::Permissions::from_mode(mode))?;
        temporary.as_file().sync_all()?;
        temporary.persist(path)?;
        std::fs::File::open(folder)?.sync_all()
    };
    inner().map_err(|e| Diagnostic::io("write", path, e))
}
