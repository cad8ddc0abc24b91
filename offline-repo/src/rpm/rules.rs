//! From requests to clauses: everything that packages which may be reached demand of each other.

use std::collections::{BTreeSet, HashSet};

use super::clauses::{Clause, holds, literal, of_relation, package};
use super::policy::obsoleted;
use super::universe::{Kind, PackageId, Universe};
use crate::error::{Error, Result};
use crate::explain::Clash;

/// Where a clause comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A request, as it was written.
    Request(String),
    /// A package requires something.
    Requires(PackageId, String),
    /// A package conflicts with something.
    Conflicts(PackageId, String),
    /// A package replaces another.
    Obsoletes(PackageId, PackageId),
    /// Two packages of one name.
    SameName(PackageId, PackageId),
    /// An installed package stays, or something takes its place.
    Installed(PackageId),
    /// A package is to be in its newest version, so not in this one.
    Old(PackageId),
}

/// A clause and its origin.
pub type Rule = (Clause, Origin);

/// Clauses of all packages that `roots` can lead to, in the order in which libsolv looks at them; those of packages
/// with higher numbers first (`solver_unifyrules`).
pub fn of_packages(universe: &Universe, roots: &[PackageId], weak: bool) -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    let mut reached = BTreeSet::new();
    let mut pending: Vec<PackageId> = roots.to_vec();
    loop {
        while let Some(id) = pending.pop() {
            if reached.insert(id) {
                add_requires(universe, id, &mut rules, &mut pending)?;
                if weak {
                    add_recommended(universe, id, &mut pending)?;
                }
            }
        }
        if weak {
            pending.extend(supplements(universe, &reached));
        }
        if pending.is_empty() {
            break;
        }
    }
    for id in &reached {
        add_exclusions(universe, *id, &reached, &mut rules)?;
    }
    rules.sort_by(|(a, _), (b, _)| order(a).cmp(&order(b)));
    rules.dedup_by(|(b, _), (a, _)| a == b);
    Ok(rules)
}

/// By the first literal; then short clauses; then by the other literals.
fn order(clause: &Clause) -> (i32, bool, &[i32]) {
    (
        clause.first().copied().unwrap_or(0),
        clause.len() > 2,
        clause,
    )
}

fn clauses_of(
    universe: &Universe,
    id: PackageId,
    relation: &super::dependency::Relation<'_>,
    negate: bool,
) -> Result<Vec<Clause>> {
    of_relation(universe, relation, negate).map_err(|message| {
        Error::invalid(
            universe.nevra(id),
            format!("its relation '{}' {message}", relation.name.escape_debug()),
        )
    })
}

/// A clause that holds if `id` is not there.
fn implied(id: PackageId, mut clause: Clause) -> Clause {
    clause.push(-literal(id));
    clause.sort_unstable();
    clause.dedup();
    clause
}

fn is_always(clause: &Clause) -> bool {
    clause
        .iter()
        .any(|l| *l > 0 && clause.binary_search(&-l).is_ok())
}

fn add_requires(
    universe: &Universe,
    id: PackageId,
    rules: &mut Vec<Rule>,
    pending: &mut Vec<PackageId>,
) -> Result<()> {
    let is_there = |id: PackageId| universe.is_installed(id);
    for relation in universe.relations(id, Kind::Requires) {
        // What an installed package lacks already is left as it is (libsolv's `dontfix`).
        if is_there(id) && !holds(universe, &relation, &is_there) {
            continue;
        }
        for clause in clauses_of(universe, id, &relation, false)? {
            // A package satisfies its own requirements, but for what else a rich one says.
            let clause = implied(id, clause);
            if is_always(&clause) {
                continue;
            }
            pending.extend(clause.iter().filter(|l| **l > 0).map(|l| package(*l)));
            rules.push((clause, Origin::Requires(id, relation.to_string())));
        }
    }
    Ok(())
}

fn add_recommended(universe: &Universe, id: PackageId, pending: &mut Vec<PackageId>) -> Result<()> {
    for relation in universe.relations(id, Kind::Recommends) {
        let clauses = clauses_of(universe, id, &relation, false)?;
        let literals = clauses.iter().flatten().filter(|l| **l > 0);
        pending.extend(literals.map(|l| package(*l)));
    }
    Ok(())
}

/// Packages that are not reached yet and that name something reached in their Supplements.
fn supplements(universe: &Universe, reached: &BTreeSet<PackageId>) -> Vec<PackageId> {
    let is_reached = |id: PackageId| reached.contains(&id);
    let applies = |id: &PackageId| {
        let mut relations = universe.relations(*id, Kind::Supplements);
        relations.any(|relation| match relation.name.starts_with('(') {
            // Whether it will hold is not known before the end.
            true => true,
            false => holds(universe, &relation, &is_reached),
        })
    };
    universe
        .ids()
        .filter(|id| !reached.contains(id))
        .filter(applies)
        .collect()
}

