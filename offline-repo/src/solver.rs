//! Debian's relations as a problem for the SAT solver, and its answer as packages.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;

use resolvo::conflict::{ConflictEdge, ConflictGraph, ConflictNode};
use resolvo::utils::{Pool, VersionSet};
use resolvo::{
    Candidates, Condition, ConditionId, ConditionalRequirement, Dependencies, DependencyProvider,
    Interner, KnownDependencies, NameId, Problem, SolvableId, Solver, SolverCache, StringId,
    UnsolvableOrCancelled, VersionSetId, VersionSetUnionId,
};

use crate::dependency::{Alternatives, Relation};
use crate::error::{Error, Result};
use crate::explain::{self, Edge};
use crate::resolve::Resolver;
use crate::universe::PackageId;

/// What the solver is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ask<'a> {
    /// Every group must be satisfied.
    pub(crate) required: &'a [Alternatives<'a>],
    /// Of each of these packages a version must stay.
    pub(crate) kept: &'a [&'a str],
    /// Taken where possible.
    pub(crate) wanted: &'a [PackageId],
    /// Only the first version of each package is a candidate.
    pub(crate) preferred_only: bool,
}

/// Chooses packages as asked; [`Error::Unsatisfiable`] if there is no way.
pub(crate) fn attempt(resolver: &Resolver<'_>, ask: Ask<'_>) -> Result<Vec<PackageId>> {
    let encoding = Encoding::new(resolver, ask.preferred_only);
    let required = ask.required.iter().map(|group| encoding.requirement(group));
    let kept = ask.kept.iter().map(|name| encoding.any_version(name));
    let requirements = required.chain(kept).collect();
    let wanted = ask.wanted.iter().map(|id| encoding.solvable(*id));
    let soft: Vec<SolvableId> = wanted.collect();
    let problem = Problem::new()
        .requirements(requirements)
        .soft_requirements(soft);
    let mut solver = Solver::new(encoding);
    let result = solver.solve(problem);
    if let Some(error) = solver.provider().failure.borrow_mut().take() {
        return Err(error);
    }
    match result {
        Ok(chosen) => {
            let pool = &solver.provider().pool;
            let mut ids: Vec<PackageId> = chosen
                .iter()
                .map(|id| pool.resolve_solvable(*id).record)
                .collect();
            ids.sort_unstable();
            Ok(ids)
        }
        Err(UnsolvableOrCancelled::Unsolvable(conflict)) => {
            let edges = edges(&conflict.graph(&solver), &solver.provider().pool);
            let (clash, explanation) = explain::explain(resolver, ask, &edges)?;
            Err(Error::Unsatisfiable {
                clash: Box::new(clash),
                explanation,
            })
        }
        Err(UnsolvableOrCancelled::Cancelled(_)) => {
            Err(Error::invalid("resolver", "the search was cancelled"))
        }
    }
}

/// The solver's proof as edges between packages; what is asked for is the package `None`.
fn edges(proof: &ConflictGraph, pool: &Pool<Choice>) -> Vec<Edge> {
    let package = |node| match proof.graph[node] {
        ConflictNode::Solvable(id) => Some(pool.resolve_solvable(id).record),
        _ => None,
    };
    let edges = proof.graph.raw_edges().iter().map(|edge| Edge {
        from: package(edge.source()),
        to: package(edge.target()),
        excludes: matches!(edge.weight, ConflictEdge::Conflict(_)),
    });
    edges.collect()
}

/// A set of versions of one package, as the solver sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Choice {
    ids: Vec<PackageId>,
    /// The set is all versions but these.
    excluded: bool,
    /// Text for messages: the rest of the relation after the package's name.
    text: String,
}

impl VersionSet for Choice {
    type V = PackageId;
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

struct Encoding<'r, 'u> {
    resolver: &'r Resolver<'u>,
    pool: Pool<Choice>,
    solvables: RefCell<HashMap<PackageId, SolvableId>>,
    preferred_only: bool,
    /// The solver's interface has no room for errors: the first one is kept here.
    failure: RefCell<Option<Error>>,
}

impl<'r, 'u> Encoding<'r, 'u> {
    fn new(resolver: &'r Resolver<'u>, preferred_only: bool) -> Self {
        Encoding {
            resolver,
            pool: Pool::new(),
            solvables: RefCell::default(),
            preferred_only,
            failure: RefCell::default(),
        }
    }

    fn solvable(&self, id: PackageId) -> SolvableId {
        *self.solvables.borrow_mut().entry(id).or_insert_with(|| {
            let name = self
                .pool
                .intern_package_name(self.resolver.universe().name(id));
            self.pool.intern_solvable(name, id)
        })
    }

    fn set(&self, name: &str, ids: Vec<PackageId>, excluded: bool, text: String) -> VersionSetId {
        let name = self.pool.intern_package_name(name);
        self.pool.intern_version_set(
            name,
            Choice {
                ids,
                excluded,
                text,
            },
        )
    }

