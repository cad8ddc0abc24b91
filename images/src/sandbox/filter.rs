//! A system-call filter that makes syncing a no-operation.
//!
//! dpkg and the programs that maintainer scripts run sync after nearly every file. A tree that is thrown away when
//! its build is interrupted needs none of that; what is kept is synced once, by whoever renames it into place.

use nix::libc;

use crate::error::{Error, Result};

/// `AUDIT_ARCH_*` of linux/audit.h: ELF machine number, 64 bit, little endian.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xC000_00B7;

/// Offsets in `struct seccomp_data` of linux/seccomp.h.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Makes the sync calls of this process and its descendants return 0 at once. Programs of another architecture
/// (32 bit) are left alone.
pub(super) fn ignore_sync() -> Result<()> {
    let mut program = program();
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: `filter` points to a program that outlives the call; the kernel copies it.
    #[allow(unsafe_code)]
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const filter,
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(Error::sandbox("filter sync calls")(
        std::io::Error::last_os_error(),
    ))
}

fn program() -> Vec<libc::sock_filter> {
    let calls = [
        libc::SYS_fsync,
        libc::SYS_fdatasync,
        libc::SYS_sync,
        libc::SYS_syncfs,
        libc::SYS_msync,
        libc::SYS_sync_file_range,
    ];
    let instruction = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let count = calls.len() as u8;
    let mut program = vec![
        instruction(LOAD, 0, 0, OFFSET_ARCHITECTURE),
        // Another architecture: to the last but one instruction, "allow".
        instruction(JUMP_IF_EQUAL, 0, count + 1, ARCHITECTURE),
        instruction(LOAD, 0, 0, OFFSET_NUMBER),
    ];
    for (index, call) in (0..count).zip(calls) {
        // A hit goes to the last instruction, a miss to the next.
        program.push(instruction(JUMP_IF_EQUAL, count - index, 0, call as u32));
    }
    program.push(instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    program.push(instruction(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO));
    program
}
