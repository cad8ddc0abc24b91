//! A real image in every format: the same bytes twice, read back by QEMU, looked into, compared, listed, signed and booted.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use e2e::farrow::Farrow;
use e2e::world::World;
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use super::boots;
use super::identity;
use super::refusals::golden;

/// All formats.
pub const FORMATS: &str = "raw,qcow2,qcow2-compressed,vmdk,vhd,gce,ova,tar";

/// Run in the tools tree: each format against the raw disk.
const READ_BACK: &str = r#"
set -eu
raw=/image/base-0.1.0.raw
same() { qemu-img compare -f raw -F $1 $raw $2; }
same qcow2 /image/base-0.1.0.qcow2
qemu-img check -q -f qcow2 /image/base-0.1.0.compressed.qcow2
same qcow2 /image/base-0.1.0.compressed.qcow2
same vmdk /image/base-0.1.0.vmdk
same vpc /image/base-0.1.0.vhd
mkdir /work/gce /work/ova
tar -C /work/gce -xzf /image/base-0.1.0.gce.tar.gz
same raw /work/gce/disk.raw
test $(($(stat -c %s /work/gce/disk.raw) % (1 << 30))) = 0
tar -C /work/ova -xf /image/base-0.1.0.ova
cd /work/ova
sed -E 's/^SHA256\((.*)\)= (.*)$/\2  \1/' base-0.1.0.mf | sha256sum -c
same vmdk base-0.1.0-disk1.vmdk
cd /image
sha256sum -c SHA256SUMS
"#;

/// Run in the tools tree: the root that was packed in two steps against the tree it was packed from.
const PACKED: &str = r#"
set -eu
cd /work
mkdir tree
tar -xpf /image/base.tar -C tree --numeric-owner --xattrs --xattrs-include='*'
fsck.erofs --extract=packed root.img >/dev/null
list() (
    cd /work/$1
    find . -mindepth 1 -path './boot/*' -prune -o -path './var/*' -prune -o -type d -printf '%p %m %U %G %Ts\n' \
        -o -printf '%p %y %m %U %G %n %s %l %Ts\n' | sort
    find . -path ./boot -prune -o -path ./var -prune -o -type f -print0 | sort -z | xargs -0 sha256sum
)
list tree >one
list packed >two
diff one two
wc -l <one
rm -r tree packed
"#;

/// What is in the root's file system is what is in the tree, with all that files are besides their content.
fn packed(world: &World, dir: &Path) -> Result<()> {
    let work = dir.join("packed");
    fs::create_dir(&work)?;
    let image = dir.join("one/image");
    let raw = image.join("base-0.1.0.raw");
    super::image::copy_partition(&raw, "root-a", &work.join("root.img"))?;
    let binds = [
        format!("{}:/image", image.display()),
        format!("{}:/work", work.display()),
    ];
    let words = ["tools", "--bind", &binds[0], "--bind", &binds[1], "--"];
    let said = Farrow::new(world, &[&words[..], &["bash", "-c", PACKED]].concat()).succeed()?;
    let lines: usize = said.stdout.trim().parse().context("lines")?;
    ensure!(lines > 5000, "only {lines} lines were compared");
    fs::remove_dir_all(work)?;
    Ok(())
}

/// Bakes `base` in every format, the second time in another folder with another cache and on what looks like another host.
pub fn all(world: &World) -> Result<()> {
    let dir = world.scratch("formats")?;
    Farrow::new(world, &["repo", "build", "base", "--lock", "base.lock"])
        .in_dir(&dir)
        .succeed()?;
    let repository = dir.join("out/repo/base").to_string_lossy().into_owned();
    let bake = |recipe: &str, out: &str, formats: &str| {
        let words = ["image", "build", recipe, "--repo", &repository];
        let more = ["--format", formats, "--out", out, "--json"];
        Farrow::new(world, &[&words[..], &more].concat()).in_dir(&dir)
    };
    let own = dir.join("cache");
    let one = bake("base", "one", FORMATS)
        .env("FARROW_CACHE", &own)
        .json()?;
    let digests = identity::digests(&one)?;
    let other = dir.join("another place/two");
    let two = bake("base", &other.to_string_lossy(), FORMATS);
    let two = two.env("FARROW_CACHE", dir.join("another place/cache"));
    let two = identity::digests(&identity::elsewhere(two).json()?)?;
    let folder = dir.join("one/image");
    identity::same(world, (&digests, &folder), (&two, &other.join("image")))?;
    identity::record(world, &digests)?;
    println!("    SHA-256 of {} formats are the same", digests.len());
    let changed = "extends = \"base\"\nschema = 1\nname = \"base\"\n\n[[file]]\npath = \"/etc/motd\"\ncontent = \"x\"\n";
    fs::write(dir.join("changed.toml"), changed)?;
    let three = bake("changed.toml", "three", "raw,tar").env("FARROW_CACHE", &own);
    let three = identity::digests(&three.json()?)?;
    let compared = (&three, dir.join("three/image"));
    // What the cache held of another recipe does not show.
    let four = bake("changed.toml", "four", "raw,tar").env("FARROW_CACHE", dir.join("empty"));
    let four = identity::digests(&four.json()?)?;
    let folder_of_four = dir.join("four/image");
    identity::same(world, (&three, &compared.1), (&four, &folder_of_four))?;
    let refused = identity::same(world, (&digests, &folder), (compared.0, &compared.1));
    let said = refused.err().map(|error| error.to_string());
    ensure!(
        said.as_ref().is_some_and(|said| said.contains("etc/motd")),
        "a changed /etc/motd is not named: {said:?}"
    );
    fs::remove_dir_all(dir.join("three"))?;
    fs::remove_dir_all(dir.join("four"))?;
    fs::remove_dir_all(dir.join("empty"))?;
    fs::remove_dir_all(dir.join("another place"))?;
    read_back(world, &dir)?;
    packed(world, &dir)?;
    look(world, &dir, &one)?;
    listed_and_signed(world, &dir)?;
    bounded(world, &own)?;
    boots::every_way(world, &dir)
}

