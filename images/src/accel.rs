//! Whether KVM really runs guests here. That `/dev/kvm` opens proves nothing: nested hypervisors exist that accept a
//! machine and then interpret it, or fail at its first page table.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::architecture::Architecture;
use crate::error::{Error, Result};
use crate::tools::ToolsTree;

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor, through `/dev/kvm`.
    Kvm,
    /// QEMU's own translation, some ten times slower.
    Tcg,
}

/// How long the test guest may take: it needs 0.2 s where KVM works, and hours where it is interpreted.
const LIMIT: Duration = Duration::from_secs(3);

/// The guest's exit port and code; QEMU ends with `code << 1 | 1` (device `isa-debug-exit`).
const EXIT_CODE: u8 = 0x2a;
const EXIT_STATUS: i32 = (EXIT_CODE as i32) << 1 | 1;

/// Size of the guest's ROM, which the processor sees up to 4 GiB and up to 1 MiB.
const ROM_BYTES: usize = 64 << 10;

/// Where the processor starts: 16 bytes below the ROM's end. `jmp 0xf000:0`.
const RESET: (usize, [u8; 5]) = (ROM_BYTES - 16, [0xea, 0, 0, 0, 0xf0]);

/// The guest: real mode, page tables, long mode, a hundred million SSE2 additions, exit.
/// A KVM that interprets instead of running stops at the first `paddq` or takes minutes for the loop.
#[rustfmt::skip]
const GUEST: [u8; 0x88] = [
    0xfa, 0xfc,                                     // cli; cld
    0x31, 0xc0, 0x8e, 0xc0,                         // xor ax,ax; mov es,ax
    0xbf, 0x00, 0x10, 0xb9, 0x00, 0x18,             // mov di,0x1000; mov cx,0x1800
    0xf3, 0xab,                                     // rep stosw
    0x26, 0xc7, 0x06, 0x00, 0x10, 0x03, 0x20,       // mov word [es:0x1000],0x2003  level 4 -> level 3
    0x26, 0xc7, 0x06, 0x00, 0x20, 0x03, 0x30,       // mov word [es:0x2000],0x3003  level 3 -> level 2
    0x26, 0xc7, 0x06, 0x00, 0x30, 0x83, 0x00,       // mov word [es:0x3000],0x0083  one page of 2 MiB
    0x66, 0xb8, 0x00, 0x10, 0x00, 0x00,             // mov eax,0x1000
    0x0f, 0x22, 0xd8,                               // mov cr3,eax
    0x66, 0xb8, 0x20, 0x06, 0x00, 0x00,             // mov eax,0x620                PAE, SSE
    0x0f, 0x22, 0xe0,                               // mov cr4,eax
    0x66, 0xb9, 0x80, 0x00, 0x00, 0xc0,             // mov ecx,0xc0000080           EFER
    0x0f, 0x32, 0x80, 0xcc, 0x01, 0x0f, 0x30,       // rdmsr; or ah,1; wrmsr        long mode
    0x2e, 0x0f, 0x01, 0x16, 0x70, 0x00,             // lgdt [cs:0x70]
    0x66, 0xb8, 0x13, 0x00, 0x00, 0x80,             // mov eax,0x80000013
    0x0f, 0x22, 0xc0,                               // mov cr0,eax                  paging, protection
    0x66, 0xea, 0x76, 0x00, 0x0f, 0x00, 0x08, 0x00, // jmp 8:0xf0076
    0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // 0x60: descriptors: none,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x9b, 0x20, 0x00, //       64-bit code
    0x0f, 0x00, 0x60, 0x00, 0x0f, 0x00,             // 0x70: their size and address
    0xb9, 0x00, 0xe1, 0xf5, 0x05,                   // 0x76: mov ecx,100000000
    0x66, 0x0f, 0xd4, 0xc1,                         // 0x7b: paddq xmm0,xmm1
    0xff, 0xc9, 0x75, 0xf8,                         // dec ecx; jnz 0x7b
    0xb0, EXIT_CODE, 0xe6, 0xf4,                    // mov al,EXIT_CODE; out 0xf4,al
    0xf4,                                           // hlt
];

/// What is remembered about a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cached {
    /// The kernel's boot id: another boot may be another host or another hypervisor below it.
    boot_id: String,
    /// The tools tree, and QEMU with it.
    tools: String,
    accelerator: Accelerator,
}

impl Accelerator {
    /// What runs guests of `architecture` here. Only KVM of amd64 on amd64 is looked for: the guest that tries it out is
    /// of that.
    ///
    /// # Errors
    /// As [`Accelerator::detect`].
    pub fn detect_for(
        architecture: Architecture,
        tools: &ToolsTree,
        cache: &Path,
    ) -> Result<Accelerator> {
        match (architecture, Architecture::of_host()) {
            (Architecture::Amd64, Some(Architecture::Amd64)) => Self::detect(tools, cache),
            _ => Ok(Accelerator::Tcg),
        }
    }

