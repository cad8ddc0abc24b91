//! In which order the indexes mention names.

use std::collections::{HashMap, HashSet};

use rayon::prelude::*;

use super::{PackageId, Universe};

/// Packages that one core reads at a time.
const PIECE: usize = 8192;

/// Each name that is mentioned, with how many were mentioned before it.
pub(super) fn order(universe: &Universe) -> HashMap<Box<str>, u32> {
    let ids: Vec<PackageId> = universe.ids().collect();
    let pieces = ids.par_chunks(PIECE).map(|piece| names(universe, piece));
    let pieces: Vec<Vec<&str>> = pieces.collect();
    let mut order: HashMap<Box<str>, u32> = HashMap::with_capacity(2 * universe.by_name.len());
    for name in pieces.into_iter().flatten() {
        if !order.contains_key(name) {
            order.insert(name.into(), order.len() as u32);
        }
    }
    order
}

/// The names that some packages mention, each once, in their order.
fn names<'u>(universe: &'u Universe, ids: &[PackageId]) -> Vec<&'u str> {
    let (mut seen, mut names) = (HashSet::new(), Vec::new());
    let mut mention = |name: &'u str| {
        if seen.insert(name) {
            names.push(name);
        }
    };
    let end = |c: char| c.is_whitespace() || matches!(c, '(' | ':' | '[' | '<');
    for id in ids {
        mention(universe.name(*id));
        let r = universe.record(*id);
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
            for relation in universe.text(*id, span).split([',', '|']) {
                mention(relation.trim_start().split(end).next().unwrap_or_default());
            }
        }
    }
    names
}
