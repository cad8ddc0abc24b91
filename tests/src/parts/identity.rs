//! The same inputs give the same bytes, whoever bakes them and wherever; and what differs is named.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use e2e::farrow::Farrow;
use e2e::world::World;
use serde_json::Value;

/// SHA-256 of each artefact of a command's document by its kind.
pub type Digests = BTreeMap<String, String>;

/// Where what root's bake of `base` made is written down for the other users' bakes.
const RECORD: &str = "base-digests.json";

/// A host unlike the one that the tests run on: another umask, time zone and language, one processor, and layers of a tree
/// as copies, as where overlayfs cannot be mounted. The wrapped command is in the arguments.
pub fn elsewhere(farrow: Farrow) -> Farrow {
    let script = "umask 077; exec taskset --cpu-list 0 \"$@\"";
    farrow
        .wrapped(&["sh", "-c", script, "elsewhere"])
        .env("LC_ALL", "tr_TR.UTF-8")
        .env("LANGUAGE", "tr")
        .env("TZ", "Asia/Tokyo")
        .env("FARROW_NO_OVERLAY", "1")
}

/// Digests of the images in a document.
pub fn digests(document: &Value) -> Result<Digests> {
    let artifacts = document["artifacts"].as_array().context("artifacts")?;
    let images = artifacts.iter().filter_map(|artifact| {
        let kind = artifact["kind"].as_str()?.strip_prefix("image-")?;
        Some((kind.to_owned(), artifact["sha256"].as_str()?.to_owned()))
    });
    Ok(images.collect())
}

/// Fails with the first file that differs when two bakes, whose raw images are in these folders, are not the same.
pub fn same(world: &World, one: (&Digests, &Path), two: (&Digests, &Path)) -> Result<()> {
    ensure!(!one.0.is_empty(), "no images to compare");
    if one.0 == two.0 {
        return Ok(());
    }
    let differing: Vec<String> = (one.0.iter())
        .filter(|(kind, digest)| two.0.get(*kind) != Some(digest))
        .map(|(kind, digest)| format!("{kind} ({digest}, {:?})", two.0.get(kind)))
        .collect();
    bail!(
        "these are not the same: {}\n{}",
        differing.join(", "),
        first_difference(world, one.1, two.1)?
    )
}

/// Where two raw images of `base` differ first: the first file, or where the files are the same, the first fact.
fn first_difference(world: &World, one: &Path, two: &Path) -> Result<String> {
    let image = |folder: &Path| {
        let path = folder.join("base-0.1.0.raw");
        path.to_string_lossy().into_owned()
    };
    let words = ["image", "diff", &image(one), &image(two), "--json"];
    let found = Farrow::new(world, &words).json()?;
    let difference = &found["difference"];
    let lists = ["added", "removed", "changed"];
    let all = lists
        .iter()
        .filter_map(|list| difference["files"][list].as_array());
    Ok(match all.flatten().next() {
        Some(file) => format!("the first file that differs: {file}"),
        None => format!("no file differs, but: {difference}"),
    })
}

/// Remembers what root's bake made.
pub fn record(world: &World, digests: &Digests) -> Result<()> {
    let text = serde_json::to_vec(digests)?;
    Ok(std::fs::write(world.root.join(RECORD), text)?)
}

/// What root's bake made, by an earlier part.
pub fn recorded(world: &World) -> Result<Digests> {
    let path = world.root.join(RECORD);
    let text = std::fs::read(&path)
        .context("run the part a_small_image_in_every_format_is_read_back before this one")?;
    Ok(serde_json::from_slice(&text)?)
}
