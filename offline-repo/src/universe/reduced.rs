//! What choosing packages needs of an index: half of its bytes, in a form that takes no parsing.
//!
//! It is a function of the index alone, so that a choice does not depend on whether it was kept from an earlier time. Its file
//! begins with a digest of all that follows; one that is damaged, cut off, of another index or from another version of
//! this program counts as not there. The digest finds damage, not forgery: whose file it is decides whether it is looked at
//! ([`crate::cache`]).
//!
//! ```text
//! magic (16 bytes), digest (32), then the body:
//! identity (32), number of packages (4), number of names (4), bytes of the names (4), bytes of the text (4),
//! packages (92 each), ends and places of the names (8 each), names, text
//! ```
//! Numbers are little-endian. Each package's fields follow each other in the text, so that their lengths tell where they are.

use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use super::mentions::Mentions;
use super::reading;
use crate::digest::{Hasher, Sha256};
use crate::error::Result;
use crate::record::{Record, Span, slice};

/// Changes with the format, and with whatever changes what is read from an index.
const FORMAT: &str = "farrow index 1";
const MAGIC: &[u8; 16] = b"farrow index 1\n\0";
/// Bytes of a digest.
const DIGEST: usize = 32;
/// Bytes of the body before the first package.
const HEAD: usize = DIGEST + 4 * NUMBER;
const NUMBER: usize = 4;
/// Fields of a package that are kept.
const FIELDS: usize = 11;
/// Bytes of a package: where its text begins, the lengths of its fields, its size, its digest, its flags and its rank.
const PACKAGE: usize = NUMBER + FIELDS * NUMBER + 8 + DIGEST + 4;
/// Bytes of a name's end and place.
const NAME: usize = 2 * NUMBER;
/// Bytes that one core hashes at a time.
const PIECE: usize = 1 << 20;
/// The ranks of `Priority`.
const RANKS: u8 = 5;

/// An index of which only that is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reduced {
    pub(super) text: Arc<String>,
    pub(super) records: Vec<Record>,
    pub(super) mentions: Arc<OnceLock<Mentions>>,
}

/// Which index it is: two of the same identity are equal.
pub fn identity(source: &Sha256, architecture: &str) -> Sha256 {
    let version = env!("CARGO_PKG_VERSION");
    Sha256::of(format!("{FORMAT} {version} {architecture} {source}").as_bytes())
}

impl Reduced {
    /// Reads an index; packages of other architectures are left out.
    ///
    /// # Errors
    /// Those of [`super::Universe::parse`].
    pub fn of(origin: &str, text: &str, architecture: &str) -> Result<Self> {
        let read = reading::records(0, origin, text, architecture)?;
        let mentions = || Mentions::of(&read, text);
        let (mentions, (text, records)) = rayon::join(mentions, || keep(&read, text));
        Ok(Reduced::new(text, records, mentions))
    }

    fn new(text: String, records: Vec<Record>, mentions: Mentions) -> Self {
        Reduced {
            text: Arc::new(text),
            records,
            mentions: Arc::new(OnceLock::from(mentions)),
        }
    }

    /// The file.
    pub fn to_bytes(&self, identity: &Sha256) -> Vec<u8> {
        let none = Mentions::default();
        let mentions = self.mentions.get().unwrap_or(&none);
        let numbers = [
            self.records.len(),
            mentions.places.len(),
            mentions.names.len(),
            self.text.len(),
        ];
        let tables = self.records.len() * PACKAGE + mentions.places.len() * NAME;
        let head = MAGIC.len() + DIGEST;
        let size = head + HEAD + tables + mentions.names.len() + self.text.len();
        let mut bytes = Vec::with_capacity(size);
        bytes.extend(MAGIC);
        bytes.extend([0; DIGEST]);
        bytes.extend(identity.as_bytes());
        for number in numbers {
            bytes.extend((number as u32).to_le_bytes());
        }
        for record in &self.records {
            write_package(record, &mut bytes);
        }
        for (end, place) in &mentions.places {
            bytes.extend(end.to_le_bytes());
            bytes.extend(place.to_le_bytes());
        }
        bytes.extend(mentions.names.as_bytes());
        bytes.extend(self.text.as_bytes());
        let digest = digest(&bytes[head..]);
        bytes[MAGIC.len()..head].copy_from_slice(digest.as_bytes());
        bytes
    }

