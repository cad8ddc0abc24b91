//! What must be refused, with a clear message, a non-zero exit and nothing half-done left.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use e2e::farrow::{Farrow, temporaries};
use e2e::proxy::{Falsify, Proxy};
use e2e::world::World;

const TINY: &str = r#"
extends = "debian-13"
schema = 1
name = "tiny"

[packages]
base = ["hello"]
"#;

/// Compares printed text with the file that holds it; `FARROW_UPDATE_GOLDEN=1` writes the file.
pub(super) fn golden(world: &World, name: &str, text: &str) -> Result<()> {
    let path = world.project.join("tests/golden").join(name);
    if std::env::var_os("FARROW_UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().expect("has a folder"))?;
        fs::write(&path, text)?;
    }
    let expected = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    ensure!(
        text == expected,
        "{name}: expected\n{expected}\nprinted\n{text}"
    );
    Ok(())
}

/// A package that no archive has: the nearest name is said.
pub(super) fn unknown_package(world: &World, dir: &Path) -> Result<()> {
    fs::write(
        dir.join("typo.toml"),
        TINY.replace("hello", "postgresql-71"),
    )?;
    let outcome = Farrow::new(world, &["lock", "typo.toml"])
        .in_dir(dir)
        .run()?;
    ensure!(
        outcome.code != Some(0),
        "a package that does not exist was locked"
    );
    outcome.expect_refusal(
        outcome.code.unwrap_or(-1),
        &["postgresql-71", "postgresql-17"],
    )?;
    ensure!(!dir.join("typo.lock").exists(), "a lock was written");
    Ok(())
}

/// Contradictory deployments, and metadata from which no role follows.
pub fn deployments(world: &World) -> Result<()> {
    let dir = world.scratch("deployments")?;
    let good = fs::read_to_string(world.project.join("recipes/deployments/two-node.toml"))?;
    let shared = good.replace("10.10.10.11", "10.10.10.10");
    ensure!(
        shared != good,
        "the deployment has another address than this test thinks"
    );
    fs::write(dir.join("shared-address.toml"), shared)?;
    let outcome = Farrow::new(world, &["explain", "shared-address.toml", "--node", "meta"])
        .in_dir(&dir)
        .run()?;
    outcome.expect_refusal(2, &["10.10.10.10", "error[FR-"])?;
    let outcome = Farrow::new(world, &["up", "shared-address.toml", "--until-ready"])
        .in_dir(&dir)
        .run()?;
    outcome.expect_refusal(2, &["10.10.10.10"])?;
    ensure!(
        !dir.join("out").exists(),
        "`up` made something of a deployment that it refused"
    );
    fs::write(dir.join("typo.toml"), good.replacen("subnet", "subnett", 1))?;
    let outcome = Farrow::new(world, &["explain", "typo.toml", "--node", "meta"])
        .in_dir(&dir)
        .run()?;
    outcome.expect_refusal(2, &["subnett", "^"])?;
    no_role(world, &dir)
}

/// The address in the metadata belongs to no machine of the document, and nothing else names a role.
fn no_role(world: &World, dir: &Path) -> Result<()> {
    Farrow::new(world, &["seed", "two-node", "--out", "seed", "--no-images"])
        .in_dir(dir)
        .succeed()?;
    Farrow::new(world, &["bootstrap", "--out", "farrow-bootstrap"])
        .in_dir(dir)
        .succeed()?;
    let metadata = dir.join("seed/pg-test-1");
    let config = fs::read_to_string(metadata.join("network-config"))?;
    fs::write(
        metadata.join("network-config"),
        config.replace("10.10.10.11", "10.10.10.77"),
    )?;
    fs::write(
        metadata.join("meta-data"),
        "instance-id: stranger\nlocal-hostname: stranger\n",
    )?;
    let fragment = fs::read_to_string(metadata.join("user-data"))?;
    let lines: Vec<&str> = fragment
        .lines()
        .filter(|line| {
            !line.starts_with("node =")
                && !line.starts_with("cluster =")
                && !line.starts_with("role = \"database\"")
        })
        .collect();
    fs::write(metadata.join("user-data"), lines.join("\n") + "\n")?;
    let output = std::process::Command::new(dir.join("farrow-bootstrap"))
        .args(["plan", "--metadata"])
        .arg(&metadata)
        .arg("--services")
        .arg(world.project.join("recipes/services"))
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(2),
        "exit {:?}: {said}",
        output.status.code()
    );
    ensure!(
        output.stdout.is_empty() && said.contains("10.10.10.77") && said.contains("hint:"),
        "it said: {said}"
    );
    Ok(())
}

/// The base URL of the real mirror, found as farrow finds it.
pub fn mirror() -> Result<String> {
    let urls = offline_repo::mirror::Mirrors::from_host(Default::default()).urls("debian", None)?;
    urls.into_iter()
        .next()
        .context("no mirror of debian is known on this host")
}

fn tiny(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("tiny.toml");
    fs::write(&path, TINY)?;
    Ok(path)
}

