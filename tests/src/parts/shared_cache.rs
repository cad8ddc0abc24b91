//! Builders that share a cache: the second unpacks and configures nothing and makes the same image, and a falsified store
//! changes nothing but the time.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use e2e::farrow::{Farrow, Outcome};
use e2e::world::World;
use nix::sys::resource::{UsageWho, getrusage};

use super::identity::{self, Digests};

/// Steps of a bake that a builder with a shared cache need not take.
const SPARED: [&str; 3] = ["root/files", "root/unpack", "root/configure"];

/// What a builder made, and what it said on the way.
struct Bake {
    digests: Digests,
    said: Outcome,
    /// Seconds of processor time: what it took does not depend on what else the machine does.
    cpu: f64,
}

/// Bakes `base` once, pushes, and bakes it again elsewhere: from the store, then from the store with a byte changed in each
/// of its blobs.
pub fn by_builders(world: &World) -> Result<()> {
    let dir = world.scratch("shared-cache")?;
    Farrow::new(world, &["repo", "build", "base", "--lock", "base.lock"])
        .in_dir(&dir)
        .succeed()?;
    let first = bake(world, &dir, "first", &[])?;
    for step in SPARED {
        ensure!(first.said.stderr.contains(step), "no {step}");
    }
    let push = ["cache", "push", "store", "--kind", "part,base", "--json"];
    let push = || {
        Farrow::new(world, &push)
            .in_dir(&dir)
            .env("FARROW_CACHE", dir.join("first/cache"))
            .json()
    };
    let pushed = push()?;
    let sent = pushed["bytes"].as_u64().context("bytes")?;
    ensure!(push()?["bytes"] == 0, "pushed twice");
    let key = key_of(&dir, &pushed["key"])?;
    let from = ["--cache-from", "store", "--cache-key", &key];
    let second = bake(world, &dir, "second", &from)?;
    for step in SPARED {
        ensure!(!second.said.stderr.contains(step), "{}", second.said.stderr);
    }
    same(world, &dir, &first, ("second", &second))?;
    ensure!(
        second.cpu < first.cpu / 2.0,
        "{:.1} s of processor time, and {:.1} s alone",
        second.cpu,
        first.cpu
    );
    let files = files(&dir.join("store"))?;
    for file in &files {
        change_a_byte(file)?;
    }
    let third = bake(world, &dir, "third", &from)?;
    same(world, &dir, &first, ("third", &third))?;
    let refused = third.said.stderr.matches("is not used").count();
    ensure!(
        refused == 2 && third.said.stderr.contains("base "),
        "{}",
        third.said.stderr
    );
    println!(
        "    {:.1} s ({:.1} s of processor time) alone, {:.1} s ({:.1} s) from a store of {:.0} MB, {:.1} s from a falsified one",
        first.said.seconds,
        first.cpu,
        second.said.seconds,
        second.cpu,
        sent as f64 / 1e6,
        third.said.seconds
    );
    Ok(())
}

/// A bake with a cache of its own that is empty.
fn bake(world: &World, dir: &Path, name: &str, more: &[&str]) -> Result<Bake> {
    let words = ["image", "build", "base", "--repo", "out/repo/base"];
    let output = ["--format", "raw", "--out", name, "--json", "--events"];
    let before = processor_time()?;
    let said = Farrow::new(world, &[&words[..], &output, more].concat())
        .in_dir(dir)
        .env("FARROW_CACHE", dir.join(name).join("cache"))
        .succeed()?;
    let cpu = processor_time()? - before;
    let document = serde_json::from_str(&said.stdout)?;
    let digests = identity::digests(&document)?;
    Ok(Bake { digests, said, cpu })
}

/// Of all processes that this one has started and waited for, in seconds.
fn processor_time() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let times = [usage.user_time(), usage.system_time()];
    let seconds = times.map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6);
    Ok(seconds.iter().sum())
}

fn same(world: &World, dir: &Path, first: &Bake, (name, other): (&str, &Bake)) -> Result<()> {
    let (one, two) = (dir.join("first/image"), dir.join(name).join("image"));
    identity::same(world, (&first.digests, &one), (&other.digests, &two))?;
    fs::remove_dir_all(dir.join(name).join("image"))?;
    Ok(())
}

/// The public key of whoever pushed, as it came with the store, where it is the only one.
fn key_of(dir: &Path, fingerprint: &serde_json::Value) -> Result<String> {
    let fingerprint = fingerprint.as_str().context("key")?;
    // Kept outside of the store, which is falsified later.
    let key = dir.join("key.asc");
    fs::copy(dir.join(format!("store/keys/{fingerprint}.asc")), &key)?;
    Ok(key.to_string_lossy().into_owned())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            match path.is_dir() {
                true => open.push(path),
                false => found.push(path),
            }
        }
    }
    Ok(found)
}

/// Changes the byte in a blob's middle. Statements and keys, which have an ending, stay, so that what they say is believed.
fn change_a_byte(path: &Path) -> Result<()> {
    if path.extension().is_some() {
        return Ok(());
    }
    let file = fs::File::options().read(true).write(true).open(path)?;
    let middle = file.metadata()?.len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle)?;
    Ok(file.write_all_at(&[byte[0] ^ 1], middle)?)
}
