//! Members of an ar archive, as deb(5) has them: names of at most 16 bytes in the header itself.
//!
//! Extended names, which other archives have, are refused: their offsets and lengths have brought readers down.

use std::io::{self, Read};

/// What every archive begins with.
const MAGIC: &[u8; 8] = b"!<arch>\n";
/// Bytes of a member's header: name (16), times and owners (32), size in decimal (10), end mark.
const HEADER: usize = 60;
const NAME: std::ops::Range<usize> = 0..16;
const SIZE: std::ops::Range<usize> = 48..58;
const END: &[u8; 2] = b"`\n";

/// The whole name and the content of the first member whose name begins with `wanted`; none when there is no such.
pub(super) fn find<R: Read>(
    mut archive: R,
    wanted: &str,
) -> io::Result<Option<(String, io::Take<R>)>> {
    let mut magic = [0; MAGIC.len()];
    archive.read_exact(&mut magic)?;
    if magic != *MAGIC {
        return Err(io::Error::other("it does not begin as an archive"));
    }
    loop {
        let mut header = [0; HEADER];
        // At the end there is nothing; less than a header is a damaged file, and so as good as no such member.
        match archive.read_exact(&mut header) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let (name, size) = parse(&header)?;
        if name.starts_with(wanted) {
            return Ok(Some((name, archive.take(size))));
        }
        // Members begin at even offsets.
        let passed = size + size % 2;
        if io::copy(&mut archive.by_ref().take(passed), &mut io::sink())? < size {
            return Err(io::Error::other("it is cut off"));
        }
    }
}

fn parse(header: &[u8; HEADER]) -> io::Result<(String, u64)> {
    if header[SIZE.end..] != *END {
        return Err(io::Error::other("a member has no valid header"));
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    let name = text(&header[NAME]).trim_end_matches('/').to_owned();
    if name.is_empty() || name.contains(['/', '#']) {
        return Err(io::Error::other("a member has an extended name"));
    }
    let size = text(&header[SIZE]).parse::<u64>();
    let size = size.map_err(|_| io::Error::other("a member has no valid size"))?;
    Ok((name, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, size: &str, content: &str) -> String {
        format!("{name:<16}{:<32}{size:<10}`\n{content}", "0")
    }

    fn found(text: &str) -> Result<Option<String>, String> {
        match find(text.as_bytes(), "data.tar") {
            Ok(None) => Ok(None),
            Ok(Some((name, mut content))) => {
                let mut text = String::new();
                content.read_to_string(&mut text).unwrap();
                Ok(Some(format!("{name}: {text}")))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn members_are_found_and_damaged_archives_refused() {
        let magic = "!<arch>\n";
        let odd = member("debian-binary", "3", "2.0\n");
        let data = member("data.tar.xz/", "4", "here");
        let cases = [
            (
                format!("{magic}{odd}{data}"),
                Ok(Some("data.tar.xz: here".to_owned())),
            ),
            (format!("{magic}{odd}"), Ok(None)),
            (
                format!("{magic}{}", member("#1/99999999999", "4", "here")),
                Err("a member has an extended name".to_owned()),
            ),
            (
                format!("{magic}{}", member("/99999999999999", "4", "here")),
                Err("a member has an extended name".to_owned()),
            ),
            (
                format!("{magic}{}", member("control.tar", "99", "here")),
                Err("it is cut off".to_owned()),
            ),
            (
                format!("{magic}{}", member("control.tar", "-1", "here")),
                Err("a member has no valid size".to_owned()),
            ),
            (
                "no archive at all".to_owned(),
                Err("it does not begin as an archive".to_owned()),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(found(&text), expected, "{text}");
        }
    }
}