    /// Reads the file; nothing unless it is whole, undamaged, and the one of that identity.
    pub fn from_bytes(bytes: &[u8], identity: &Sha256) -> Option<Self> {
        let (written, body) = bytes.strip_prefix(MAGIC)?.split_at_checked(DIGEST)?;
        let is_meant = body.get(..DIGEST)? == identity.as_bytes();
        let is_whole = is_meant && digest(body).as_bytes() == written;
        is_whole.then(|| Reduced::from_body(body)).flatten()
    }

    /// Reads what the digest is about; nothing if it leads outside of itself.
    pub fn from_body(body: &[u8]) -> Option<Self> {
        let (head, rest) = body.split_at_checked(HEAD)?;
        let mut numbers = head[DIGEST..].chunks_exact(NUMBER).map(number);
        let mut next = || Some(numbers.next()? as usize);
        let (packages, places, names, text) = (next()?, next()?, next()?, next()?);
        let (packages, rest) = rest.split_at_checked(packages.checked_mul(PACKAGE)?)?;
        let (places, rest) = rest.split_at_checked(places.checked_mul(NAME)?)?;
        let (names, rest) = rest.split_at_checked(names)?;
        if rest.len() != text {
            return None;
        }
        let own = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(String::from);
        let read_names = || read_mentions(own(names)?, places);
        let (text, mentions) = rayon::join(|| own(rest), read_names);
        let (text, mentions) = (text?, mentions?);
        let records = packages.par_chunks_exact(PACKAGE);
        let records = records.map(|bytes| read_package(bytes, &text));
        let records: Option<Vec<Record>> = records.collect();
        Some(Reduced::new(text, records?, mentions))
    }
}

/// A digest that all cores compute: of the digests of the pieces.
fn digest(body: &[u8]) -> Sha256 {
    let pieces: Vec<Sha256> = body.par_chunks(PIECE).map(Sha256::of).collect();
    let mut all = Hasher::default();
    pieces.iter().for_each(|piece| all.update(piece.as_bytes()));
    all.finish().0
}

/// The fields that are kept, in their order in the text.
fn fields(record: &mut Record) -> [&mut Span; FIELDS] {
    [
        &mut record.name,
        &mut record.version,
        &mut record.architecture,
        &mut record.depends,
        &mut record.pre_depends,
        &mut record.recommends,
        &mut record.suggests,
        &mut record.provides,
        &mut record.conflicts,
        &mut record.breaks,
        &mut record.path,
    ]
}

/// Only these fields of some packages: their text, and the packages with their places in it.
fn keep(records: &[Record], text: &str) -> (String, Vec<Record>) {
    let mut kept = String::with_capacity(text.len() / 2);
    let reduced = records.iter().map(|record| {
        let mut reduced = Record {
            replaces: (0, 0),
            enhances: (0, 0),
            status: (0, 0),
            ..record.clone()
        };
        for span in fields(&mut reduced) {
            let start = kept.len() as u32;
            kept += slice(text, *span);
            *span = (start, kept.len() as u32);
        }
        reduced
    });
    let reduced = reduced.collect();
    (kept, reduced)
}

fn write_package(record: &Record, bytes: &mut Vec<u8>) {
    let mut record = record.clone();
    let (essential, important) = (record.essential, record.important);
    let flags = [essential, important, record.any_architecture];
    let flags = (0..)
        .zip(flags)
        .map(|(bit, set)| u8::from(set) << bit)
        .sum();
    bytes.extend(record.name.0.to_le_bytes());
    for span in fields(&mut record) {
        bytes.extend((span.1 - span.0).to_le_bytes());
    }
    bytes.extend(record.size.to_le_bytes());
    let none = [0; DIGEST];
    bytes.extend(record.sha256.as_ref().map_or(&none, Sha256::as_bytes));
    bytes.extend([flags, record.rank, 0, 0]);
}

