//! Members of a tarball, one by one, in little memory whatever its headers announce.
//!
//! Of the extensions only GNU's long names are read, which is what [`crate::bundle`] writes; the `tar` crate reads these, and the
//! extended headers of POSIX, into memory whole, of whatever size they are.

use std::io::{self, Read};

use tar::{Archive, EntryType};

/// The kernel's PATH_MAX, which counts the zero at the end.
const NAME_LIMIT: u64 = 4096;

/// One member.
pub(crate) struct Member<'a> {
    /// Its name as written, bytes that are not UTF-8 replaced.
    pub path: String,
    /// Its type.
    pub kind: EntryType,
    /// Its size as announced.
    pub size: u64,
    /// Modification time.
    pub mtime: u64,
    /// Its content: as many bytes as announced, or an error.
    pub content: &'a mut dyn Read,
}

/// Why a tarball was not read to its end.
pub(crate) enum Stop<E> {
    /// The caller refused a member.
    Refused(E),
    /// The tarball is damaged; the member it happened in, or after.
    Damaged(String, io::Error),
}

/// Reads all members in their order, then the rest of the input, so that a checksum at its end is looked at.
pub(crate) fn read<E>(
    input: impl Read,
    each: &mut dyn FnMut(Member<'_>) -> std::result::Result<(), E>,
) -> std::result::Result<(), Stop<E>> {
    let mut archive = Archive::new(input);
    let mut last = String::new();
    let mut long_name: Option<String> = None;
    let damaged = |last: &str, e| Stop::Damaged(last.to_string(), e);
    for entry in archive.entries().map_err(|e| damaged("", e))?.raw(true) {
        let mut entry = entry.map_err(|e| damaged(&last, e))?;
        let kind = entry.header().entry_type();
        if kind == EntryType::GNULongName && long_name.is_none() && entry.size() <= NAME_LIMIT {
            let mut name = Vec::new();
            entry
                .read_to_end(&mut name)
                .map_err(|e| damaged(&last, e))?;
            let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
            long_name = Some(String::from_utf8_lossy(&name[..end]).into_owned());
            continue;
        }
        let short = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        last = long_name.take().unwrap_or(short);
        let mut content = Whole {
            left: entry.size(),
            failed: None,
            inner: &mut entry,
        };
        let mtime = content.inner.header().mtime().unwrap_or(0);
        let verdict = each(Member {
            path: last.clone(),
            kind,
            size: content.left,
            mtime,
            content: &mut content,
        });
        if let Some(error) = content.failed {
            return Err(damaged(&last, error));
        }
        verdict.map_err(Stop::Refused)?;
    }
    if long_name.is_some() {
        let error = io::Error::other("a name without a member");
        return Err(damaged(&last, error));
    }
    rest_is_empty(archive.into_inner()).map_err(|e| damaged(&last, e))
}

/// Only zeros, with which tar(1) fills its last record, may follow the last member.
fn rest_is_empty(mut input: impl Read) -> io::Result<()> {
    let mut buffer = [0; 64 << 10];
    loop {
        match input.read(&mut buffer)? {
            0 => return Ok(()),
            n if buffer[..n].iter().all(|b| *b == 0) => {}
            _ => return Err(io::Error::other("something follows its end")),
        }
    }
}

/// A member's content; remembers an error, which is the tarball's and not the caller's.
struct Whole<'a, 'b, R: Read> {
    inner: &'a mut tar::Entry<'b, R>,
    left: u64,
    failed: Option<io::Error>,
}

impl<R: Read> Read for Whole<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = match self.inner.read(buffer) {
            Ok(0) if self.left > 0 && !buffer.is_empty() => {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            other => other,
        };
        match result {
            Ok(n) => {
                self.left -= n as u64;
                Ok(n)
            }
            Err(error) => {
                let copy = io::Error::new(error.kind(), error.to_string());
                self.failed = Some(error);
                Err(copy)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(bytes: &[u8]) -> std::result::Result<Vec<String>, String> {
        let mut names = Vec::new();
        let result = read(bytes, &mut |member| {
            let mut content = Vec::new();
            member
                .content
                .read_to_end(&mut content)
                .map_err(|e| e.to_string())?;
            names.push(format!("{} {}", member.path, content.len()));
            Ok(())
        });
        match result {
            Ok(()) => Ok(names),
            Err(Stop::Refused(message)) => Err(message),
            Err(Stop::Damaged(last, error)) => Err(format!("after {last}: {error}")),
        }
    }

    #[test]
    fn members_are_read_and_cut_ones_are_named() {
        let mut builder = tar::Builder::new(Vec::new());
        let long = "x/".repeat(80) + "y";
        for (name, size) in [("a", 0), (long.as_str(), 600)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(size);
            builder
                .append_data(&mut header, name, io::repeat(1).take(size))
                .unwrap();
        }
        let whole = builder.into_inner().unwrap();
        assert_eq!(
            names(&whole).unwrap(),
            ["a 0".to_string(), format!("{long} 600")]
        );
        for end in 0..whole.len() {
            // tar accepts an archive that just stops between two members.
            let boundary = [0, 512, 3072].contains(&end) || end >= 3584;
            assert_eq!(names(&whole[..end]).is_ok(), boundary, "{end}");
        }
        let error = names(&whole[..2600]).unwrap_err();
        assert!(error.starts_with(&format!("after {long}: ")), "{error}");
        let more = [&whole[..], b"x"].concat();
        assert!(
            names(&more)
                .unwrap_err()
                .ends_with("something follows its end")
        );
    }
}
