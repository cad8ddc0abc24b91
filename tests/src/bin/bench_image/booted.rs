//! From the start of the emulator to the start of the bootstrap.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use e2e::farrow::Farrow;
use e2e::world::World;

use super::{median, note, say};

/// Timed boots of each image; the median counts.
const RUNS: usize = 3;
/// When the kernel was started, the bootstrap was so many microseconds away.
const CHECK: &str = "meta=systemctl show -P ExecMainStartTimestampMonotonic farrow-bootstrap";

/// Boots an image of the same packages with the catalogue, so that the machine becomes ready and can be asked.
pub fn start(world: &World, dir: &Path) -> Result<()> {
    let seed = [
        "seed",
        "two-node",
        "--out",
        "seed",
        "--no-images",
        "--check",
        CHECK,
    ];
    Farrow::new(world, &seed).in_dir(dir).succeed()?;
    for packing in ["lz4", "zstd"] {
        let recipe = format!(
            "extends = \"slim\"\nschema = 1\nname = \"booted\"\n\n[image]\nroot_compression = \"{packing}\"\n"
        );
        fs::write(dir.join("booted.toml"), recipe)?;
        Farrow::new(world, &["repo", "build", "booted.toml"])
            .in_dir(dir)
            .succeed()?;
        let words = [
            "image",
            "build",
            "booted.toml",
            "--out",
            "made",
            "--format",
            "raw",
        ];
        let repository = ["--repo", "out/repo/booted"];
        Farrow::new(world, &[&words[..], &repository].concat())
            .in_dir(dir)
            .env("FARROW_CACHE", dir.join("cache"))
            .succeed()?;
        let mut times = Vec::new();
        for _ in 0..RUNS {
            times.push(boot(world, dir)?);
        }
        let what = format!("UEFI boot to the bootstrap, root in {packing}");
        let seconds = median(times);
        match packing {
            "lz4" => say(&what, seconds, "s", "<= 25 s", seconds <= 25.0),
            _ => note(&what, seconds, "s"),
        }
    }
    Ok(())
}

/// Seconds from the emulator's start to the bootstrap's: what passed before the kernel's clock began (all of the boot,
/// less the clock at its end), and the clock at the bootstrap's start.
fn boot(world: &World, dir: &Path) -> Result<f64> {
    let raw = dir.join("made/image");
    let raw = fs::read_dir(&raw)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("booted-") && name.ends_with(".raw")
        })
        .context("the raw image")?;
    let words = [
        "image",
        "boot",
        &raw.to_string_lossy(),
        "--seed",
        "seed/meta",
        "--json",
    ];
    let said = Farrow::new(world, &words).in_dir(dir).json()?;
    let stages = said["stages"].as_array().context("stages")?;
    let whole = stages
        .iter()
        .find(|stage| stage["name"] == "boot" || stage["stage"] == "boot")
        .and_then(|stage| stage["seconds"].as_f64())
        .context("the boot's time")?;
    let node = &said["nodes"][0];
    let clock = node["uptime_seconds"].as_f64().context("uptime")?;
    let started: f64 = node["checks"][0]["stdout"]
        .as_str()
        .context("the check's answer")?
        .trim()
        .parse()
        .context("microseconds")?;
    println!(
        "  {:.1} s to the kernel, then {:.1} s; ready after {whole:.1} s",
        whole - clock,
        started / 1e6
    );
    Ok(whole - clock + started / 1e6)
}
