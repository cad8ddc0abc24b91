//! An image for 64-bit Arm: its programs compiled, its packages' scripts emulated, and a machine of it that reports.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use e2e::farrow::Farrow;
use e2e::world::World;

/// Seconds that the machine may take: two processors are emulated, and those of another kind slowly.
const LIMIT: &str = "1200";

/// Bakes `base-arm64` without a network from a repository that holds everything, and boots it to its own report.
pub fn baked_and_booted(world: &World) -> Result<()> {
    let dir = world.scratch("arm64")?;
    let programs = dir.join("programs");
    make_programs(world, &programs)?;
    let farrow = |words: &[&str]| {
        Farrow::new(world, words)
            .in_dir(&dir)
            .env("FARROW_BOOTSTRAP_ARM64", &programs)
    };
    farrow(&["repo", "build", "base-arm64", "--lock", "base.lock"]).succeed()?;
    farrow(&["tools", "--recipe", "tools-arm64", "--", "true"]).succeed()?;
    let bake = ["image", "build", "base-arm64", "--json"];
    let baked = farrow(&bake).json()?;
    for stage in baked["stages"].as_array().context("stages")? {
        println!("    {} {} s", stage["name"], stage["seconds"]);
    }
    for name in ["base-arm64-0.1.0.raw", "base-arm64-0.1.0.qcow2"] {
        let image = dir.join("out/image").join(name);
        looked_into(farrow(&[
            "image",
            "inspect",
            &image.to_string_lossy(),
            "--json",
        ]))?;
    }
    let image = "out/image/base-arm64-0.1.0.qcow2";
    farrow(&["image", "boot", image, "--bios"])
        .run()?
        .expect_refusal(2, &["FR-IMAGE-FIRMWARE"])?;
    let check = "test \"$(uname -m)\" = aarch64";
    let boot = [
        "image",
        "boot",
        image,
        "--check",
        check,
        "--timeout",
        LIMIT,
        "--json",
    ];
    let booted = farrow(&boot).json()?;
    ensure!(booted["ready"] == true, "{booted:#}");
    let node = &booted["nodes"][0];
    ensure!(node["checks"][0]["exit"] == 0, "{node:#}");
    println!("    ready: {}", node["timeline"]);
    Ok(())
}

/// By the script of the sources, with compilers of Debian and the crates that cargo has fetched for these tests.
fn make_programs(world: &World, folder: &Path) -> Result<()> {
    let outcome = Command::new(world.project.join("bootstrap/arm64/build"))
        .arg(folder)
        .env("FARROW", &world.binary)
        .env("FARROW_CACHE", world.root.join("cache"))
        .env("FARROW_TOOLS", world.root.join("tools"))
        .env("FARROW_STATE", world.root.join("state"))
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&outcome.stderr);
    ensure!(outcome.status.success(), "bootstrap/arm64/build: {said}");
    Ok(())
}

/// The partitions have the types of their processor, and the packages are for it.
fn looked_into(inspect: Farrow) -> Result<()> {
    let found = inspect.json()?;
    let contents = &found["contents"];
    let kinds: Vec<&str> = contents["partitions"]
        .as_array()
        .context("partitions")?
        .iter()
        .filter_map(|partition| partition["kind"].as_str())
        .collect();
    for kind in ["root-arm64", "root-arm64-verity"] {
        let count = kinds.iter().filter(|known| **known == kind).count();
        ensure!(count == 2, "{kinds:?}");
    }
    ensure!(contents["root_hash_fits"] == true, "{contents:#}");
    let packages = contents["packages"].as_array().context("packages")?.iter();
    let mut foreign = packages.filter(|package| {
        let architecture = package["architecture"].as_str();
        !["all", "arm64"].contains(&architecture.unwrap_or_default())
    });
    ensure!(foreign.next().is_none(), "packages of another architecture");
    Ok(())
}