/// What must not stand beside a package, of what is reached.
fn add_exclusions(
    universe: &Universe,
    id: PackageId,
    reached: &BTreeSet<PackageId>,
    rules: &mut Vec<Rule>,
) -> Result<()> {
    // Packages that stand beside each other already may go on doing so.
    let both_installed =
        |other: PackageId| universe.is_installed(id) && universe.is_installed(other);
    for relation in universe.relations(id, Kind::Conflicts) {
        for clause in clauses_of(universe, id, &relation, true)? {
            if clause
                .iter()
                .all(|literal| both_installed(package(*literal)))
            {
                continue;
            }
            // A package may conflict with what it provides itself: with all others, not with itself.
            if clause.contains(&-literal(id)) {
                continue;
            }
            let outside = |l: &i32| *l < 0 && !reached.contains(&package(*l));
            if !clause.iter().any(outside) {
                rules.push((
                    implied(id, clause),
                    Origin::Conflicts(id, relation.to_string()),
                ));
            }
        }
    }
    for other in obsoleted(universe, id) {
        if reached.contains(&other) && !both_installed(other) {
            let clause = implied(id, vec![-literal(other)]);
            rules.push((clause, Origin::Obsoletes(id, other)));
        }
    }
    for other in universe.named(universe.name(id)) {
        let stand = both_installed(*other) || stand_together(universe, id, *other);
        if *other > id && reached.contains(other) && !stand {
            let clause = implied(id, vec![-literal(*other)]);
            rules.push((clause, Origin::SameName(id, *other)));
        }
    }
    Ok(())
}

/// Whether two packages of one name may stand beside each other: 64-bit and 32-bit libraries do.
fn stand_together(universe: &Universe, a: PackageId, b: PackageId) -> bool {
    match (universe.architecture_rank(a), universe.architecture_rank(b)) {
        (Some(a), Some(b)) => (a == 0) != (b == 0),
        _ => false,
    }
}

/// Lines that say how rules contradict each other, each once.
pub fn explain(universe: &Universe, rules: &[&Rule]) -> String {
    let mut seen = HashSet::new();
    let lines = rules
        .iter()
        .map(|(clause, origin)| line(universe, clause, origin));
    let distinct = lines.filter(|line| seen.insert(line.clone()));
    distinct.collect::<Vec<_>>().join("\n")
}

/// Where the contradiction ends: two packages that exclude each other, else a requirement that nothing satisfies.
pub fn clash(universe: &Universe, rules: &[&Rule]) -> Clash {
    let nevra = |id: &PackageId| universe.nevra(*id);
    let of = |(clause, origin): &Rule| -> (u8, Clash) {
        let lacks = clause.iter().all(|literal| *literal < 0);
        let (rank, package, requirement, with) = match origin {
            Origin::Conflicts(id, text) => {
                let other = clause.iter().map(|l| package(*l)).find(|other| other != id);
                (
                    0,
                    nevra(id),
                    format!("Conflicts: {text}"),
                    other.map(|id| nevra(&id)),
                )
            }
            Origin::Obsoletes(id, other) => {
                let text = format!("Obsoletes: {}", universe.name(*other));
                (0, nevra(id), text, Some(nevra(other)))
            }
            Origin::Requires(id, text) => (
                if lacks { 1 } else { 3 },
                nevra(id),
                format!("Requires: {text}"),
                None,
            ),
            Origin::SameName(a, b) => (2, nevra(a), "one version of a name".into(), Some(nevra(b))),
            Origin::Request(text) => (4, "the request".into(), text.clone(), None),
            Origin::Installed(id) => (5, nevra(id), "it is installed".into(), None),
            Origin::Old(id) => (6, nevra(id), "its newest version".into(), None),
        };
        (
            rank,
            Clash {
                package,
                requirement,
                with,
            },
        )
    };
    let first = rules
        .iter()
        .map(|rule| of(rule))
        .min_by_key(|(rank, _)| *rank);
    first.map_or_else(
        || Clash {
            package: "the request".into(),
            requirement: "all of it".into(),
            with: None,
        },
        |(_, clash)| clash,
    )
}

fn line(universe: &Universe, clause: &Clause, origin: &Origin) -> String {
    let positive: Vec<String> = (clause.iter().filter(|l| **l > 0))
        .map(|l| universe.nevra(package(*l)))
        .collect();
    let providers = match positive.as_slice() {
        [] => "which no package provides".to_string(),
        all => format!("which {} would satisfy", all.join(" or ")),
    };
    match origin {
        Origin::Request(text) => match positive.as_slice() {
            [] => format!("{text} was requested, {providers}"),
            all => format!("{text} was requested: {}", all.join(" or ")),
        },
        Origin::Requires(id, text) => {
            format!("{} requires {text}, {providers}", universe.nevra(*id))
        }
        Origin::Conflicts(id, text) => format!("{} conflicts with {text}", universe.nevra(*id)),
        Origin::Obsoletes(id, other) => {
            format!(
                "{} replaces {}",
                universe.nevra(*id),
                universe.nevra(*other)
            )
        }
        Origin::Installed(id) => match positive.as_slice() {
            [_] => format!("{} is installed", universe.nevra(*id)),
            all => format!(
                "{} is installed: one of {} must be there",
                universe.nevra(*id),
                all.join(", ")
            ),
        },
        Origin::Old(id) => format!("{} is to be upgraded", universe.nevra(*id)),
        Origin::SameName(a, b) => format!(
            "{} and {} are two versions of one package",
            universe.nevra(*a),
            universe.nevra(*b)
        ),
    }
}
