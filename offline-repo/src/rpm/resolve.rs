//! From requests as people write them to packages with the reason why each is there.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::clauses;
use super::dependency::{self, Comparison, Relation, Rich};
use super::policy::{is_old, obsoleted};
use super::solver::{self, Request};
use super::universe::{Kind, PackageId, Universe};
use crate::error::{Error, Result};
use crate::suggest::closest;

/// A chosen package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The package.
    pub id: PackageId,
    /// Groups whose requests lead to it.
    pub groups: Vec<String>,
    /// The package that first needed it, or `group NAME`.
    pub why: String,
}

/// Chooses packages for requests by group. A request is a name, a name with version or architecture
/// (`name-version`, `name=version`, `name.arch`), a relation (`name >= 1`), a path, or anything that packages provide.
pub fn resolve(
    universe: &Universe,
    groups: &BTreeMap<String, Vec<String>>,
    weak: bool,
) -> Result<Vec<Chosen>> {
    upgrade(universe, groups, weak, &[])
}

/// The same where some packages should stay as they are ([`Universe::keep`]), but for those named here: these, and what is
/// asked for and was not there before, come in their newest versions if that is possible.
pub fn upgrade(
    universe: &Universe,
    groups: &BTreeMap<String, Vec<String>>,
    weak: bool,
    names: &[String],
) -> Result<Vec<Chosen>> {
    let mut requests: Vec<(&str, Request)> = Vec::new();
    for (group, texts) in groups {
        for text in texts {
            requests.push((group, request(universe, text)?));
        }
    }
    let all: Vec<Request> = requests
        .iter()
        .map(|(_, request)| request.clone())
        .collect();
    let old = outdated(universe, &all, names);
    let solved = match solver::solve(universe, &all, &old, weak) {
        Err(Error::Unsatisfiable { .. }) if !old.is_empty() => {
            solver::solve(universe, &all, &[], weak)?
        }
        other => other?,
    };
    let chosen: BTreeSet<PackageId> = solved.into_iter().collect();
    let graph = Graph::new(universe, &chosen, weak);
    let mut found: HashMap<PackageId, Chosen> = HashMap::new();
    for group in groups.keys() {
        let own = requests.iter().filter(|(of, _)| of == group);
        let roots =
            own.flat_map(|(_, r)| r.candidates.iter().copied().filter(|c| chosen.contains(c)));
        for (id, why) in graph.reach(universe, roots.collect(), group) {
            let entry = found.entry(id).or_insert(Chosen {
                id,
                groups: Vec::new(),
                why,
            });
            entry.groups.push(group.clone());
        }
    }
    // What supplements nothing in particular, as `(a if b)` does where b is not there, belongs to all.
    for id in &chosen {
        found.entry(*id).or_insert_with(|| Chosen {
            id: *id,
            groups: groups.keys().cloned().collect(),
            why: "supplements".into(),
        });
    }
    let mut list: Vec<Chosen> = found.into_values().collect();
    let key = |c: &Chosen| {
        (
            universe.name(c.id).to_string(),
            universe.architecture(c.id).to_string(),
        )
    };
    list.sort_by_cached_key(key);
    Ok(list)
}

/// Whether requests can be had beside what is installed; [`Error::Unsatisfiable`] if not.
pub(crate) fn check(universe: &Universe, texts: &[String]) -> Result<()> {
    let requests = texts.iter().map(|text| request(universe, text));
    let requests: Vec<Request> = requests.collect::<Result<_>>()?;
    solver::solve(universe, &requests, &[], false).map(drop)
}

/// Older versions of packages that are to be in their newest one.
fn outdated(universe: &Universe, requests: &[Request], names: &[String]) -> Vec<PackageId> {
    if !universe.keeps_some() {
        return Vec::new();
    }
    let is_new = |r: &&Request| !r.candidates.iter().any(|id| universe.is_kept(*id));
    let new = requests.iter().filter(is_new).flat_map(|r| &r.candidates);
    let mut all: BTreeSet<&str> = new.map(|id| universe.name(*id)).collect();
    all.extend(names.iter().map(String::as_str));
    let versions = all.into_iter().flat_map(|name| universe.named(name));
    versions
        .copied()
        .filter(|id| is_old(universe, *id))
        .collect()
}

/// Which paths the requests, and the packages that they can lead to, ask for beyond what `primary.xml` lists.
pub fn asks_for_filelists(universe: &Universe, groups: &BTreeMap<String, Vec<String>>) -> bool {
    let needs = |text: &str| {
        let mut words = text.split([' ', '(', ')']);
        words.any(|word| universe.needs_filelists(word))
    };
    let texts = groups.values().flatten();
    let mut pending: Vec<PackageId> = Vec::new();
    for text in texts {
        if needs(text) {
            return true;
        }
        pending.extend(
            request(universe, text)
                .map(|r| r.candidates)
                .unwrap_or_default(),
        );
    }
    let mut seen = BTreeSet::new();
    while let Some(id) = pending.pop() {
        if !seen.insert(id) {
            continue;
        }
        for kind in [Kind::Requires, Kind::Conflicts, Kind::Recommends] {
            for relation in universe.relations(id, kind) {
                if needs(relation.name) {
                    return true;
                }
                if kind != Kind::Conflicts {
                    pending.extend(positive(universe, &relation));
                }
            }
        }
    }
    false
}

