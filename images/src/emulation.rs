//! Programs of another processor in a sandbox: how the kernel is told who runs them.
//!
//! Formats: the kernel's documentation of binfmt_misc ("Kernel Support for miscellaneous Binary Formats").

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::architecture::Architecture;
use crate::tools::ToolsTree;

/// The first bytes of a 64-bit little-endian ELF program of Linux, as far as they are compared, and which bits of them
/// are: not the padding, and of the type (executable 2, shared 3) not the lowest bit.
const MAGIC: [u8; 18] = [
    0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0,
];
const MASK: [u8; 20] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xfe, 0xff, 0xff, 0xff,
];

/// What runs programs of another processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emulator {
    /// Whose programs it runs.
    pub architecture: Architecture,
    /// The static program that does.
    pub program: PathBuf,
}

impl Emulator {
    /// The one of the tools tree for programs of `architecture`; none when this processor runs them by itself.
    pub fn find(architecture: Architecture, tools: &ToolsTree) -> Option<Self> {
        let foreign = Architecture::of_host() != Some(architecture);
        foreign.then(|| Self {
            architecture,
            program: tools.root.join("usr/bin").join(architecture.interpreter()),
        })
    }

    /// The line for binfmt_misc's `register`, with the program at `path`. `F`: it is opened now, so that it needs no place
    /// in the tree; `P`: it is told the name that the program was called by.
    pub(crate) fn registration(&self, path: &str) -> String {
        let escaped = |bytes: &[u8]| -> String {
            let escape = |byte: &u8| format!("\\x{byte:02x}");
            bytes.iter().map(escape).collect()
        };
        format!(
            ":{}:M::{}:{}:{path}:PF",
            self.architecture.interpreter(),
            escaped(&magic(self.architecture)),
            escaped(&MASK)
        )
    }
}

fn magic(architecture: Architecture) -> Vec<u8> {
    let machine = architecture.elf_machine().to_le_bytes();
    [&MAGIC[..], &machine].concat()
}

/// Whether an entry of the host's binfmt_misc, as its file there reads, runs programs of `architecture` in any tree.
pub(crate) fn is_usable(entry: &str, architecture: Architecture) -> bool {
    let value = |key: &str| {
        let mut lines = entry.lines();
        lines.find_map(|line| line.strip_prefix(key)).map(str::trim)
    };
    // Other entries may compare fewer bytes; those that tell processors apart compare these.
    let wanted = hex::encode(magic(architecture));
    entry.lines().next() == Some("enabled")
        && value("offset") == Some("0")
        && value("magic") == Some(&wanted)
        && value("flags:").is_some_and(|flags| flags.contains('F'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Debian's qemu-user-binfmt registers it.
    const DEBIAN: &str = "enabled\ninterpreter /usr/bin/qemu-aarch64\nflags: POCF\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn the_line_is_this_one() {
        let emulator = Emulator {
            architecture: Architecture::Arm64,
            program: PathBuf::new(),
        };
        assert_eq!(
            emulator.registration("/qemu"),
            r":qemu-aarch64:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:".to_owned()
                + r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/qemu:PF"
        );
    }

    #[test]
    fn entries_of_the_host() {
        let arm = Architecture::Arm64;
        assert!(is_usable(DEBIAN, arm));
        assert!(!is_usable(DEBIAN, Architecture::Amd64));
        for (from, to) in [
            ("enabled", "disabled"),
            ("POCF", "POC"),
            ("offset 0", "offset 1"),
            ("b700", "f300"),
            ("magic", "magik"),
        ] {
            assert!(!is_usable(&DEBIAN.replacen(from, to, 1), arm), "{to}");
        }
        assert!(!is_usable("", arm));
    }
}
