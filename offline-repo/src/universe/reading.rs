//! From the texts of indexes to records, on all cores.

use rayon::prelude::*;

use super::IndexText;
use crate::deb822::{Item, Reader};
use crate::error::{Error, Result};
use crate::record::{Record, slice};

/// More packages than any archive has.
const PACKAGE_LIMIT: usize = 2_000_000;
/// Bytes of an index that one core reads at a time.
const PIECE: usize = 4 << 20;

/// The packages of all indexes for one architecture, in their order.
pub(super) fn records(indexes: &[IndexText], architecture: &str) -> Result<Vec<Record>> {
    let mut jobs: Vec<(u16, &IndexText, &str)> = Vec::new();
    for (number, index) in indexes.iter().enumerate() {
        let number = u16::try_from(number)
            .map_err(|_| Error::invalid(&index.origin, "is one index too many"))?;
        if u32::try_from(index.text.len()).is_err() {
            return Err(Error::TooLarge {
                origin: index.origin.clone(),
                limit: u64::from(u32::MAX),
            });
        }
        jobs.extend(pieces(&index.text).map(|piece| (number, index, piece)));
    }
    let read = |(number, index, piece): &(u16, &IndexText, &str)| {
        let found = read(*number, index, piece, architecture);
        // A piece does not know the number of its first line: the error comes from reading all of it again.
        found.or_else(|_| read(*number, index, &index.text, architecture))
    };
    let found: Vec<Vec<Record>> = jobs.par_iter().map(read).collect::<Result<_>>()?;
    if found.iter().map(Vec::len).sum::<usize>() > PACKAGE_LIMIT {
        let message = format!("has, with those before it, more than {PACKAGE_LIMIT} packages");
        return Err(Error::invalid(&indexes[indexes.len() - 1].origin, message));
    }
    Ok(found.into_iter().flatten().collect())
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

/// The packages of one piece of an index.
fn read(number: u16, index: &IndexText, piece: &str, architecture: &str) -> Result<Vec<Record>> {
    let text: &str = &index.text;
    let mut records = Vec::new();
    let mut record = Record::default();
    let mut reader = Reader::new(piece);
    while let Some(item) = reader.next() {
        match item.map_err(|e| e.at(&index.origin))? {
            Item::Field(name, value) => record.set(name, value, text),
            Item::End => {
                let mut done = std::mem::take(&mut record);
                done.index = number;
                let is_ours = ["all", architecture].contains(&slice(text, done.architecture));
                done.check(text).map_err(|message| Error::Syntax {
                    origin: index.origin.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn index(stanzas: usize) -> IndexText {
        let stanza = |n| {
            format!(
                "Package: p{n}\nVersion: 1\nArchitecture: all\nFilename: p{n}.deb\nSize: 1\nSHA256: {:064}\nDescription: {}\n\n",
                n,
                "x".repeat(200)
            )
        };
        IndexText {
            origin: "Packages".into(),
            text: (0..stanzas).map(stanza).collect::<String>().into(),
            priority: 0,
        }
    }

    #[test]
    fn a_large_index_is_read_in_pieces() {
        let index = index(40_000);
        assert!(pieces(&index.text).count() > 2);
        assert_eq!(pieces(&index.text).collect::<String>(), *index.text);
        let found = records(std::slice::from_ref(&index), "amd64").unwrap();
        let names = found.iter().map(|record| slice(&index.text, record.name));
        assert!(names.enumerate().all(|(n, name)| name == format!("p{n}")));
        assert_eq!(found.len(), 40_000);
    }

    #[test]
    fn an_error_names_its_line_of_the_whole() {
        let mut index = index(40_000);
        index.text = format!("{}Package\n", index.text).into();
        let error = records(&[index], "amd64").unwrap_err();
        assert!(error.to_string().starts_with("Packages:320001:"), "{error}");
    }
}