/// A cache that holds a tree and file systems is emptied down to what is allowed; a dry run removes nothing.
fn bounded(world: &World, cache: &Path) -> Result<()> {
    let run = |args: &[&str]| {
        let farrow = Farrow::new(world, args).env("FARROW_CACHE", cache);
        farrow.json()
    };
    let count = |kind: &str| -> Result<u64> {
        let listed = run(&["cache", "--json"])?;
        let kinds = listed["kinds"].as_array().context("kinds")?.iter();
        let found = kinds.clone().find(|entry| entry["kind"] == kind);
        found
            .and_then(|entry| entry["count"].as_u64())
            .context("count")
    };
    // Of two recipes that differ by a file: three layers and a base, and root and /var of each. A fourth layer is not packed.
    let (roots, layers, parts) = (count("root")?, count("layer")?, count("part")?);
    ensure!(
        roots == 2 && layers == 4 && parts == 8,
        "{roots} roots, {layers} layers, {parts} parts"
    );
    let would = run(&["cache", "gc", "--keep", "1M", "--dry-run", "--json"])?;
    ensure!(count("root")? == 2, "a dry run removed something");
    let gone = run(&["cache", "gc", "--keep", "1M", "--json"])?;
    ensure!(gone["removed"] == would["removed"], "{gone:#}");
    ensure!(
        count("root")? + count("part")? + count("base")? + count("layer")? == 0,
        "left"
    );
    Ok(())
}

fn read_back(world: &World, dir: &Path) -> Result<()> {
    let work = dir.join("work");
    fs::create_dir(&work)?;
    let binds = [
        format!("{}:/image", dir.join("one/image").display()),
        format!("{}:/work", work.display()),
    ];
    let args = [
        "tools", "--bind", &binds[0], "--bind", &binds[1], "--", "sh", "-c", READ_BACK,
    ];
    let outcome = Farrow::new(world, &args).succeed()?;
    ensure!(
        outcome.stdout.matches("Images are identical.").count() == 6,
        "{}",
        outcome.stdout
    );
    fs::remove_dir_all(work)?;
    Ok(())
}

/// Every format tells the same, and as the manifest has it; no two differ.
fn look(world: &World, dir: &Path, baked: &Value) -> Result<()> {
    let folder = dir.join("one/image");
    let manifest = e2e::world::read_json(&folder.join("base.manifest.json"))?;
    let packages = manifest["provenance"]["packages"].as_array();
    let packages = packages.context("packages")?.len();
    let mut images: Vec<PathBuf> = Vec::new();
    for artifact in baked["artifacts"].as_array().context("artifacts")? {
        let kind = artifact["kind"].as_str().context("kind")?;
        // The root alone is no disk to look into.
        if kind.starts_with("image-") && kind != "image-tar" {
            images.push(artifact["path"].as_str().context("path")?.into());
        }
    }
    ensure!(images.len() == 7, "{images:?}");
    for image in &images {
        let shown = image.to_string_lossy();
        let found = Farrow::new(world, &["image", "inspect", &shown, "--json"]).json()?;
        let found = &found["contents"];
        let facts = (
            &found["root_hash"],
            &found["root_hash_fits"],
            &found["kernels"][0]["release"],
            found["packages"].as_array().map(Vec::len),
        );
        let expected = (
            &manifest["root_hash"],
            &Value::Bool(true),
            &manifest["kernel"],
            Some(packages),
        );
        ensure!(facts == expected, "{shown}: {facts:?}, not {expected:?}");
    }
    let (raw, ova) = (images[0].to_string_lossy(), images[6].to_string_lossy());
    let found = Farrow::new(world, &["image", "diff", &raw, &ova, "--json"]).json()?;
    ensure!(found["same"] == true, "{found:#}");
    changed_recipe(world, dir, &raw)
}

