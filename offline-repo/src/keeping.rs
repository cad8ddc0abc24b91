//! A closure that leaves packages in the versions that an older lock has, as far as it can.

use std::collections::{BTreeMap, BTreeSet};

use crate::closure::{self, Chosen, Wishes};
use crate::error::Result;
use crate::resolve::Resolver;
use crate::universe::{PackageId, Universe};

/// The closure of some wishes with each package of `keep` in its version, if that is still to be had.
///
/// Where this leaves the wishes unmet, packages change that cannot stay beside what `upgrade` and new requests bring; then
/// everything that these need; at last everything.
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
    let start = new_names(wishes, keep, upgrade);
    free_what_must(universe, &newest, start.iter().cloned().collect())?;
    if let Some(chosen) = closure::without_search(&Resolver::new(universe)?, wishes)? {
        return Ok(chosen);
    }
    let taken = taken_along(universe, start)?;
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

/// What is to be in its newest version: `upgrade`, and requests without a version to keep.
fn new_names(wishes: &Wishes, keep: &[(String, String)], upgrade: &[String]) -> Vec<String> {
    let kept: BTreeSet<&str> = keep.iter().map(|(name, _)| name.as_str()).collect();
    let requests = wishes.groups.values().flatten();
    requests
        .filter(|request| !kept.contains(request.as_str()))
        .chain(upgrade)
        .cloned()
        .collect()
}

/// Makes the newest version the preferred one of each package that cannot stay beside those that are free already, until
/// all others can.
fn free_what_must(
    universe: &mut Universe,
    newest: &BTreeMap<&str, Option<String>>,
    mut free: BTreeSet<String>,
) -> Result<()> {
    loop {
        let found = bound(universe, newest, &free)?;
        if found.is_empty() {
            return Ok(());
        }
        for name in &found {
            if let Some(Some(version)) = newest.get(name.as_str()) {
                universe.prefer(name, version);
            }
        }
        free.extend(found);
    }
}

/// Packages to keep that one of those that are free needs in another version, or excludes, or that need or exclude one of
/// them as it was.
fn bound(
    universe: &Universe,
    newest: &BTreeMap<&str, Option<String>>,
    free: &BTreeSet<String>,
) -> Result<BTreeSet<String>> {
    let resolver = Resolver::new(universe)?;
    let is_kept = |name: &str| newest.contains_key(name) && !free.contains(name);
    let is_preferred = |id: &PackageId| universe.versions(universe.name(*id)).first() == Some(id);
    let mut found = BTreeSet::new();
    let free_names = free.iter().map(String::as_str);
    for name in newest.keys().copied().chain(free_names) {
        let Some(id) = universe.versions(name).first() else {
            continue;
        };
        for group in universe.depends(*id)? {
            let able = resolver.alternatives(&group);
            if able.is_empty() || able.iter().any(is_preferred) {
                continue;
            }
            match is_kept(name) {
                true => found.extend([name]),
                false => found.extend(
                    able.iter()
                        .map(|id| universe.name(*id))
                        .filter(|n| is_kept(n)),
                ),
            }
        }
        for enemy in resolver.enemies(*id)?.iter().filter(|id| is_preferred(id)) {
            let other = universe.name(*enemy);
            if free.contains(name) && is_kept(other) {
                found.extend([other]);
            } else if is_kept(name) && free.contains(other) {
                found.extend([name]);
            }
        }
    }
    Ok(found.into_iter().map(str::to_string).collect())
}

/// Names of these packages and of all that they need, directly or through others.
fn taken_along(universe: &Universe, mut open: Vec<String>) -> Result<BTreeSet<String>> {
    let resolver = Resolver::new(universe)?;
    let mut taken = BTreeSet::new();
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
