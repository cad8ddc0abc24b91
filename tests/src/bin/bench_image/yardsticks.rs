//! What other builders need for the same packages.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::farrow::Farrow;
use e2e::world::World;

use super::{Found, flush, least, note};

/// Timed runs; the fastest counts.
const RUNS: usize = 2;

/// Run in the tools tree: a bare root of the same packages from the same repository, without documentation.
const MMDEBSTRAP: &str = r#"
set -eu
cd /work
mmdebstrap --quiet --mode=root --variant=essential --include="$INCLUDE" --skip=output/dev --format=directory \
  --aptopt='APT::Install-Recommends "false"' --aptopt='APT::Sandbox::User "root"' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt=force-unsafe-io \
  trixie /work/bare-$RUN 'deb [signed-by=/work/out/repo/bench.asc] copy:///work/out/repo/bench ./'
"#;

/// The packages that the measured recipe names.
fn packages(world: &World) -> Result<Vec<String>> {
    let recipe = fs::read_to_string(world.project.join("recipes/bench.toml"))?;
    let list = recipe
        .split("platform = [")
        .nth(1)
        .and_then(|rest| rest.split(']').next());
    let words = list.unwrap_or_default().split('"');
    let names: Vec<String> = words
        .filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
        .map(str::to_owned)
        .collect();
    ensure!(names.len() > 20, "recipes/bench.toml has another form");
    Ok(names)
}

/// A bare root by mmdebstrap.
pub fn mmdebstrap(world: &World, dir: &Path, found: &mut Found) -> Result<()> {
    let recipe = world.project.join("tests/recipes/root-tools.toml");
    let bind = format!("{}:/work", dir.display());
    let include = packages(world)?.join(",");
    let script = format!("INCLUDE={include}; export INCLUDE; {MMDEBSTRAP}");
    let recipe = recipe.to_string_lossy();
    let tools = ["tools", "--recipe", &recipe, "--bind", &bind, "--"];
    let run = |words: &[&str]| Farrow::new(world, &[&tools[..], words].concat()).succeed();
    // The tools tree is there before anything is timed.
    run(&["true"])?;
    let mut times = Vec::new();
    for number in 0..RUNS {
        let script = format!("RUN={number}; {script}");
        flush();
        let started = Instant::now();
        run(&["sh", "-c", &script])?;
        times.push(started.elapsed().as_secs_f64());
    }
    println!("  {times:.1?} s");
    let seconds = least(times);
    let what = "mmdebstrap, a bare root of the same packages";
    note(what, seconds, "s");
    found.mmdebstrap_seconds = Some(seconds);
    Ok(())
}

/// Another builder by its own script.
pub fn baseline(script: &str, packages: &str, found: &mut Found) -> Result<()> {
    let output = Command::new(script)
        .args([packages, &RUNS.to_string()])
        .output()
        .with_context(|| script.to_owned())?;
    let (said, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(output.status.success(), "{script}: {}", errors.trim());
    type Figures<'a> = Vec<(&'a str, f64)>;
    let figures: Figures<'_> = said
        .lines()
        .filter_map(|line| {
            let (name, figure) = line.split_once(' ')?;
            Some((name, figure.trim().parse().ok()?))
        })
        .collect();
    let (sizes, times): (Figures<'_>, Figures<'_>) = figures
        .into_iter()
        .partition(|(name, _)| name.ends_with("-size"));
    let name = times.first().context("no line NAME SECONDS")?.0;
    let times: Vec<f64> = times.iter().map(|(_, seconds)| *seconds).collect();
    println!("  {times:.1?} s");
    let seconds = least(times);
    note(&format!("{name}, the same list"), seconds, "s");
    found.baseline_seconds = Some(seconds);
    let (_, bytes) = sizes.first().context("no line NAME-size BYTES")?;
    note(
        &format!("{name}, allocated size of its disk"),
        bytes / 1e6,
        "MB",
    );
    found.baseline_bytes = Some(*bytes as u64);
    Ok(())
}
