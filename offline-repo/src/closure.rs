//! From what the solver chose to what is needed: packages that later choices made needless are dropped, and
//! each one that stays knows why it is there, for which groups, and whether the essential packages need it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use crate::dependency::{self, Alternatives};
use crate::error::{Error, Result};
use crate::resolve::Resolver;
use crate::universe::{PackageId, Universe};

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Requested packages by group; a request is a name, `name=version`, or a relation with alternatives.
    pub groups: BTreeMap<String, Vec<String>>,
    /// Whether all `Essential: yes` packages are roots too.
    pub include_essential: bool,
    /// Whether Recommends are followed.
    pub recommends: bool,
}

/// A package of the closure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The package.
    pub id: PackageId,
    /// Whether the closure of the essential packages contains it.
    pub essential: bool,
    /// Groups whose closure contains it, sorted.
    pub groups: Vec<String>,
    /// The package that first needed it, `group NAME`, or `essential`.
    pub why: String,
}

/// Why a package was taken.
#[derive(Debug, Clone)]
enum Reason {
    Group(String),
    Essential,
    Package(PackageId),
}

type Root<'a> = (Reason, Alternatives<'a>);

/// The closure of some wishes, sorted by package name.
pub fn closure(resolver: &Resolver<'_>, wishes: &Wishes) -> Result<Vec<Chosen>> {
    if let Some(chosen) = without_search(resolver, wishes)? {
        return Ok(chosen);
    }
    let essential = essential(resolver, wishes);
    let roots = roots(wishes, &essential)?;
    let required = groups(&roots);
    let mut chosen = resolver.solve(&required, &[])?;
    if wishes.recommends {
        chosen = add_recommended(resolver, &required, chosen)?;
    }
    let graph = Graph::new(resolver, &chosen, wished(wishes), false)?;
    let kept = graph.prune(&roots);
    graph.explain(&roots, kept)
}

/// The same if apt's own marking gives one: nothing where only a search through other choices would.
pub(crate) fn without_search(
    resolver: &Resolver<'_>,
    wishes: &Wishes,
) -> Result<Option<Vec<Chosen>>> {
    let essential = essential(resolver, wishes);
    let roots = roots(wishes, &essential)?;
    let Some(marked) = resolver.mark(&groups(&roots), wishes.recommends)? else {
        return Ok(None);
    };
    let graph = Graph::new(resolver, &marked, wished(wishes), true)?;
    let kept = graph.sweep(&roots);
    graph.explain(&roots, kept).map(Some)
}

fn essential<'u>(resolver: &Resolver<'u>, wishes: &Wishes) -> Vec<&'u str> {
    match wishes.include_essential {
        true => essential_names(resolver.universe()),
        false => Vec::new(),
    }
}

fn groups<'a>(roots: &[Root<'a>]) -> Vec<Alternatives<'a>> {
    roots.iter().map(|(_, group)| group.clone()).collect()
}

/// The weakest relation that is followed.
fn wished(wishes: &Wishes) -> Strength {
    match wishes.recommends {
        true => Strength::Recommends,
        false => Strength::Depends,
    }
}

pub(crate) fn essential_names(universe: &Universe) -> Vec<&str> {
    let names = universe.names().filter(|name| {
        universe
            .versions(name)
            .first()
            .is_some_and(|id| universe.is_essential(*id))
    });
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names
}

