//! The control stanza of a `.deb`: an ar archive with `debian-binary`, `control.tar.*` and `data.tar.*` (deb(5)).

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use crate::compression::{self, Codec};
use crate::error::{Error, Result};
use crate::members::Members;

/// Debian's largest control archive has 2 MB.
const MEMBER_LIMIT: u64 = 64 << 20;
const UNPACKED_LIMIT: u64 = 256 << 20;
/// Debian's largest control file has 300 kB (long Provides lists).
const CONTROL_LIMIT: u64 = 4 << 20;

/// Text of the control file.
pub fn control(path: &Path) -> Result<String> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    control_of(path, BufReader::new(file))
}

/// The same from any input; `path` is for messages.
pub fn control_of(path: &Path, input: impl Read) -> Result<String> {
    let fail = |message: String| Error::Deb {
        path: path.to_path_buf(),
        message,
    };
    let (name, packed) = control_archive(input).map_err(fail)?;
    let shown = path.display().to_string();
    let archive = compression::decompress(&shown, Codec::of_name(&name), &packed, UNPACKED_LIMIT)?;
    control_file(&archive).map_err(fail)
}

/// Name and content of the first `control.tar.*` member.
fn control_archive(input: impl Read) -> std::result::Result<(String, Vec<u8>), String> {
    let mut members = Members::new(input);
    let mut first = true;
    let broken = |e: String| format!("is not a package: {e}");
    while let Some((name, size)) = members.next_member().map_err(broken)? {
        if std::mem::take(&mut first) && name != "debian-binary" {
            return Err("is not a package: it does not begin with debian-binary".into());
        }
        if name == "control.tar" || name.starts_with("control.tar.") {
            if size > MEMBER_LIMIT {
                return Err(format!("its {name} is larger than {MEMBER_LIMIT} bytes"));
            }
            let packed = members.read(size);
            let packed = packed.map_err(|e| format!("its {name} cannot be read: {e}"))?;
            if packed.len() as u64 != size {
                return Err(format!("its {name} is cut off"));
            }
            return Ok((name, packed));
        }
        if name.starts_with("data.tar") {
            break;
        }
    }
    Err("has no control.tar member".into())
}

fn control_file(archive: &[u8]) -> std::result::Result<String, String> {
    let fail = |e: std::io::Error| format!("its control archive cannot be read: {e}");
    for entry in tar::Archive::new(archive).entries().map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let is_control = matches!(&*entry.path_bytes(), b"./control" | b"control");
        if !is_control || !entry.header().entry_type().is_file() {
            continue;
        }
        if entry.size() > CONTROL_LIMIT {
            return Err(format!(
                "its control file is larger than {CONTROL_LIMIT} bytes"
            ));
        }
        let mut text = String::new();
        entry
            .take(CONTROL_LIMIT)
            .read_to_string(&mut text)
            .map_err(fail)?;
        return Ok(text);
    }
    Err("has no control file".into())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A `.deb` with this control file and no content.
    pub(crate) fn make(control: &str, ending: &str) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(control.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "./control", control.as_bytes())
            .unwrap();
        let tar = tar.into_inner().unwrap();
        let packed = match ending {
            ".gz" => compression::gzip(&tar),
            ".xz" => compression::xz(&tar),
            ".zst" => zstd::encode_all(&tar[..], 3).unwrap(),
            _ => tar,
        };
        let mut deb = ar::Builder::new(Vec::new());
        let data = tar::Builder::new(Vec::new()).into_inner().unwrap();
        for (name, content) in [
            ("debian-binary".to_string(), b"2.0\n".to_vec()),
            (format!("control.tar{ending}"), packed),
            ("data.tar".to_string(), data),
        ] {
            deb.append(
                &ar::Header::new(name.into_bytes(), content.len() as u64),
                &content[..],
            )
            .unwrap();
        }
        deb.into_inner().unwrap()
    }

    #[test]
    fn control_is_read_from_every_compression() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.deb");
        for ending in ["", ".gz", ".xz", ".zst"] {
            std::fs::write(&path, make("Package: aa\nVersion: 1\n", ending)).unwrap();
            assert_eq!(
                control(&path).unwrap(),
                "Package: aa\nVersion: 1\n",
                "{ending}"
            );
        }
    }

    #[test]
    fn what_is_not_a_package() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.deb");
        let good = make("Package: aa\n", ".xz");
        for (bytes, message) in [
            (b"".to_vec(), "is not a package"),
            (
                b"#!/bin/sh\necho this is not an archive\n".to_vec(),
                "is not a package",
            ),
            (good[..100].to_vec(), "is not a package: it is cut off"),
            (good[..160].to_vec(), "is cut off"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = control(&path).unwrap_err();
            assert_eq!(error.code(), "FR-REPO-DEB");
            assert!(error.to_string().contains(message), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(at in 0usize..400, byte: u8) {
            let mut deb = make("Package: aa\n", ".gz");
            let at = at % deb.len();
            deb[at] = byte;
            if let Ok((name, packed)) = control_archive(&deb[..]) {
                let unpacked = compression::decompress("x", Codec::of_name(&name), &packed, 1 << 20);
                let _ = unpacked.map(|archive| control_file(&archive));
            }
        }
    }
}