/// The packages that a request may mean.
fn request(universe: &Universe, text: &str) -> Result<Request> {
    let forms = [by_name, by_nevra, by_relation];
    let candidates = forms
        .iter()
        .map(|form| form(universe, text))
        .find(|found| !found.is_empty())
        .ok_or_else(|| Error::UnknownPackage {
            name: text.to_string(),
            suggestion: closest(text, universe.names()),
        })?;
    Ok(Request {
        text: text.to_string(),
        candidates,
    })
}

/// A bare name; packages that replace one of that name count, too, as dnf has it.
fn by_name(universe: &Universe, text: &str) -> Vec<PackageId> {
    let named = universe.named(text);
    if named.is_empty() {
        return Vec::new();
    }
    let replaces = |id: &PackageId| {
        let others = obsoleted(universe, *id);
        named.iter().any(|own| others.contains(own))
    };
    let others = universe.ids().filter(replaces);
    let mut all: Vec<PackageId> = named.iter().copied().chain(others).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// `name.arch`, `name-[epoch:]version[-release][.arch]`, `name=[epoch:]version[-release]`.
fn by_nevra(universe: &Universe, text: &str) -> Vec<PackageId> {
    let is_meant = |id: &PackageId| {
        let (name, evr) = (universe.name(*id), universe.evr(*id));
        is_nevra(text, name, evr, universe.architecture(*id))
    };
    universe.ids().filter(is_meant).collect()
}

/// Whether a request names this package with its version, its architecture, or both.
pub fn is_nevra(text: &str, name: &str, evr: &str, architecture: &str) -> bool {
    let rest = match text.strip_prefix(name).map(|rest| rest.split_at_checked(1)) {
        Some(Some((".", named))) => return named == architecture,
        Some(Some(("-" | "=", rest))) => rest,
        _ => return false,
    };
    let rest = rest
        .strip_suffix(architecture)
        .and_then(|rest| rest.strip_suffix('.'))
        .unwrap_or(rest);
    let version = evr.rsplit_once('-').map_or(evr, |(version, _)| version);
    let bare = |evr| -> &str { str::split_once(evr, ':').map_or(evr, |(_, rest)| rest) };
    [evr, bare(evr), version, bare(version)].contains(&rest)
}

/// What packages provide, or a path that they own.
fn by_relation(universe: &Universe, text: &str) -> Vec<PackageId> {
    match dependency::parse(text) {
        Ok(Rich::Simple(relation)) => universe.providers(&relation),
        // A word that does not parse may still be provided as it is.
        _ => universe.providers(&Relation {
            name: text,
            comparison: Comparison::ANY,
            evr: "",
        }),
    }
}

/// Packages that can help to satisfy a relation.
fn positive(
    universe: &Universe,
    relation: &Relation<'_>,
) -> impl Iterator<Item = PackageId> + use<> {
    let clauses = clauses::of_relation(universe, relation, false);
    let literals = clauses.unwrap_or_default().concat();
    let there = literals.into_iter().filter(|literal| *literal > 0);
    there.map(clauses::package)
}

/// Who needs whom among chosen packages.
struct Graph(HashMap<PackageId, Vec<PackageId>>);

impl Graph {
    fn new(universe: &Universe, chosen: &BTreeSet<PackageId>, weak: bool) -> Self {
        let mut edges: HashMap<PackageId, Vec<PackageId>> = HashMap::new();
        let kinds: &[Kind] = match weak {
            true => &[Kind::Requires, Kind::Recommends],
            false => &[Kind::Requires],
        };
        for id in chosen {
            for relation in (kinds.iter()).flat_map(|kind| universe.relations(*id, *kind)) {
                let needed = positive(universe, &relation).filter(|p| chosen.contains(p));
                edges.entry(*id).or_default().extend(needed);
            }
            if !weak {
                continue;
            }
            for relation in universe.relations(*id, Kind::Supplements) {
                for other in positive(universe, &relation).filter(|p| chosen.contains(p)) {
                    edges.entry(other).or_default().push(*id);
                }
            }
        }
        Graph(edges)
    }

    /// Packages reached from a group's roots, breadth first, with the reason of each.
    fn reach(
        &self,
        universe: &Universe,
        roots: Vec<PackageId>,
        group: &str,
    ) -> Vec<(PackageId, String)> {
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        let mut pending: VecDeque<(PackageId, String)> = roots
            .into_iter()
            .map(|id| (id, format!("group {group}")))
            .collect();
        while let Some((id, why)) = pending.pop_front() {
            if !seen.insert(id) {
                continue;
            }
            for next in self.0.get(&id).into_iter().flatten() {
                pending.push_back((*next, universe.name(id).to_string()));
            }
            found.push((id, why));
        }
        found
    }
}
