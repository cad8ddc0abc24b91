//! An image from nothing but a tarball that carries the tools: no cache, no tools tree, no network.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::farrow::Farrow;
use e2e::world::World;
use nix::unistd::geteuid;
use serde_json::Value;

use super::refusals::bundle;

/// Bakes the smallest image with empty folders, and compares it with the one that this host's tools make.
pub fn baked_from_a_tarball(world: &World) -> Result<()> {
    let dir = world.scratch("alone")?;
    let build = ["repo", "build", "minimal", "--with-tools", "--out", "made"];
    Farrow::new(world, &build).in_dir(&dir).succeed()?;
    let usual = ["image", "build", "minimal", "--out", "made", "--json"];
    let usual = Farrow::new(world, &usual).in_dir(&dir).json()?;
    let tarball = bundle(&dir.join("made"))?;
    let empty = dir.join("empty");
    fs::create_dir(&empty)?;
    fs::rename(&tarball, empty.join("bundle.tar.gz"))?;
    fs::remove_dir_all(dir.join("made"))?;
    let bake = [
        "image",
        "build",
        "minimal",
        "--repo",
        "bundle.tar.gz",
        "--out",
        ".",
        "--offline",
        "--json",
    ];
    let bake = match geteuid().is_root() {
        true => Farrow::without_network(world, &bake),
        false => {
            println!("    NOT PROVED: a bake without any network (needs root)");
            Farrow::new(world, &bake)
        }
    };
    let made = bake
        .in_dir(&empty)
        .env("FARROW_CACHE", empty.join("cache"))
        .env("FARROW_TOOLS", empty.join("tools"))
        .env("FARROW_STATE", empty.join("state"))
        .json()?;
    let (made, usual) = (digest(&made)?, digest(&usual)?);
    ensure!(made == usual, "the images differ: {made} and {usual}");
    Ok(())
}

fn digest(document: &Value) -> Result<&str> {
    let artifacts = document["artifacts"].as_array().context("artifacts")?;
    let found = artifacts
        .iter()
        .find(|artifact| artifact["kind"] == "image-tar");
    found
        .and_then(|artifact| artifact["sha256"].as_str())
        .with_context(|| format!("no image-tar in {document}"))
}
