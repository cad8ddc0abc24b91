//! The verified device, made through the device-mapper's control node.
//!
//! Format: `linux/dm-ioctl.h`, interface version 4. The device gets the name and the uuid form that libcryptsetup uses,
//! so that `veritysetup status root` knows it on the running machine.

use super::failure::{Failure, Step};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

const CONTROL: &str = "/dev/mapper/control";
const HINT: &str = "the root partition or its hash tree is damaged, or the kernel lacks dm-verity";
/// Size of `struct dm_ioctl` without the data behind it.
const HEADER: usize = 312;
/// Size of `struct dm_target_spec`.
const TARGET: usize = 40;
const READ_ONLY: u32 = 1;

/// Requests, `_IOWR(0xfd, number, struct dm_ioctl)`.
#[derive(Clone, Copy)]
enum Request {
    Create = 3,
    Resume = 6,
    Load = 9,
}

impl Request {
    fn code(self) -> u64 {
        3 << 30 | (HEADER as u64) << 16 | 0xfd << 8 | self as u64
    }
}

/// Makes the read-only device `name` with one verity target of `sectors`; gives its node `/dev/mapper/NAME`.
pub fn create_verity(name: &str, uuid: &str, sectors: u64, table: &str) -> Step<PathBuf> {
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open(CONTROL)
        .map_err(|e| {
            Failure::new(
                "FR-INIT-VERITY",
                format!("cannot open {CONTROL}: {e}"),
                HINT,
            )
        })?;
    let uuid = format!("CRYPT-VERITY-{uuid}-{name}");
    let call = |request: Request, mut message: Vec<u8>| {
        send(&control, request, &mut message).map_err(|e| {
            let step = match request {
                Request::Create => "create",
                Request::Load => "load the table of",
                Request::Resume => "activate",
            };
            let message = format!("cannot {step} the verified device {name}: {e}");
            Failure::new("FR-INIT-VERITY", message, HINT)
        })?;
        Ok(message)
    };
    let created = call(Request::Create, message(name, Some(&uuid), READ_ONLY, &[]))?;
    let target = target(sectors, table);
    call(Request::Load, message(name, None, READ_ONLY, &target))?;
    call(Request::Resume, message(name, None, READ_ONLY, &[]))?;
    link_node(name, &created)
}

/// `/dev/mapper/NAME` as a link to the kernel's own node, as udev makes it.
fn link_node(name: &str, reply: &[u8]) -> Step<PathBuf> {
    let minor = device_minor(reply);
    let node = PathBuf::from(format!("/dev/mapper/{name}"));
    std::os::unix::fs::symlink(format!("../dm-{minor}"), &node).map_err(|e| {
        let message = format!("cannot make {}: {e}", node.display());
        Failure::new("FR-INIT-VERITY", message, HINT)
    })?;
    Ok(node)
}

/// Minor number in the reply's `dev` field, which is in the kernel's `huge_encode_dev` form.
fn device_minor(reply: &[u8]) -> u32 {
    let device = u32::from_le_bytes([reply[40], reply[41], reply[42], reply[43]]);
    (device & 0xff) | ((device >> 12) & 0xf_ff00)
}

/// `struct dm_ioctl` followed by `payload`; one target when there is a payload.
fn message(name: &str, uuid: Option<&str>, flags: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER + payload.len()];
    let size = bytes.len() as u32;
    let words = [
        (0, 4),
        (12, size),
        (16, HEADER as u32),
        (20, u32::from(!payload.is_empty())),
        (28, flags),
    ];
    for (at, value) in words {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    bytes[48..48 + name.len()].copy_from_slice(name.as_bytes());
    if let Some(uuid) = uuid {
        bytes[176..176 + uuid.len()].copy_from_slice(uuid.as_bytes());
    }
    bytes[HEADER..].copy_from_slice(payload);
    bytes
}

/// `struct dm_target_spec` and its parameter string, padded to eight bytes.
fn target(sectors: u64, table: &str) -> Vec<u8> {
    let length = (TARGET + table.len() + 1).next_multiple_of(8);
    let mut bytes = vec![0; length];
    bytes[8..16].copy_from_slice(&sectors.to_le_bytes());
    bytes[20..24].copy_from_slice(&(length as u32).to_le_bytes());
    bytes[24..30].copy_from_slice(b"verity");
    bytes[TARGET..TARGET + table.len()].copy_from_slice(table.as_bytes());
    bytes
}

#[allow(unsafe_code)]
fn send(control: &File, request: Request, message: &mut [u8]) -> nix::Result<()> {
    // SAFETY: `message` is a whole dm_ioctl whose data_size field is its length; the kernel reads and writes no more
    // than that, and the slice is exclusively ours during the call.
    let result =
        unsafe { nix::libc::ioctl(control.as_raw_fd(), request.code(), message.as_mut_ptr()) };
    nix::errno::Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_numbers() {
        // From linux/dm-ioctl.h: DM_DEV_CREATE, DM_TABLE_LOAD.
        assert_eq!(Request::Create.code(), 0xc138_fd03);
        assert_eq!(Request::Load.code(), 0xc138_fd09);
    }

    #[test]
    fn message_layout() {
        let payload = target(8, "1 254:2");
        assert_eq!(payload.len(), 48);
        assert_eq!(payload[20], 48);
        let bytes = message("root", Some("CRYPT"), READ_ONLY, &payload);
        assert_eq!(bytes.len(), 360);
        assert_eq!(u32::from_le_bytes([bytes[12], bytes[13], 0, 0]), 360);
        assert_eq!(&bytes[48..53], b"root\0");
        assert_eq!(&bytes[176..182], b"CRYPT\0");
        assert_eq!((bytes[20], bytes[28]), (1, 1));
        let mut reply = vec![0; HEADER];
        reply[40..44].copy_from_slice(&[0x05, 0xfd, 0x10, 0]);
        assert_eq!(device_minor(&reply), 0x105);
    }
}