/// A package whose fields lie in the text.
fn read_package(bytes: &[u8], text: &str) -> Option<Record> {
    let (places, rest) = bytes.split_at(NUMBER + FIELDS * NUMBER);
    let (size, rest) = rest.split_first_chunk()?;
    let (sha256, rest) = rest.split_first_chunk::<DIGEST>()?;
    let [flags, rank, 0, 0] = *rest else {
        return None;
    };
    if flags > 7 || rank >= RANKS {
        return None;
    }
    let mut record = Record {
        size: u64::from_le_bytes(*size),
        sha256: Some(Sha256::from(*sha256)),
        essential: flags & 1 != 0,
        important: flags & 2 != 0,
        any_architecture: flags & 4 != 0,
        rank,
        ..Record::default()
    };
    let mut numbers = places.chunks_exact(NUMBER).map(number);
    let mut start = numbers.next()?;
    for (span, length) in fields(&mut record).into_iter().zip(numbers) {
        let end = start.checked_add(length)?;
        text.get(start as usize..end as usize)?;
        *span = (start, end);
        start = end;
    }
    Some(record)
}

/// Names that follow each other to the end of their text.
fn read_mentions(names: String, places: &[u8]) -> Option<Mentions> {
    let places = places.chunks_exact(NAME);
    let places = places.map(|entry| (number(&entry[..NUMBER]), number(&entry[NUMBER..])));
    let places: Vec<(u32, u32)> = places.collect();
    let mut before = 0;
    for (end, _) in &places {
        names.get(before..*end as usize)?;
        before = *end as usize;
    }
    (before == names.len()).then_some(Mentions { names, places })
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Package: aa\nVersion: 1:2\nArchitecture: amd64\nEssential: yes\nPriority: required\n\
        Depends: bb (>= 1) | cc, dd\nReplaces: ee\nFilename: pool/aa.deb\nSize: 7\n\
        SHA256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\nDescription: caf\u{e9}\n\n\
        Package: bb\nVersion: 3\nArchitecture: all\nMulti-Arch: allowed\nProvides: cc\nFilename: ./bb.deb\nSize: 8\n\
        SHA256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n\n\
        Package: ff\nVersion: 3\nArchitecture: arm64\nFilename: ff.deb\nSize: 8\n\
        SHA256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n";

    fn sample() -> Reduced {
        Reduced::of("Packages", TEXT, "amd64").unwrap()
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let identity = identity(&Sha256::of(TEXT.as_bytes()), "amd64");
        let bytes = sample().to_bytes(&identity);
        assert_eq!(bytes, sample().to_bytes(&identity));
        assert_eq!(Reduced::from_bytes(&bytes, &identity).unwrap(), sample());
        assert!(bytes.len() < TEXT.len());
        assert_eq!(
            *sample().text,
            "aa1:2amd64bb (>= 1) | cc, ddpool/aa.debbb3allcc./bb.deb"
        );
        assert_eq!(sample().mentions.get().unwrap().names, "aabbccddee");
    }

    #[test]
    fn one_that_is_damaged_or_of_something_else_is_not_there() {
        let own = identity(&Sha256::of(b"index"), "amd64");
        let bytes = sample().to_bytes(&own);
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Reduced::from_bytes(&flipped, &own).is_none(), "bit {bit}");
        }
        for end in 0..bytes.len() {
            assert!(Reduced::from_bytes(&bytes[..end], &own).is_none(), "{end}");
        }
        assert!(Reduced::from_bytes(&[&bytes[..], b"\0"].concat(), &own).is_none());
        let others = [
            identity(&Sha256::of(b"other"), "amd64"),
            identity(&Sha256::of(b"index"), "arm64"),
        ];
        for other in others {
            assert!(Reduced::from_bytes(&bytes, &other).is_none());
        }
    }

    #[test]
    fn numbers_that_lead_elsewhere_are_refused() {
        let bytes = sample().to_bytes(&Sha256::of(b"x"));
        let body = &bytes[MAGIC.len() + DIGEST..];
        assert_eq!(Reduced::from_body(body).unwrap(), sample());
        // Counts, the first package's place and lengths, its flags and rank, and the first name's end.
        let package = HEAD;
        let names = HEAD + 2 * PACKAGE;
        for at in (DIGEST..package + NUMBER + FIELDS * NUMBER).chain([
            names - 4,
            names - 3,
            names - 1,
            names,
        ]) {
            let mut wrong = body.to_vec();
            wrong[at] = 0xff;
            assert!(Reduced::from_body(&wrong).is_none(), "{at}");
        }
    }
}
