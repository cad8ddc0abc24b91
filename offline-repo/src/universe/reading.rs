//! From the text of an index to records, on all cores.

use rayon::prelude::*;

use crate::deb822::{Item, Reader};
use crate::error::{Error, Result};
use crate::record::{Record, slice};

/// Bytes of an index that one core reads at a time.
const PIECE: usize = 4 << 20;

/// The packages of an index for one architecture, in their order, each as one of the index `number`.
pub(super) fn records(
    number: u16,
    origin: &str,
    text: &str,
    architecture: &str,
) -> Result<Vec<Record>> {
    if u32::try_from(text.len()).is_err() {
        return Err(Error::TooLarge {
            origin: origin.to_string(),
            limit: u64::from(u32::MAX),
        });
    }
    let whole = Whole {
        number,
        origin,
        text,
        architecture,
    };
    let pieces: Vec<&str> = pieces(text).collect();
    let read = |piece: &&str| {
        // A piece does not know the number of its first line: the error comes from reading all of it again.
        whole.read(piece).or_else(|_| whole.read(text))
    };
    let found: Vec<Vec<Record>> = pieces.par_iter().map(read).collect::<Result<_>>()?;
    Ok(found.into_iter().flatten().collect())
}

/// An index of which pieces are read.
struct Whole<'t> {
    number: u16,
    origin: &'t str,
    text: &'t str,
    architecture: &'t str,
}

/// A text cut behind empty lines, which always end a stanza.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let bytes = rest.as_bytes();
        let from = PIECE.min(bytes.len());
        let gap = bytes[from..].windows(2).position(|pair| pair == b"\n\n");
        let (piece, after) = rest.split_at(gap.map_or(bytes.len(), |at| from + at + 2));
        rest = after;
        Some(piece)
    })
}

impl Whole<'_> {
    /// The packages of one piece.
    fn read(&self, piece: &str) -> Result<Vec<Record>> {
        let Whole { origin, text, .. } = *self;
        let mut records = Vec::new();
        let mut record = Record::default();
        let mut reader = Reader::new(piece);
        while let Some(item) = reader.next() {
            match item.map_err(|e| e.at(origin))? {
                Item::Field(name, value) => record.set(name, value, text),
                Item::End => {
                    let mut done = std::mem::take(&mut record);
                    done.index = self.number;
                    let architecture = slice(text, done.architecture);
                    let is_ours = ["all", self.architecture].contains(&architecture);
                    done.check(text).map_err(|message| Error::Syntax {
                        origin: origin.to_string(),
                        line: reader.line(),
                        message: message.to_string(),
                    })?;
                    if is_ours {
                        records.push(done);
                    }
                }
            }
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(stanzas: usize) -> String {
        let stanza = |n| {
            format!(
                "Package: p{n}\nVersion: 1\nArchitecture: all\nFilename: p{n}.deb\nSize: 1\nSHA256: {:064}\nDescription: {}\n\n",
                n,
                "x".repeat(200)
            )
        };
        (0..stanzas).map(stanza).collect()
    }

    #[test]
    fn a_large_index_is_read_in_pieces() {
        let text = index(40_000);
        assert!(pieces(&text).count() > 2);
        assert_eq!(pieces(&text).collect::<String>(), text);
        let found = records(0, "Packages", &text, "amd64").unwrap();
        let names = found.iter().map(|record| slice(&text, record.name));
        assert!(names.enumerate().all(|(n, name)| name == format!("p{n}")));
        assert_eq!(found.len(), 40_000);
    }

    #[test]
    fn an_error_names_its_line_of_the_whole() {
        let text = format!("{}Package\n", index(40_000));
        let error = records(0, "Packages", &text, "amd64").unwrap_err();
        assert!(error.to_string().starts_with("Packages:320001:"), "{error}");
    }
}
