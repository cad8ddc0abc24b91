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
    let essential = match wishes.include_essential {
        true => essential_names(resolver.universe()),
        false => Vec::new(),
    };
    let roots = roots(wishes, &essential)?;
    let required: Vec<Alternatives<'_>> = roots.iter().map(|(_, group)| group.clone()).collect();
    let mut chosen = resolver.solve(&required, &[])?;
    if wishes.recommends {
        chosen = add_recommended(resolver, &required, chosen)?;
    }
    let graph = Graph::new(resolver, &chosen, wishes.recommends)?;
    let kept = graph.prune(&roots);
    graph.explain(&roots, kept)
}

fn essential_names(universe: &Universe) -> Vec<&str> {
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
}

/// A dependency, or a recommendation, of a chosen package.
struct Edge {
    /// Chosen packages that satisfy it, best first.
    satisfied_by: Vec<PackageId>,
    /// Whether it is only a recommendation.
    recommended: bool,
}

impl<'r, 'u> Graph<'r, 'u> {
    fn new(resolver: &'r Resolver<'u>, chosen: &[PackageId], recommends: bool) -> Result<Self> {
        let mut graph = Graph {
            resolver,
            present: chosen.iter().copied().collect(),
            edges: HashMap::new(),
        };
        for id in chosen {
            let mut groups = vec![(resolver.universe().depends(*id)?, false)];
            if recommends {
                groups.push((resolver.universe().recommends(*id)?, true));
            }
            let mut edges = Vec::new();
            for (groups, recommended) in groups {
                edges.extend(groups.iter().map(|group| Edge {
                    satisfied_by: graph.present_of(group),
                    recommended,
                }));
            }
            edges.retain(|edge| !edge.satisfied_by.is_empty());
            graph.edges.insert(*id, edges);
        }
        Ok(graph)
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
                let edges = self.edges.get(&id).into_iter().flatten();
                open.extend(edges.map(|edge| (Reason::Package(id), edge.satisfied_by.clone())));
            }
        }
    }

    /// Everything that can be reached from some packages by the first kept alternative of each dependency.
    fn reach(
        &self,
        from: impl Iterator<Item = PackageId>,
        kept: &HashMap<PackageId, Reason>,
        recommends: bool,
    ) -> BTreeSet<PackageId> {
        let mut reached = BTreeSet::new();
        let mut open: Vec<PackageId> = from.collect();
        while let Some(id) = open.pop() {
            if reached.insert(id) {
                let edges = self.edges.get(&id).into_iter().flatten();
                let edges = edges.filter(|edge| recommends || !edge.recommended);
                let first_kept = |edge: &Edge| {
                    edge.satisfied_by
                        .iter()
                        .copied()
                        .find(|id| kept.contains_key(id))
                };
                open.extend(edges.filter_map(first_kept));
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
        let groups: Vec<(&str, BTreeSet<PackageId>)> = by_group
            .into_iter()
            .map(|(name, ids)| (name, self.reach(ids.into_iter(), &kept, true)))
            .collect();
        let essential = self.reach(
            kept.keys().copied().filter(|id| universe.is_essential(*id)),
            &kept,
            false,
        );
        let mut all: Vec<Chosen> = kept
            .iter()
            .map(|(id, reason)| Chosen {
                id: *id,
                essential: essential.contains(id),
                groups: groups
                    .iter()
                    .filter(|(_, ids)| ids.contains(id))
                    .map(|(name, _)| name.to_string())
                    .collect(),
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
