//! A header as bytes: an index of tags over a store of values, both inside one region that signatures cover.

const MAGIC: [u8; 8] = [0x8e, 0xad, 0xe8, 0x01, 0, 0, 0, 0];
/// Bytes of an entry of the index, and of the trailer that ends a region.
const ENTRY: usize = 16;
/// `RPM_BIN_TYPE` of rpm's include/rpm/rpmtag.h.
const BYTES: u32 = 7;

/// A value of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// Numbers of 16 bits.
    Shorts(Vec<u16>),
    /// Numbers of 32 bits.
    Numbers(Vec<u32>),
    /// One text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// A text in the one language of the table of languages.
    Translated(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// A value as it is stored.
struct Stored {
    kind: u32,
    alignment: usize,
    count: usize,
    bytes: Vec<u8>,
}

impl Value {
    fn stored(&self) -> Stored {
        let text = |text: &String| [text.as_bytes(), b"\0"].concat();
        let (kind, alignment, count, bytes) = match self {
            Value::Shorts(all) => {
                let bytes = all.iter().flat_map(|n| n.to_be_bytes()).collect();
                (3, 2, all.len(), bytes)
            }
            Value::Numbers(all) => {
                let bytes = all.iter().flat_map(|n| n.to_be_bytes()).collect();
                (4, 4, all.len(), bytes)
            }
            Value::Text(one) => (6, 1, 1, text(one)),
            Value::Texts(all) => (8, 1, all.len(), all.iter().flat_map(text).collect()),
            Value::Translated(one) => (9, 1, 1, text(one)),
            Value::Bytes(bytes) => (BYTES, 1, bytes.len(), bytes.clone()),
        };
        Stored {
            kind,
            alignment,
            count,
            bytes,
        }
    }
}

fn entry(tag: u32, kind: u32, offset: u32, count: usize) -> [u8; ENTRY] {
    let mut bytes = [0; ENTRY];
    for (field, number) in bytes.chunks_mut(4).zip([tag, kind, offset, count as u32]) {
        field.copy_from_slice(&number.to_be_bytes());
    }
    bytes
}

/// A header whose entries are all in the region with this tag. The first entry points to the region's trailer at the end of
/// the store, which points back over the index.
pub(super) fn header(region: u32, mut values: Vec<(u32, Value)>) -> Vec<u8> {
    values.sort_by_key(|(tag, _)| *tag);
    let (mut index, mut store) = (Vec::new(), Vec::new());
    for (tag, value) in &values {
        let stored = value.stored();
        store.resize(store.len().next_multiple_of(stored.alignment), 0);
        index.extend(entry(*tag, stored.kind, store.len() as u32, stored.count));
        store.extend(stored.bytes);
    }
    let first = entry(region, BYTES, store.len() as u32, ENTRY);
    let back = ((values.len() + 1) * ENTRY) as i32;
    store.extend(entry(region, BYTES, (-back) as u32, ENTRY));
    let mut bytes = MAGIC.to_vec();
    bytes.extend((values.len() as u32 + 1).to_be_bytes());
    bytes.extend((store.len() as u32).to_be_bytes());
    [bytes, first.to_vec(), index, store].concat()
}