    fn requirement(&self, group: &Alternatives<'_>) -> ConditionalRequirement {
        let universe = self.resolver.universe();
        let mut sets: Vec<(&str, Vec<PackageId>, String)> = Vec::new();
        for relation in group {
            for id in self.resolver.satisfiers(relation) {
                let name = universe.name(id);
                match sets.iter_mut().find(|(known, _, _)| *known == name) {
                    Some((_, ids, _)) if ids.contains(&id) => {}
                    Some((_, ids, _)) => ids.push(id),
                    None => sets.push((name, vec![id], describe(relation, name))),
                }
            }
        }
        if sets.is_empty() {
            // Nothing satisfies it: an empty set of that name, which the solver reports as missing.
            sets.extend(
                group
                    .first()
                    .map(|r| (r.name, Vec::new(), describe(r, r.name))),
            );
        }
        let mut ids = sets
            .into_iter()
            .map(|(name, ids, text)| self.set(name, ids, false, text));
        let first = ids.next().expect("a group has at least one relation");
        let rest: Vec<VersionSetId> = ids.collect();
        match rest.is_empty() {
            true => first.into(),
            false => self
                .pool
                .intern_version_set_union(first, rest.into_iter())
                .into(),
        }
    }

    /// Some version of a package, whoever else provides its name.
    fn any_version(&self, name: &str) -> ConditionalRequirement {
        let ids = self.resolver.universe().versions(name).to_vec();
        self.set(name, ids, false, String::new()).into()
    }

    fn dependencies(&self, id: PackageId) -> Result<KnownDependencies> {
        let universe = self.resolver.universe();
        let requirements = universe
            .depends(id)?
            .iter()
            .map(|group| self.requirement(group))
            .collect();
        let mut enemies: Vec<(&str, Vec<PackageId>)> = Vec::new();
        for enemy in self.resolver.enemies(id)? {
            let name = universe.name(enemy);
            match enemies.iter_mut().find(|(known, _)| *known == name) {
                Some((_, ids)) => ids.push(enemy),
                None => enemies.push((name, vec![enemy])),
            }
        }
        let constrains = enemies.into_iter().map(|(name, ids)| {
            let versions: Vec<&str> = ids.iter().map(|id| universe.version(*id)).collect();
            let text = format!("(other than {})", versions.join(", "));
            self.set(name, ids, true, text)
        });
        Ok(KnownDependencies {
            requirements,
            constrains: constrains.collect(),
        })
    }
}

/// The relation without the name that the solver prints before it.
fn describe(relation: &Relation<'_>, name: &str) -> String {
    let text = relation.to_string();
    match relation.name == name {
        true => text[name.len()..].trim_start().to_string(),
        false => format!("[as {text}]"),
    }
}

impl Interner for Encoding<'_, '_> {
    type NameId = NameId;
    type SolvableId = SolvableId;

    fn display_solvable(&self, solvable: SolvableId) -> impl fmt::Display + '_ {
        let id = self.pool.resolve_solvable(solvable).record;
        self.resolver.universe().version(id).to_string()
    }

    fn display_name(&self, name: NameId) -> impl fmt::Display + '_ {
        self.pool.resolve_package_name(name).clone()
    }

    fn display_version_set(&self, set: VersionSetId) -> impl fmt::Display + '_ {
        self.pool.resolve_version_set(set).to_string()
    }

    fn display_string(&self, id: StringId) -> impl fmt::Display + '_ {
        self.pool.resolve_string(id).to_string()
    }

    fn version_set_name(&self, set: VersionSetId) -> NameId {
        self.pool.resolve_version_set_package_name(set)
    }

    fn solvable_name(&self, solvable: SolvableId) -> NameId {
        self.pool.resolve_solvable(solvable).name
    }

    fn version_sets_in_union(
        &self,
        union: VersionSetUnionId,
    ) -> impl Iterator<Item = VersionSetId> {
        self.pool.resolve_version_set_union(union)
    }

    fn resolve_condition(&self, condition: ConditionId) -> Condition {
        self.pool.resolve_condition(condition).clone()
    }
}

impl DependencyProvider for Encoding<'_, '_> {
    async fn filter_candidates(
        &self,
        candidates: &[SolvableId],
        set: VersionSetId,
        inverse: bool,
    ) -> Vec<SolvableId> {
        let choice = self.pool.resolve_version_set(set);
        let is_in = |id: &SolvableId| {
            choice.ids.contains(&self.pool.resolve_solvable(*id).record) != choice.excluded
        };
        candidates
            .iter()
            .copied()
            .filter(|id| is_in(id) != inverse)
            .collect()
    }

    async fn get_candidates(&self, name: NameId) -> Option<Candidates> {
        let versions = self
            .resolver
            .universe()
            .versions(self.pool.resolve_package_name(name));
        let take = if self.preferred_only {
            1
        } else {
            versions.len()
        };
        Some(Candidates {
            candidates: versions
                .iter()
                .take(take)
                .map(|id| self.solvable(*id))
                .collect(),
            ..Candidates::default()
        })
    }

    async fn sort_candidates(&self, _: &SolverCache<Self>, solvables: &mut [SolvableId]) {
        let Some(first) = solvables.first() else {
            return;
        };
        let universe = self.resolver.universe();
        let versions = universe.versions(universe.name(self.pool.resolve_solvable(*first).record));
        // `versions` has the preferred one first.
        solvables.sort_by_key(|id| {
            let id = self.pool.resolve_solvable(*id).record;
            versions.iter().position(|version| *version == id)
        });
    }

    async fn get_dependencies(&self, solvable: SolvableId) -> Dependencies {
        let id = self.pool.resolve_solvable(solvable).record;
        match self.dependencies(id) {
            Ok(known) => Dependencies::Known(known),
            Err(error) => {
                let reason = self.pool.intern_string(error.to_string());
                self.failure.borrow_mut().get_or_insert(error);
                Dependencies::Unknown(reason)
            }
        }
    }
}
