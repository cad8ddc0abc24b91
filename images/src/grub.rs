//! GRUB for machines whose firmware is a BIOS: what lies outside of file systems, and its files in the ESP.
//!
//! Formats: the boot and core image of GRUB's i386-pc platform as `grub-bios-setup` installs them (`util/setup.c`,
//! `include/grub/i386/pc/boot.h`, `include/grub/offsets.h` of GRUB 2.12), the environment block of its manual, chapter
//! "The GRUB environment block". The core image lies in a BIOS boot partition, one piece, so that its list of blocks has one entry.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::partitions::SECTOR;
use crate::tools::ToolsTree;
use crate::uki;

/// GRUB's images and modules in the tools tree.
const PLATFORM: &str = "usr/lib/grub/i386-pc";
/// Where GRUB's files are: on the disk that it was read from, the second partition.
const PREFIX: &str = "(,gpt2)/grub";
/// What the core image can do: read the ESP and its table, run the configuration (`regexp` expands names with a star),
/// write the environment, read out of a file by sectors, start Linux.
const MODULES: [&str; 16] = [
    "biosdisk",
    "configfile",
    "echo",
    "fat",
    "halt",
    "linux",
    "loadenv",
    "loopback",
    "normal",
    "part_gpt",
    "reboot",
    "regexp",
    "serial",
    "sleep",
    "terminal",
    "test",
];
/// Bytes of the first sector before the disk's signature and the partition table of a PC.
const BOOT_CODE: usize = 440;
/// Offset in the boot image: first sector of the core image, 8 bytes (`GRUB_BOOT_MACHINE_KERNEL_SECTOR`).
const KERNEL_SECTOR: usize = 0x5c;
/// Offset in the boot image: a jump that trusts the drive number of the firmware (`GRUB_BOOT_MACHINE_DRIVE_CHECK`).
/// Two NOPs instead let it correct the number, as for every hard disk.
const DRIVE_CHECK: usize = 0x66;
const JUMP: [u8; 2] = [0xeb, 0x05];
const NOPS: [u8; 2] = [0x90, 0x90];
/// Offset in the core image's first sector: the only entry of its list of blocks, which grows downwards from the
/// sector's end: first sector (8 bytes), number of sectors (2), segment to load to (2).
const BLOCK_LIST: usize = 512 - 12;
/// The segment behind the first sector's (`GRUB_BOOT_I386_PC_KERNEL_SEG` + 512 / 16).
const SEGMENT: u16 = 0x820;
/// Bytes of the BIOS boot partition.
pub const PARTITION_BYTES: u64 = 1 << 20;
/// Bytes of an environment block.
const ENVIRONMENT: usize = 1024;
/// Its first line.
const ENVIRONMENT_SIGNATURE: &str = "# GRUB Environment Block\n";
/// The configuration in the ESP.
pub const CONFIGURATION: &str = include_str!("grub.cfg");

/// GRUB's code as it is embedded in a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Embedded {
    /// The first bytes of the disk.
    pub boot_code: [u8; BOOT_CODE],
    /// The content of the BIOS boot partition.
    pub core: Vec<u8>,
}

/// Makes the code for a disk whose BIOS boot partition begins at sector `start`.
///
/// # Errors
/// When the tools tree has no GRUB, or one of another form.
pub fn build(tools: &ToolsTree, work: &Path, start: u64) -> Result<Embedded> {
    let platform = format!("/{PLATFORM}");
    let mut argv = vec!["grub-mkimage", "-O", "i386-pc", "-d", &platform];
    argv.extend(["-p", PREFIX, "-o", "core.img"]);
    argv.extend(MODULES);
    let sandbox = tools.sandbox().map_ids(false).bind(work, "/work");
    sandbox.workdir("/work").run(&argv, None)?;
    let read = |path: &Path| fs::read(path).map_err(Error::io("read", path));
    let boot = read(&tools.root.join(PLATFORM).join("boot.img"))?;
    let core = read(&work.join("core.img"))?;
    embed(&boot, core, start).map_err(|reason| Error::Boot {
        what: "GRUB",
        reason: reason.to_owned(),
    })
}

/// Ties boot and core image together for a place on the disk.
fn embed(
    boot: &[u8],
    mut core: Vec<u8>,
    start: u64,
) -> std::result::Result<Embedded, &'static str> {
    let mut boot_code = [0; BOOT_CODE];
    boot_code.copy_from_slice(boot.get(..BOOT_CODE).ok_or("its boot image is too short")?);
    if boot_code[DRIVE_CHECK..DRIVE_CHECK + 2] != JUMP {
        return Err("its boot image is of an unknown form");
    }
    boot_code[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&start.to_le_bytes());
    boot_code[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&NOPS);
    core.resize(core.len().next_multiple_of(SECTOR as usize), 0);
    if core.len() as u64 > PARTITION_BYTES || core.len() < 2 * SECTOR as usize {
        return Err("its core image does not fit into the partition");
    }
    let sectors = (core.len() as u64 / SECTOR - 1) as u16;
    let list = &mut core[BLOCK_LIST..512];
    if list[8..10] != sectors.to_le_bytes() || list[10..12] != SEGMENT.to_le_bytes() {
        return Err("its core image is of an unknown form");
    }
    list[..8].copy_from_slice(&(start + 1).to_le_bytes());
    Ok(Embedded { boot_code, core })
}

