//! Size, time and memory of the static bootstrap, measured from outside.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::farrow::Farrow;
use crate::peak;
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
        let status = plan(world, dir).stdout(Stdio::null()).status()?;
        ensure!(status.success(), "plan failed");
        times.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    Ok(Bootstrap {
        bytes,
        plan_ms: times[times.len() / 2],
        peak_mb: peak::of(&plan(world, dir))?,
    })
}

fn plan(world: &World, dir: &Path) -> Command {
    let mut command = Command::new(dir.join("farrow-bootstrap"));
    command
        .args(["plan", "--metadata"])
        .arg(dir.join("seed/meta"))
        .arg("--services")
        .arg(world.project.join("recipes/services"));
    command
}
