//! What people write wrongly, and what they are told: one golden file for each mistake.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::farrow::{Farrow, Outcome};
use e2e::world::World;

use super::refusals::{golden, unknown_package};

/// Recipes named after the mistake that is in them.
const WRONG: &str = "tests/recipes/wrong";

/// Each recipe is refused with exactly what its golden file holds, and exit code 2.
pub fn recipes(world: &World) -> Result<()> {
    let dir = world.scratch("recipes")?;
    let mut names = Vec::new();
    for entry in fs::read_dir(world.project.join(WRONG))? {
        let path = entry?.path();
        let stem = path.file_stem().context("name")?.to_string_lossy();
        fs::copy(&path, dir.join(format!("{stem}.toml")))?;
        names.push(stem.into_owned());
    }
    names.sort();
    ensure!(names.len() > 40, "{} wrong recipes", names.len());
    for name in &names {
        let outcome = Farrow::new(world, &["lock", &format!("{name}.toml")])
            .in_dir(&dir)
            .run()?;
        outcome
            .expect_refusal(2, &["error[FR-RECIPE-"])
            .with_context(|| name.clone())?;
        golden(world, &format!("recipe-{name}.txt"), &outcome.stderr)?;
        ensure!(
            !dir.join(format!("{name}.lock")).exists(),
            "{name}: a lock was written"
        );
    }
    println!("    {} wrong recipes refused", names.len());
    large_source(world, &dir)?;
    unknown_package(world, &dir)
}

/// A source that is larger than what a recipe takes in.
fn large_source(world: &World, dir: &Path) -> Result<()> {
    let recipe = "extends = \"debian-13\"\nschema = 1\nname = \"x\"\n\n[packages]\nbase = [\"hello\"]\n\n[[file]]\npath = \"/etc/x\"\nsource = \"large\"\n";
    fs::File::create(dir.join("large"))?.set_len(65 << 20)?;
    fs::write(dir.join("large-source.toml"), recipe)?;
    let outcome = Farrow::new(world, &["lock", "large-source.toml"])
        .in_dir(dir)
        .run()?;
    outcome.expect_refusal(2, &["error[FR-RECIPE-FILE]"])?;
    golden(world, "recipe-file-source-too-large.txt", &outcome.stderr)
}

/// A script of a package that fails: in a folder that comes before the others in PATH lies a program that it calls.
const FAILING: &str = r#"
extends = "minimal"
schema = 1
name = "failing"

[[file]]
path = "/usr/local/sbin/update-ca-certificates"
phase = "before-packages"
mode = "0755"
content = """
#!/bin/sh
echo "no room for certificates"
exit 3
"""
"#;

/// Mistakes that show when an image is baked: `base` with other keys of `[image]`.
const IMAGES: [(&str, &str); 4] = [
    ("image-slot-too-small", "root_slot_mib = 64"),
    ("image-var-too-small", "var_mib = 63"),
    (
        "image-kernel-argument-with-a-space",
        "kernel_arguments = [\"quiet splash\"]",
    ),
    (
        "image-kernel-argument-of-ours",
        "kernel_arguments = [\"farrow.roothash=0\"]",
    ),
];

/// A package's script that fails, and images that cannot be laid out.
pub fn images(world: &World) -> Result<()> {
    let dir = world.scratch("wrong-images")?;
    Farrow::new(world, &["tools", "--", "true"]).succeed()?;
    fs::write(dir.join("failing.toml"), FAILING)?;
    let outcome = bake(world, &dir, "failing")?;
    outcome.expect_refusal(1, &["error[FR-IMAGE-SCRIPT]"])?;
    let log = outcome
        .stderr
        .split_whitespace()
        .find(|word| word.ends_with("/dpkg.log"));
    let log = log.context("the log's path")?.to_owned();
    let said = fs::read_to_string(&log).with_context(|| log.clone())?;
    ensure!(said.contains("no room for certificates"), "the log: {said}");
    let text = outcome.stderr.replace(&log, "LOG");
    golden(world, "image-script-fails.txt", &text)?;
    for (name, key) in IMAGES {
        let recipe = format!("extends = \"base\"\nschema = 1\nname = \"base\"\n\n[image]\n{key}\n");
        fs::write(dir.join(format!("{name}.toml")), recipe)?;
        let outcome = bake(world, &dir, name)?;
        outcome.expect_refusal(1, &["error[FR-IMAGE-INPUT]"])?;
        golden(
            world,
            &format!("{name}.txt"),
            &without_sizes(&outcome.stderr),
        )?;
        ensure!(
            !dir.join("out/image/base-0.1.0.raw").exists(),
            "{name}: an image was made"
        );
    }
    Ok(())
}

/// The error without the stages before it. Sizes of roots change with the packages.
fn without_sizes(text: &str) -> String {
    let start = text.find("error[").unwrap_or(0);
    let words = text[start..]
        .split(' ')
        .map(|word| match word.parse::<u64>() {
            Ok(size) if size > 64 => "N".to_owned(),
            _ => word.to_owned(),
        });
    words.collect::<Vec<_>>().join(" ")
}

fn bake(world: &World, dir: &Path, name: &str) -> Result<Outcome> {
    let file = format!("{name}.toml");
    Farrow::new(world, &["repo", "build", &file])
        .in_dir(dir)
        .succeed()?;
    Farrow::new(world, &["image", "build", &file])
        .in_dir(dir)
        .run()
}
