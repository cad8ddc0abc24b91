//! Random flipped bytes in everything that a machine boots from: none is served as good data.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use e2e::farrow::Farrow;
use e2e::world::{World, read_json};

use super::image::{copy_partition, flip, partition, raw_image};
use super::number;

/// How many bytes are flipped; `FARROW_TEST_CASES` gives another number.
const FLIPS: u64 = 20;
/// Of how many flips one is also booted. In the whole suite that is `flipped_byte`'s business.
const BOOTED: u64 = 50;
/// Bytes of a block of data or hashes.
const BLOCK: u64 = 4096;

/// Run by bash in the tools tree: reads all of a root through cryptsetup's own dm-verity in user space, first as it is, then
/// with one byte changed at a time, which is put back afterwards. Says `FILE OFFSET` and what came of it.
const READ: &str = r#"
set -eu
cd /work
read_all() { veritysetup verify root.img verity.img "$ROOT_HASH" >said 2>&1; }
read_all || { echo "the intact image is refused: $(cat said)"; exit 1; }
put() { printf "\\x$3" | dd of=$1 bs=1 seek=$2 conv=notrunc status=none; }
while read -r file offset from to; do
    put $file $offset $to
    if read_all; then echo "$file $offset SERVED"; else echo "$file $offset refused: $(tail -n 1 said)"; fi
    put $file $offset $from
done <flips
read_all || { echo "a byte was not put back"; exit 1; }
"#;

/// A byte of a file, and what it becomes.
struct Flip {
    file: &'static str,
    offset: u64,
    from: u8,
    to: u8,
}

/// Flips bytes in the root's data and its hash tree, and reads; flips bytes of the kernel image's partition, and verifies.
pub fn everywhere(world: &World) -> Result<()> {
    let dir = world.scratch("flips")?;
    let image = of_up(world)?;
    let root = dir.join("root.img");
    let verity = dir.join("verity.img");
    copy_partition(&image, "root-a", &root)?;
    copy_partition(&image, "verity-a", &verity)?;
    let manifest = image.with_file_name("pigsty.manifest.json");
    let document = read_json(&manifest)?;
    let hash = document["root_hash"].as_str().context("root_hash")?;
    let (data, tree) = sizes(&verity)?;
    let (seed, count) = (
        number("FARROW_TEST_SEED", 1),
        number("FARROW_TEST_CASES", FLIPS),
    );
    let mut random = fastrand::Rng::with_seed(seed);
    let mut flips = Vec::new();
    let mut kernels = 0;
    for number in 0..count {
        // Half of them in the data. The superblock says where and how to look, and is not data: what it says is hashed along.
        let (file, range) = match number % 4 {
            0 | 1 => ("root.img", 0..data),
            2 => ("verity.img", BLOCK..tree),
            _ => {
                kernels += 1;
                continue;
            }
        };
        let offset = random.u64(range);
        flips.push(one(&dir, file, offset, random.u8(1..=255))?);
    }
    read_all(world, &dir, hash, &flips)?;
    fs::remove_file(root)?;
    fs::remove_file(verity)?;
    for _ in 0..kernels {
        kernel(world, &dir, &image, &mut random)?;
    }
    for number in 0..count / BOOTED {
        let name = ["root-a", "verity-a"][(number % 2) as usize];
        booted(world, &dir, &image, (name, data, tree), &mut random)?;
    }
    println!(
        "    seed {seed}: {} flips refused by reading, {kernels} by verifying, {} by booting",
        flips.len(),
        count / BOOTED
    );
    Ok(())
}

/// The image that `up` made; where this part runs alone, one that is baked in its place.
fn of_up(world: &World) -> Result<PathBuf> {
    if raw_image(world).is_err() {
        for words in [
            &["repo", "build", "pigsty"][..],
            &["image", "build", "pigsty", "--format", "raw"],
        ] {
            Farrow::new(world, words).succeed()?;
        }
    }
    raw_image(world)
}

/// Bytes of the data, and of superblock and tree.
fn sizes(verity: &Path) -> Result<(u64, u64)> {
    let mut superblock = [0; 512];
    File::open(verity)?.read_exact(&mut superblock)?;
    let blocks = u64::from_le_bytes(superblock[72..80].try_into()?);
    let (mut level, mut hashes) = (blocks, 1);
    while level > 1 {
        // A block of hashes has 128 of 32 bytes.
        level = level.div_ceil(128);
        hashes += level;
    }
    Ok((blocks * BLOCK, hashes * BLOCK))
}

fn one(dir: &Path, file: &'static str, offset: u64, change: u8) -> Result<Flip> {
    use std::os::unix::fs::FileExt;
    let mut byte = [0];
    File::open(dir.join(file))?.read_exact_at(&mut byte, offset)?;
    let (from, to) = (byte[0], byte[0] ^ change);
    Ok(Flip {
        file,
        offset,
        from,
        to,
    })
}

fn read_all(world: &World, dir: &Path, hash: &str, flips: &[Flip]) -> Result<()> {
    let line = |flip: &Flip| {
        format!(
            "{} {} {:02x} {:02x}\n",
            flip.file, flip.offset, flip.from, flip.to
        )
    };
    let list: String = flips.iter().map(line).collect();
    fs::write(dir.join("flips"), list)?;
    let bind = format!("{}:/work", dir.display());
    let script = format!("ROOT_HASH={hash}\n{READ}");
    let words = ["tools", "--bind", &bind, "--", "bash", "-c", &script];
    let said = Farrow::new(world, &words).succeed()?.stdout;
    let refused = said.lines().filter(|line| line.contains(" refused: "));
    ensure!(
        refused.count() == flips.len() && !said.contains("SERVED"),
        "{} flips:\n{said}",
        flips.len()
    );
    Ok(())
}

/// One byte of the partition with the kernel image: the check of the image against its signed list names the file.
fn kernel(world: &World, dir: &Path, image: &Path, random: &mut fastrand::Rng) -> Result<()> {
    let place = partition(image, "esp")?;
    let offset = place.start + random.u64(0..place.size);
    let change = random.u8(1..=255);
    // The image itself, since its copy would be gigabytes; the byte is put back whatever comes.
    flip(image, offset, change)?;
    let manifest = image.with_file_name("pigsty.manifest.json");
    let manifest = manifest.to_string_lossy();
    let outcome = Farrow::new(world, &["image", "verify", &manifest])
        .in_dir(dir)
        .run();
    flip(image, offset, change)?;
    outcome?
        .expect_refusal(1, &["error[FR-IMAGE-VERIFY]"])
        .with_context(|| format!("byte {offset} of the ESP"))
}

/// A machine whose image has one flipped byte does not come up, or cannot read its root to the end.
fn booted(
    world: &World,
    dir: &Path,
    image: &Path,
    (name, data, tree): (&str, u64, u64),
    random: &mut fastrand::Rng,
) -> Result<()> {
    let place = partition(image, name)?;
    let within = match name {
        "root-a" => random.u64(0..data),
        _ => random.u64(BLOCK..tree),
    };
    let change = random.u8(1..=255);
    flip(image, place.start + within, change)?;
    let came_up = super::image::comes_up(world, dir, image);
    flip(image, place.start + within, change)?;
    let outcome = came_up?;
    ensure!(
        outcome.code == Some(1),
        "byte {within} of {name}: exit {:?}\n{}",
        outcome.code,
        outcome.stdout
    );
    Ok(())
}
