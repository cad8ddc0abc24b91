//! The headers of an RPM file: lead, signature header, main header (rpm's docs/manual/format.md).
//!
//! Everything is bounded and checked here: sizes before memory is taken, offsets before they are followed. The
//! crate `rpm` reads the same, but panics where an entry's offset lies outside of its store.

use std::borrow::Cow;
use std::io::Read;

/// The lead is 96 bytes; nothing in it counts any more but its magic.
const LEAD: usize = 96;
const LEAD_MAGIC: [u8; 4] = [0xed, 0xab, 0xee, 0xdb];
const HEADER_MAGIC: [u8; 4] = [0x8e, 0xad, 0xe8, 0x01];
/// Bytes of one index entry: tag, type, offset, count, each big-endian and 32 bits wide.
const ENTRY: usize = 16;
/// rpm's own limits (`hdrchkTags`, `hdrchkData` in lib/header.c); the signature header's is 64 MiB.
const ENTRY_LIMIT: usize = 0xffff;
const STORE_LIMIT: usize = 0x0fff_ffff;
const SIGNATURE_LIMIT: usize = 64 << 20;

/// One header: a table of tags over a store of values.
#[derive(Debug, Clone, Default)]
pub struct Header {
    entries: Vec<Entry>,
    store: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    tag: u32,
    kind: u32,
    offset: usize,
    count: usize,
}

/// What stands before a package's payload.
#[derive(Debug, Clone)]
pub struct Headers {
    /// Signatures, digests and sizes.
    pub signature: Header,
    /// The package itself.
    pub main: Header,
    /// First byte of the main header and the one after its last, in the file.
    pub range: (u64, u64),
}

impl Headers {
    /// Reads them from the beginning of a file, and no further.
    pub fn read(mut input: impl Read) -> Result<Self, String> {
        let lead = take(&mut input, LEAD)?;
        if lead[..4] != LEAD_MAGIC {
            return Err("is not an RPM package".into());
        }
        let (signature, size) = Header::read(&mut input, SIGNATURE_LIMIT)?;
        // The main header begins at a multiple of eight.
        let padding = (8 - size % 8) % 8;
        take(&mut input, padding)?;
        let start = LEAD + size + padding;
        let (main, size) = Header::read(&mut input, STORE_LIMIT)?;
        Ok(Headers {
            signature,
            main,
            range: (start as u64, (start + size) as u64),
        })
    }
}

/// Exactly `size` bytes; memory grows with what really comes.
fn take(input: &mut impl Read, size: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    input
        .take(size as u64)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("cannot be read: {e}"))?;
    match bytes.len() == size {
        true => Ok(bytes),
        false => Err("its header is cut off".into()),
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

impl Header {
    /// Reads one header; returns it with its size in bytes.
    fn read(input: &mut impl Read, limit: usize) -> Result<(Self, usize), String> {
        let intro = take(input, 16)?;
        if intro[..4] != HEADER_MAGIC {
            return Err("has no valid header".into());
        }
        let (count, size) = (number(&intro, 8) as usize, number(&intro, 12) as usize);
        if count > ENTRY_LIMIT || size > limit {
            return Err("its header is larger than rpm allows".into());
        }
        let index = take(input, count * ENTRY)?;
        let store = take(input, size)?;
        let entries = index
            .chunks_exact(ENTRY)
            .map(|entry| Entry {
                tag: number(entry, 0),
                kind: number(entry, 4),
                offset: number(entry, 8) as usize,
                count: number(entry, 12) as usize,
            })
            .collect();
        Ok((Header { entries, store }, 16 + count * ENTRY + size))
    }

    fn entry(&self, tag: u32) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.tag == tag)
    }

    /// Whether the tag is there.
    pub fn has(&self, tag: u32) -> bool {
        self.entry(tag).is_some()
    }

    /// A tag's numbers (types 2 to 5: 8, 16, 32, 64 bits); empty when it is not there.
    pub fn numbers(&self, tag: u32) -> Result<Vec<u64>, String> {
        let Some(entry) = self.entry(tag) else {
            return Ok(Vec::new());
        };
        let width = match entry.kind {
            2 => 1,
            3 => 2,
            4 => 4,
            5 => 8,
            _ => return Err(format!("its tag {tag} does not hold numbers")),
        };
        let bytes = entry
            .count
            .checked_mul(width)
            .and_then(|size| entry.offset.checked_add(size))
            .and_then(|end| self.store.get(entry.offset..end))
            .ok_or_else(|| format!("its tag {tag} lies outside of the header"))?;
        let value = |digits: &[u8]| digits.iter().fold(0, |sum, b| sum << 8 | u64::from(*b));
        Ok(bytes.chunks_exact(width).map(value).collect())
    }

    /// The first of a tag's numbers.
    pub fn number(&self, tag: u32) -> Result<Option<u64>, String> {
        Ok(self.numbers(tag)?.first().copied())
    }

    /// A tag's texts (types 6, 8, 9); empty when it is not there. What is not UTF-8 is taken for Latin-1.
    pub fn texts(&self, tag: u32) -> Result<Vec<Cow<'_, str>>, String> {
        let Some(entry) = self.entry(tag) else {
            return Ok(Vec::new());
        };
        let count = match entry.kind {
            6 => 1,
            8 | 9 => entry.count,
            _ => return Err(format!("its tag {tag} does not hold text")),
        };
        let outside = || format!("its tag {tag} lies outside of the header");
        let mut rest = self.store.get(entry.offset..).ok_or_else(outside)?;
        // Each text takes a byte at least, so this bounds a count that lies.
        if count > rest.len() {
            return Err(outside());
        }
        let mut texts = Vec::with_capacity(count);
        for _ in 0..count {
            let end = rest.iter().position(|b| *b == 0).ok_or_else(outside)?;
            texts.push(decode(&rest[..end]));
            rest = &rest[end + 1..];
        }
        Ok(texts)
    }

    /// The first of a tag's texts, empty when there is none. Of translations that is the one without a locale.
    pub fn text(&self, tag: u32) -> Result<String, String> {
        let first = self.texts(tag)?.into_iter().next();
        Ok(first.map(Cow::into_owned).unwrap_or_default())
    }
}

fn decode(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(bytes.iter().map(|b| *b as char).collect()),
    }
}
