//! A machine upgrades itself: to a version that is kept, to one whose kernel panics, and to one whose database cannot start.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use e2e::farrow::Farrow;
use e2e::world::{World, read_json};
use serde_json::Value;

use super::image::partition;

/// What a machine does once it is ready, again after each boot, until there is nothing left to try.
const STEP: &str = include_str!("upgrade.sh");
/// The last of a machine's checks says what came of it all; those before only give it time, 100 s each.
const WAITS: usize = 8;
/// How long all boots of a machine may take, in seconds.
const TIMEOUT: &str = "2400";

/// A version to bake.
struct Version {
    number: &'static str,
    /// What its recipe has besides.
    more: &'static str,
}

const FIRST: Version = Version {
    number: "1",
    more: "var_mib = 1536\n",
};
const GOOD: Version = Version {
    number: "2",
    more: "",
};
/// Without an initial file system the kernel finds no root.
const PANICS: Version = Version {
    number: "3",
    more: "kernel_arguments = [\"rdinit=/nonexistent\", \"panic=1\"]\n",
};
const NO_DATABASE: Version = Version {
    number: "4",
    more: "\n[[file]]\npath = \"/usr/lib/postgresql/17/bin/postgres\"\ncontent = \"#!/bin/sh\\nexit 1\\n\"\nmode = \"0755\"\n",
};

/// `base`, by UEFI: a good version and one that panics.
pub fn kept_or_not(world: &World) -> Result<()> {
    let dir = world.scratch("upgrade")?;
    bake(world, &dir, "base", &[GOOD, PANICS])?;
    wrong_key(world, &dir)?;
    let found = run(world, &dir, "base", "--uefi", "")?;
    judge(&dir, "base", &found, &["1", "2", "2"], "3")?;
    let log = fs::read_to_string(dir.join("serial.log"))?;
    let count = |words: &str| log.matches(words).count();
    // The kernel says it once more at the end of its report.
    let panics = count("Kernel panic - not syncing") - count("end Kernel panic - not syncing");
    ensure!(
        panics == 3,
        "the kernel of version 3 panicked {panics} times"
    );
    Ok(())
}

/// `slim` with rows in PostgreSQL, by both kinds of firmware: also a version whose PostgreSQL cannot start.
pub fn with_a_database(world: &World) -> Result<()> {
    let dir = world.scratch("upgrade-slim")?;
    bake(world, &dir, "slim", &[GOOD, PANICS, NO_DATABASE])?;
    for firmware in ["--uefi", "--bios"] {
        let found = run(world, &dir, "slim", firmware, "rows")?;
        judge(&dir, "slim", &found, &["1", "2", "2", "2"], "4")?;
        let rows = found["rows"].as_u64();
        ensure!(
            rows == Some(4),
            "{firmware}: {rows:?} rows of 4 boots that were ready"
        );
    }
    Ok(())
}

/// The same with `base` by BIOS.
pub fn by_bios(world: &World) -> Result<()> {
    let dir = world.scratch("upgrade-bios")?;
    bake(world, &dir, "base", &[GOOD, PANICS])?;
    let found = run(world, &dir, "base", "--bios", "")?;
    judge(&dir, "base", &found, &["1", "2", "2"], "3")
}

/// Bakes the first version as a disk and the others as upgrades, and puts those into the disk's `/var`.
fn bake(world: &World, dir: &Path, recipe: &str, upgrades: &[Version]) -> Result<()> {
    Farrow::new(world, &["repo", "build", recipe, "--lock", "own.lock"])
        .in_dir(dir)
        .succeed()?;
    bake_one(world, dir, recipe, &FIRST, "raw")?;
    let mut commands = String::from("mkdir upgrades\ncd upgrades\nwrite /work/step.sh step.sh\n");
    fs::write(dir.join("step.sh"), STEP)?;
    for version in upgrades {
        bake_one(world, dir, recipe, version, "upgrade")?;
        let number = version.number;
        commands +=
            &format!("write /work/{number}/image/{recipe}-{number}.upgrade {number}.upgrade\n");
    }
    fs::write(dir.join("commands"), commands)?;
    let image = image(dir, recipe);
    let offset = partition(&image, "var")?.start;
    let shown = format!("/work/1/image/{recipe}-1.raw?offset={offset}");
    let bind = format!("{}:/work", dir.display());
    let args = [
        "tools",
        "--bind",
        &bind,
        "--",
        "debugfs",
        "-w",
        "-f",
        "/work/commands",
        &shown,
    ];
    Farrow::new(world, &args).succeed().map(|_| ())
}

