//! Reading XML as events, bounded: depth and length of what is kept, no entities but XML's own.

use std::io::BufRead;

use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};

/// No element of yum metadata lies deeper.
const DEPTH_LIMIT: usize = 16;
/// No text or attribute that is kept is longer, in bytes; rich dependencies may have some hundred.
const TEXT_LIMIT: usize = 1 << 16;

/// What a document consists of.
#[derive(Debug)]
pub enum Item {
    /// An element begins: its name with prefix, its attributes.
    Start(String, Attributes),
    /// The innermost element ends: its name, and its text if it has any.
    End(String, String),
}

/// Attributes of an element.
#[derive(Debug, Default)]
pub struct Attributes(Vec<(String, String)>);

impl Attributes {
    /// The value of one of them.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// All of them with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Calls `handle` for each item of a document; stops at its first error.
pub fn read(
    input: impl BufRead,
    mut handle: impl FnMut(Item) -> Result<(), String>,
) -> Result<(), String> {
    let mut reader = quick_xml::Reader::from_reader(input);
    let mut buffer = Vec::new();
    // Names of open elements with their texts.
    let mut open: Vec<(String, String)> = Vec::new();
    loop {
        buffer.clear();
        let event = reader.read_event_into(&mut buffer);
        match event.map_err(|e| format!("is not XML: {e}"))? {
            Event::Start(start) => {
                let (name, attributes) = element(&start)?;
                if open.len() >= DEPTH_LIMIT {
                    return Err("is nested too deep".into());
                }
                open.push((name.clone(), String::new()));
                handle(Item::Start(name, attributes))?;
            }
            Event::Empty(start) => {
                let (name, attributes) = element(&start)?;
                handle(Item::Start(name.clone(), attributes))?;
                handle(Item::End(name, String::new()))?;
            }
            Event::End(_) => {
                let (name, text) = open.pop().ok_or("is not XML: an end without a start")?;
                handle(Item::End(name, text))?;
            }
            Event::Text(text) => append(&mut open, &text.xml10_content()),
            Event::CData(text) => append(&mut open, &text.xml10_content()),
            Event::GeneralRef(reference) => {
                let character = reference
                    .resolve_char_ref()
                    .map_err(|e| format!("is not XML: {e}"))?;
                match (
                    character,
                    resolve_predefined_entity(&reference.xml10_content()),
                ) {
                    (Some(character), _) => append(&mut open, character.encode_utf8(&mut [0; 4])),
                    (None, Some(text)) => append(&mut open, text),
                    (None, None) => return Err("has an entity that XML does not define".into()),
                }
            }
            Event::DocType(_) => return Err("has a document type".into()),
            Event::Eof if open.is_empty() => return Ok(()),
            Event::Eof => return Err("is cut off".into()),
            Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
        }
    }
}

/// Adds to the innermost element's text. What is too long, a description, is of no interest and cut.
fn append(open: &mut [(String, String)], text: &str) {
    if let Some((_, whole)) = open.last_mut()
        && whole.len() + text.len() <= TEXT_LIMIT
    {
        whole.push_str(text);
    }
}

fn element(start: &BytesStart<'_>) -> Result<(String, Attributes), String> {
    let mut attributes = Vec::new();
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|e| format!("is not XML: {e}"))?;
        let value = attribute
            .normalized_value(quick_xml::XmlVersion::Implicit1_0)
            .map_err(|e| format!("is not XML: {e}"))?;
        if value.len() > TEXT_LIMIT {
            return Err("has an attribute that is too long".into());
        }
        attributes.push((text_of(attribute.key.as_ref()), value.into_owned()));
    }
    Ok((text_of(start.name().as_ref()), Attributes(attributes)))
}

fn text_of(name: impl AsRef<str>) -> String {
    name.as_ref().to_string()
}
