//! What is in an image, and that a changed byte of it never passes.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use e2e::farrow::{Farrow, Outcome};
use e2e::world::{World, read_json};

/// Size of a logical block, which GPT counts in.
const SECTOR: u64 = 512;

/// A partition of a raw image.
pub(super) struct Partition {
    /// Offset of its first byte.
    pub(super) start: u64,
    /// Bytes.
    pub(super) size: u64,
}

/// Finds a partition by its GPT name, reading the primary table (UEFI specification 2.10, section 5.3).
pub(super) fn partition(image: &Path, wanted: &str) -> Result<Partition> {
    let mut file = File::open(image)?;
    let mut table = vec![0; 34 * SECTOR as usize];
    file.read_exact(&mut table)?;
    ensure!(
        &table[512..520] == b"EFI PART",
        "{} has no GPT",
        image.display()
    );
    for entry in table[1024..].chunks_exact(128) {
        let name: Vec<u16> = entry[56..128]
            .chunks_exact(2)
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
            .take_while(|unit| *unit != 0)
            .collect();
        if String::from_utf16_lossy(&name) == wanted {
            let lba =
                |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
            return Ok(Partition {
                start: lba(32) * SECTOR,
                size: (lba(40) - lba(32) + 1) * SECTOR,
            });
        }
    }
    anyhow::bail!("{} has no partition {wanted}", image.display())
}

/// The raw image that `up` made.
pub fn raw_image(world: &World) -> Result<PathBuf> {
    let found = fs::read_dir(world.out().join("image"))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "raw"));
    found.context("`up` made no raw image")
}

/// Copies a partition to a file of its own.
pub(super) fn copy_partition(image: &Path, name: &str, to: &Path) -> Result<()> {
    let place = partition(image, name)?;
    let mut file = File::open(image)?;
    file.seek(SeekFrom::Start(place.start))?;
    std::io::copy(&mut file.take(place.size), &mut File::create(to)?)?;
    Ok(())
}

/// Run in the tools tree: what must not be in any image, looked for in the unpacked root and `/var`.
const LOOK: &str = r#"
set -eu
cd /work
fsck.erofs --extract=/work/tree root.erofs >/dev/null
mkdir -p var
debugfs -R 'rdump / /work/var' var.ext4 >/dev/null 2>&1
test -e tree/usr/bin/postgres -o -e tree/usr/lib/postgresql/17/bin/postgres
test -d var/lib/postgresql
echo "machine-id: $(cat tree/etc/machine-id 2>/dev/null | tr -d '\n')"
echo "host keys: $(find tree/etc/ssh var -name 'ssh_host_*key*' 2>/dev/null | tr '\n' ' ')"
echo "snakeoil: $(find tree var -name 'ssl-cert-snakeoil*' 2>/dev/null | tr '\n' ' ')"
echo "private keys: $(grep -rlI -e '-----BEGIN [A-Z ]*PRIVATE KEY-----' tree/etc tree/usr/lib/farrow var 2>/dev/null | tr '\n' ' ')"
echo "passwords: $(awk -F: '$2 !~ /^[!*]/ {print $1}' tree/etc/shadow | tr '\n' ' ')"
echo "seeds: $(find tree var -name 'random-seed' 2>/dev/null | tr '\n' ' ')"
echo "ids: $(find var -name 'machine-id' -type f 2>/dev/null | tr '\n' ' ')"
"#;

/// No machine-id, SSH host key, snakeoil key or password; opened from the raw image itself.
pub fn nothing_secret(world: &World) -> Result<()> {
    let dir = world.scratch("look")?;
    let image = raw_image(world)?;
    copy_partition(&image, "root-a", &dir.join("root.erofs"))?;
    copy_partition(&image, "var", &dir.join("var.ext4"))?;
    let bind = format!("{}:/work", dir.display());
    let outcome =
        Farrow::new(world, &["tools", "--bind", &bind, "--", "sh", "-c", LOOK]).succeed()?;
    for line in outcome.stdout.lines() {
        let (what, found) = line.split_once(':').context("label")?;
        ensure!(found.trim().is_empty(), "the image holds {what}: {found}");
    }
    ensure!(
        outcome.stdout.lines().count() == 7,
        "not everything was looked for: {}",
        outcome.stdout
    );
    no_secret_of_this_run(world, &dir)?;
    Farrow::new(
        world,
        &[
            "tools",
            "--bind",
            &bind,
            "--",
            "rm",
            "-rf",
            "/work/tree",
            "/work/var",
        ],
    )
    .succeed()?;
    Ok(())
}

/// The passwords of the deployment that ran from this image are nowhere in it.
fn no_secret_of_this_run(world: &World, dir: &Path) -> Result<()> {
    let credentials = read_json(&world.out().join("credentials.json"))?;
    let password = credentials["clusters"]["pg-test"]["test"]
        .as_str()
        .context("password")?;
    for part in ["root.erofs", "var.ext4"] {
        let bytes = fs::read(dir.join(part))?;
        let found = bytes
            .windows(password.len())
            .any(|window| window == password.as_bytes());
        ensure!(!found, "{part} holds a password of the deployment");
    }
    Ok(())
}

/// One flipped byte: the offline check names the partition, and a machine either does not come up or cannot read it.
pub fn flipped_byte(world: &World) -> Result<()> {
    let dir = world.scratch("flipped")?;
    let source = raw_image(world)?;
    let image = dir.join(source.file_name().context("name")?);
    let copied = std::process::Command::new("cp")
        .arg("--sparse=always")
        .arg(&source)
        .arg(&image)
        .status()?;
    ensure!(copied.success(), "cp failed");
    fs::copy(
        source.with_file_name("pigsty.manifest.json"),
        dir.join("pigsty.manifest.json"),
    )?;
    let root = partition(&image, "root-a")?;
    // The middle of the content: a place that no table and no padding lies at.
    let place = root.start + root.size / 3;
    flip(&image, place, 1)?;
    let manifest = dir
        .join("pigsty.manifest.json")
        .to_string_lossy()
        .into_owned();
    Farrow::new(world, &["image", "verify", &manifest])
        .run()?
        .expect_refusal(1, &["pigsty-"])?;

    let outcome = comes_up(world, &dir, &image)?;
    ensure!(
        outcome.code == Some(1),
        "a falsified root booted and was read: exit {:?}\n{}",
        outcome.code,
        outcome.stdout
    );
    println!(
        "    the falsified machine ended with: {}",
        outcome.stderr.lines().last().unwrap_or_default()
    );
    fs::remove_file(&image)?;
    Ok(())
}

/// Changes one byte of a file; the same change again puts it back.
pub(super) fn flip(path: &Path, offset: u64, change: u8) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    file.write_all_at(&[byte[0] ^ change], offset)?;
    Ok(file.sync_all()?)
}

/// Boots an image; the machine succeeds when it becomes ready and reads all of its root.
pub(super) fn comes_up(world: &World, dir: &Path, image: &Path) -> Result<Outcome> {
    let check = "meta=dd if=/dev/mapper/root of=/dev/null bs=1M";
    let words = [
        "seed",
        "two-node",
        "--out",
        "seed",
        "--no-images",
        "--check",
        check,
    ];
    Farrow::new(world, &words).in_dir(dir).succeed()?;
    let shown = image.to_string_lossy().into_owned();
    let words = ["image", "boot", &shown, "--seed", "seed/meta"];
    Farrow::new(world, &[&words[..], &["--timeout", "400"]].concat())
        .in_dir(dir)
        .run()
}
