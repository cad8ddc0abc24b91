//! An image from nothing but a tarball that carries the tools: no cache, no tools tree, no network, and as root no host:
//! a tree that holds only busybox and `farrow`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::farrow::Farrow;
use e2e::world::World;
use nix::unistd::geteuid;

use super::identity;
use super::refusals::bundle;

/// What a host consists of here. It is fetched as a package, and unpacked with the tools.
const BUSYBOX: &str = r#"
extends = "debian-13"
schema = 1
name = "busybox"

[packages]
base = ["busybox-static"]
"#;

/// Makes the tree this process's root, where nothing of the host is left but its kernel, and bakes.
const ENTER: &str = r#"
set -eu
mount --bind "$TREE" "$TREE"
mount -t proc proc "$TREE/proc"
mount --rbind /dev "$TREE/dev"
cd "$TREE"
pivot_root . old
exec /bin/busybox sh -eu -c '
    /bin/busybox umount -l /old
    cd /work
    exec /bin/busybox env -i PATH=/bin HOME=/work FARROW_STATE=/work/state FARROW_TOOLS=/work/tools FARROW_CACHE=/work/cache \
        /bin/farrow image build base --repo bundle.tar.gz --format raw,tar --out . --offline --json'
"#;

/// Bakes `base` with empty folders, and compares it with the one that this host's tools make.
pub fn baked_from_a_tarball(world: &World) -> Result<()> {
    let dir = world.scratch("alone")?;
    let build = ["repo", "build", "base", "--with-tools", "--out", "made"];
    Farrow::new(world, &build).in_dir(&dir).succeed()?;
    let bake = ["image", "build", "base", "--format", "raw,tar", "--json"];
    let usual = Farrow::new(world, &[&bake[..], &["--out", "made"]].concat());
    let usual = identity::digests(&usual.in_dir(&dir).json()?)?;
    let tarball = bundle(&dir.join("made"))?;
    let tree = dir.join("tree");
    let work = tree.join("work");
    fs::create_dir_all(&work)?;
    fs::rename(&tarball, work.join("bundle.tar.gz"))?;
    let made = match geteuid().is_root() {
        true => {
            make_host(world, &dir, &tree)?;
            on_that_host(&tree)?
        }
        false => {
            println!("    NOT PROVED: a bake without any host or network (needs root)");
            let more = ["--repo", "bundle.tar.gz", "--out", ".", "--offline"];
            Farrow::new(world, &[&bake[..], &more].concat())
                .in_dir(&work)
                .env("FARROW_CACHE", work.join("cache"))
                .env("FARROW_TOOLS", work.join("tools"))
                .env("FARROW_STATE", work.join("state"))
                .json()?
        }
    };
    let (usual_folder, folder) = (dir.join("made/image"), work.join("image"));
    let made = identity::digests(&made)?;
    identity::same(world, (&usual, &usual_folder), (&made, &folder))
}

/// Busybox, `farrow` and the libraries that it is linked to, which are the C library's; mount points; nothing else.
fn make_host(world: &World, dir: &Path, tree: &Path) -> Result<()> {
    for folder in ["bin", "old", "proc", "dev", "sys", "tmp"] {
        fs::create_dir(tree.join(folder))?;
    }
    fs::write(dir.join("busybox.toml"), BUSYBOX)?;
    Farrow::new(world, &["repo", "build", "busybox.toml", "--out", "host"])
        .in_dir(dir)
        .succeed()?;
    let bind = format!("{}:/work", dir.display());
    let unpack = "dpkg-deb --extract /work/host/repo/busybox/busybox-static_*.deb /work/unpacked";
    Farrow::new(world, &["tools", "--bind", &bind, "--", "sh", "-c", unpack]).succeed()?;
    let found = ["usr/bin/busybox", "bin/busybox"].map(|path| dir.join("unpacked").join(path));
    let busybox = found.iter().find(|path| path.is_file());
    fs::copy(busybox.context("busybox")?, tree.join("bin/busybox"))?;
    fs::copy(&world.binary, tree.join("bin/farrow"))?;
    for library in libraries(&world.binary)? {
        let inside = tree.join(library.strip_prefix("/")?);
        fs::create_dir_all(inside.parent().context("folder")?)?;
        fs::copy(&library, &inside).with_context(|| library.display().to_string())?;
    }
    Ok(())
}

/// The files that the dynamic linker loads, and itself, as ldd(1) lists them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.split_whitespace();
    let paths: Vec<PathBuf> = words
        .filter(|word| word.starts_with('/') && !word.ends_with(':'))
        .map(PathBuf::from)
        .collect();
    let known = ["libc.", "libm.", "libgcc_s.", "ld-linux"];
    for path in &paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        ensure!(
            known.iter().any(|known| name.starts_with(known)),
            "farrow needs {} of its host",
            path.display()
        );
    }
    Ok(paths)
}

fn on_that_host(tree: &Path) -> Result<serde_json::Value> {
    let output = Command::new("unshare")
        .args(["--mount", "--net", "--propagation", "private"])
        .args(["sh", "-c", ENTER])
        .env("TREE", tree)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "the bake beside busybox failed: {said}"
    );
    serde_json::from_slice(&output.stdout).with_context(|| said.into_owned())
}
