//! Bakes: from nothing, after small changes, and compressed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use e2e::farrow::{Farrow, Outcome};
use e2e::world::World;

use super::{Found, flush, median, memory, note, say};

/// Timed bakes from an empty cache; the median counts.
const RUNS: usize = 3;
/// Timed changes of one file.
const CHANGES: usize = 3;

/// Packages that no other one needs: one without scripts, and one with some.
const MORE: [(&str, &str); 2] = [("more", "hello"), ("scripted", "less")];

/// A recipe that adds to the measured one.
fn child(name: &str, rest: &str) -> String {
    format!(
        "extends = \"bench\"\nschema = 1\nname = \"{name}\"\n\n[repository]\nname = \"bench\"\nembed = false\n\n{rest}"
    )
}

/// Repositories, the tools tree, and a cache that has nothing but downloads.
pub fn prepare(world: &World, dir: &Path) -> Result<()> {
    Farrow::new(world, &["tools", "--", "true"]).succeed()?;
    Farrow::new(world, &["repo", "build", "bench"])
        .in_dir(dir)
        .succeed()?;
    for (name, package) in MORE {
        let more = child("bench", &format!("[packages]\nmore = [\"{package}\"]\n"));
        let own = format!("[repository]\nname = \"{name}\"");
        let more = more.replace("[repository]\nname = \"bench\"", &own);
        let file = format!("{name}.toml");
        fs::write(dir.join(&file), more)?;
        Farrow::new(world, &["repo", "build", &file])
            .in_dir(dir)
            .succeed()?;
    }
    Ok(())
}

/// Bakes a recipe from a repository with the cache of the last bake from nothing, into `dir/made`.
fn bake(
    world: &World,
    dir: &Path,
    recipe: &str,
    repository: &str,
    more: &[&str],
) -> Result<Outcome> {
    let words = [
        "image", "build", recipe, "--repo", repository, "--out", "made", "--events",
    ];
    let words = [&words[..], more].concat();
    Farrow::new(world, &words)
        .in_dir(dir)
        .env("FARROW_CACHE", cache(dir, RUNS - 1))
        .succeed()
}

/// The cache of one of the bakes from nothing. None is removed before all is measured: see [`super::settle`].
fn cache(dir: &Path, run: usize) -> PathBuf {
    dir.join(format!("cache-{run}"))
}

/// Removes what bakes made and kept. Caches may hold files of mapped owners, which only a mapped process can remove.
pub fn remove(world: &World, dir: &Path) -> Result<()> {
    let bind = format!("{}:/work", dir.display());
    let rm = "rm -rf /work/cache-* /work/made /work/bare-*";
    let words = ["tools", "--bind", &bind, "--", "sh", "-c", rm];
    Farrow::new(world, &words).succeed().map(drop)
}

/// The one file in the images' folder whose name ends so; names carry the version.
pub fn image(dir: &Path, ending: &str) -> Result<PathBuf> {
    let folder = dir.join("made/image");
    let found = fs::read_dir(&folder)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().ends_with(ending));
    found.with_context(|| format!("no {ending} in {}", folder.display()))
}

fn allocated(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::metadata(path)?.blocks() * 512)
}

/// The steps of a bake that took longest, from its events.
fn steps(outcome: &Outcome) -> String {
    let said = outcome.stderr.lines();
    let texts = said.filter_map(|line| {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(event["text"].as_str()?.to_owned())
    });
    let mut steps: Vec<String> = texts
        .filter_map(|text| Some(text.split_once(" took ")?).map(|(a, b)| format!("{a} {b}")))
        .collect();
    steps.retain(|step| !step.ends_with(" 0.0 s"));
    steps.join(", ")
}

/// Bakes from an empty cache: time, memory, and the size of the raw image.
pub fn cold(world: &World, dir: &Path, found: &mut Found) -> Result<()> {
    let (mut times, mut peaks) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        let words = [
            "image",
            "build",
            "bench",
            "--repo",
            "out/repo/bench",
            "--out",
            "made",
        ];
        let words = [&words[..], &["--events", "--format", "raw"]].concat();
        let bake = Farrow::new(world, &words)
            .in_dir(dir)
            .env("FARROW_CACHE", cache(dir, run));
        flush();
        let (outcome, peak) = memory::peak_of(|| bake.succeed());
        let outcome = outcome?;
        println!("  {:.1} s: {}", outcome.seconds, steps(&outcome));
        times.push(outcome.seconds);
        peaks.push(peak);
    }
    let seconds = median(times);
    note("cold bake, repository to raw disk (median)", seconds, "s");
    let peak = median(peaks);
    say(
        "peak memory of a cold bake",
        peak,
        "MB",
        "<= 1000 MB",
        peak <= 1000.0,
    );
    let bytes = allocated(&image(dir, ".raw")?)?;
    note("allocated size of the raw image", bytes as f64 / 1e6, "MB");
    initrd(world, dir)?;
    (found.cold_seconds, found.raw_bytes) = (Some(seconds), Some(bytes));
    Ok(())
}

