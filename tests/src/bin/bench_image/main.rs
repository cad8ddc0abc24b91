//! Speed and size of images, each figure beside its bar or yardstick: `bench-image [BASELINE_SCRIPT PACKAGES_FILE]`.
//!
//! BASELINE_SCRIPT times another image builder on PACKAGES_FILE and prints lines `NAME SECONDS` and `NAME-size BYTES`. The
//! tools tree is there, the bake cache is empty. `FARROW_BENCH_PARTS=cold,boot` measures some of the parts.

mod baked;
mod booted;
mod memory;
mod yardsticks;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::world::World;

/// What can be measured on its own.
const PARTS: [&str; 6] = ["cold", "warm", "qcow2", "boot", "mmdebstrap", "baseline"];
/// Environment variable with some of them, between commas.
const CHOICE: &str = "FARROW_BENCH_PARTS";

/// How long inodes are passed over, and some seconds for their removal to reach the disk.
const SETTLE: Duration = Duration::from_secs(310);

/// What one part gives to the comparison at the end; none where it was not measured.
#[derive(Debug, Default)]
struct Found {
    cold_seconds: Option<f64>,
    raw_bytes: Option<u64>,
    mmdebstrap_seconds: Option<f64>,
    baseline_seconds: Option<f64>,
    baseline_bytes: Option<u64>,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    ensure!(
        matches!(arguments.len(), 0 | 2),
        "usage: bench-image [BASELINE_SCRIPT PACKAGES_FILE]"
    );
    let chosen = std::env::var(CHOICE).unwrap_or_default();
    let chosen: Vec<&str> = chosen.split(',').filter(|part| !part.is_empty()).collect();
    for part in &chosen {
        ensure!(PARTS.contains(part), "no part `{part}`, but {PARTS:?}");
    }
    let wanted = |part: &str| chosen.is_empty() || chosen.contains(&part);
    // Whatever fails is said, and the other figures are still worth having.
    let mut whole = true;
    let mut attempt = |part: &str, work: &mut dyn FnMut() -> Result<()>| {
        if wanted(part)
            && let Err(error) = work()
        {
            println!("{part}: NOT MEASURED: {error:#}");
            whole = false;
        }
    };
    let world = World::keep()?;
    let dir = world.scratch("bench-image")?;
    let mut found = Found::default();
    baked::remove(&world, &dir)?;
    baked::prepare(&world, &dir)?;
    settle();
    attempt("cold", &mut || baked::cold(&world, &dir, &mut found));
    attempt("warm", &mut || {
        baked::warm(&world, &dir, found.cold_seconds)
    });
    attempt("qcow2", &mut || baked::compressed(&world, &dir));
    attempt("boot", &mut || booted::start(&world, &dir));
    attempt("mmdebstrap", &mut || {
        settle();
        yardsticks::mmdebstrap(&world, &dir, &mut found)
    });
    if let [script, packages] = &arguments[..] {
        attempt("baseline", &mut || {
            settle();
            yardsticks::baseline(script, packages, &mut found)
        });
    }
    compare(&found);
    baked::remove(&world, &dir)?;
    Ok(whole)
}

/// Waits until files can be made at full speed again. For five minutes after a large tree was removed ext4 passes over
/// its inodes, one by one, whenever a file is made (`recently_deleted` in the kernel's fs/ext4/ialloc.c), which makes
/// any builder slower by half.
fn settle() {
    println!("  (waiting for {} s)", SETTLE.as_secs());
    flush();
    std::thread::sleep(SETTLE);
}

/// Has everything written out, so that what was done before does not slow down what is timed next.
fn flush() {
    nix::unistd::sync();
}

/// One figure beside its bar.
fn say(what: &str, figure: f64, unit: &str, bar: &str, holds: bool) {
    let verdict = if holds { "holds" } else { "MISSED" };
    println!("{what:<44} {figure:>9.1} {unit:<6} bar {bar:<22} {verdict}");
}

/// One figure without a bar of its own.
fn note(what: &str, figure: f64, unit: &str) {
    println!("{what:<44} {figure:>9.1} {unit}");
}

/// What only another builder's figures judge.
fn compare(found: &Found) {
    let ratio = |what, other: Option<f64>, least: f64| {
        if let (Some(own), Some(other)) = (found.cold_seconds, other) {
            let bar = format!(">= {least:.0} x");
            say(what, other / own, "x", &bar, other / own >= least);
        }
    };
    ratio(
        "cold bake beside mmdebstrap's bare root",
        found.mmdebstrap_seconds,
        2.0,
    );
    ratio("cold bake beside the baseline", found.baseline_seconds, 4.0);
    if let (Some(own), Some(other)) = (found.raw_bytes, found.baseline_bytes) {
        let share = own as f64 / other as f64 * 100.0;
        let what = "allocated raw image beside the baseline's";
        say(what, share, "%", "<= 40 %", share <= 40.0);
    }
}

/// The fastest one.
fn least(values: Vec<f64>) -> f64 {
    values.into_iter().fold(f64::NAN, f64::min)
}

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