/// An index with a bad signature, and a package with another hash than the index says.
pub fn archives(world: &World) -> Result<()> {
    let dir = world.scratch("archives")?;
    tiny(&dir)?;
    let upstream = mirror()?;
    let release = Proxy::start(
        &upstream,
        Some(Falsify {
            needle: "trixie/InRelease".into(),
            change: change_release,
        }),
    )?;
    let outcome = Farrow::new(
        world,
        &[
            "lock",
            "tiny.toml",
            "--mirror",
            &format!("debian={}", release.url),
        ],
    )
    .in_dir(&dir)
    .run()?;
    outcome.expect_refusal(1, &["signature", "InRelease"])?;
    ensure!(
        !dir.join("tiny.lock").exists(),
        "a lock was written from a falsified index"
    );

    let package = Proxy::start(
        &upstream,
        Some(Falsify {
            needle: "/hello_".into(),
            change: flip_middle,
        }),
    )?;
    let mirror = format!("debian={}", package.url);
    Farrow::new(world, &["lock", "tiny.toml", "--mirror", &mirror])
        .in_dir(&dir)
        .succeed()?;
    let cache = dir.join("cache");
    let outcome = Farrow::new(world, &["repo", "build", "tiny.toml", "--mirror", &mirror])
        .in_dir(&dir)
        .env("FARROW_CACHE", &cache)
        .run()?;
    outcome.expect_refusal(1, &["hello", "sha256"])?;
    ensure!(
        !dir.join("out/repo/tiny").exists(),
        "a repository was made with a falsified package"
    );
    ensure!(
        temporaries(&dir.join("out")).is_empty(),
        "left: {:?}",
        temporaries(&dir.join("out"))
    );
    Ok(())
}

/// Changes a date inside the signed text, so that everything but the signature still fits.
fn change_release(body: Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8_lossy(&body).replacen("Suite: stable", "Suite: stabel", 1);
    text.replacen("Origin: Debian", "Origin: Debain", 1)
        .into_bytes()
}

fn flip_middle(mut body: Vec<u8>) -> Vec<u8> {
    let middle = body.len() / 2;
    body[middle] ^= 1;
    body
}

/// Half a tarball: `verify` and `install` refuse it, and the target stays as it was.
pub fn truncated_bundle(world: &World) -> Result<()> {
    let dir = world.scratch("truncated")?;
    let whole = bundle(&world.out())?;
    let half = dir.join(whole.file_name().context("name")?);
    let bytes = fs::read(&whole)?;
    fs::write(&half, &bytes[..bytes.len() / 2])?;
    let half = half.to_string_lossy().into_owned();
    Farrow::new(world, &["repo", "verify", &half])
        .run()?
        .expect_refusal(1, &["error[FR-"])?;
    let target = dir.join("www");
    fs::create_dir(&target)?;
    let target_text = target.to_string_lossy().into_owned();
    Farrow::new(world, &["repo", "install", &half, "--target", &target_text])
        .run()?
        .expect_refusal(1, &["error[FR-"])?;
    let left: Vec<_> = fs::read_dir(&target)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    ensure!(left.is_empty(), "left in the target: {left:?}");
    Ok(())
}

/// The tarball that `up` made.
pub fn bundle(out: &Path) -> Result<PathBuf> {
    let found = fs::read_dir(out)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().ends_with(".tar.gz"));
    found.with_context(|| format!("no tarball in {}", out.display()))
}

/// A file system too small for the repository: the reason is named, and no artefact is half there.
pub fn full_disk(world: &World) -> Result<()> {
    let dir = world.scratch("full-disk")?;
    let small = dir.join("small");
    fs::create_dir(&small)?;
    nix::mount::mount(
        Some("tmpfs"),
        &small,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=40m"),
    )?;
    let outcome = build_into(world, &small);
    let left: Vec<_> = fs::read_dir(&small)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    nix::mount::umount(&small)?;
    outcome?;
    let finished: Vec<_> = left
        .iter()
        .filter(|path| {
            path.to_string_lossy().ends_with(".tar.gz") || path.to_string_lossy().ends_with(".raw")
        })
        .collect();
    ensure!(finished.is_empty(), "left: {finished:?}");
    Ok(())
}

fn build_into(world: &World, small: &Path) -> Result<()> {
    let lock = world
        .out()
        .join("pigsty.lock")
        .to_string_lossy()
        .into_owned();
    let out = small.to_string_lossy().into_owned();
    let outcome = Farrow::new(
        world,
        &["repo", "build", "pigsty", "--lock", &lock, "--out", &out],
    )
    .run()?;
    outcome.expect_refusal(1, &["space"])?;
    ensure!(
        !small.join("repo/pigsty").exists(),
        "half a repository has its final name"
    );
    ensure!(
        temporaries(small).is_empty(),
        "left: {:?}",
        temporaries(small)
    );
    let image = small.join("image").to_string_lossy().into_owned();
    let repository = world
        .out()
        .join("repo/pigsty")
        .to_string_lossy()
        .into_owned();
    let outcome = Farrow::new(
        world,
        &[
            "image",
            "build",
            "pigsty",
            "--repo",
            &repository,
            "--out",
            &image,
        ],
    )
    .run()?;
    outcome.expect_refusal(1, &["space"])?;
    ensure!(
        temporaries(small).is_empty(),
        "left: {:?}",
        temporaries(small)
    );
    Ok(())
}
