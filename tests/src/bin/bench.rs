//! Speed and size, each beside its bar or yardstick: `bench [BASELINE_SCRIPT PACKAGES_FILE]`.
//!
//! BASELINE_SCRIPT times another image builder on PACKAGES_FILE and prints lines `NAME SECONDS` and `NAME-size BYTES`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use e2e::farrow::Farrow;
use e2e::figures;
use e2e::peak;
use e2e::world::World;

/// Timed bakes; the median counts.
const RUNS: usize = 3;

fn main() -> ExitCode {
    if peak::measure_if_requested() {
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let world = World::prepare()?;
    let dir = world.scratch("bench")?;
    let bootstrap = figures::bootstrap(&world, &dir)?;
    let bars = figures::BARS;
    println!(
        "farrow-bootstrap size   {:>10.2} MB   bar {:.1} MB",
        bootstrap.bytes as f64 / 1e6,
        bars.bytes as f64 / 1e6
    );
    println!(
        "farrow-bootstrap plan   {:>10.1} ms   bar {:.0} ms",
        bootstrap.plan_ms, bars.plan_ms
    );
    println!(
        "farrow-bootstrap memory {:>10.1} MB   bar {:.0} MB",
        bootstrap.peak_mb, bars.peak_mb
    );
    cold_bakes(&world, &dir)?;
    if let [script, packages] = &std::env::args().skip(1).collect::<Vec<_>>()[..] {
        let status = Command::new(script)
            .args([packages, "2"])
            .status()
            .with_context(|| script.clone())?;
        ensure!(status.success(), "{script} failed");
    }
    warm_up(&world, &dir)
}

/// Cold bakes of the bench recipe: the repository and the tools tree are there, the bake cache is empty.
fn cold_bakes(world: &World, dir: &Path) -> Result<()> {
    Farrow::new(world, &["repo", "build", "bench"])
        .in_dir(dir)
        .succeed()?;
    Farrow::new(world, &["tools", "--", "true"]).succeed()?;
    let mut times = Vec::new();
    for run in 0..RUNS {
        let cache = dir.join(format!("cache-{run}"));
        let out = format!("bake-{run}");
        let outcome = Farrow::new(
            world,
            &[
                "image",
                "build",
                "bench",
                "--repo",
                "out/repo/bench",
                "--out",
                &out,
            ],
        )
        .in_dir(dir)
        .env("FARROW_CACHE", &cache)
        .succeed()?;
        println!("{}", outcome.stderr.trim_end());
        println!("farrow {:.1}", outcome.seconds);
        times.push(outcome.seconds);
        if run == 0 {
            let size = allocated(&raw_image(&dir.join(&out).join("image"))?)?;
            println!("farrow-size {size}");
        }
        remove(world, dir, &[&format!("cache-{run}"), &out])?;
    }
    times.sort_by(f64::total_cmp);
    println!(
        "cold bake of bench      {:>10.1} s    (median of {RUNS})",
        times[RUNS / 2]
    );
    Ok(())
}

/// Caches may hold files of mapped owners, which only a mapped process can remove.
fn remove(world: &World, dir: &Path, names: &[&str]) -> Result<()> {
    let bind = format!("{}:/work", dir.display());
    for name in names {
        Farrow::new(
            world,
            &[
                "tools",
                "--bind",
                &bind,
                "--",
                "rm",
                "-rf",
                &format!("/work/{name}"),
            ],
        )
        .succeed()?;
    }
    Ok(())
}

/// The one raw image in a folder; its name carries the version.
fn raw_image(folder: &Path) -> Result<PathBuf> {
    std::fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "raw"))
        .with_context(|| format!("no raw image in {}", folder.display()))
}

fn allocated(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata(path)?.blocks() * 512)
}

/// The second `up`: everything is there but the machines.
fn warm_up(world: &World, dir: &Path) -> Result<()> {
    Farrow::new(world, &["up", "--until-ready", "--timeout", "900"])
        .in_dir(dir)
        .succeed()?;
    let outcome = Farrow::new(world, &["up", "--until-ready", "--timeout", "900"])
        .in_dir(dir)
        .succeed()?;
    println!("{}", outcome.stderr.trim_end());
    println!(
        "up, warm caches         {:>10.1} s    bar 240 s",
        outcome.seconds
    );
    Ok(())
}
