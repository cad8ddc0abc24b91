//! The bake and the plan as a plain user, on a fresh Debian 13 that this part makes with farrow itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::farrow::Farrow;
use e2e::world::World;

use super::formats::FORMATS;
use super::identity;

/// A Debian 13 with nothing but what a plain user needs of the host: newuidmap and newgidmap
/// (and the programs with which this part enters it).
const HOST: &str = r#"
extends = "minimal"
schema = 1
name = "plainhost"

[packages]
host = ["mount", "uidmap"]

[image]
formats = ["tar"]
"#;

/// Makes the tree this process's root (a chroot would not do: user namespaces are refused inside one), then
/// becomes the user and runs a command.
const ENTER: &str = r#"
set -eu
mount --bind "$TREE" "$TREE"
mkdir -p "$TREE/old" "$TREE/tools" "$TREE/proc" "$TREE/dev" "$TREE/tmp"
chmod 1777 "$TREE/tmp"
mount --bind "$TOOLS" "$TREE/tools"
mount -t proc proc "$TREE/proc"
mount --rbind /dev "$TREE/dev"
cd "$TREE"
pivot_root . old
umount -l /old
exec setpriv --reuid=1000 --regid=1000 --clear-groups \
  env -i HOME=/home/plain PATH="$INSIDE_PATH" FARROW_TOOLS=/tools /bin/sh -c "cd /home/plain && $INSIDE"
"#;

/// Bakes an image and computes a plan without any privilege; without newuidmap, that is what the error names.
pub fn bake_and_plan(world: &World) -> Result<()> {
    let dir = world.scratch("plain")?;
    let tree = make_host(world, &dir)?;
    let full = "/usr/bin:/bin:/usr/sbin:/home/plain";
    let bake = format!("farrow image build base --repo repo/base --format {FORMATS} --json");

    let (ok, said) = as_user(
        world,
        &tree,
        "/home/plain",
        "/usr/bin/env PATH=/home/plain/only ../plain/farrow image build base --repo repo/base --format raw",
    )?;
    ensure!(
        !ok && said.contains("newuidmap"),
        "without newuidmap: {said}"
    );
    let (ok, said) = as_user(world, &tree, full, &bake)?;
    ensure!(ok, "the bake failed: {said}");
    same_as_root(world, &dir, &said)?;
    for command in [
        "farrow seed two-node --no-images",
        "farrow bootstrap --out farrow-bootstrap",
        "./farrow-bootstrap plan --metadata out/seed/pg-test-1 --services services",
    ] {
        let (ok, said) = as_user(world, &tree, full, command)?;
        ensure!(ok, "`{command}` failed: {said}");
    }
    // The user's own files have ids of the range of that user, which no namespace of ours maps: root removes them.
    fs::remove_dir_all(&tree).with_context(|| tree.display().to_string())?;
    Ok(())
}

/// The images are those that root baked from the same packages, byte for byte. If they are not, root bakes once more, to
/// have something to compare with.
fn same_as_root(world: &World, dir: &Path, said: &str) -> Result<()> {
    let document = said.find("{\n").map_or(said, |start| &said[start..]);
    let document = serde_json::from_str(document).with_context(|| said.to_owned())?;
    let (own, root) = (identity::digests(&document)?, identity::recorded(world)?);
    if own == root {
        println!("    SHA-256 of {} formats are root's", own.len());
        return Ok(());
    }
    let words = ["image", "build", "base", "--format", "raw", "--out", "root"];
    Farrow::new(world, &[&words[..], &["--repo", "out/repo/base"]].concat())
        .in_dir(dir)
        .succeed()?;
    let folders = [
        dir.join("root/image"),
        home(&dir.join("tree")).join("out/image"),
    ];
    identity::same(world, (&root, &folders[0]), (&own, &folders[1]))
}

/// The user's home in the machine. /home of an image is a link into /var, where nothing has made its target yet.
fn home(tree: &Path) -> PathBuf {
    let link = fs::read_link(tree.join("home")).unwrap_or_else(|_| PathBuf::from("home"));
    tree.join(link.strip_prefix("/").unwrap_or(&link))
        .join("plain")
}

/// The machine: its root tree, a user with a subuid range, and that user's files.
fn make_host(world: &World, dir: &Path) -> Result<PathBuf> {
    fs::write(dir.join("plainhost.toml"), HOST)?;
    for args in [
        ["repo", "build", "plainhost.toml"],
        ["image", "build", "plainhost.toml"],
        ["repo", "build", "base"],
    ] {
        Farrow::new(world, &args).in_dir(dir).succeed()?;
    }
    let bind = format!("{}:/work", dir.display());
    let unpack =
        "mkdir /work/tree && tar -xpf /work/out/image/plainhost.tar -C /work/tree --numeric-owner";
    Farrow::new(world, &["tools", "--bind", &bind, "--", "sh", "-c", unpack]).succeed()?;
    let tree = dir.join("tree");
    append(
        &tree.join("etc/passwd"),
        "plain:x:1000:1000::/home/plain:/bin/sh\n",
    )?;
    append(&tree.join("etc/group"), "plain:x:1000:\n")?;
    append(&tree.join("etc/subuid"), "plain:100000:65536\n")?;
    append(&tree.join("etc/subgid"), "plain:100000:65536\n")?;
    let home = home(&tree);
    fs::create_dir_all(&home)?;
    fs::copy(&world.binary, home.join("farrow"))?;
    let copied = Command::new("cp")
        .args(["-r", "--reflink=auto"])
        .arg(dir.join("out/repo"))
        .arg(world.project.join("recipes/services"))
        .arg(&home)
        .status()?;
    ensure!(copied.success(), "cp failed");
    let owned = Command::new("chown")
        .args(["-R", "1000:1000"])
        .arg(&home)
        .status()?;
    ensure!(owned.success(), "chown failed");
    Ok(tree)
}

fn append(path: &Path, line: &str) -> Result<()> {
    let text = fs::read_to_string(path).unwrap_or_default();
    fs::write(path, text + line).with_context(|| path.display().to_string())
}

/// Runs a command as the plain user; whether it succeeded, and what it said.
fn as_user(world: &World, tree: &Path, path: &str, command: &str) -> Result<(bool, String)> {
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", ENTER])
        .env("TREE", tree)
        .env("TOOLS", world.root.join("tools"))
        .env("INSIDE_PATH", path)
        .env("INSIDE", command)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    Ok((output.status.success(), said))
}
