//! A package whose files are not compressed: dpkg, which unpacks one package at a time with one thread, only has to copy.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::{DATA_LIMIT, decode, members};
use crate::deb::Bounded;
use crate::error::{Error, Result};

/// First bytes of an ar archive, and the first member of a package (deb(5)).
const MAGIC: &[u8] = b"!<arch>\n";
const VERSION: &[u8] = b"2.0\n";
/// Bytes that are written at a time.
const PIECE: usize = 1 << 18;
/// Name of the member of files that are not compressed.
const DATA: &str = "data.tar";

/// Writes `package` to `out` with its files unpacked.
///
/// # Errors
/// [`Error::Package`] when it is damaged, [`Error::Io`] when `out` cannot be written.
pub(crate) fn write(package: &Path, out: &Path) -> Result<()> {
    let refuse = |error: io::Error| Error::Package {
        path: package.to_owned(),
        reason: error.to_string(),
    };
    let open = || {
        let file = File::open(package).map_err(Error::io("open", package))?;
        Ok::<_, Error>(BufReader::with_capacity(1 << 17, file))
    };
    let missing = |name: &str| io::Error::other(format!("not a Debian package: no member {name}"));
    let (control_name, mut control) = members::find(open()?, "control.tar")
        .and_then(|found| found.ok_or_else(|| missing("control.tar")))
        .map_err(refuse)?;
    let mut control_bytes = Vec::new();
    control.read_to_end(&mut control_bytes).map_err(refuse)?;
    let (data_name, data) = members::find(open()?, DATA)
        .and_then(|found| found.ok_or_else(|| missing(DATA)))
        .map_err(refuse)?;
    let compression = data_name.strip_prefix(DATA).unwrap_or_default();
    let mut data = Bounded {
        inner: decode(compression, data).map_err(refuse)?,
        left: DATA_LIMIT,
    };
    let mut file = File::create(out).map_err(Error::io("create", out))?;
    let written = (|| {
        file.write_all(MAGIC)?;
        member(&mut file, "debian-binary", VERSION)?;
        member(&mut file, &control_name, &control_bytes)?;
        let start = file.stream_position()?;
        file.write_all(&header(DATA, 0))?;
        let size = copy(&mut data, &mut file)?;
        pad(&mut file, size)?;
        // The size is known now.
        file.seek(SeekFrom::Start(start))?;
        file.write_all(&header(DATA, size))
    })();
    written.map_err(refuse)
}

/// Copies in pieces that are decoded to where they are written from.
fn copy(from: &mut impl Read, to: &mut File) -> io::Result<u64> {
    let mut piece = vec![0; PIECE];
    let mut size = 0;
    loop {
        let mut filled = 0;
        while filled < PIECE {
            match from.read(&mut piece[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        to.write_all(&piece[..filled])?;
        size += filled as u64;
        if filled < PIECE {
            return Ok(size);
        }
    }
}

fn member(file: &mut impl Write, name: &str, content: &[u8]) -> io::Result<()> {
    let size = content.len() as u64;
    file.write_all(&header(name, size))?;
    file.write_all(content)?;
    pad(file, size)
}

/// Members begin at even offsets.
fn pad(file: &mut impl Write, size: u64) -> io::Result<()> {
    match size % 2 {
        0 => Ok(()),
        _ => file.write_all(b"\n"),
    }
}

/// A member's header: name, time, owner, group, mode, size, end mark.
fn header(name: &str, size: u64) -> Vec<u8> {
    format!(
        "{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n",
        0, 0, 0, "100644"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn package(data_name: &str, data: &[u8]) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        member(&mut file, "debian-binary", VERSION).unwrap();
        member(&mut file, "control.tar.xz", b"odd").unwrap();
        member(&mut file, data_name, data).unwrap();
        file
    }

    #[test]
    fn the_files_are_the_same_without_compression() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("a.deb"), folder.path().join("b.deb"));
        let content = b"the files, an odd number of bytes".to_vec();
        let packed = zstd::encode_all(Cursor::new(&content), 3).unwrap();
        std::fs::write(&from, package("data.tar.zst", &packed)).unwrap();
        write(&from, &to).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), package(DATA, &content));
    }

    #[test]
    fn damaged_packages_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("a.deb"), folder.path().join("b.deb"));
        let none = [MAGIC, b"x"].concat();
        let damaged = package("data.tar.zst", b"not packed by zstd");
        let unknown = package("data.tar.rar", b"x");
        for bytes in [none, damaged, unknown, b"text".to_vec()] {
            std::fs::write(&from, bytes).unwrap();
            let error = write(&from, &to).unwrap_err();
            assert_eq!(error.code(), "FR-IMAGE-PACKAGE", "{error}");
        }
    }
}
