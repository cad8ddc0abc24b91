//! What differs between processors: names of files, ids and programs, and the form of their programs.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::partitions::Layout;

/// Where systemd-boot-efi has its files.
const BOOT_FILES: &str = "usr/lib/systemd/boot/efi";

/// A processor that images are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// 64-bit Arm.
    Arm64,
}

/// `e_machine` in the header of a program: EM_X86_64 and EM_AARCH64 of elf.h.
const MACHINES: [(Architecture, u16); 2] = [(Architecture::Amd64, 62), (Architecture::Arm64, 183)];

impl Architecture {
    /// All of them.
    pub const ALL: [Architecture; 2] = [Architecture::Amd64, Architecture::Arm64];

    /// The one that Debian calls `name`.
    pub fn of_debian(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.debian() == name)
    }

    /// Debian's name.
    pub fn debian(self) -> &'static str {
        match self {
            Architecture::Amd64 => "amd64",
            Architecture::Arm64 => "arm64",
        }
    }

    /// The one that this program runs on, if it is one of them.
    pub fn of_host() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Architecture::Amd64),
            "aarch64" => Some(Architecture::Arm64),
            _ => None,
        }
    }

    /// The one that a disk with this table starts on, by the type of its root.
    pub fn of_disk(layout: &Layout) -> Option<Self> {
        let is_root = |known: &Self| {
            let mut partitions = layout.partitions.iter();
            partitions.any(|partition| partition.kind.text() == known.root_type())
        };
        Self::ALL.into_iter().find(is_root)
    }

    /// QEMU's and the kernel's name.
    pub fn machine(self) -> &'static str {
        match self {
            Architecture::Amd64 => "x86_64",
            Architecture::Arm64 => "aarch64",
        }
    }

    /// Partition type of a root (Discoverable Partitions specification).
    pub fn root_type(self) -> &'static str {
        match self {
            Architecture::Amd64 => "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
            Architecture::Arm64 => "b921b045-1df0-41c3-af44-4c6f280d3fae",
        }
    }

    /// Partition type of a root's hash tree (Discoverable Partitions specification).
    pub fn verity_type(self) -> &'static str {
        match self {
            Architecture::Amd64 => "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5",
            Architecture::Arm64 => "df3300ce-d69f-4c92-978c-9bfb0f38d820",
        }
    }

    /// What EFI calls it in file names (UEFI specification 2.10, section 3.5.1.1), in lower case.
    fn efi(self) -> &'static str {
        match self {
            Architecture::Amd64 => "x64",
            Architecture::Arm64 => "aa64",
        }
    }

    /// systemd-boot's places in the ESP: where firmware looks without being told, and where updates by the boot loader's
    /// own tools go.
    pub fn boot_loader_places(self) -> [String; 2] {
        let name = self.efi();
        [
            format!("EFI/BOOT/BOOT{}.EFI", name.to_uppercase()),
            format!("EFI/systemd/systemd-boot{name}.efi"),
        ]
    }

    /// systemd-boot, in the tools tree or in the image's own.
    ///
    /// # Errors
    /// [`Error::Tree`] when neither has it.
    pub fn boot_loader(self, tools: &Path, tree: &Path) -> Result<PathBuf> {
        self.boot_file(&format!("systemd-boot{}.efi", self.efi()), tools, tree)
    }

    /// systemd's EFI stub, in the tools tree or in the image's own.
    ///
    /// # Errors
    /// [`Error::Tree`] when neither has it.
    pub fn stub(self, tools: &Path, tree: &Path) -> Result<PathBuf> {
        self.boot_file(&format!("linux{}.efi.stub", self.efi()), tools, tree)
    }

    /// The tools tree holds packages of one architecture; what another one starts with comes with the image's packages.
    fn boot_file(self, name: &str, tools: &Path, tree: &Path) -> Result<PathBuf> {
        let places = [tools, tree].map(|root| root.join(BOOT_FILES).join(name));
        let found = places.into_iter().find(|path| path.is_file());
        found.ok_or_else(|| Error::Tree {
            reason: format!("no package brought {name}: add systemd-boot-efi to the packages"),
        })
    }

    /// Whether there are machines of it with a BIOS instead of UEFI.
    pub fn has_bios(self) -> bool {
        self == Architecture::Amd64
    }

    /// Kernel arguments with which an image talks to a screen and a serial line.
    pub fn consoles(self) -> [&'static str; 2] {
        match self {
            Architecture::Amd64 => ["console=tty0", "console=ttyS0,115200"],
            Architecture::Arm64 => ["console=tty0", "console=ttyAMA0,115200"],
        }
    }

    /// The program of `qemu-user` that runs its programs on another processor.
    pub fn interpreter(self) -> String {
        format!("qemu-{}", self.machine())
    }

    /// The number in the ELF header of its programs.
    pub(crate) fn elf_machine(self) -> u16 {
        let found = MACHINES.into_iter().find(|(known, _)| *known == self);
        found.map_or(0, |(_, number)| number)
    }

    /// Refuses a program that would not start before anything is mounted: of another architecture, or linked with
    /// libraries.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_static_program(self, program: &[u8]) -> std::result::Result<(), String> {
        let half = |at: usize| {
            let bytes = program.get(at..at + 2)?;
            Some(usize::from(u16::from_le_bytes([bytes[0], bytes[1]])))
        };
        // Magic number, 64 bits, little-endian, version 1.
        if !program.starts_with(b"\x7fELF\x02\x01\x01") {
            return Err("it is no 64-bit ELF program".into());
        }
        let machine = half(18).unwrap_or(0);
        if machine != usize::from(self.elf_machine()) {
            let known = MACHINES.iter().find(|(_, n)| usize::from(*n) == machine);
            let name = known.map_or("another architecture", |(known, _)| known.debian());
            return Err(format!("it is for {name}, not for {}", self.debian()));
        }
        let table = program.get(32..40).and_then(|bytes| bytes.try_into().ok());
        let table = table.map_or(0, u64::from_le_bytes);
        let (size, count) = (half(54).unwrap_or(0), half(56).unwrap_or(0));
        for index in 0..count {
            let at = usize::try_from(table).ok();
            let at = at.and_then(|table| table.checked_add(index * size));
            let kind = at.and_then(|at| program.get(at..at.checked_add(4)?));
            match kind {
                None => return Err("its program headers are out of bounds".into()),
                // PT_INTERP names the program that loads libraries.
                Some([3, 0, 0, 0]) => return Err("it is not linked statically".into()),
                Some(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF header with one program header of this kind.
    fn program(machine: u16, kind: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32..40].copy_from_slice(&64u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&1u16.to_le_bytes());
        bytes[64..68].copy_from_slice(&kind.to_le_bytes());
        bytes
    }

    #[test]
    fn programs_that_would_not_start_are_refused() {
        let check = |bytes: &[u8]| Architecture::Arm64.check_static_program(bytes);
        assert_eq!(check(&program(183, 1)), Ok(()));
        let cases = [
            (program(62, 1), "it is for amd64, not for arm64"),
            (
                program(243, 1),
                "it is for another architecture, not for arm64",
            ),
            (program(183, 3), "it is not linked statically"),
            (
                program(183, 1)[..80].to_vec(),
                "its program headers are out of bounds",
            ),
            (b"#!/bin/sh\n".to_vec(), "it is no 64-bit ELF program"),
            (Vec::new(), "it is no 64-bit ELF program"),
        ];
        for (bytes, reason) in cases {
            // The header alone is too short for its table in the fourth case.
            let bytes = if reason.contains("bounds") {
                &bytes[..66]
            } else {
                &bytes[..]
            };
            assert_eq!(check(bytes).unwrap_err(), reason);
        }
    }

    /// Whatever stands in a header, there is an answer and no panic.
    #[test]
    fn damaged_headers() {
        for at in 0..64 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = program(183, 1);
                bytes[at] = value;
                let _ = Architecture::Arm64.check_static_program(&bytes);
                let _ = Architecture::Arm64.check_static_program(&bytes[..at]);
            }
        }
    }

    #[test]
    fn files_of_an_architecture_come_from_the_tools_or_from_the_image() {
        let (tools, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let arm = Architecture::Arm64;
        let missing = arm.stub(tools.path(), tree.path()).unwrap_err().to_string();
        assert_eq!(
            missing,
            "root tree: no package brought linuxaa64.efi.stub: add systemd-boot-efi to the packages"
        );
        for root in [tree.path(), tools.path()] {
            let folder = root.join(BOOT_FILES);
            std::fs::create_dir_all(&folder).unwrap();
            let file = folder.join("systemd-bootaa64.efi");
            std::fs::write(&file, "").unwrap();
            assert_eq!(arm.boot_loader(tools.path(), tree.path()).unwrap(), file);
        }
        assert_eq!(arm.boot_loader_places()[0], "EFI/BOOT/BOOTAA64.EFI");
        assert_eq!(
            Architecture::Amd64.boot_loader_places()[0],
            "EFI/BOOT/BOOTX64.EFI"
        );
    }
}
