//! Texts as small numbers: names and versions occur many times in an index.

use std::collections::HashMap;
use std::sync::Arc;

/// Number of a text.
pub type TextId = u32;

/// Each text once.
#[derive(Debug, Default)]
pub struct Strings {
    numbers: HashMap<Arc<str>, TextId>,
    texts: Vec<Arc<str>>,
}

impl Strings {
    /// The number of a text, a new one if it is not known yet.
    pub fn intern(&mut self, text: &str) -> TextId {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let shared: Arc<str> = text.into();
        let number = self.texts.len() as TextId;
        self.texts.push(Arc::clone(&shared));
        self.numbers.insert(shared, number);
        number
    }

    /// The number of a text that is known.
    pub fn find(&self, text: &str) -> Option<TextId> {
        self.numbers.get(text).copied()
    }

    /// The text of a number.
    pub fn text(&self, number: TextId) -> &str {
        &self.texts[number as usize]
    }

    /// All texts.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().map(AsRef::as_ref)
    }
}
