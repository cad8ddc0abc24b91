//! The small image booted by every firmware, from several formats and kinds of disks.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::farrow::Farrow;
use e2e::world::World;
use serde_json::Value;

/// Run on a machine that GRUB started.
const BY_BIOS: &str = "meta=grep -q '^BOOT_IMAGE=(base_0.1.0)[0-9]*+[0-9]* ' /proc/cmdline && \
     test ! -e /sys/firmware/efi && test -e /sys/module/vmw_pvscsi && \
     test -x /usr/bin/farrow-bootstrap && ! command -v postgres";
/// Run on a machine whose firmware enforces Secure Boot: the value of the variable, behind four bytes of attributes.
const SECURE: &str = "set -e; test -e /sys/module/nvme; \
     v=/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c; \
     test $(od -An -tu1 -j4 -N1 $v) -eq 1";
const SCSI: &str = "test -e /sys/module/virtio_scsi && test -e /sys/firmware/efi";

/// BIOS with a compressed qcow2 on VMware's SCSI, UEFI with a VMDK on virtio SCSI, Secure Boot with a raw disk on NVMe; and what
/// Secure Boot refuses. Two machines at a time.
pub fn every_way(world: &World, dir: &Path) -> Result<()> {
    let seed = [
        "seed",
        "two-node",
        "--out",
        "seed",
        "--no-images",
        "--check",
        BY_BIOS,
    ];
    Farrow::new(world, &seed).in_dir(dir).succeed()?;
    let bios = [
        "one/image/base-0.1.0.compressed.qcow2",
        "--bios",
        "--disk",
        "pvscsi",
        "--seed",
        "seed/meta",
    ];
    let scsi = [
        "one/image/base-0.1.0.vmdk",
        "--uefi",
        "--disk",
        "scsi",
        "--check",
        SCSI,
        "--report",
        "boot.html",
    ];
    side_by_side(
        || ready(world, dir, "BIOS, qcow2, pvscsi", &bios),
        || ready(world, dir, "UEFI, VMDK, SCSI", &scsi),
    )?;
    let report = fs::read_to_string(dir.join("boot.html"))?;
    for part in [
        "<td>initrd<",
        "chrony healthy",
        "Linux version 6.",
        "exit 0",
    ] {
        ensure!(report.contains(part), "the report lacks {part}");
    }
    secure_boot(world, dir)
}

fn secure_boot(world: &World, dir: &Path) -> Result<()> {
    Farrow::new(world, &["image", "keys", "keys"])
        .in_dir(dir)
        .succeed()?;
    let build = [
        "image",
        "build",
        "base",
        "--repo",
        "out/repo/base",
        "--format",
        "raw",
        "--out",
        "signed",
        "--secure-boot-key",
        "keys/db.key",
        "--secure-boot-certificate",
        "keys/db.pem",
    ];
    Farrow::new(world, &build).in_dir(dir).succeed()?;
    let signed = dir.join("signed/image/base-0.1.0.raw");
    let changed = dir.join("changed.raw");
    let copied = std::process::Command::new("cp")
        .arg("--sparse=always")
        .args([&signed, &changed])
        .status()?;
    ensure!(copied.success(), "cp failed");
    change_command_line(&changed)?;
    let nvme = [
        "signed/image/base-0.1.0.raw",
        "--secure-boot",
        "keys/db.pem",
        "--disk",
        "nvme",
        "--check",
        SECURE,
    ];
    side_by_side(
        || ready(world, dir, "Secure Boot, raw, NVMe", &nvme),
        || {
            refused(world, dir, "one/image/base-0.1.0.raw")?;
            refused(world, dir, "changed.raw")
        },
    )
}

fn side_by_side(
    one: impl FnOnce() -> Result<()> + Send,
    other: impl FnOnce() -> Result<()> + Send,
) -> Result<()> {
    std::thread::scope(|scope| {
        let one = scope.spawn(one);
        other()?;
        one.join().expect("no panic")
    })
}

/// Boots with these arguments, and prints where the time went.
fn ready(world: &World, dir: &Path, what: &str, arguments: &[&str]) -> Result<()> {
    let mut args = vec!["image", "boot", "--timeout", "400", "--json"];
    args.extend(arguments);
    let found = Farrow::new(world, &args).in_dir(dir).json();
    let found = found.with_context(|| what.to_owned())?;
    ensure!(found["ready"] == true, "{what}: {found:#}");
    let node = &found["nodes"][0];
    let checks = node["checks"].as_array().context("checks")?;
    ensure!(
        checks.len() == 1 && checks[0]["exit"] == 0,
        "{what}: {checks:?}"
    );
    let phases = node["timeline"]["phases"].as_array().context("phases")?;
    let text = |phase: &Value| format!("{} {} s", phase["name"], phase["seconds"]).replace('"', "");
    let text: Vec<String> = phases.iter().map(text).collect();
    ensure!(text.len() == 6, "{what}: {text:?}");
    println!("    {what}: {}", text.join(", "));
    Ok(())
}

/// Firmware that enforces Secure Boot does not start this image.
fn refused(world: &World, dir: &Path, image: &str) -> Result<()> {
    let args = [
        "image",
        "boot",
        image,
        "--secure-boot",
        "keys/db.pem",
        "--timeout",
        "300",
    ];
    let outcome = Farrow::new(world, &args).in_dir(dir).run()?;
    outcome.expect_refusal(1, &["error[FR-MACHINE-BOOT]", "Access"])
}

/// Changes one byte of the command line in the kernel image, which lies before the one for a BIOS.
fn change_command_line(raw: &Path) -> Result<()> {
    use std::os::unix::fs::FileExt;
    const SEARCHED: usize = 64 << 20;
    let file = fs::File::options().read(true).write(true).open(raw)?;
    let mut start = vec![0; SEARCHED];
    file.read_exact_at(&mut start, 0)?;
    let found = start.windows(8).position(|bytes| bytes == b"panic=10");
    let at = found.context("no command line")?;
    ensure!(start[at - 1] == b' ', "not within a command line");
    file.write_all_at(b"2", at as u64 + 6)?;
    Ok(())
}
