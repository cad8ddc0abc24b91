//! `kill -9` at random moments of a bake: the next bake makes the same bytes, and nothing is left behind.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::farrow::{Farrow, temporaries};
use e2e::world::World;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::number;

/// How often a bake is killed; `FARROW_TEST_CASES` gives another number.
const KILLS: u64 = 10;
/// A small image with a kernel, so that every stage of a disk is there.
const RECIPE: &str = "base";
/// How long the kernel may take to end what a killed process leaves.
const AFTERMATH: Duration = Duration::from_secs(5);

/// A bake in `dir` with its own cache, which shares nothing but downloads.
fn bake(world: &World, dir: &Path) -> Farrow {
    let words = ["image", "build", RECIPE, "--format", "raw", "--json"];
    Farrow::new(world, &words)
        .in_dir(dir)
        .env("FARROW_CACHE", dir.join("cache"))
}

fn empty_cache(world: &World, dir: &Path) -> Result<()> {
    let cache = dir.join("cache");
    if cache.exists() {
        // Its trees belong to mapped ids, whom root may remove and a plain user only by farrow's own means.
        let bind = format!("{}:/work", dir.display());
        Farrow::new(
            world,
            &["tools", "--bind", &bind, "--", "rm", "-rf", "/work/cache"],
        )
        .succeed()?;
    }
    fs::create_dir_all(&cache)?;
    std::os::unix::fs::symlink(world.root.join("cache/downloads"), cache.join("downloads"))?;
    Ok(())
}

fn digest(document: &Value) -> Result<String> {
    let artifacts = document["artifacts"].as_array().context("artifacts")?;
    let raw = artifacts
        .iter()
        .find(|artifact| artifact["kind"] == "image-raw");
    let digest = raw.and_then(|raw| raw["sha256"].as_str());
    Ok(digest.context("the raw image's digest")?.to_owned())
}

/// Kills bakes, bakes again, compares.
pub fn killed(world: &World) -> Result<()> {
    let dir = world.scratch("bake-kills")?;
    Farrow::new(world, &["repo", "build", RECIPE])
        .in_dir(&dir)
        .succeed()?;
    empty_cache(world, &dir)?;
    let started = Instant::now();
    let wanted = digest(&bake(world, &dir).json()?)?;
    let whole = started.elapsed();
    let seed = number("FARROW_TEST_SEED", 1);
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut killed, mut fresh) = (0, 0);
    let mut rest = whole;
    for round in 0..number("FARROW_TEST_CASES", KILLS) {
        // Half of the kills hit a bake that goes on from an earlier one's leavings, and has less to do.
        if round % 2 == 0 {
            empty_cache(world, &dir)?;
            fresh += 1;
            rest = whole;
        }
        let running = bake(world, &dir).start(&dir.join("killed.log"))?;
        let moment = rest.mul_f64(random.f64());
        std::thread::sleep(moment);
        rest -= moment;
        let pid = running.child.id();
        running.signal(Signal::SIGKILL)?;
        let (code, _) = running.wait(Duration::from_secs(60))?;
        killed += u64::from(code.is_none());
        nothing_runs(&dir, pid)?;
        if round % 2 == 1 {
            let found = digest(&bake(world, &dir).json()?)?;
            ensure!(
                found == wanted,
                "after kill {round} (seed {seed}): {found}, undisturbed {wanted}"
            );
            let left = [
                temporaries(&dir.join("out")),
                temporaries(&dir.join("cache")),
            ]
            .concat();
            ensure!(left.is_empty(), "after kill {round}: {left:?}");
        }
    }
    println!(
        "    seed {seed}: {killed} bakes killed, the others had ended; {fresh} began with an empty cache; a whole bake takes {:.1} s",
        whole.as_secs_f64()
    );
    empty_cache(world, &dir)
}

/// No process, mount or loop device of a killed bake.
fn nothing_runs(dir: &Path, pid: u32) -> Result<()> {
    let mark = dir.to_string_lossy().into_owned();
    let ended = Instant::now();
    loop {
        let left = leavings(&mark, pid)?;
        if left.is_empty() {
            return Ok(());
        }
        ensure!(ended.elapsed() < AFTERMATH, "left behind: {left:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn leavings(mark: &str, pid: u32) -> Result<Vec<String>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mut found: Vec<String> = mounts
        .lines()
        .filter(|line| line.contains(mark))
        .map(str::to_owned)
        .collect();
    for entry in fs::read_dir("/proc")?.flatten() {
        let path = entry.path();
        let text = |name: &str| {
            fs::read_to_string(path.join(name))
                .unwrap_or_default()
                .replace('\0', " ")
        };
        let is_process = entry.file_name().to_string_lossy().parse::<u32>().is_ok();
        let own = fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(mark));
        if is_process
            && (own
                || text("cmdline").contains(mark)
                || text("status").contains(&format!("PPid:\t{pid}\n")))
        {
            found.push(text("cmdline"));
        }
    }
    for entry in fs::read_dir("/sys/block")?.flatten() {
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        found.extend(file.contains(mark).then_some(file));
    }
    Ok(found)
}
