//! Debian's stanza format (deb822(5)), as control, Release, Packages and `.sources` files use it.
//!
//! The reader borrows from the text and never copies: an index of 60 MB is read in one pass.

use std::fmt;

/// A line that does not follow the format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: &'static str,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl SyntaxError {
    /// The crate's error for a document from `origin`.
    pub fn at(self, origin: &str) -> crate::Error {
        crate::Error::Syntax {
            origin: origin.to_string(),
            line: self.line,
            message: self.message.to_string(),
        }
    }
}

/// What the reader finds next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// A field: its name, and its value without surrounding white space. A value of several lines
    /// keeps its line breaks and the space that begins each continuation line; one that begins on
    /// the line after its name begins with a line break.
    Field(&'a str, &'a str),
    /// The end of a stanza that had at least one field.
    End,
}

/// Reads fields one after the other.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a str,
    line: usize,
    in_stanza: bool,
}

impl<'a> Reader<'a> {
    /// Reads from the beginning of a text.
    pub fn new(text: &'a str) -> Self {
        Reader {
            rest: text,
            line: 0,
            in_stanza: false,
        }
    }

    /// Number of the line that was read last, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    fn next_line(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        self.line += 1;
        let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        self.rest = rest;
        Some(line)
    }

    /// The rest of a value whose first line, `first`, has just been taken.
    fn value(&mut self, first: &'a str, from: &'a str) -> &'a str {
        let mut end = first.len();
        while self.rest.starts_with([' ', '\t']) {
            let Some(line) = self.next_line() else { break };
            end = line.as_ptr() as usize + line.len() - from.as_ptr() as usize;
        }
        // `first` is the beginning of `from`, so `end` is an offset in it.
        from[..end].trim_start_matches([' ', '\t']).trim_end()
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<Item<'a>, SyntaxError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let whole = self.rest;
            let Some(line) = self.next_line() else {
                return std::mem::take(&mut self.in_stanza).then_some(Ok(Item::End));
            };
            if line.trim_ascii().is_empty() {
                if std::mem::take(&mut self.in_stanza) {
                    return Some(Ok(Item::End));
                }
                continue;
            }
            if line.starts_with('#') {
                continue;
            }
            let error = |message| {
                Some(Err(SyntaxError {
                    line: self.line,
                    message,
                }))
            };
            if line.starts_with([' ', '\t']) {
                return error("a continuation line without a field before it");
            }
            let Some(colon) = line.find(':') else {
                return error("expected 'Field: value'");
            };
            let name = &line[..colon];
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic()) {
                return error("a field name is made of printable characters without spaces");
            }
            self.in_stanza = true;
            let from = &whole[colon + 1..];
            let value = self.value(&line[colon + 1..], from);
            return Some(Ok(Item::Field(name, value)));
        }
    }
}

/// The fields of one stanza, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stanza<'a> {
    fields: Vec<(&'a str, &'a str)>,
}

impl<'a> Stanza<'a> {
    /// The value of a field; names are compared without regard to case.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.fields
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| *value)
    }

    /// All fields as they were written.
    pub fn fields(&self) -> &[(&'a str, &'a str)] {
        &self.fields
    }
}

/// All stanzas of a text.
pub fn parse(text: &str) -> Result<Vec<Stanza<'_>>, SyntaxError> {
    let mut stanzas = Vec::new();
    let mut current = Stanza::default();
    let mut reader = Reader::new(text);
    while let Some(item) = reader.next() {
        match item? {
            Item::Field(name, value) => {
                if current.get(name).is_some() {
                    return Err(SyntaxError {
                        line: reader.line(),
                        message: "a field occurs twice in one stanza",
                    });
                }
                current.fields.push((name, value));
            }
            Item::End => stanzas.push(std::mem::take(&mut current)),
        }
    }
    Ok(stanzas)
}

/// The only stanza of a text.
pub fn parse_one(text: &str) -> Result<Stanza<'_>, SyntaxError> {
    let mut stanzas = parse(text)?;
    match (stanzas.pop(), stanzas.is_empty()) {
        (Some(stanza), true) => Ok(stanza),
        (None, _) => Err(SyntaxError {
            line: 1,
            message: "expected a stanza, found nothing",
        }),
        _ => Err(SyntaxError {
            line: 1,
            message: "expected one stanza, found several",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_are_read() {
        let text = "\n# comment\nPackage: a\nDescription: short\n long\n .\n more\n\n\n \nPackage:b\nEmpty:\nLast: x";
        let stanzas = parse(text).unwrap();
        assert_eq!(stanzas.len(), 2);
        assert_eq!(
            stanzas[0].get("description"),
            Some("short\n long\n .\n more")
        );
        assert_eq!(
            stanzas[1].fields(),
            [("Package", "b"), ("Empty", ""), ("Last", "x")]
        );
        assert_eq!(parse("").unwrap(), []);
        assert_eq!(
            parse_one("A: \n x\n y\n").unwrap().get("A"),
            Some("\n x\n y")
        );
    }

    #[test]
    fn errors_name_the_line() {
        for (text, line, message) in [
            (" x", 1, "a continuation line without a field before it"),
            (
                "A: b\n\n c",
                3,
                "a continuation line without a field before it",
            ),
            ("A: b\nc", 2, "expected 'Field: value'"),
            (
                "A b: c",
                1,
                "a field name is made of printable characters without spaces",
            ),
            (
                ": c",
                1,
                "a field name is made of printable characters without spaces",
            ),
            ("A: b\na: c", 2, "a field occurs twice in one stanza"),
        ] {
            assert_eq!(parse(text), Err(SyntaxError { line, message }), "{text:?}");
        }
        assert!(parse_one("").is_err());
        assert!(parse_one("A: b\n\nA: c").is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "[ \\ta-c:#\n\u{e9}-]{0,60}") {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_written_is_read(values in proptest::collection::vec("[a-z]{1,5}(\n [a-z.]{1,5}){0,3}", 1..6)) {
            let text: String = values.iter().enumerate().map(|(i, v)| format!("F{i}: {v}\n")).collect();
            let stanza = parse_one(&text).unwrap();
            for (i, value) in values.iter().enumerate() {
                proptest::prop_assert_eq!(stanza.get(&format!("f{i}")), Some(value.as_str()));
            }
        }
    }
}
