//! Reading an upgrade's archive: plain files in a fixed order, each announced before. Nothing in it decides where anything
//! is written.
//!
//! Format: POSIX.1-2017, pax, "ustar Interchange Format"; 512-byte blocks, numbers in octal. Fields that mean nothing here
//! (owner, mode, time) are not looked at; what is no plain file is refused.

use std::io::{self, Read};

use crate::error::{Error, Result};

/// Bytes of a block.
const BLOCK: usize = 512;
/// Members are handed on in pieces of this many bytes.
const PIECE: usize = 1 << 20;

/// An archive that is read once, from its beginning.
pub struct Archive<R> {
    reader: R,
}

impl<R: Read> Archive<R> {
    /// Reads from `reader`.
    pub fn new(reader: R) -> Self {
        Archive { reader }
    }

    /// The size of the next member, which must have this name.
    ///
    /// # Errors
    /// `FR-UPGRADE-FORMAT`: it is another one or none. `FR-UPGRADE-SOURCE`: reading fails.
    pub fn open(&mut self, name: &str) -> Result<u64> {
        let mut header = [0; BLOCK];
        self.fill(&mut header)?;
        let refuse = |reason: &str| Err(refused(reason));
        if header.iter().all(|&b| b == 0) {
            return refuse(&format!("it ends before its member {name}"));
        }
        let sum = (0..BLOCK).map(|at| {
            if (148..156).contains(&at) {
                32
            } else {
                u64::from(header[at])
            }
        });
        if &header[257..262] != b"ustar" || octal(&header[148..156]) != Some(sum.sum()) {
            return refuse("a header is damaged, or it is no tar archive");
        }
        let until_zero = |bytes: &[u8]| bytes.iter().take_while(|b| **b != 0).count();
        let found = &header[..until_zero(&header[..100])];
        if found != name.as_bytes() || until_zero(&header[345..500]) != 0 {
            let found = String::from_utf8_lossy(found).escape_debug().to_string();
            return refuse(&format!("member {found} is where {name} belongs"));
        }
        match (header[156], octal(&header[124..136])) {
            (b'0' | 0, Some(size)) => Ok(size),
            _ => refuse(&format!("member {name} is no plain file")),
        }
    }

    /// Hands on a member's `size` bytes in pieces, and passes over what fills its last block.
    ///
    /// # Errors
    /// `FR-UPGRADE-SOURCE`: reading fails or the archive ends. What `sink` says.
    pub fn read(&mut self, size: u64, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut piece = vec![0; PIECE.min(usize::try_from(size).unwrap_or(PIECE)).max(1)];
        let mut left = size;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(PIECE).min(piece.len());
            self.fill(&mut piece[..length])?;
            sink(&piece[..length])?;
            left -= length as u64;
        }
        let mut filling = [0; BLOCK];
        let length = size.next_multiple_of(BLOCK as u64) - size;
        self.fill(&mut filling[..length as usize])
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.reader.read_exact(buffer).map_err(unreadable)
    }

    /// A small member as a whole.
    ///
    /// # Errors
    /// As [`Archive::open`] and [`Archive::read`], or it has more than `limit` bytes.
    pub fn small(&mut self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let size = self.open(name)?;
        if size > limit {
            return Err(refused(&format!("member {name} is too large")));
        }
        let mut content = Vec::new();
        self.read(size, |piece| {
            content.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(content)
    }
}

/// The refusal of an archive that is not in the form that it must have.
pub fn refused(reason: &str) -> Error {
    let hint = "name a file that `farrow image build --format upgrade` wrote, and get it again if it was cut off";
    Error::upgrade("FR-UPGRADE-FORMAT", format!("no upgrade: {reason}"), hint)
}

/// The error for an archive that cannot be read.
pub fn unreadable(error: io::Error) -> Error {
    let reason = match error.kind() {
        io::ErrorKind::UnexpectedEof => "it is cut off".to_owned(),
        _ => error.to_string(),
    };
    let hint = "nothing was changed that the running version needs: try again, with another copy if need be";
    Error::upgrade(
        "FR-UPGRADE-SOURCE",
        format!("the upgrade cannot be read: {reason}"),
        hint,
    )
}

/// A number in octal digits, ended by zeros or spaces.
fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    let digits = text.trim_matches([' ', '\0']);
    let plain = !digits.is_empty() && digits.bytes().all(|b| (b'0'..b'8').contains(&b));
    plain.then(|| u64::from_str_radix(digits, 8).ok()).flatten()
}

/// A member as it is in an archive, for tests.
#[cfg(test)]
pub(crate) fn member(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = vec![0; BLOCK];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    header[156] = b'0';
    header[257..263].copy_from_slice(b"ustar\0");
    header[263..265].copy_from_slice(b"00");
    seal(&mut header);
    let mut bytes = [&header, content].concat();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

#[cfg(test)]
fn seal(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header[..BLOCK].iter().map(|&b| u32::from(b)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_in_order() {
        let bytes = [
            member("a", b"one"),
            member("b", &[7; 1 << 21]),
            member("c", b""),
            vec![0; 1024],
        ]
        .concat();
        let mut archive = Archive::new(&bytes[..]);
        assert_eq!(archive.small("a", 3).unwrap(), b"one");
        let size = archive.open("b").unwrap();
        let mut seen = 0;
        archive
            .read(size, |piece| {
                seen += piece.len();
                Ok(())
            })
            .unwrap();
        assert_eq!((size, seen), (1 << 21, 1 << 21));
        assert_eq!(archive.small("c", 0).unwrap(), b"");
        assert!(
            archive
                .open("d")
                .unwrap_err()
                .to_string()
                .contains("ends before")
        );
    }

    #[test]
    fn hostile_headers_are_refused() {
        type Change = fn(&mut Vec<u8>);
        let cases: [(&str, Change); 12] = [
            ("another name", |m| m[0] = b'x'),
            ("a longer name", |m| m[1] = b'x'),
            ("a name in a folder", |m| m[345] = b'x'),
            ("a link", |m| m[156] = b'2'),
            ("a device", |m| m[156] = b'3'),
            ("a pax header", |m| m[156] = b'x'),
            ("a long name", |m| m[156] = b'L'),
            ("a sparse file", |m| m[156] = b'S'),
            ("a size in base 256", |m| m[124] = 0x80),
            ("a size that is no number", |m| m[124] = b'9'),
            ("no size", |m| m[124..136].fill(0)),
            ("a larger size", |m| m[124..135].fill(b'7')),
        ];
        for (what, change) in cases {
            let mut bytes = member("a", b"content");
            change(&mut bytes);
            seal(&mut bytes);
            let mut archive = Archive::new(&bytes[..]);
            assert!(archive.small("a", 100).is_err(), "{what}");
        }
        let good = member("a", b"content");
        for at in 0..BLOCK {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Archive::new(&bad[..]).small("a", 100).is_err(), "byte {at}");
        }
        for length in [0, 1, 511, 512, 515, good.len() - 1] {
            assert!(
                Archive::new(&good[..length]).small("a", 100).is_err(),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn a_size_that_is_announced_is_never_allocated() {
        let mut bytes = member("a", b"");
        bytes[124..135].fill(b'7');
        seal(&mut bytes);
        let mut archive = Archive::new(&bytes[..]);
        let size = archive.open("a").unwrap();
        assert_eq!(size, (8 << 30) - 1);
        assert!(archive.read(size, |_| Ok(())).is_err());
    }
}