/// An environment block with these variables.
///
/// # Panics
/// When they do not fit: callers pass a few short ones.
pub fn environment(variables: &[(&str, &str)]) -> Vec<u8> {
    let mut text = ENVIRONMENT_SIGNATURE.to_owned();
    for (name, value) in variables {
        // The block has a backslash before a backslash and a line's end; names and versions of images have neither.
        text += &format!("{name}={value}\n");
    }
    assert!(text.len() <= ENVIRONMENT, "an image's name is short");
    let mut block = text.into_bytes();
    block.resize(ENVIRONMENT, b'#');
    block
}

/// The file that tells the configuration a version's kernel command line, in GRUB's quotes, and which sectors of its unified
/// kernel image are kernel and initial file system, in GRUB's notation of a list of blocks, `FIRST+COUNT`.
///
/// What follows a section up to the sector's end are zeros, which the kernel skips behind an initial file system and GRUB
/// loads behind a kernel.
///
/// # Errors
/// When the image lacks a section, or one does not begin with a sector.
pub fn entry(command_line: &str, image: &[u8]) -> Result<String> {
    let blocks = |name| {
        blocks(image, name).map_err(|reason| Error::Boot {
            what: "the kernel image",
            reason: format!("{name}: {reason}"),
        })
    };
    let (kernel, initrd) = (blocks(".linux")?, blocks(".initrd")?);
    Ok(format!(
        "set farrow_linux={kernel}\nset farrow_initrd={initrd}\nset farrow_cmdline={}\n",
        quoted(command_line)
    ))
}

/// The sectors of a section.
fn blocks(image: &[u8], name: &str) -> std::result::Result<String, &'static str> {
    let place = uki::place(image, name)?;
    if !place.start.is_multiple_of(SECTOR) {
        return Err("it does not begin with a sector");
    }
    let count = (place.end - place.start).div_ceil(SECTOR);
    Ok(format!("{}+{count}", place.start / SECTOR))
}

fn quoted(command_line: &str) -> String {
    let mut quoted = String::with_capacity(command_line.len());
    for c in command_line.chars() {
        if matches!(c, '$' | '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    format!("\"{quoted}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot() -> Vec<u8> {
        let mut boot = vec![0x11; 512];
        boot[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&JUMP);
        boot
    }

    fn core(bytes: usize) -> Vec<u8> {
        let mut core = vec![0x22; bytes];
        let sectors = (bytes.div_ceil(512) - 1) as u16;
        core[BLOCK_LIST + 8..BLOCK_LIST + 10].copy_from_slice(&sectors.to_le_bytes());
        core[BLOCK_LIST + 10..512].copy_from_slice(&SEGMENT.to_le_bytes());
        core
    }

    #[test]
    fn boot_and_core_image_know_their_places() {
        let found = embed(&boot(), core(5000), 2048).unwrap();
        assert_eq!(found.core.len(), 5120);
        assert_eq!(found.core[500..508], 2049u64.to_le_bytes());
        assert_eq!(found.core[508..512], [9, 0, 0x20, 8]);
        assert_eq!(found.boot_code[0x5c..0x64], 2048u64.to_le_bytes());
        assert_eq!(found.boot_code[0x66..0x68], [0x90, 0x90]);
        let others = found.boot_code.iter().filter(|&&b| b == 0x11).count();
        assert_eq!(others, 440 - 10);
    }

    #[test]
    fn other_images_are_refused() {
        let mut other_boot = boot();
        other_boot[DRIVE_CHECK] = 0;
        let mut other_core = core(5000);
        other_core[508] ^= 1;
        for (boot, core) in [
            (other_boot, core(5000)),
            (boot()[..439].to_vec(), core(5000)),
            (boot(), other_core),
            (boot(), core(2 << 20)),
            (boot(), Vec::new()),
        ] {
            assert!(embed(&boot, core, 2048).is_err());
        }
    }

    #[test]
    fn the_environment_is_a_block() {
        let block = environment(&[("farrow_default", "base_1.0")]);
        let expected = "# GRUB Environment Block\nfarrow_default=base_1.0\n####";
        assert_eq!(block.len(), 1024);
        assert!(block.starts_with(expected.as_bytes()) && block.ends_with(b"####"));
    }

    #[test]
    fn command_lines_are_quoted() {
        assert_eq!(quoted("a=b c=$d"), "\"a=b c=\\$d\"");
    }

    /// Read as GRUB does, by whole sectors, kernel and initial file system are there.
    #[test]
    fn an_entry_leads_to_the_sections_of_the_image() {
        let stub = uki::tests::stub();
        let parts = uki::Parts {
            os_release: b"ID=debian\n",
            command_line: "a",
            release: "6.12",
            initrd: &[7; 5000],
            kernel: &stub,
        };
        let image = uki::build(&stub, &parts).unwrap();
        let text = entry("a", &image).unwrap();
        assert_eq!(
            text,
            "set farrow_linux=17+4\nset farrow_initrd=7+10\nset farrow_cmdline=\"a\"\n"
        );
        assert_eq!(&image[17 * 512..21 * 512], &stub[..]);
        let initrd = &image[7 * 512..17 * 512];
        assert_eq!(initrd[..5000], [7; 5000]);
        assert_eq!(initrd[5000..], [0; 120]);
        assert!(entry("a", &stub).is_err(), "a stub has no kernel");
    }
}