/// A recipe with one more file and package: exactly that is what differs.
fn changed_recipe(world: &World, dir: &Path, raw: &str) -> Result<()> {
    let recipe = "extends = \"base\"\nschema = 1\nname = \"base\"\n[packages]\nmore = [\"hello\"]\n\
                  [[user]]\nname = \"own\"\nuid = 700\nhome = \"/var/lib/own\"\n\
                  [[file]]\npath = \"/usr/lib/own/data\"\nsource = \"data.bin\"\nowner = \"own\"\nmode = \"0640\"\n\
                  [image]\nformats = [\"raw\"]\nkernel_arguments = [\"own.word\"]\n";
    fs::write(dir.join("changed.toml"), recipe)?;
    fs::write(dir.join("data.bin"), [0xff, 0, 1])?;
    let args = ["repo", "build", "changed.toml", "--out", "changed"];
    Farrow::new(world, &args).in_dir(dir).succeed()?;
    let args = [
        "image",
        "build",
        "changed.toml",
        "--out",
        "changed",
        "--explain",
        "--json",
    ];
    let built = Farrow::new(world, &args).in_dir(dir).json()?;
    let effects = built["effects"].as_array().context("effects")?;
    let effect = |key: &str| {
        let found = effects.iter().rev().find(|effect| effect["key"] == key);
        found.map_or("", |found| found["effect"].as_str().unwrap_or_default())
    };
    ensure!(effect("file./usr/lib/own/data").contains("3 bytes, mode 0640, of own"));
    ensure!(effect("user.own").contains("700"));
    ensure!(effect("packages.more").starts_with("1 named"));
    let changed = dir.join("changed/image/base-0.1.0.raw");
    let args = ["image", "diff", raw, &changed.to_string_lossy(), "--json"];
    let found = Farrow::new(world, &args).json()?;
    let found = &found["difference"];
    ensure!(
        found["packages"]["added"][0]["name"] == "hello"
            && found["packages"]["added"].as_array().map(Vec::len) == Some(1),
        "{:#}",
        found["packages"]
    );
    let added = found["files"]["added"].as_array().context("added")?;
    let has = |path: &str| added.iter().any(|file| file["path"] == path);
    ensure!(
        has("usr/lib/own/data") && has("usr/bin/hello"),
        "{:#}",
        found["files"]["added"]
    );
    let facts = found["facts"].as_array().context("facts")?.iter();
    let line = facts.clone().find(|fact| fact["name"] == "command line");
    let line = line.context("the command line does not differ")?;
    ensure!(
        line["to"]
            .as_str()
            .is_some_and(|to| to.ends_with(" own.word"))
    );
    fs::remove_dir_all(dir.join("changed"))?;
    Ok(())
}

/// The list is signed by the key that is named; another key, a changed list and a changed bill are refused.
fn listed_and_signed(world: &World, dir: &Path) -> Result<()> {
    let folder = dir.join("one/image");
    let manifest = folder.join("base.manifest.json");
    let manifest = manifest.to_string_lossy();
    let key = dir.join("out/repo/base.asc");
    let key = key.to_string_lossy();
    let verify = ["image", "verify", &manifest, "--key", &key];
    Farrow::new(world, &verify).succeed()?;
    let stranger = world
        .project
        .join("recipes/keys/debian-archive-trixie-stable.asc");
    let stranger = stranger.to_string_lossy();
    Farrow::new(world, &["image", "verify", &manifest, "--key", &stranger])
        .run()?
        .expect_refusal(1, &["SHA256SUMS"])?;
    for name in ["base.cdx.json", "SHA256SUMS", "SHA256SUMS.asc"] {
        let path = folder.join(name);
        let good = fs::read(&path)?;
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        fs::write(&path, bad)?;
        Farrow::new(world, &verify)
            .run()?
            .expect_refusal(1, &["error["])?;
        fs::write(&path, good)?;
    }
    fs::remove_file(folder.join("SHA256SUMS"))?;
    Farrow::new(world, &verify)
        .run()?
        .expect_refusal(1, &["SHA256SUMS"])
}

/// Files that are no images, and a cache that is in use: each refusal is as its golden file has it.
pub fn refusals(world: &World) -> Result<()> {
    let dir = &world.scratch("no-images")?;
    fs::write(dir.join("text.raw"), "no image\n".repeat(1000))?;
    for (name, code, args) in [
        ("image-unknown", 1, &["image", "inspect", "text.raw"][..]),
        (
            "image-missing",
            2,
            &["image", "diff", "none.raw", "text.raw"][..],
        ),
    ] {
        let outcome = Farrow::new(world, args).in_dir(dir).run()?;
        outcome.expect_refusal(code, &["error[FR-IMAGE-"])?;
        let text = outcome.stderr.replace(&dir.display().to_string(), "DIR");
        golden(world, &format!("{name}.txt"), &text)?;
    }
    let cache = dir.join("cache");
    fs::create_dir_all(&cache)?;
    let file = fs::File::create(cache.join(".in-use"))?;
    let _held = Flock::lock(file, FlockArg::LockShared).map_err(|(_, errno)| errno)?;
    let outcome = Farrow::new(world, &["cache", "gc", "--keep", "1G"])
        .env("FARROW_CACHE", &cache)
        .run()?;
    outcome.expect_refusal(1, &["error[FR-CACHE-BUSY]"])?;
    let text = outcome.stderr.replace(&dir.display().to_string(), "DIR");
    golden(world, "cache-busy.txt", &text)
}
