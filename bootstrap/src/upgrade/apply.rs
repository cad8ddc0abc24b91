//! Writes another version beside the running one. Whatever happens in between, and whenever the power fails, the running
//! version starts again: what would boot the new one is written last.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use sha2::{Digest, Sha256};

use super::archive::Archive;
use super::esp::{Esp, Place, only};
use super::machine::Region;
use super::merkle::{BLOCK, Superblock, Tree};
use super::names;
use super::plan::UpgradePlan;
use super::record::Records;
use super::release::Member;
use crate::error::{Error, Result};
use crate::gpt::{self, HEAD_SECTORS, SECTOR};

/// What is read back in one piece.
const PIECE: usize = 1 << 20;
/// The kernel image's name until it is tried: one that no boot loader reads.
const KERNEL: &str = "linux.tmp";
/// What else the EFI system partition should have room for: folders, and what FAT rounds up.
const SPARE: u64 = 1 << 20;

/// Does what the plan says, with the members of an archive whose document and signature have been read.
///
/// # Errors
/// `FR-UPGRADE-SOURCE`, `FR-UPGRADE-FORMAT`, `FR-UPGRADE-DIGEST`, `FR-UPGRADE-SPACE`, `FR-IO`.
pub fn apply<R: Read>(
    plan: &UpgradePlan,
    archive: &mut Archive<R>,
    esp: &Place,
    records: &Records,
    boot_id: &str,
) -> Result<()> {
    records.withdraw()?;
    make_room(plan, &esp.open(&plan.name)?.esp)?;
    let (slot, boot) = plan.members.split_at(2);
    for (member, region) in slot
        .iter()
        .zip([&plan.disk.other.root, &plan.disk.other.verity])
    {
        log::info!("writing {} to {}", member.name, region.path.display());
        write_region(archive, member, region)?;
    }
    check_slot(plan)?;
    log::info!(
        "slot {} holds version {}",
        plan.disk.other.letter,
        plan.to.version
    );
    let opened = esp.open(&plan.name)?;
    let bios = opened.esp.environment()?.is_some();
    for member in boot {
        write_boot_file(archive, member, &opened.esp, &plan.entry.id, bios)?;
    }
    opened.esp.sync()?;
    write_ids(plan)?;
    records.write(&plan.record(boot_id))?;
    opened.esp.arm(&plan.entry.id, KERNEL, &plan.entry)?;
    opened.esp.choose(&plan.choice)
}

/// First nothing may lead to the other slot any more, then its files go.
fn make_room(plan: &UpgradePlan, esp: &Esp) -> Result<()> {
    esp.choose(&only(&names::id(&plan.name, &plan.from.version)))?;
    for path in &plan.remove {
        esp.remove(path)?;
    }
    esp.sync()?;
    let needed = plan.members[2..]
        .iter()
        .map(|member| member.size)
        .sum::<u64>()
        + SPARE;
    let free = esp.free()?;
    if free >= needed {
        return Ok(());
    }
    Err(no_room(free, needed, &plan.to.version))
}

/// The refusal for an EFI system partition with too little room.
pub fn no_room(free: u64, needed: u64, version: &str) -> Error {
    let message = format!(
        "the EFI system partition has {} MiB free, and version {version} needs {}",
        free >> 20,
        needed.div_ceil(1 << 20)
    );
    let hint = "remove files there that are not farrow's, or write the machine's disk anew from a newer image";
    Error::upgrade("FR-UPGRADE-SPACE", message, hint)
}

/// The refusal of content that is not what the document says.
fn differs(member: &Member, what: &str) -> Error {
    Error::upgrade(
        "FR-UPGRADE-DIGEST",
        format!("{} {what}", member.name),
        "get the upgrade again; if it happens again, look at the disk's health",
    )
}

fn write_region<R: Read>(archive: &mut Archive<R>, member: &Member, region: &Region) -> Result<()> {
    let failed = |error| Error::io("write", &region.path, error);
    let mut device = OpenOptions::new()
        .write(true)
        .open(&region.path)
        .map_err(failed)?;
    device
        .seek(SeekFrom::Start(region.offset))
        .map_err(failed)?;
    copy(archive, member, |piece| {
        device.write_all(piece).map_err(failed)
    })?;
    device.sync_all().map_err(failed)
}

