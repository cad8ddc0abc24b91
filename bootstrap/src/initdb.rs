//! A cluster's first data folder: what initdb made when the image was baked, with an identity of its own.
//!
//! Run twice with the same options, initdb makes the same files but for the log, one file of statistics, and
//! `global/pg_control`, which holds the cluster's identity. So an image can hold all the others, and a first boot copies
//! instead of computing them: a second instead of half a minute on an emulated machine.
//!
//! Template: `options` (the options that initdb was given, one a line), `data/` (what it made, without log).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::{files, process};

/// `PG_CONTROL_VERSION` of PostgreSQL 17 (src/include/catalog/pg_control.h): the offsets below are its.
const CONTROL_VERSION: u32 = 1700;
/// `system_identifier`.
const IDENTIFIER: usize = 0;
/// `pg_control_version`.
const VERSION: usize = 8;
/// `time` and `checkPointCopy.time`, seconds since 1970.
const TIMES: [usize; 2] = [24, 104];
/// `mock_authentication_nonce`, 32 random bytes.
const NONCE: std::ops::Range<usize> = 256..288;
/// `crc`, CRC-32C of all before it.
const CRC: usize = 288;

const CONTROL: &str = "global/pg_control";

/// Limit of pg_resetwal, which writes 16 MiB.
const LIMIT: Duration = Duration::from_secs(300);

/// Makes the data folder that the last argument names, as `program` (initdb itself) would with the other arguments. Where
/// the template was made with other options, or does not serve, this process becomes `program`.
///
/// # Errors
/// `FR-COMMAND` when `program` cannot be started.
pub fn initdb(template: &Path, program: &Path, arguments: &[String]) -> Result<()> {
    if let Some((target, options)) = arguments.split_last() {
        match from_template(template, program, options, Path::new(target)) {
            Ok(()) => {
                log::info!("made {target} from {}", template.display());
                return Ok(());
            }
            Err(error) => log::info!("not made from the template: {error}"),
        }
    }
    Err(process::replace_self(program, arguments))
}

/// The whole folder appears by one rename, so whoever is killed leaves none that looks like a cluster.
fn from_template(template: &Path, program: &Path, options: &[String], target: &Path) -> Result<()> {
    let name = template.join("options");
    let made_with = fs::read_to_string(&name).map_err(|error| Error::io("read", &name, error))?;
    if !made_with.lines().eq(options.iter().map(String::as_str)) {
        let other = io::Error::other("it was made with other options");
        return Err(Error::io("use", template, other));
    }
    let mut new = target.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    if new.exists() {
        fs::remove_dir_all(&new).map_err(|error| Error::io("remove", &new, error))?;
    }
    let done = fill(template, program, &new).and_then(|()| {
        // Only an empty folder can be replaced by another.
        fs::rename(&new, target).map_err(|error| Error::io("replace", target, error))
    });
    if done.is_err() {
        let _ = fs::remove_dir_all(&new);
    }
    done
}

fn fill(template: &Path, program: &Path, new: &Path) -> Result<()> {
    let data = template.join("data");
    files::copy_private(&data, new).map_err(|error| Error::io("copy", &data, error))?;
    let control = new.join(CONTROL);
    let old = fs::read(&control).map_err(|error| Error::io("read", &control, error))?;
    let identity =
        Identity::new().map_err(|error| Error::io("read", Path::new("/dev/urandom"), error))?;
    let made = identity.put_into(old);
    let made =
        made.ok_or_else(|| Error::io("use", &control, io::Error::other("unknown layout")))?;
    fs::write(&control, made).map_err(|error| Error::io("write", &control, error))?;
    // Writes the first segment of the log, with the identity in its header, and syncs.
    let tool = program.with_file_name("pg_resetwal");
    let words = [&*tool.to_string_lossy(), "--pgdata", &new.to_string_lossy()];
    process::run(&words, LIMIT)?;
    let folder = File::open(new).map_err(|error| Error::io("open", new, error))?;
    nix::unistd::syncfs(&folder).map_err(|errno| Error::io("sync", new, errno.into()))
}

/// What sets one cluster apart from all others.
struct Identity {
    /// As BootStrapXLOG of src/backend/access/transam/xlog.c makes it: seconds, microseconds, process id.
    system: u64,
    seconds: u64,
    /// Answers logins of roles that do not exist.
    nonce: [u8; 32],
}

impl Identity {
    fn new() -> io::Result<Self> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let mut nonce = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut nonce)?;
        let process = u64::from(std::process::id());
        Ok(Identity {
            system: now.as_secs() << 32 | u64::from(now.subsec_micros()) << 12 | process & 0xfff,
            seconds: now.as_secs(),
            nonce,
        })
    }

    /// `pg_control` with this identity; none when it has another layout.
    fn put_into(&self, mut control: Vec<u8>) -> Option<Vec<u8>> {
        let version = control.get(VERSION..VERSION + 4)?;
        if version != CONTROL_VERSION.to_ne_bytes() || control.len() < CRC + 4 {
            return None;
        }
        let mut put = |at: usize, mut bytes: &[u8]| {
            let place = &mut control[at..at + bytes.len()];
            let _ = bytes.read(place);
        };
        put(IDENTIFIER, &self.system.to_ne_bytes());
        for at in TIMES {
            put(at, &self.seconds.to_ne_bytes());
        }
        put(NONCE.start, &self.nonce);
        let crc = crc32c(&control[..CRC]);
        (&mut control[CRC..]).write_all(&crc.to_ne_bytes()).ok()?;
        Some(control)
    }
}

/// CRC-32C (Castagnoli), reflected, as RFC 3720 has it. Bit by bit: it is a few hundred bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _: u32| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), step);
    !bytes.iter().fold(!0, byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn an_identity_changes_what_it_must_and_nothing_else() {
        let mut control = vec![7; 8192];
        control[VERSION..VERSION + 4].copy_from_slice(&CONTROL_VERSION.to_ne_bytes());
        let identity = Identity {
            system: 1,
            seconds: 2,
            nonce: [3; 32],
        };
        let made = identity.put_into(control.clone()).unwrap();
        let changed: Vec<usize> = (0..made.len()).filter(|&i| made[i] != control[i]).collect();
        let inside = |at: usize| {
            at < 8 || (24..32).contains(&at) || (104..112).contains(&at) || (256..292).contains(&at)
        };
        assert!(changed.iter().all(|&at| inside(at)), "{changed:?}");
        let crc = u32::from_ne_bytes(made[CRC..CRC + 4].try_into().unwrap());
        assert_eq!(crc, crc32c(&made[..CRC]));
        control[VERSION] ^= 1;
        assert_eq!(identity.put_into(control), None);
        assert_eq!(identity.put_into(vec![0; 3]), None);
    }

    #[test]
    fn other_options_are_left_to_initdb() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("options"), "--encoding=UTF8\n").unwrap();
        let target = folder.path().join("data");
        let options = ["--encoding=LATIN1".to_owned()];
        let program = Path::new("/nonexistent/initdb");
        let refused = from_template(folder.path(), program, &options, &target);
        assert!(refused.unwrap_err().to_string().contains("other options"));
        assert!(!target.exists());
    }
}