fn roots<'a>(wishes: &'a Wishes, essential: &[&'a str]) -> Result<Vec<Root<'a>>> {
    let mut roots = Vec::new();
    for (group, requests) in &wishes.groups {
        for request in requests {
            let parsed = dependency::parse_request(request).map_err(|message| {
                Error::invalid(format!("package list of group '{group}'"), message)
            })?;
            roots.push((Reason::Group(group.clone()), parsed));
        }
    }
    for name in essential {
        let parsed = dependency::parse_alternatives(name)
            .map_err(|m| Error::invalid("essential package", m))?;
        roots.push((Reason::Essential, parsed));
    }
    Ok(roots)
}

/// Asks the solver again and again for what is recommended and still missing, until nothing new can be had.
fn add_recommended(
    resolver: &Resolver<'_>,
    required: &[Alternatives<'_>],
    mut chosen: Vec<PackageId>,
) -> Result<Vec<PackageId>> {
    let mut wanted: Vec<PackageId> = Vec::new();
    let mut refused: HashSet<PackageId> = HashSet::new();
    loop {
        let present: HashSet<PackageId> = chosen.iter().copied().collect();
        refused.extend(wanted.iter().filter(|id| !present.contains(id)));
        wanted.retain(|id| present.contains(id));
        let before = wanted.len();
        for id in &chosen {
            for group in resolver.universe().recommends(*id)? {
                let candidates = resolver.alternatives(&group);
                if candidates
                    .iter()
                    .any(|c| present.contains(c) || wanted.contains(c))
                {
                    continue;
                }
                // As with dependencies, only the preferred version of a package is a candidate.
                let universe = resolver.universe();
                let preferred =
                    |c: &PackageId| universe.versions(universe.name(*c)).first() == Some(c);
                wanted.extend(
                    candidates
                        .into_iter()
                        .find(|c| preferred(c) && !refused.contains(c)),
                );
            }
        }
        if wanted.len() == before {
            return Ok(chosen);
        }
        chosen = resolver.solve(required, &wanted)?;
    }
}

/// The chosen packages with what satisfies each of their dependencies, among the chosen.
struct Graph<'r, 'u> {
    resolver: &'r Resolver<'u>,
    present: HashSet<PackageId>,
    edges: HashMap<PackageId, Vec<Edge>>,
    /// The weakest relation that the wishes follow.
    wished: Strength,
    /// Whether every alternative that is there counts, as for apt, or the first one.
    every_alternative: bool,
}

/// How much a relation binds, the most binding first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Strength {
    Depends,
    Recommends,
    Suggests,
}

/// A relation of a chosen package.
struct Edge {
    /// Chosen packages that satisfy it, best first.
    satisfied_by: Vec<PackageId>,
    strength: Strength,
}

impl<'r, 'u> Graph<'r, 'u> {
    fn new(
        resolver: &'r Resolver<'u>,
        chosen: &[PackageId],
        wished: Strength,
        every_alternative: bool,
    ) -> Result<Self> {
        let mut graph = Graph {
            resolver,
            present: chosen.iter().copied().collect(),
            edges: HashMap::new(),
            wished,
            every_alternative,
        };
        let universe = resolver.universe();
        for id in chosen {
            let fields = [
                (Strength::Depends, universe.depends(*id)?),
                (Strength::Recommends, universe.recommends(*id)?),
                (Strength::Suggests, universe.suggests(*id)?),
            ];
            let mut edges = Vec::new();
            for (strength, groups) in fields {
                edges.extend(groups.iter().map(|group| Edge {
                    satisfied_by: graph.present_of(group),
                    strength,
                }));
            }
            edges.retain(|edge| !edge.satisfied_by.is_empty());
            graph.edges.insert(*id, edges);
        }
        Ok(graph)
    }

    /// Relations of a package that bind at least so much.
    fn edges(&self, id: PackageId, weakest: Strength) -> impl Iterator<Item = &Edge> {
        let edges = self.edges.get(&id).into_iter().flatten();
        edges.filter(move |edge| edge.strength <= weakest)
    }

    fn present_of(&self, group: &Alternatives<'_>) -> Vec<PackageId> {
        let mut found = self.resolver.alternatives(group);
        found.retain(|id| self.present.contains(id));
        found
    }

    /// What is needed of the chosen packages. First everything that has no alternative; then, one at a time, the
    /// first alternative of a dependency that nothing kept so far satisfies.
    fn prune(&self, roots: &[Root<'_>]) -> HashMap<PackageId, Reason> {
        let mut kept: HashMap<PackageId, Reason> = HashMap::new();
        let mut open: VecDeque<(Reason, Vec<PackageId>)> = roots
            .iter()
            .map(|(reason, group)| (reason.clone(), self.present_of(group)))
            .collect();
        let mut deferred: VecDeque<(Reason, Vec<PackageId>)> = VecDeque::new();
        loop {
            let (reason, id) = match open.pop_front() {
                Some((reason, found)) if found.len() == 1 => (reason, found[0]),
                Some(several) => {
                    deferred.push_back(several);
                    continue;
                }
                None => match deferred.pop_front() {
                    Some((_, found)) if found.iter().any(|id| kept.contains_key(id)) => continue,
                    Some((reason, found)) if !found.is_empty() => (reason, found[0]),
                    Some(_) => continue,
                    None => return kept,
                },
            };
            if let Entry::Vacant(slot) = kept.entry(id) {
                slot.insert(reason);
                let edges = self.edges(id, self.wished);
                open.extend(edges.map(|edge| (Reason::Package(id), edge.satisfied_by.clone())));
            }
        }
    }

    /// Everything that apt's autoremove would leave: what is reached from the roots by any relation but a conflict.
    fn sweep(&self, roots: &[Root<'_>]) -> HashMap<PackageId, Reason> {
        let mut kept: HashMap<PackageId, Reason> = HashMap::new();
        let mut open: VecDeque<(Reason, PackageId)> = VecDeque::new();
        for (reason, group) in roots {
            let found = self.present_of(group).into_iter().next();
            open.extend(found.map(|id| (reason.clone(), id)));
        }
        while let Some((reason, id)) = open.pop_front() {
            if let Entry::Vacant(slot) = kept.entry(id) {
                slot.insert(reason);
                for edge in self.edges(id, Strength::Suggests) {
                    let found = edge.satisfied_by.iter();
                    open.extend(found.map(|found| (Reason::Package(id), *found)));
                }
            }
        }
        kept
    }

    /// Everything that can be reached from some packages by kept alternatives of relations that bind so much.
    fn reach(
        &self,
        from: impl Iterator<Item = PackageId>,
        kept: &HashMap<PackageId, Reason>,
        weakest: Strength,
    ) -> BTreeSet<PackageId> {
        let most = if self.every_alternative {
            usize::MAX
        } else {
            1
        };
        let mut reached = BTreeSet::new();
        let mut open: Vec<PackageId> = from.collect();
        while let Some(id) = open.pop() {
            if reached.insert(id) {
                for edge in self.edges(id, weakest) {
                    let found = edge.satisfied_by.iter().copied();
                    open.extend(found.filter(|id| kept.contains_key(id)).take(most));
                }
            }
        }
        reached
    }

    fn explain(&self, roots: &[Root<'_>], kept: HashMap<PackageId, Reason>) -> Result<Vec<Chosen>> {
        let universe = self.resolver.universe();
        let first_kept = |group: &Alternatives<'_>| {
            self.present_of(group)
                .into_iter()
                .find(|id| kept.contains_key(id))
        };
        let mut by_group: BTreeMap<&str, Vec<PackageId>> = BTreeMap::new();
        for (reason, group) in roots {
            if let (Reason::Group(name), Some(id)) = (reason, first_kept(group)) {
                by_group.entry(name).or_default().push(id);
            }
        }
        let closures = |weakest: Strength| -> Vec<(&str, BTreeSet<PackageId>)> {
            let groups = by_group.iter();
            groups
                .map(|(name, ids)| (*name, self.reach(ids.iter().copied(), &kept, weakest)))
                .collect()
        };
        let groups = closures(self.wished);
        // What only a suggestion keeps belongs to those who suggest it.
        let suggesting = closures(Strength::Suggests);
        let essential = self.reach(
            kept.keys().copied().filter(|id| universe.is_essential(*id)),
            &kept,
            Strength::Depends,
        );
        let members = |groups: &[(&str, BTreeSet<PackageId>)], id: &PackageId| -> Vec<String> {
            let found = groups.iter().filter(|(_, ids)| ids.contains(id));
            found.map(|(name, _)| name.to_string()).collect()
        };
        let mut all: Vec<Chosen> = kept
            .iter()
            .map(|(id, reason)| Chosen {
                id: *id,
                essential: essential.contains(id),
                groups: match members(&groups, id) {
                    none if none.is_empty() && !essential.contains(id) => members(&suggesting, id),
                    some => some,
                },
                why: match reason {
                    Reason::Group(name) => format!("group {name}"),
                    Reason::Essential => "essential".to_string(),
                    Reason::Package(parent) => universe.name(*parent).to_string(),
                },
            })
            .collect();
        all.sort_by_key(|chosen| universe.name(chosen.id));
        Ok(all)
    }
}
