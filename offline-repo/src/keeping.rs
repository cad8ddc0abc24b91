//! A closure that leaves packages in the versions that an older lock has, as far as it can.

use std::collections::{BTreeMap, BTreeSet};

use crate::closure::{self, Chosen, Wishes};
use crate::error::Result;
use crate::resolve::Resolver;
use crate::universe::Universe;

/// The closure of some wishes with each package of `keep` in its version, if that is still to be had.
///
/// Where this leaves the wishes unmet, what `upgrade` and new requests need is free to change, too; at last everything is.
pub(crate) fn closure(
    universe: &mut Universe,
    wishes: &Wishes,
    keep: &[(String, String)],
    upgrade: &[String],
) -> Result<Vec<Chosen>> {
    if keep.is_empty() {
        return closure::closure(&Resolver::new(universe)?, wishes);
    }
    let newest: BTreeMap<&str, Option<String>> = keep
        .iter()
        .map(|(name, _)| {
            let first = universe.versions(name).first();
            (
                name.as_str(),
                first.map(|id| universe.version(*id).to_string()),
            )
        })
        .collect();
    for (name, version) in keep {
        universe.prefer(name, version);
    }
    if let Some(chosen) = closure::without_search(&Resolver::new(universe)?, wishes)? {
        return Ok(chosen);
    }
    let taken = taken_along(universe, wishes, keep, upgrade)?;
    for round in [Some(taken), None] {
        let is_free = |name: &str| round.as_ref().is_none_or(|taken| taken.contains(name));
        for (name, version) in newest.iter().filter(|(name, _)| is_free(name)) {
            if let Some(version) = version {
                universe.prefer(name, version);
            }
        }
        if let Some(chosen) = closure::without_search(&Resolver::new(universe)?, wishes)? {
            return Ok(chosen);
        }
    }
    closure::closure(&Resolver::new(universe)?, wishes)
}

/// Names of the packages that `upgrade` and requests without a version to keep need, directly or through others.
fn taken_along(
    universe: &Universe,
    wishes: &Wishes,
    keep: &[(String, String)],
    upgrade: &[String],
) -> Result<BTreeSet<String>> {
    let kept: BTreeSet<&str> = keep.iter().map(|(name, _)| name.as_str()).collect();
    let resolver = Resolver::new(universe)?;
    let mut taken = BTreeSet::new();
    let requests = wishes.groups.values().flatten();
    let mut open: Vec<String> = requests
        .filter(|request| !kept.contains(request.as_str()))
        .chain(upgrade)
        .cloned()
        .collect();
    while let Some(name) = open.pop() {
        if !taken.insert(name.clone()) {
            continue;
        }
        let Some(id) = universe.versions(&name).first() else {
            continue;
        };
        for group in universe.depends(*id)? {
            let found = resolver.alternatives(&group);
            open.extend(found.iter().map(|id| universe.name(*id).to_string()));
        }
    }
    Ok(taken)
}