fn image(dir: &Path, recipe: &str) -> PathBuf {
    dir.join(format!("1/image/{recipe}-1.raw"))
}

fn bake_one(
    world: &World,
    dir: &Path,
    recipe: &str,
    version: &Version,
    format: &str,
) -> Result<()> {
    build(world, dir, recipe, version, format)?
        .succeed()
        .map(|_| ())
}

fn build(
    world: &World,
    dir: &Path,
    recipe: &str,
    version: &Version,
    format: &str,
) -> Result<Farrow> {
    let Version { number, more } = version;
    let text = format!(
        "extends = \"{recipe}\"\nschema = 1\nname = \"{recipe}\"\n\n[image]\nversion = \"{number}\"\n{more}"
    );
    let file = format!("v{number}.toml");
    fs::write(dir.join(&file), text)?;
    let repository = format!("out/repo/{recipe}");
    let args = [
        "image",
        "build",
        &file,
        "--repo",
        &repository,
        "--format",
        format,
        "--out",
        number,
    ];
    Ok(Farrow::new(world, &args).in_dir(dir))
}

/// An upgrade that no machine would accept is not made.
fn wrong_key(world: &World, dir: &Path) -> Result<()> {
    let own = Version {
        number: "5",
        more: "",
    };
    build(world, dir, "base", &own, "upgrade")?
        .env("FARROW_SIGNING_KEY", dir.join("another.key"))
        .run()?
        .expect_refusal(1, &["error[FR-IMAGE-UPGRADE]"])
}

/// Boots the first version and lets it do what `upgrade.sh` says; gives the document of the last check.
fn run(world: &World, dir: &Path, recipe: &str, firmware: &str, mode: &str) -> Result<Value> {
    let image = image(dir, recipe).to_string_lossy().into_owned();
    let log = dir.join("serial.log").to_string_lossy().into_owned();
    let step = format!("sh /var/upgrades/step.sh wait {mode}");
    let last = format!("sh /var/upgrades/step.sh last {mode}");
    let mut args = vec![
        "image",
        "boot",
        &image,
        firmware,
        "--tolerant",
        "--data-disk",
        "2048",
        "--timeout",
        TIMEOUT,
        "--serial-log",
        &log,
        "--json",
    ];
    for _ in 0..WAITS {
        args.extend(["--check", &step]);
    }
    args.extend(["--check", &last]);
    let found = Farrow::new(world, &args).in_dir(dir).json()?;
    let checks = found["nodes"][0]["checks"].as_array().context("checks")?;
    let said = checks
        .last()
        .and_then(|check| check["stdout"].as_str())
        .context("stdout")?;
    serde_json::from_str(said).with_context(|| said.to_owned())
}

/// Versions that ran, in their order; version 2 runs in the end, with its root hash, and says what became of `failed`.
fn judge(dir: &Path, recipe: &str, found: &Value, ran: &[&str], failed: &str) -> Result<()> {
    println!("    {found}");
    let trace: Vec<&str> = found["ran"]
        .as_array()
        .context("ran")?
        .iter()
        .filter_map(Value::as_str)
        .collect();
    ensure!(trace == ran, "{trace:?} ran, not {ran:?}");
    let manifest = read_json(&dir.join(format!("2/image/{recipe}.manifest.json")))?;
    let status = &found["status"];
    let expected = (&Value::from("2"), &manifest["root_hash"], &Value::from("b"));
    let running = (
        &status["image"]["version"],
        &status["image"]["root_hash"],
        &status["upgrade"]["slot"],
    );
    ensure!(running == expected, "{running:?}, not {expected:?}");
    let last = &status["upgrade"]["last"];
    ensure!(
        last["outcome"] == "failed" && last["to"]["version"] == failed && last["slot"] == "a",
        "{last}"
    );
    Ok(())
}
