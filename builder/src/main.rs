//! `farrow`: recipes to offline repositories, repositories to machine images, images to machines that run.

mod bake;
mod beside;
mod boot_masks;
mod boot_report;
mod boot_seed;
mod boot_timeline;
mod cache;
mod cli;
mod commands;
mod control;
mod deployment;
mod diagnostic;
mod effects;
mod embedded;
#[cfg(test)]
#[path = "../tests/golden/mod.rs"]
mod golden;
mod install;
mod interrupt;
mod locks;
mod machine_files;
mod machine_programs;
mod machines;
mod own_packages;
mod paths;
mod recipe;
mod session;
mod shared_cache;
mod stages;
mod upgrade;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Color, GlobalOptions};
use crate::diagnostic::Diagnostic;
use crate::session::Session;

fn main() -> ExitCode {
    // Bakes and machines run in namespaces that this same program sets up when it is executed again.
    images::sandbox::run_if_requested();
    let cli = Cli::parse();
    if cli.command.is_supervised()
        && let Some(code) = interrupt::supervise()
    {
        return code;
    }
    let options = cli.global.clone();
    let outcome = Session::new(cli.global).and_then(|session| commands::run(&session, cli.command));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&options, &error),
    }
}

fn fail(options: &GlobalOptions, error: &Diagnostic) -> ExitCode {
    if options.json {
        println!("{:#}", error.document());
    }
    let color = match options.color {
        Color::Auto => std::io::stderr().is_terminal(),
        Color::Always => true,
        Color::Never => false,
    };
    eprintln!("{}", error.render(color));
    ExitCode::from(error.exit)
}