fn initrd(world: &World, dir: &Path) -> Result<()> {
    let raw = image(dir, ".raw")?;
    let raw = raw.to_string_lossy();
    let said = Farrow::new(world, &["image", "inspect", &raw, "--json"]).json()?;
    let bytes = said["contents"]["kernels"][0]["initrd_size"]
        .as_f64()
        .context("the initrd's size")?;
    let mb = bytes / 1e6;
    say("initrd", mb, "MB", "<= 12 MB", mb <= 12.0);
    Ok(())
}

/// Bakes after one change, with all the rest cached.
pub fn warm(world: &World, dir: &Path, cold: Option<f64>) -> Result<()> {
    let raw = ["--format", "raw"];
    let file = |text: &str| {
        child(
            "bench",
            &format!("[[file]]\npath = \"/etc/motd\"\ncontent = \"{text}\"\n"),
        )
    };
    let (changed, plain) = (dir.join("changed.toml"), "out/repo/bench");
    let timed = |recipe: &str, repository: &str| -> Result<f64> {
        flush();
        let outcome = bake(world, dir, recipe, repository, &raw)?;
        println!("  {:.1} s: {}", outcome.seconds, steps(&outcome));
        Ok(outcome.seconds)
    };
    fs::write(&changed, file("before"))?;
    timed("changed.toml", plain)?;
    let mut times = Vec::new();
    for change in 0..CHANGES {
        fs::write(&changed, file(&format!("after {change}")))?;
        times.push(timed("changed.toml", plain)?);
    }
    let seconds = median(times);
    say(
        "bake after one changed file",
        seconds,
        "s",
        "<= 5 s",
        seconds <= 5.0,
    );
    let user = "[[user]]\nname = \"one-more\"\nuid = 951\nhome = \"/var/lib/one-more\"\nphase = \"after-packages\"\n";
    fs::write(&changed, child("bench", user))?;
    let seconds = timed("changed.toml", plain)?;
    say(
        "bake after one changed user",
        seconds,
        "s",
        "<= 5 s",
        seconds <= 5.0,
    );
    for (name, package) in MORE {
        let seconds = timed(&format!("{name}.toml"), &format!("out/repo/{name}"))?;
        let what = format!("bake with one package more, {package}");
        match cold {
            Some(cold) => {
                let bar = format!("<= {:.1} s (cold / 4)", cold / 4.0);
                say(&what, seconds, "s", &bar, seconds <= cold / 4.0);
            }
            None => note(&what, seconds, "s"),
        }
    }
    Ok(())
}

/// The compressed qcow2 beside the raw disk packed by xz, for both ways to pack the root.
pub fn compressed(world: &World, dir: &Path) -> Result<()> {
    for packing in ["lz4", "zstd"] {
        let rest = format!("[image]\nroot_compression = \"{packing}\"\n");
        fs::write(dir.join("packed.toml"), child("bench", &rest))?;
        let formats = ["--format", "raw,qcow2-compressed"];
        let outcome = bake(world, dir, "packed.toml", "out/repo/bench", &formats)?;
        println!("  {:.1} s: {}", outcome.seconds, steps(&outcome));
        let qcow2 = fs::metadata(image(dir, ".compressed.qcow2")?)?.len();
        let xz = xz(world, dir)?;
        let what = format!("compressed qcow2, root packed by {packing}");
        note(&what, qcow2 as f64 / 1e6, "MB");
        note("  the same raw disk packed by xz", xz as f64 / 1e6, "MB");
        let more = (qcow2 as f64 / xz as f64 - 1.0) * 100.0;
        say("  qcow2 is larger by", more, "%", "<= 5 %", more <= 5.0);
    }
    Ok(())
}

/// Size of the raw disk packed by the strongest of xz's presets, in one block.
fn xz(world: &World, dir: &Path) -> Result<u64> {
    let name = image(dir, ".raw")?;
    let name = name.file_name().context("name")?.to_string_lossy();
    let bind = format!("{}:/work", dir.display());
    let script = format!("xz -9e --stdout '/work/made/image/{name}' | wc --bytes");
    let words = ["tools", "--bind", &bind, "--", "sh", "-c", &script];
    let said = Farrow::new(world, &words).succeed()?.stdout;
    let bytes: u64 = said.trim().parse().context("xz's size")?;
    ensure!(bytes > 0, "xz wrote nothing");
    Ok(bytes)
}
