//! Speed of everything that has to do with repositories, each beside its yardstick, on one loopback mirror of the same
//! packages: `bench-repo [RECIPE]` (default: `bench`, the platform's list).
//!
//! Yardsticks are programs of the host: `apt-get`, `apt-ftparchive` (apt-utils), `aptly`, `curl`, `sha256sum`; what it lacks
//! comes from a tools tree (`tests/recipes/bench-tools.toml`). rpmbuild and `createrepo_c` always do. Ends with 1 when a bar is missed.

mod apt;
mod mirror;
mod run;
mod stages;
mod yum;

use std::process::ExitCode;

use anyhow::Result;
use e2e::farrow::Farrow;
use e2e::world::World;

use crate::mirror::Mirror;
use crate::run::Table;

fn main() -> ExitCode {
    if e2e::peak::measure_if_requested() {
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-repo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all measurements; whether every bar was met.
fn run() -> Result<bool> {
    let recipe = std::env::args().nth(1).unwrap_or_else(|| "bench".into());
    let world = World::keep()?;
    let dir = world.scratch("bench-repo")?;
    println!("preparing a mirror of `{recipe}`");
    Farrow::new(
        &world,
        &[
            "repo",
            "build",
            &recipe,
            "--lock",
            "bench.lock",
            "--out",
            "first",
        ],
    )
    .in_dir(&dir)
    .succeed()?;
    let mirror = Mirror::new(&world, &recipe, &dir)?;
    let setting = stages::Setting::new(&world, &recipe, &dir, &mirror)?;
    let mut table = Table::new();
    apt::lock(&setting, &mut table)?;
    stages::fetch(&setting, &mut table)?;
    stages::publish(&setting, &mut table)?;
    yum::publish(&setting, &mut table)?;
    stages::whole(&setting, &mut table)?;
    stages::verify(&setting, &mut table)?;
    Ok(table.is_met())
}
