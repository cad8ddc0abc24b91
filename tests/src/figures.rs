//! Size, time and memory of the static bootstrap, measured from outside.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};

use crate::farrow::Farrow;
use crate::world::World;

/// What the bootstrap costs.
#[derive(Debug)]
pub struct Bootstrap {
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Median wall-clock time of `plan` in milliseconds.
    pub plan_ms: f64,
    /// Largest resident set of `plan` in MB (10^6 bytes).
    pub peak_mb: f64,
}

/// The bars that the project holds itself to.
pub const BARS: Bootstrap = Bootstrap {
    bytes: 3_000_000,
    plan_ms: 50.0,
    peak_mb: 8.0,
};

/// Measures the bootstrap that `farrow` carries, on the meta node of the two-node deployment, whose plan is the largest.
///
/// Reads the resource usage of this process's children, so it must run in a process that started nothing larger.
pub fn bootstrap(world: &World, dir: &Path) -> Result<Bootstrap> {
    Farrow::new(world, &["bootstrap", "--out", "farrow-bootstrap"])
        .in_dir(dir)
        .succeed()?;
    Farrow::new(world, &["seed", "two-node", "--out", "seed", "--no-images"])
        .in_dir(dir)
        .succeed()?;
    let bytes = std::fs::metadata(dir.join("farrow-bootstrap"))?.len();
    let mut times = Vec::new();
    for _ in 0..21 {
        let started = Instant::now();
        let status = Command::new(dir.join("farrow-bootstrap"))
            .args(["plan", "--metadata"])
            .arg(dir.join("seed/meta"))
            .arg("--services")
            .arg(world.project.join("recipes/services"))
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "plan failed");
        times.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    Ok(Bootstrap {
        bytes,
        plan_ms: times[times.len() / 2],
        peak_mb: peak_of(world, dir)?,
    })
}

/// The peak of one `plan` alone: a helper process that starts nothing else reports it.
fn peak_of(world: &World, dir: &Path) -> Result<f64> {
    let own = std::env::current_exe()?;
    let output = Command::new(own)
        .env("FARROW_PEAK_OF", dir.join("farrow-bootstrap"))
        .env("FARROW_PEAK_METADATA", dir.join("seed/meta"))
        .env(
            "FARROW_PEAK_SERVICES",
            world.project.join("recipes/services"),
        )
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.trim().parse::<f64>()? / 1e6)
}

/// When this process was started by [`bootstrap`] to measure one child: runs it, prints its peak in bytes, and is done.
pub fn measure_if_requested() -> bool {
    let Some(program) = std::env::var_os("FARROW_PEAK_OF") else {
        return false;
    };
    let argument = |name| std::env::var_os(name).unwrap_or_default();
    let ran = Command::new(program)
        .arg("plan")
        .arg("--metadata")
        .arg(argument("FARROW_PEAK_METADATA"))
        .arg("--services")
        .arg(argument("FARROW_PEAK_SERVICES"))
        .stdout(Stdio::null())
        .status();
    if let (Ok(status), Ok(usage)) = (ran, getrusage(UsageWho::RUSAGE_CHILDREN))
        && status.success()
    {
        // Linux counts in KiB, getrusage(2).
        println!("{}", usage.max_rss() * 1024);
    }
    true
}
