//! From the start of the emulator to the start of the bootstrap.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use e2e::farrow::Farrow;
use e2e::world::World;

use super::{median, note, say};

/// Timed boots of each image; the median counts.
const RUNS: usize = 3;

/// Boots `base`, which has what is started before the bootstrap, packed in both ways.
pub fn start(world: &World, dir: &Path) -> Result<()> {
    for packing in ["lz4", "zstd"] {
        let recipe = format!(
            "extends = \"base\"\nschema = 1\nname = \"booted\"\n\n[image]\nroot_compression = \"{packing}\"\n"
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

/// Seconds from the emulator's start to the bootstrap's, as the boot's own timeline has them.
fn boot(world: &World, dir: &Path) -> Result<f64> {
    let raw = dir.join("made/image/booted-0.1.0.raw");
    let words = ["image", "boot", &raw.to_string_lossy(), "--json"];
    let said = Farrow::new(world, &words).in_dir(dir).json()?;
    let phases = said["nodes"][0]["timeline"]["phases"]
        .as_array()
        .context("the boot's phases")?;
    let start = |name: &str| {
        let phase = phases.iter().find(|phase| phase["name"] == name);
        phase.and_then(|phase| phase["start"].as_f64())
    };
    let bootstrap = start("bootstrap").context("the bootstrap's start")?;
    println!(
        "  kernel after {:.1} s, bootstrap after {bootstrap:.1} s",
        start("kernel").unwrap_or(f64::NAN)
    );
    Ok(bootstrap)
}
