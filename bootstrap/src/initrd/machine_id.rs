//! The machine-id: made once, kept under `/var`, shown in `/etc`.

use super::failure::{Failure, Step};
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Where it is kept, below the mount point of `/var`.
const KEPT: &str = "lib/farrow/machine-id";
const HINT: &str = "check the space and the health of the var partition";

/// Reads the kept machine-id or makes it, and writes it to `etc`; says whether it is new.
pub fn restore(var: &Path, etc: &Path) -> Step<bool> {
    let kept = var.join(KEPT);
    let (id, new) = match fs::read_to_string(&kept).ok().as_deref().and_then(parse) {
        Some(id) => (id, false),
        None => (generate()?, true),
    };
    if new {
        write(&kept, &id)?;
    }
    write(&etc.join("machine-id"), &id)?;
    Ok(new)
}

/// The id in a file's text: 32 lower-case hex digits, not all zero.
fn parse(text: &str) -> Option<String> {
    let id = text.trim_end();
    let valid = id.len() == 32
        && id
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        && id.bytes().any(|b| b != b'0');
    valid.then(|| id.to_owned())
}

/// A random id in the form of a version 4 UUID, as machine-id(5) wants it.
fn generate() -> Step<String> {
    let mut bytes = [0; 16];
    // urandom after the pool is ready: `/dev/random` waits for it, and does so only on a machine without entropy.
    fs::File::open("/dev/random")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|e| failure("cannot read /dev/random", &e))?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// Writes the id so that it is there whole or not at all, even after a power cut.
fn write(path: &Path, id: &str) -> Step<()> {
    let name = path.display();
    let temporary = path.with_extension("new");
    let attempt = || {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o444)
            .open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(0o444))?;
        writeln!(file, "{id}")?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent()
            .map_or(Ok(()), |p| fs::File::open(p)?.sync_all())
    };
    attempt().map_err(|e| failure(&format!("cannot write {name}"), &e))
}

fn failure(what: &str, cause: &std::io::Error) -> Failure {
    Failure::new("FR-INIT-MACHINE-ID", format!("{what}: {cause}"), HINT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_ids_count() {
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(parse(&format!("{id}\n")).as_deref(), Some(id));
        for wrong in [
            "",
            "uninitialized\n",
            &id[1..],
            &id.to_uppercase(),
            &"0".repeat(32),
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (var, etc) = (dir.path().join("var"), dir.path().join("etc"));
        assert!(restore(&var, &etc).unwrap());
        let first = fs::read_to_string(etc.join("machine-id")).unwrap();
        assert_eq!(first.as_bytes()[12], b'4');
        fs::write(var.join("lib/farrow/machine-id.new"), "half").unwrap();
        assert!(!restore(&var, &etc).unwrap());
        assert_eq!(fs::read_to_string(etc.join("machine-id")).unwrap(), first);
        assert_eq!(
            fs::metadata(var.join(KEPT)).unwrap().permissions().mode() & 0o777,
            0o444
        );
    }
}
