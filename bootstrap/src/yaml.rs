//! Reads YAML as cloud-init's PyYAML does: YAML 1.1 scalars (`yes` is true, `0644` is octal), resolved here because
//! the parser follows YAML 1.2, where they mean something else.
//!
//! The result is the same tree that TOML gives, so that one set of readers serves both. Null values are left out.

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};

use crate::error::{Invalid, Result};
use crate::toml_text::MAX_DOCUMENT_BYTES;
use crate::tree::{Entry, Tree, Value};

/// Deepest nesting accepted. Cloud configurations stay below 10.
const MAX_DEPTH: usize = 32;

/// Most nodes accepted after aliases are expanded, so that nested anchors cannot fill the memory.
const MAX_NODES: usize = 50_000;

/// Parses one document; `None` when it is empty.
///
/// # Errors
/// `FR-YAML`.
pub fn parse(document: &str, text: &str) -> Result<Option<Tree>> {
    let refuse = |line: usize, message: String| {
        let message = if line == 0 {
            message
        } else {
            format!("line {line}: {message}")
        };
        Invalid::new("FR-YAML", "", message, "check it with a YAML parser").in_document(document)
    };
    if text.len() > MAX_DOCUMENT_BYTES {
        return Err(refuse(0, format!("{} bytes are too many", text.len())).into());
    }
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) =
            event.map_err(|error| refuse(error.marker().line(), error.info().to_owned()))?;
        builder
            .take(event)
            .map_err(|message| refuse(span.start.line(), message))?;
    }
    Ok(builder.result.and_then(|node| node.value).map(Tree::from))
}

/// A finished node: its value (`None` for null) and its size.
#[derive(Clone)]
struct Node {
    value: Option<Value>,
    nodes: usize,
}

enum Open {
    List(Vec<Tree>),
    Map(Vec<Entry>, Option<String>),
}

#[derive(Default)]
struct Builder {
    open: Vec<(Open, usize, usize)>,
    anchors: std::collections::BTreeMap<usize, Node>,
    nodes: usize,
    documents: usize,
    result: Option<Node>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>) -> std::result::Result<(), String> {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err("there is more than one document".into());
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(&text, style, tag.as_deref());
                let is_key = matches!(self.open.last(), Some((Open::Map(_, None), _, _)));
                let value = if is_key {
                    Some(Value::Text(text.into_owned()))
                } else {
                    value
                };
                self.add(Node { value, nodes: 1 }, anchor)?;
            }
            Event::SequenceStart(anchor, _) => self.start(Open::List(Vec::new()), anchor)?,
            Event::MappingStart(anchor, _) => self.start(Open::Map(Vec::new(), None), anchor)?,
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some((open, anchor, before)) = self.open.pop() {
                    let value = match open {
                        Open::List(list) => Value::List(list),
                        Open::Map(entries, _) => Value::Map(entries),
                    };
                    let nodes = self.nodes - before;
                    self.add(
                        Node {
                            value: Some(value),
                            nodes,
                        },
                        anchor,
                    )?;
                }
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or("an alias to something unfinished")?;
                self.nodes += node.nodes;
                self.add(node, 0)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn start(&mut self, open: Open, anchor: usize) -> std::result::Result<(), String> {
        if self.open.len() >= MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH}"));
        }
        self.open.push((open, anchor, self.nodes));
        Ok(())
    }

    fn add(&mut self, node: Node, anchor: usize) -> std::result::Result<(), String> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(format!("more than {MAX_NODES} values"));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.result = Some(node),
            Some((Open::List(list), _, _)) => list.extend(node.value.map(Tree::from)),
            Some((Open::Map(_, key @ None), _, _)) => match node.value {
                Some(Value::Text(text)) => *key = Some(text),
                _ => return Err("a key must be text".into()),
            },
            Some((Open::Map(entries, key), _, _)) => {
                let key = key.take().unwrap_or_default();
                if entries.iter().any(|entry| entry.key == key) {
                    return Err(format!("the key {key:?} is given twice"));
                }
                entries.extend(node.value.map(|value| Entry {
                    key,
                    span: None,
                    tree: value.into(),
                }));
            }
        }
        Ok(())
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Option<Value> {
    let tagged_text = tag.is_some_and(|tag| tag.suffix == "str" || tag.suffix.is_empty());
    if style != ScalarStyle::Plain || tagged_text {
        return Some(Value::Text(text.to_owned()));
    }
    resolve(text)
}

/// Resolves a plain scalar by the rules of YAML 1.1, as PyYAML's SafeLoader does; `None` is null. Timestamps,
/// base-60 numbers and binary numbers, which no document of ours has, stay text.
fn resolve(text: &str) -> Option<Value> {
    let value = match text {
        "" | "~" | "null" | "Null" | "NULL" => return None,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Value::Bool(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Value::Bool(false)
        }
        _ => match integer(text) {
            Some(number) => Value::Integer(number),
            None => float(text).map_or_else(|| Value::Text(text.to_owned()), Value::Float),
        },
    };
    Some(value)
}

fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x', ..] => (16, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let digits = digits.replace('_', "");
    let number = i64::from_str_radix(&digits, radix).ok()?;
    Some(if negative { -number } else { number })
}

fn float(text: &str) -> Option<f64> {
    let digits = text.trim_start_matches(['-', '+']);
    let number = digits.contains('.')
        && digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits
            .bytes()
            .all(|b| b.is_ascii_digit() || b"._eE+-".contains(&b));
    if !number {
        return None;
    }
    text.replace('_', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values are PyYAML 6's (`yaml.safe_load`).
    #[test]
    fn scalars_are_resolved_as_pyyaml_does() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (source, expected) in [
            ("yes", Value::Bool(true)),
            ("Off", Value::Bool(false)),
            ("y", text("y")),
            ("0644", Value::Integer(420)),
            ("0x1F", Value::Integer(31)),
            ("1_000", Value::Integer(1000)),
            ("-7", Value::Integer(-7)),
            ("08", text("08")),
            ("1.5", Value::Float(1.5)),
            ("10.10.10.10", text("10.10.10.10")),
            ("1e3", text("1e3")),
            ("'yes'", text("yes")),
            ("!!str 12", text("12")),
            ("10.10.10.0/24", text("10.10.10.0/24")),
        ] {
            assert_eq!(
                parse("test", source).unwrap().unwrap().value,
                expected,
                "{source}"
            );
        }
        assert!(parse("test", "~").unwrap().is_none());
    }

    #[test]
    fn aliases_are_bounded() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let before = format!("*a{}, ", level - 1).repeat(10);
            text += &format!("a{level}: &a{level} [{}]\n", before.trim_end_matches(", "));
        }
        let error = parse("test", &text).unwrap_err().to_string();
        assert!(error.contains("more than"), "{error}");
        let value = parse("test", "a: &x {b: 1}\nc: *x").unwrap().unwrap();
        let found = value.get("c").and_then(|c| c.get("b"));
        assert_eq!(found.map(|tree| &tree.value), Some(&Value::Integer(1)));
    }

    #[test]
    fn refusals_say_where() {
        for (text, expected) in [
            ("a: 1\na: 2", "line 2: the key \"a\" is given twice"),
            ("a: [1", "line "),
            ("a: 1\n---\nb: 2", "more than one document"),
            (
                "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
                "nested deeper than 32",
            ),
        ] {
            let error = parse("user-data", text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
