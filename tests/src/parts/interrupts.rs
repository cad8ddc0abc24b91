//! Ctrl-C in every stage: the exit code of an interrupted program, and nothing half-done left.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::farrow::{Farrow, Running, temporaries};
use e2e::world::World;
use nix::sys::signal::Signal;

/// Stages of `up`, and how long after its start each is interrupted.
const STAGES: [(&str, Duration); 6] = [
    ("lock", Duration::from_millis(300)),
    ("fetch", Duration::from_millis(300)),
    ("repository", Duration::from_millis(700)),
    ("root", Duration::from_secs(6)),
    ("image", Duration::from_secs(1)),
    ("boot", Duration::from_secs(8)),
];

/// A recipe of the stage's own, so that there is work to do for the tree and the image. The tree is not done before the
/// signal comes: a script sleeps in it.
fn recipe(stage: &str) -> String {
    let common = format!(
        r#"
extends = "pigsty"
schema = 1
name = "interrupted"

[[file]]
path = "/etc/interrupted"
content = "{stage}"
"#
    );
    match stage {
        "root" => {
            common
                + r#"
[[script]]
name = "slow"
run = "sleep 100"
"#
        }
        _ => common,
    }
}

/// Interrupts `up` in one stage after the other; each run goes on from where the one before was cut.
pub fn every_stage(world: &World) -> Result<()> {
    let dir = world.scratch("interrupts")?;
    for (stage, delay) in STAGES {
        fs::write(dir.join("interrupted.toml"), recipe(stage))?;
        interrupt(world, &dir, stage, delay).with_context(|| format!("ctrl-C in {stage}"))?;
    }
    Ok(())
}

fn all_temporaries(world: &World, dir: &Path) -> Vec<PathBuf> {
    let places = [
        dir.join("out"),
        world.root.join("cache"),
        world.root.join("tools"),
    ];
    places.iter().flat_map(|place| temporaries(place)).collect()
}

fn interrupt(world: &World, dir: &Path, stage: &str, delay: Duration) -> Result<()> {
    let log = dir.join(format!("{stage}.log"));
    // A bake that failed in an earlier part leaves its tree and dpkg's log until the next bake.
    let before = all_temporaries(world, dir);
    let mut running = Farrow::new(
        world,
        &[
            "up",
            "--recipe",
            "interrupted.toml",
            "--events",
            "--until-ready",
        ],
    )
    .in_dir(dir)
    .start(&log)?;
    wait_for_stage(&mut running, &log, stage)?;
    std::thread::sleep(delay);
    running.signal(Signal::SIGINT)?;
    let pid = running.child.id();
    let (code, _) = running.wait(Duration::from_secs(60))?;
    let said = fs::read_to_string(&log)?;
    ensure!(code == Some(130), "exit {code:?}\n{said}");
    let mut left = all_temporaries(world, dir);
    left.retain(|path| !before.contains(path));
    ensure!(left.is_empty(), "left: {left:?}");
    let children = descendants_named(pid)?;
    ensure!(children.is_empty(), "still running: {children:?}");
    Ok(())
}

fn wait_for_stage(running: &mut Running, log: &Path, stage: &str) -> Result<()> {
    let wanted = format!(r#""stage":"{stage}""#);
    let started = Instant::now();
    loop {
        let ended = running.child.try_wait()?;
        let text = fs::read_to_string(log)?;
        if text
            .lines()
            .any(|line| line.contains("stage-start") && line.contains(&wanted))
        {
            return Ok(());
        }
        ensure!(
            ended.is_none() && started.elapsed() < Duration::from_secs(300),
            "stage {stage} did not begin:\n{text}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Processes that still carry the run's mark in their environment or whose parent is gone run.
fn descendants_named(pid: u32) -> Result<Vec<String>> {
    std::thread::sleep(Duration::from_millis(300));
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.chars().all(|c| c.is_ascii_digit()) {
            continue;
        }
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let command = fs::read_to_string(entry.path().join("cmdline"))
            .unwrap_or_default()
            .replace('\0', " ");
        let parent = format!("PPid:\t{pid}\n");
        if status.contains(&parent) || command.contains("scratch/interrupts") {
            found.push(command);
        }
    }
    Ok(found)
}
