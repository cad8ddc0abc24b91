//! Same locks, same key: same bytes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::farrow::Farrow;
use e2e::world::{World, read_json};
use serde_json::Value;

/// What two builds must agree on: the repository's manifest, the tarball and the raw image.
const KINDS: [&str; 3] = ["repository", "bundle", "image-raw"];

/// Builds everything a second time in another folder with an empty bake cache, the image where there is no network at
/// all, and compares with what `up` made.
pub fn two_bakes(world: &World) -> Result<()> {
    let first = read_json(&world.root.join("first.json"))?;
    let dir = world.scratch("second-bake")?;
    let lock = dir.join("pigsty.lock");
    fs::copy(world.out().join("pigsty.lock"), &lock)?;
    let lock = lock.to_string_lossy().into_owned();
    let cache = dir.join("cache");
    fs::create_dir(&cache)?;
    // Downloads are inputs and may be shared; everything that is made is made again.
    std::os::unix::fs::symlink(world.root.join("cache/downloads"), cache.join("downloads"))?;
    let repo = Farrow::new(
        world,
        &["repo", "build", "pigsty", "--lock", &lock, "--json"],
    )
    .in_dir(&dir)
    .env("FARROW_CACHE", &cache)
    .json()?;
    let bake = ["image", "build", "pigsty", "--json"];
    let image = if nix::unistd::geteuid().is_root() {
        Farrow::without_network(world, &bake)
    } else {
        println!("    NOT PROVED: a bake without any network (needs root)");
        Farrow::new(world, &bake)
    };
    let image = image
        .in_dir(&dir)
        .env("FARROW_CACHE", &cache)
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "Asia/Tokyo")
        .json()?;
    for kind in KINDS {
        let before = digest(&first, kind)?;
        let after = digest(&repo, kind).or_else(|_| digest(&image, kind))?;
        ensure!(
            before == after,
            "{kind}: {before} and {after}{}",
            difference(world, &dir)
        );
    }
    fs::remove_dir_all(dir.join("out"))?;
    Ok(())
}

fn digest<'a>(document: &'a Value, kind: &str) -> Result<&'a str> {
    let artifacts = document["artifacts"].as_array().context("artifacts")?;
    let found = artifacts
        .iter()
        .find(|artifact| artifact["kind"] == kind)
        .with_context(|| format!("no artefact {kind}"))?;
    found["sha256"].as_str().context("sha256")
}

/// Where two raw images differ first, for the error's text.
fn difference(world: &World, dir: &Path) -> String {
    let open = |path: &Path| fs::read(path).unwrap_or_default();
    let Ok(first) = super::image::raw_image(world) else {
        return String::new();
    };
    let second = dir
        .join("out/image")
        .join(first.file_name().unwrap_or_default());
    let (a, b) = (open(&first), open(&second));
    match a.iter().zip(&b).position(|(x, y)| x != y) {
        Some(at) => format!("; the images differ first at byte {at}"),
        None => format!("; images of {} and {} bytes", a.len(), b.len()),
    }
}
