//! In which order an index mentions names.

use std::collections::HashSet;

use rayon::prelude::*;

use crate::record::{Record, slice};

/// Packages that one core reads at a time.
const PIECE: usize = 8192;

/// Each name that an index mentions, with how many it mentions before: sorted by name, one text with all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mentions {
    pub(super) names: String,
    /// For each name where it ends in `names`, and its place in the order.
    pub(super) places: Vec<(u32, u32)>,
}

impl Mentions {
    /// The names that some packages mention, as a package or in a relation.
    pub(super) fn of(records: &[Record], text: &str) -> Self {
        let pieces = records.par_chunks(PIECE).map(|piece| names(piece, text));
        let pieces: Vec<Vec<&str>> = pieces.collect();
        let (mut seen, mut found) = (HashSet::with_capacity(2 * records.len()), Vec::new());
        for name in pieces.into_iter().flatten() {
            if seen.insert(name) {
                found.push((name, found.len() as u32));
            }
        }
        found.par_sort_unstable();
        let mut mentions = Mentions::default();
        for (name, place) in found {
            mentions.names += name;
            mentions.places.push((mentions.names.len() as u32, place));
        }
        mentions
    }

    /// How many names are mentioned before this one; nothing if it is not mentioned.
    pub(super) fn place(&self, name: &str) -> Option<u32> {
        let (mut low, mut high) = (0, self.places.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.name(middle).cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(self.places[middle].1),
            }
        }
        None
    }

    /// How many names there are.
    pub(super) fn len(&self) -> u32 {
        self.places.len() as u32
    }

    fn name(&self, n: usize) -> &str {
        let start = n.checked_sub(1).map_or(0, |before| self.places[before].0);
        slice(&self.names, (start, self.places[n].0))
    }
}

/// The names that some packages mention, each once, in their order.
fn names<'t>(records: &[Record], text: &'t str) -> Vec<&'t str> {
    let (mut seen, mut names) = (HashSet::new(), Vec::new());
    let mut mention = |name: &'t str| {
        if !name.is_empty() && seen.insert(name) {
            names.push(name);
        }
    };
    let end = |c: char| c.is_whitespace() || matches!(c, '(' | ':' | '[' | '<');
    for r in records {
        mention(slice(text, r.name));
        for span in [
            r.pre_depends,
            r.depends,
            r.conflicts,
            r.breaks,
            r.recommends,
            r.suggests,
            r.replaces,
            r.enhances,
            r.provides,
        ] {
            for relation in slice(text, span).split([',', '|']) {
                mention(relation.trim_start().split(end).next().unwrap_or_default());
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_order_in_which_they_are_mentioned() {
        let text = "bb|aa (>= 1), cc:any | aa";
        let record = Record {
            name: (0, 2),
            depends: (3, text.len() as u32),
            ..Record::default()
        };
        let mentions = Mentions::of(&[record.clone(), record], text);
        let places = ["bb", "aa", "cc", "dd"].map(|name| mentions.place(name));
        assert_eq!(places, [Some(0), Some(1), Some(2), None]);
        assert_eq!(mentions.len(), 3);
    }
}
