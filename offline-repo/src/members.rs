//! Members of an ar archive, as deb(5) has them: names of at most 16 bytes in the header itself.
//!
//! Extended names, which other archives have, are refused: a reader of those that trusted their offsets and lengths was
//! brought down by a package made to harm.

use std::io::{self, Read};

/// What every archive begins with.
const MAGIC: &[u8; 8] = b"!<arch>\n";
/// Bytes of a member's header: name (16), times and owners (32), size in decimal (10), end mark.
const HEADER: usize = 60;
const SIZE: std::ops::Range<usize> = 48..58;
const END: &[u8; 2] = b"`\n";

/// Reads one member after the other.
pub(crate) struct Members<R> {
    input: R,
    begun: bool,
    /// Bytes up to the next header.
    left: u64,
}

impl<R: Read> Members<R> {
    /// Reads from the beginning of an archive.
    pub(crate) fn new(input: R) -> Self {
        Members {
            input,
            begun: false,
            left: 0,
        }
    }

    /// Name and size of the next member; what was not read of the one before is passed over.
    pub(crate) fn next_member(&mut self) -> Result<Option<(String, u64)>, String> {
        let mut magic = [0; MAGIC.len()];
        if !self.begun && (self.fill(&mut magic)? != magic.len() || magic != *MAGIC) {
            return Err("it does not begin as an archive".into());
        }
        self.begun = true;
        let passed = io::copy(&mut self.input.by_ref().take(self.left), &mut io::sink());
        // Of a member of odd size at the end, the byte after it may be missing.
        if passed.map_err(|e| e.to_string())? + 1 < self.left {
            return Err("it is cut off".into());
        }
        let mut header = [0; HEADER];
        match self.fill(&mut header)? {
            0 => return Ok(None),
            HEADER if header[SIZE.end..] == *END => {}
            HEADER => return Err("a member has no valid header".into()),
            _ => return Err("it is cut off".into()),
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_string();
        let name = text(&header[..16]).trim_end_matches('/').to_string();
        if name.is_empty() || name.contains(['/', '#']) {
            return Err("a member has an extended name".into());
        }
        let size = text(&header[SIZE]).parse::<u64>();
        let size = size.map_err(|_| "a member has no valid size".to_string())?;
        self.left = size + size % 2;
        Ok(Some((name, size)))
    }

    /// The content of the member, of this size.
    pub(crate) fn read(&mut self, size: u64) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        self.left -= self.input.by_ref().take(size).read_to_end(&mut content)? as u64;
        Ok(content)
    }

    /// Fills a buffer; how much of it there was.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, String> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.to_string()),
            }
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, size: &str, content: &str) -> String {
        format!("{name:<16}{:<32}{size:<10}`\n{content}", "0")
    }

    /// Names and contents, or what is wrong.
    fn all(text: &str) -> Result<Vec<(String, String)>, String> {
        let mut members = Members::new(text.as_bytes());
        let mut found = Vec::new();
        while let Some((name, size)) = members.next_member()? {
            let content = members.read(size).unwrap();
            found.push((name, String::from_utf8(content).unwrap()));
        }
        Ok(found)
    }

    #[test]
    fn members_and_what_is_none() {
        let magic = "!<arch>\n";
        let (odd, even) = (member("odd/", "3", "abc"), member("even", "2", "de"));
        let found = all(&format!("{magic}{odd}\n{even}{odd}")).unwrap();
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["odd", "even", "odd"]);
        assert_eq!(found[1].1, "de");
        for (text, message) in [
            (String::new(), "it does not begin as an archive"),
            (even.clone(), "it does not begin as an archive"),
            (format!("{magic}{}", &even[..40]), "it is cut off"),
            (
                format!("{magic}{}", member("a", "900", "b")),
                "it is cut off",
            ),
            (
                format!("{magic}{}", member("/80000000", "0", "")),
                "a member has an extended name",
            ),
            (
                format!("{magic}{}", member("#1/80000000", "0", "")),
                "a member has an extended name",
            ),
            (
                format!("{magic}{}", member("a", "-1", "")),
                "a member has no valid size",
            ),
            (
                format!("{magic}{}", even.replace('`', "x")),
                "a member has no valid header",
            ),
        ] {
            assert_eq!(all(&text).unwrap_err(), message, "{text:?}");
        }
    }
}
