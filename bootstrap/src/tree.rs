//! Documents as trees of values, whichever language they were written in, and the one reader that turns them into types.
//!
//! One serde deserializer for TOML, YAML and JSON: each type is compiled once, which keeps the program small, and
//! every error knows the path of the field, and for TOML its place.

use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{
    self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    /// The value.
    pub value: Value,
    /// Byte range in the text; none where the language's parser does not tell.
    pub span: Option<Range<usize>>,
}

/// What all three languages have. Nulls are left out of lists and maps.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Truth value.
    Bool(bool),
    /// Whole number.
    Integer(i64),
    /// Other number.
    Float(f64),
    /// Text.
    Text(String),
    /// List.
    List(Vec<Tree>),
    /// Map, in the order of the document.
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Byte range of the key.
    pub span: Option<Range<usize>>,
    /// Its value.
    pub tree: Tree,
}

impl From<Value> for Tree {
    fn from(value: Value) -> Self {
        Tree { value, span: None }
    }
}

impl Tree {
    /// The value of a key, when this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Tree> {
        self.entries()
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.tree)
    }

    /// Entries, when this is a map.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// A text or whole number as text: a host name that YAML took for a number is still a name.
    pub fn scalar_text(&self) -> Option<String> {
        match &self.value {
            Value::Text(text) => Some(text.clone()),
            Value::Integer(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// Place of the value at a path such as `cluster[0].member[1].address`, or of the nearest parent that has one.
    pub fn span_of(&self, path: &str) -> Option<Range<usize>> {
        let mut current = self;
        let mut best = None;
        for part in path.split('.') {
            let mut pieces = part.split('[');
            let key = pieces.next().unwrap_or_default();
            let Some(next) = current.get(key) else { break };
            current = next;
            best = current.span.clone().or(best);
            for index in pieces {
                let index: Option<usize> = index.trim_end_matches(']').parse().ok();
                let Value::List(list) = &current.value else {
                    break;
                };
                let Some(item) = index.and_then(|index| list.get(index)) else {
                    break;
                };
                current = item;
                best = current.span.clone().or(best);
            }
        }
        best
    }

    /// Reads the tree as a type.
    ///
    /// # Errors
    /// What is wrong, at which field.
    pub fn read<'de, T: Deserialize<'de>>(&'de self) -> Result<T, ReadError> {
        T::deserialize(Reader(self)).map_err(|error| error.at(self.span.as_ref()))
    }
}

/// A value that does not fit its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadError {
    /// Path of the field.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// Its place.
    pub span: Option<Range<usize>>,
}

impl ReadError {
    #[inline(never)]
    fn at(mut self, span: Option<&Range<usize>>) -> Self {
        self.span = self.span.or_else(|| span.cloned());
        self
    }

    #[inline(never)]
    fn under_key(mut self, key: &str, span: Option<&Range<usize>>) -> Self {
        let separator = if self.field.is_empty() || self.field.starts_with('[') {
            ""
        } else {
            "."
        };
        self.field = format!("{key}{separator}{}", self.field);
        self.at(span)
    }

    #[inline(never)]
    fn under_index(mut self, index: usize, span: Option<&Range<usize>>) -> Self {
        let separator = if self.field.is_empty() || self.field.starts_with('[') {
            ""
        } else {
            "."
        };
        self.field = format!("[{index}]{separator}{}", self.field);
        self.at(span)
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        ReadError {
            field: String::new(),
            message: message.to_string(),
            span: None,
        }
    }
}

struct Reader<'de>(&'de Tree);

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.0.value {
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(value) => visitor.visit_borrowed_str(value),
            Value::List(list) => visitor.visit_seq(ListReader { list, next: 0 }),
            Value::Map(entries) => visitor.visit_map(MapReader { entries, next: 0 }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match &self.0.value {
            Value::Text(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            _ => Err(de::Error::custom("must be a text")),
        }
    }

    // Each of these calls one method of the visitor only. Forwarded to `deserialize_any`, every type would bring the
    // code for all kinds of values, a hundred kilobytes in all.

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.0.value {
            Value::Text(text) => visitor.visit_borrowed_str(text),
            other => Err(other.unexpected(&visitor)),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.0.value {
            Value::Bool(value) => visitor.visit_bool(*value),
            other => Err(other.unexpected(&visitor)),
        }
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.0.value {
            Value::Integer(value) => visitor.visit_i64(*value),
            other => Err(other.unexpected(&visitor)),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.0.value {
            Value::List(list) => visitor.visit_seq(ListReader { list, next: 0 }),
            other => Err(other.unexpected(&visitor)),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.0.value {
            Value::Map(entries) => visitor.visit_map(MapReader { entries, next: 0 }),
            other => Err(other.unexpected(&visitor)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        self.deserialize_map(visitor)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

impl Value {
    /// The complaint that another kind of value was expected.
    #[inline(never)]
    fn unexpected(&self, expected: &dyn de::Expected) -> ReadError {
        let found = match self {
            Value::Bool(value) => de::Unexpected::Bool(*value),
            Value::Integer(value) => de::Unexpected::Signed(*value),
            Value::Float(value) => de::Unexpected::Float(*value),
            Value::Text(text) => de::Unexpected::Str(text),
            Value::List(_) => de::Unexpected::Seq,
            Value::Map(_) => de::Unexpected::Map,
        };
        de::Error::invalid_type(found, expected)
    }
}

struct ListReader<'de> {
    list: &'de [Tree],
    next: usize,
}

impl<'de> SeqAccess<'de> for ListReader<'de> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ReadError> {
        let Some(tree) = self.list.get(self.next) else {
            return Ok(None);
        };
        self.next += 1;
        let read = seed.deserialize(Reader(tree));
        read.map(Some)
            .map_err(|error| error.under_index(self.next - 1, tree.span.as_ref()))
    }
}

struct MapReader<'de> {
    entries: &'de [Entry],
    next: usize,
}

impl<'de> MapAccess<'de> for MapReader<'de> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ReadError> {
        let Some(entry) = self.entries.get(self.next) else {
            return Ok(None);
        };
        let key: de::value::BorrowedStrDeserializer<'de, ReadError> =
            de::value::BorrowedStrDeserializer::new(&entry.key);
        let read = seed.deserialize(key);
        read.map(Some)
            .map_err(|error| error.under_key(&entry.key, entry.span.as_ref()))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ReadError> {
        let entry = &self.entries[self.next];
        self.next += 1;
        let read = seed.deserialize(Reader(&entry.tree));
        read.map_err(|error| error.under_key(&entry.key, entry.tree.span.as_ref()))
    }
}

/// A JSON value as a tree.
pub fn from_json(value: serde_json::Value) -> Option<Tree> {
    let value = match value {
        serde_json::Value::Null => return None,
        serde_json::Value::Bool(value) => Value::Bool(value),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(value) => Value::Integer(value),
            None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::Text(text),
        serde_json::Value::Array(list) => {
            Value::List(list.into_iter().filter_map(from_json).collect())
        }
        serde_json::Value::Object(map) => {
            let entries = map.into_iter().filter_map(|(key, value)| {
                Some(Entry {
                    key,
                    span: None,
                    tree: from_json(value)?,
                })
            });
            Value::Map(entries.collect())
        }
    };
    Some(value.into())
}

/// Reads JSON as a type.
///
/// # Errors
/// What is wrong, at which field.
pub fn read_json<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, ReadError> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(de::Error::custom)?;
    from_json(value)
        .unwrap_or_else(|| Value::Map(Vec::new()).into())
        .read()
}