/// Hands on a member's bytes and compares their digest.
fn copy<R: Read>(
    archive: &mut Archive<R>,
    member: &Member,
    mut sink: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let size = archive.open(&member.name)?;
    if size != member.size {
        return Err(differs(member, "has another size than its document says"));
    }
    let mut hash = Sha256::new();
    archive.read(size, |piece| {
        hash.update(piece);
        sink(piece)
    })?;
    match hex::encode(hash.finalize()) == member.sha256 {
        true => Ok(()),
        false => Err(differs(member, "is not what its document says")),
    }
}

/// Reads the slot back from the disk: the hash tree must be the one that was meant, and the data that of the root hash.
fn check_slot(plan: &UpgradePlan) -> Result<()> {
    let (slot, members) = (&plan.disk.other, &plan.members);
    let mut hash = Sha256::new();
    let mut first = Vec::new();
    read_region(&slot.verity, members[1].size, |piece| {
        if first.is_empty() {
            first.extend_from_slice(&piece[..BLOCK.min(piece.len())]);
        }
        hash.update(piece);
    })?;
    if hex::encode(hash.finalize()) != members[1].sha256 {
        return Err(differs(
            &members[1],
            "reads back differently than it was written",
        ));
    }
    let superblock = Superblock::parse(&first)
        .map_err(|reason| differs(&members[1], &format!("is no hash tree: {reason}")))?;
    if superblock.blocks.checked_mul(BLOCK as u64) != Some(members[0].size) {
        return Err(differs(&members[1], "is for a root of another size"));
    }
    let mut tree = Tree::new(superblock);
    read_region(&slot.root, members[0].size, |piece| tree.update(piece))?;
    match tree.root().map(hex::encode) == Some(plan.to.root_hash.clone()) {
        true => Ok(()),
        false => Err(differs(
            &members[0],
            "has another root hash than its document says",
        )),
    }
}

fn read_region(region: &Region, size: u64, mut sink: impl FnMut(&[u8])) -> Result<()> {
    let failed = |error| Error::io("read", &region.path, error);
    let file = File::open(&region.path).map_err(failed)?;
    // What is in memory proves nothing of the disk. It is advice: a kernel that does not take it leaves the check weaker.
    let _ = posix_fadvise(
        &file,
        region.offset as i64,
        size as i64,
        PosixFadviseAdvice::POSIX_FADV_DONTNEED,
    );
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < size {
        let length = PIECE.min(usize::try_from(size - at).unwrap_or(PIECE));
        file.read_exact_at(&mut piece[..length], region.offset + at)
            .map_err(failed)?;
        sink(&piece[..length]);
        at += length as u64;
    }
    Ok(())
}

/// A file of the boot loaders; those for GRUB are only checked where there is none.
fn write_boot_file<R: Read>(
    archive: &mut Archive<R>,
    member: &Member,
    esp: &Esp,
    id: &str,
    bios: bool,
) -> Result<()> {
    let kernel = member.name == "linux.efi";
    if !kernel && !bios {
        return copy(archive, member, |_| Ok(()));
    }
    let (path, mut file) = esp.create(id, if kernel { KERNEL } else { &member.name })?;
    let failed = |error| Error::io("write", &path, error);
    copy(archive, member, |piece| {
        file.write_all(piece).map_err(failed)
    })?;
    file.sync_all().map_err(failed)
}

/// Gives the slot's partitions the ids that the version's command line names.
fn write_ids(plan: &UpgradePlan) -> Result<()> {
    let path = &plan.disk.path;
    let write = || {
        let mut disk = OpenOptions::new().read(true).write(true).open(path)?;
        let mut head = vec![0; HEAD_SECTORS * SECTOR];
        disk.read_exact(&mut head)?;
        for write in gpt::with_ids(&head, &plan.ids).map_err(std::io::Error::other)? {
            disk.seek(SeekFrom::Start(write.lba * SECTOR as u64))?;
            disk.write_all(&write.bytes)?;
            disk.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|error| Error::io("change the partition table of", path, error))
}