    /// Finds out what this host can do, by running a guest of 136 bytes; remembered in `cache` until the next boot.
    ///
    /// # Errors
    /// The folder or the sandbox cannot be used. That KVM does not work is no error.
    pub fn detect(tools: &ToolsTree, cache: &Path) -> Result<Accelerator> {
        // What a group membership or a container runtime forbids may change without a reboot, so it is not cached.
        let device = fs::File::options().read(true).write(true).open("/dev/kvm");
        if device.is_err() {
            return Ok(Accelerator::Tcg);
        }
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let path = cache.join("accelerator.json");
        if let Some(known) = read_cached(&path, boot_id.trim(), &tools.digest) {
            return Ok(known);
        }
        fs::create_dir_all(cache).map_err(Error::io("create", cache))?;
        let accelerator = match run_guest(tools, cache, "kvm", LIMIT)? {
            true => Accelerator::Kvm,
            false => Accelerator::Tcg,
        };
        let cached = Cached {
            boot_id: boot_id.trim().to_owned(),
            tools: tools.digest.clone(),
            accelerator,
        };
        write_cached(&path, &cached)?;
        Ok(accelerator)
    }

    /// Value of QEMU's option `-accel`.
    pub fn option(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg,thread=multi",
        }
    }

    /// Value of QEMU's option `-cpu`: all that the accelerator has, but for nested virtualisation, for which the guest
    /// would only load KVM's modules. Translation also goes without a fifth level of page tables (a fifth less time
    /// in a guest's kernel, measured over a first boot), without SMAP and SMEP, which split its cache of addresses, and
    /// without ERMS and FSRM, which make kernel and C library copy byte by byte (a twelfth of a boot's processor time).
    /// On arm64 it goes without pointer authentication, whose cipher QEMU computes for each call of a function, and
    /// without vectors of variable length, whose registers the kernel saves at each change of processes.
    pub fn processor(self, architecture: Architecture) -> &'static str {
        match (architecture, self) {
            (Architecture::Amd64, Accelerator::Kvm) => "max,svm=off,vmx=off",
            (Architecture::Amd64, Accelerator::Tcg) => {
                "max,svm=off,vmx=off,la57=off,smap=off,smep=off,erms=off,fsrm=off"
            }
            (Architecture::Arm64, Accelerator::Kvm) => "host",
            (Architecture::Arm64, Accelerator::Tcg) => "max,pauth=off,sve=off,sme=off",
        }
    }
}

fn read_cached(path: &Path, boot_id: &str, tools: &str) -> Option<Accelerator> {
    let cached: Cached = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let same = !boot_id.is_empty() && cached.boot_id == boot_id && cached.tools == tools;
    same.then_some(cached.accelerator)
}

fn write_cached(path: &Path, cached: &Cached) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let text = serde_json::to_vec(cached).unwrap_or_default();
    let file = tempfile::NamedTempFile::new_in(folder).map_err(Error::io("write in", folder))?;
    fs::write(file.path(), text).map_err(Error::io("write", file.path()))?;
    let kept = file.persist(path).map_err(|e| e.error);
    kept.map_err(Error::io("write", path))?;
    Ok(())
}

/// The test guest as the content of a ROM.
fn rom() -> Vec<u8> {
    // 0xf4 is `hlt`: whatever goes astray stops.
    let mut rom = vec![0xf4; ROM_BYTES];
    rom[..GUEST.len()].copy_from_slice(&GUEST);
    rom[RESET.0..RESET.0 + RESET.1.len()].copy_from_slice(&RESET.1);
    rom
}

/// Whether the test guest comes to its end under `accelerator` within `limit`.
fn run_guest(
    tools: &ToolsTree,
    scratch: &Path,
    accelerator: &str,
    limit: Duration,
) -> Result<bool> {
    let folder = tempfile::tempdir_in(scratch).map_err(Error::io("create a folder in", scratch))?;
    let path = folder.path().join("rom");
    fs::write(&path, rom()).map_err(Error::io("write", &path))?;
    let sandbox = tools
        .sandbox()
        .map_ids(false)
        .kvm()
        .bind_ro(folder.path(), "/run/guest");
    let machine = "q35,dump-guest-core=off";
    let argv = [
        "qemu-system-x86_64",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-machine",
        machine,
        "-accel",
        accelerator,
        "-cpu",
        "max",
        "-m",
        "16",
        "-no-reboot",
        "-bios",
        "/run/guest/rom",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=0x4",
    ];
    let mut child = sandbox.spawn(&argv, Stdio::null(), Stdio::null(), Stdio::null())?;
    let start = Instant::now();
    while start.elapsed() < limit {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code() == Some(EXIT_STATUS));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_used_on_the_same_boot_with_the_same_tools_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accelerator.json");
        assert_eq!(read_cached(&path, "boot", "tools"), None);
        let cached = Cached {
            boot_id: "boot".to_owned(),
            tools: "tools".to_owned(),
            accelerator: Accelerator::Kvm,
        };
        write_cached(&path, &cached).unwrap();
        let cases = [
            ("boot", "tools", Some(Accelerator::Kvm)),
            ("other", "tools", None),
            ("boot", "other", None),
            ("", "tools", None),
        ];
        for (boot, tools, expected) in cases {
            assert_eq!(
                read_cached(&path, boot, tools),
                expected,
                "{boot:?} {tools:?}"
            );
        }
        fs::write(&path, "{").unwrap();
        assert_eq!(read_cached(&path, "boot", "tools"), None);
    }

    #[test]
    fn the_guest_fits_its_own_addresses() {
        let rom = rom();
        assert_eq!(rom.len(), ROM_BYTES);
        assert_eq!(rom[0x76], 0xb9, "the 64-bit entry is where the jump goes");
        assert_eq!(
            rom[0x70..0x76],
            [15, 0, 0x60, 0, 0x0f, 0],
            "table of two descriptors"
        );
    }
}
