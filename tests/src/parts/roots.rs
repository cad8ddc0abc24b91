//! Root trees beside those that mmdebstrap makes of the same packages from the same repository.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use e2e::farrow::Farrow;
use e2e::roots::tree;
use e2e::world::World;

use super::number;

/// Packages with scripts, triggers, diversions, alternatives and accounts of all sorts.
const VARIED: &str = include_str!("../../recipes/varied-packages.txt");
/// A set in which folders were missing once: nothing made the scripts of `sgml-base` run after the essential packages'.
const ONCE_WRONG: [&str; 9] = [
    "cvs",
    "isc-dhcp-client",
    "docbook-xml",
    "debconf-utils",
    "libnss-myhostname",
    "file",
    "at",
    "cups-client",
    "tftpd-hpa",
];
/// How many sets of them are compared: a tenth of what a long run does.
const SETS: u64 = 2;
/// The largest set.
const LARGEST: usize = 12;
/// Environment variable with which the platform and ten times as many sets are compared.
const LONG: &str = "FARROW_E2E_LONG";

/// Run in the tools tree. The same documentation is left out, and the same policy lets nothing start.
const YARDSTICK: &str = r#"
set -eu
cd /work
mmdebstrap --quiet --mode=root --variant=essential --include="$INCLUDE" --skip=output/dev \
  --aptopt='APT::Install-Recommends "false"' --aptopt='APT::Sandbox::User "root"' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/info/*' \
  --dpkgopt='path-exclude=/usr/share/lintian/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-include=/usr/share/locale/locale.alias' --dpkgopt='path-exclude=/usr/share/help/*' \
  --dpkgopt=force-unsafe-io \
  --setup-hook='mkdir -p "$1/usr/lib/systemd/system-preset" "$1/usr/lib/systemd/user-preset" "$1/etc/postgresql-common/createcluster.d"' \
  --setup-hook='echo "disable *" | tee "$1/usr/lib/systemd/system-preset/00-farrow.preset" > "$1/usr/lib/systemd/user-preset/00-farrow.preset"' \
  --setup-hook='echo "create_main_cluster = false" > "$1/etc/postgresql-common/createcluster.d/00-farrow.conf"' \
  --setup-hook='for section in 1 2 3 4 5 6 7 8; do mkdir -p "$1/usr/share/man/man$section"; done' \
  trixie /work/yardstick.tar 'deb [signed-by=/work/out/repo/set.asc] copy:///work/out/repo/set ./'
"#;

/// The archives of Debian 13 without what the shipped recipes add to a root.
fn recipe(world: &World, packages: &[&str]) -> Result<String> {
    let shipped = fs::read_to_string(world.project.join("recipes/debian-13.toml"))?;
    let archives = shipped.split("# Fixed ids").next().unwrap_or_default();
    let archives = archives.replace("name = \"debian-13\"", "name = \"set\"");
    ensure!(
        archives != shipped,
        "recipes/debian-13.toml has another form"
    );
    Ok(format!(
        "{archives}[packages]\nset = {packages:?}\n[image]\nformats = [\"tar\"]\n"
    ))
}

/// Bakes a set of packages, makes its yardstick, compares.
fn compare(world: &World, packages: &[&str]) -> Result<()> {
    let dir = world.scratch("roots")?;
    fs::write(dir.join("set.toml"), recipe(world, packages)?)?;
    let key = world.project.join("recipes/keys");
    std::os::unix::fs::symlink(key, dir.join("keys"))?;
    for verb in ["repo", "image"] {
        Farrow::new(world, &[verb, "build", "set.toml"])
            .in_dir(&dir)
            .succeed()?;
    }
    yardstick(world, &dir, packages)?;
    let ours = tree::read(&dir.join("out/image/set.tar"))?;
    let theirs = tree::read(&dir.join("yardstick.tar"))?;
    let (lines, equal) = tree::difference(&ours, &theirs);
    ensure!(
        lines.is_empty() && equal > 1000,
        "{packages:?}: {equal} paths are equal, these are not:\n{}",
        lines.join("\n")
    );
    println!(
        "    {} packages named, {equal} paths equal, none differs: {}",
        packages.len(),
        packages.join(" ")
    );
    database(world, &dir)
}

fn yardstick(world: &World, dir: &Path, packages: &[&str]) -> Result<()> {
    let tools = world.project.join("tests/recipes/root-tools.toml");
    let bind = format!("{}:/work", dir.display());
    let script = format!(
        "INCLUDE={}; export INCLUDE; {YARDSTICK}",
        packages.join(",")
    );
    let words = [
        "tools",
        "--recipe",
        &tools.to_string_lossy(),
        "--bind",
        &bind,
        "--",
        "sh",
        "-c",
        &script,
    ];
    Farrow::new(world, &words).succeed().map(drop)
}

/// dpkg finds nothing to complain about in our tree.
fn database(world: &World, dir: &Path) -> Result<()> {
    let bind = format!("{}:/work", dir.display());
    let run = |words: &[&str]| {
        let words = [&["tools", "--bind", &bind, "--"], words].concat();
        Farrow::new(world, &words).succeed()
    };
    let script =
        "mkdir /work/tree && tar -xf /work/out/image/set.tar -C /work/tree --numeric-owner";
    run(&["sh", "-c", script])?;
    for question in ["--audit", "--verify"] {
        let said = run(&[
            "dpkg",
            "--root=/work/tree",
            "--admindir=/work/tree/usr/lib/sysimage/dpkg",
            question,
        ])?;
        let lines: Vec<&str> = said.stdout.lines().filter(|line| !left_out(line)).collect();
        ensure!(lines.is_empty(), "dpkg {question}:\n{}", lines.join("\n"));
    }
    run(&["rm", "-rf", "/work/tree"]).map(drop)
}

/// Whether dpkg only misses documentation, which images have none of.
fn left_out(line: &str) -> bool {
    let folders = ["doc", "man", "info", "lintian", "locale", "help"];
    line.starts_with("missing")
        && folders
            .iter()
            .any(|folder| line.contains(&format!(" /usr/share/{folder}/")))
}

/// Sets by chance, and in a long run the platform.
pub fn faithful(world: &World) -> Result<()> {
    let words: Vec<&str> = VARIED.split_whitespace().collect();
    let long = std::env::var_os(LONG).is_some();
    let mut random = fastrand::Rng::with_seed(number("FARROW_TEST_SEED", 1));
    // `FARROW_TEST_SKIP` leaves out so many of the first sets.
    let skipped = number("FARROW_TEST_SKIP", 0);
    for place in 0..if long { 10 * SETS } else { SETS } {
        let size = random.usize(1..=LARGEST);
        let set: Vec<&str> = (0..size)
            .map(|_| words[random.usize(..words.len())])
            .collect();
        if place >= skipped {
            compare(world, &set)?;
        }
    }
    compare(world, &ONCE_WRONG)?;
    if !long {
        println!(
            "    SKIPPED: the whole platform and {} further sets (set {LONG}=1)",
            9 * SETS
        );
        return Ok(());
    }
    let bench = fs::read_to_string(world.project.join("recipes/bench.toml"))?;
    let list = bench
        .split("platform = [")
        .nth(1)
        .and_then(|rest| rest.split(']').next());
    let list: Vec<&str> = list
        .unwrap_or_default()
        .split('"')
        .filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
        .collect();
    ensure!(
        list.len() > 20,
        "recipes/bench.toml has another form: {list:?}"
    );
    compare(world, &list)?;
    println!(
        "    {} sets and the platform's list: no path differs",
        10 * SETS
    );
    Ok(())
}
