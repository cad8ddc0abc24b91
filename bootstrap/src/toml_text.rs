//! Reads TOML into types, with errors that name the field and the place.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{Error, Invalid, Position, Result};
use crate::tree::{Entry, ReadError, Tree, Value};

/// Largest document accepted, in bytes. Clouds limit user-data to 16-256 KiB.
pub const MAX_DOCUMENT_BYTES: usize = 1 << 20;

/// Parses TOML into a tree.
///
/// # Errors
/// `code`, with the place in the text.
pub fn parse(document: &str, code: &'static str, text: &str) -> Result<Tree> {
    if text.len() > MAX_DOCUMENT_BYTES {
        let message = format!("{} bytes are too many", text.len());
        let hint = format!("the limit is {MAX_DOCUMENT_BYTES} bytes");
        return Err(Invalid::new(code, "", message, hint)
            .in_document(document)
            .into());
    }
    let refuse = |message: String, span: Option<Range<usize>>| {
        let mut invalid = Invalid::new(code, "", message, "").in_document(document);
        invalid.position = span.map(|span| position(text, span));
        Error::from(invalid)
    };
    let table = DeTable::parse(text)
        .map_err(|error| refuse(error.message().trim().replace('\n', ", "), error.span()))?;
    let value =
        table_value(table.get_ref()).map_err(|(message, span)| refuse(message, Some(span)))?;
    Ok(Tree { value, span: None })
}

type Refused = (String, Range<usize>);

fn table_value(table: &DeTable<'_>) -> std::result::Result<Value, Refused> {
    let mut entries = Vec::new();
    for (key, value) in table {
        let tree = to_tree(value)?;
        entries.push(Entry {
            key: key.get_ref().to_string(),
            span: Some(key.span()),
            tree,
        });
    }
    Ok(Value::Map(entries))
}

fn to_tree(value: &Spanned<DeValue<'_>>) -> std::result::Result<Tree, Refused> {
    let refuse = |message: &str| (message.to_owned(), value.span());
    let converted = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            Value::Integer(parsed.map_err(|_| refuse("the number is too large"))?)
        }
        DeValue::Float(number) => Value::Float(
            number
                .as_str()
                .parse()
                .map_err(|_| refuse("not a number"))?,
        ),
        DeValue::Datetime(_) => return Err(refuse("a date is not expected here")),
        DeValue::Array(array) => Value::List(
            array
                .iter()
                .map(to_tree)
                .collect::<std::result::Result<_, _>>()?,
        ),
        DeValue::Table(table) => table_value(table)?,
    };
    Ok(Tree {
        value: converted,
        span: Some(value.span()),
    })
}

/// Parses `text` into `T`; errors carry `code`, the field's path and its place.
///
/// # Errors
/// `code`.
pub fn read<T: for<'de> Deserialize<'de>>(
    document: &str,
    code: &'static str,
    text: &str,
) -> Result<T> {
    let tree = parse(document, code, text)?;
    read_tree(document, code, &tree, text)
}

/// Reads a tree as `T`; `text` is what the tree's places refer to.
///
/// # Errors
/// `code`.
pub fn read_tree<T: for<'de> Deserialize<'de>>(
    document: &str,
    code: &'static str,
    tree: &Tree,
    text: &str,
) -> Result<T> {
    tree.read()
        .map_err(|error| refusal(document, code, error, text))
}

fn refusal(document: &str, code: &'static str, error: ReadError, text: &str) -> Error {
    let hint = match error.message.as_str() {
        "invalid IPv4 address syntax" => "an address looks like 10.10.10.10".to_owned(),
        message => suggestion(message).unwrap_or_default(),
    };
    let mut invalid = Invalid::new(code, error.field, error.message, hint).in_document(document);
    invalid.position = error.span.map(|span| position(text, span));
    invalid.into()
}

/// Gives an error about `invalid.field` its place.
pub fn locate(mut invalid: Box<Invalid>, tree: &Tree, text: &str) -> Box<Invalid> {
    if let Some(span) = tree.span_of(&invalid.field) {
        invalid.position = Some(position(text, span));
    }
    invalid
}

/// Line and column of a byte range.
pub fn position(text: &str, span: Range<usize>) -> Position {
    let start = floor_boundary(text, span.start.min(text.len()));
    let before = &text[..start];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    Position {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        span: start..floor_boundary(text, span.end.min(text.len()).max(start)),
    }
}

fn floor_boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// "did you mean" for serde's unknown field and unknown variant messages, which list what would have been right.
fn suggestion(message: &str) -> Option<String> {
    let mut words = message.split('`').skip(1).step_by(2);
    let wrong = words.next()?;
    if !message.starts_with("unknown") {
        return None;
    }
    let best = words.min_by_key(|word| distance(wrong, word))?;
    (distance(wrong, best) <= 2).then(|| format!("did you mean `{best}`?"))
}

/// Levenshtein distance, on bytes: field names are ASCII.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in right.bytes().enumerate() {
            let replace = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (left, right, expected) in [("", "ab", 2), ("adress", "address", 1), ("a", "a", 0)] {
            assert_eq!(distance(left, right), expected, "{left} {right}");
        }
    }

    #[test]
    fn paths_lead_to_places() {
        let text = "a = 1\n[[c]]\nn = \"x\"\n[[c.m]]\nq = 5\n[[c]]\nn = \"y\"\n";
        let tree = parse("test", "FR-TEST", text).unwrap();
        for (path, expected) in [
            ("a", "1"),
            ("c[0].m[0].q", "5"),
            ("c[1].n", "\"y\""),
            ("c[1].z", "[[c]]"),
        ] {
            assert_eq!(&text[tree.span_of(path).unwrap()], expected, "{path}");
        }
        assert_eq!(position(text, 46..47).line, 7);
        assert!(tree.span_of("nothing").is_none());
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[serde(rename = "list")]
        _list: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[serde(rename = "address")]
        _address: std::net::Ipv4Addr,
        #[serde(rename = "count")]
        _count: Option<u8>,
    }

    #[test]
    fn errors_name_field_and_place() {
        for (text, expected) in [
            (
                "[[list]]\naddress = \"x\"",
                "test, line 2, column 11: list[0].address: invalid IPv4 address syntax",
            ),
            (
                "[[list]]\ncount = 1",
                "test, line 1, column 1: list[0]: missing field `address`",
            ),
            (
                "[[list]]\nadress = 1",
                "test, line 2, column 1: list[0].adress: unknown field `adress`, expected `address` or `count`",
            ),
            (
                "list = [{ address = \"10.0.0.1\", count = 300 }]",
                "test, line 1, column 41: list[0].count: invalid value: integer `300`, expected u8",
            ),
            (
                "list = 5",
                "test, line 1, column 8: list: invalid type: integer `5`, expected a sequence",
            ),
            (
                "list = [",
                "test, line 1, column 9: unclosed array, expected `]`",
            ),
            (
                "x = 99999999999999999999",
                "test, line 1, column 5: the number is too large",
            ),
        ] {
            assert_eq!(
                read::<Outer>("test", "FR-TEST", text)
                    .unwrap_err()
                    .to_string(),
                expected
            );
        }
        let error = read::<Outer>("test", "FR-TEST", "[[list]]\nadress = 1").unwrap_err();
        assert_eq!(error.hint().as_deref(), Some("did you mean `address`?"));
    }
}
