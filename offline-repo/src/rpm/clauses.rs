//! Relations as clauses over packages, the form in which the solver takes them.
//!
//! A literal is a package's number plus one, negative for "not there". A clause is a set of literals of which one must
//! hold; all clauses must hold. No clause at all is always true, an empty clause never.

use super::dependency::{self, Relation, Rich};
use super::universe::{PackageId, Universe};

/// A package that is there (positive) or not (negative).
pub type Literal = i32;

/// Literals of which one must hold, sorted, each once.
pub type Clause = Vec<Literal>;

/// A rich dependency that takes more clauses than this is refused.
const CLAUSE_LIMIT: usize = 20_000;

/// That a package is there.
pub fn literal(id: PackageId) -> Literal {
    id as Literal + 1
}

/// The package of a literal.
pub fn package(literal: Literal) -> PackageId {
    literal.unsigned_abs() - 1
}

/// Clauses of a relation as `primary.xml` states it; with `negate`, of its opposite.
pub fn of_relation(
    universe: &Universe,
    relation: &Relation<'_>,
    negate: bool,
) -> Result<Vec<Clause>, String> {
    match relation.name.starts_with('(') {
        true => of_rich(universe, &dependency::parse(relation.name)?, negate),
        false => Ok(of_packages(&universe.providers(relation), negate)),
    }
}

/// One clause of all of them, or one against each.
fn of_packages(packages: &[PackageId], negate: bool) -> Vec<Clause> {
    let literals = packages.iter().map(|id| literal(*id));
    match negate {
        true => literals.map(|literal| vec![-literal]).collect(),
        false => vec![literals.collect()],
    }
}

/// Clauses of a rich dependency, or of its opposite.
fn of_rich(universe: &Universe, rich: &Rich<'_>, negate: bool) -> Result<Vec<Clause>, String> {
    let of = |part: &Rich<'_>, opposite: bool| of_rich(universe, part, negate != opposite);
    let join = |parts: Vec<Vec<Clause>>, is_and: bool| match is_and != negate {
        true => Ok(parts.concat()),
        false => parts.into_iter().try_fold(vec![vec![]], either),
    };
    match rich {
        Rich::Simple(relation) => Ok(of_packages(&universe.providers(relation), negate)),
        Rich::With(_) | Rich::Without(_) => Ok(of_packages(&one_package(universe, rich)?, negate)),
        Rich::And(parts) | Rich::Or(parts) => {
            let clauses = parts
                .iter()
                .map(|part| of(part, false))
                .collect::<Result<_, _>>()?;
            join(clauses, matches!(rich, Rich::And(_)))
        }
        // (a if b) is (a or not b); (a if b else c) is (a or not b) and (c or b).
        Rich::If(pair, otherwise) => {
            let first = join(vec![of(&pair[0], false)?, of(&pair[1], true)?], false)?;
            match otherwise {
                None => Ok(first),
                Some(c) => join(
                    vec![
                        first,
                        join(vec![of(c, false)?, of(&pair[1], false)?], false)?,
                    ],
                    true,
                ),
            }
        }
        // (a unless b) is (a and not b); (a unless b else c) is (a and not b) or (c and b).
        Rich::Unless(pair, otherwise) => {
            let first = join(vec![of(&pair[0], false)?, of(&pair[1], true)?], true)?;
            match otherwise {
                None => Ok(first),
                Some(c) => join(
                    vec![
                        first,
                        join(vec![of(c, false)?, of(&pair[1], false)?], true)?,
                    ],
                    false,
                ),
            }
        }
    }
}

/// Packages each of which satisfies a whole `with` or `without`.
fn one_package(universe: &Universe, rich: &Rich<'_>) -> Result<Vec<PackageId>, String> {
    match rich {
        Rich::Simple(relation) => Ok(universe.providers(relation)),
        Rich::With(parts) => {
            let mut sets = parts.iter().map(|part| one_package(universe, part));
            let first = sets.next().unwrap_or(Ok(Vec::new()))?;
            sets.try_fold(first, |found, set| {
                let set = set?;
                Ok(found.into_iter().filter(|id| set.contains(id)).collect())
            })
        }
        Rich::Without(pair) => {
            let without = one_package(universe, &pair[1])?;
            let found = one_package(universe, &pair[0])?;
            Ok(found
                .into_iter()
                .filter(|id| !without.contains(id))
                .collect())
        }
        Rich::Or(parts) => {
            let sets: Vec<_> = parts
                .iter()
                .map(|part| one_package(universe, part))
                .collect::<Result<_, _>>()?;
            let mut all = sets.concat();
            all.sort_unstable();
            all.dedup();
            Ok(all)
        }
        _ => Err(
            "'with' and 'without' are about one package: no 'and', 'if' or 'unless' inside".into(),
        ),
    }
}

/// What holds when one of two sets of clauses does.
fn either(left: Vec<Clause>, right: Vec<Clause>) -> Result<Vec<Clause>, String> {
    if left.len().saturating_mul(right.len()) > CLAUSE_LIMIT {
        return Err("is too complex".into());
    }
    let mut clauses = Vec::new();
    for a in &left {
        for b in &right {
            let mut clause = [a.as_slice(), b.as_slice()].concat();
            clause.sort_unstable();
            clause.dedup();
            let always = clause.iter().any(|l| clause.binary_search(&-l).is_ok());
            if !always {
                clauses.push(clause);
            }
        }
    }
    Ok(clauses)
}

/// Whether a relation holds when exactly the packages of `is_there` are.
pub fn holds(
    universe: &Universe,
    relation: &Relation<'_>,
    is_there: &dyn Fn(PackageId) -> bool,
) -> bool {
    if !relation.name.starts_with('(') {
        return universe.providers(relation).into_iter().any(is_there);
    }
    let clauses = of_relation(universe, relation, false).unwrap_or(vec![vec![]]);
    let is_true = |literal: &Literal| is_there(package(*literal)) == (*literal > 0);
    clauses.iter().all(|clause| clause.iter().any(is_true))
}

/// How a relation holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holds {
    /// Not at all.
    No,
    /// Because of what is not there.
    Idly,
    /// Because of a package that is there.
    ByPackage,
}

/// How a relation holds when exactly the packages of `is_there` are (libsolv's `solver_dep_fulfilled_alreadyinstalled`).
pub fn how_it_holds(
    universe: &Universe,
    relation: &Relation<'_>,
    is_there: &dyn Fn(PackageId) -> bool,
) -> Holds {
    let simple = |packages: Vec<PackageId>| match packages.into_iter().any(is_there) {
        true => Holds::ByPackage,
        false => Holds::No,
    };
    if !relation.name.starts_with('(') {
        return simple(universe.providers(relation));
    }
    let rich = dependency::parse(relation.name);
    rich.map_or(Holds::No, |rich| rich_holds(universe, &rich, &simple))
}

fn rich_holds(
    universe: &Universe,
    rich: &Rich<'_>,
    simple: &dyn Fn(Vec<PackageId>) -> Holds,
) -> Holds {
    let of = |part: &Rich<'_>| rich_holds(universe, part, simple);
    match rich {
        Rich::Simple(relation) => simple(universe.providers(relation)),
        Rich::With(_) | Rich::Without(_) => simple(one_package(universe, rich).unwrap_or_default()),
        Rich::Or(parts) => parts.iter().map(of).max().unwrap_or(Holds::No),
        Rich::And(parts) => {
            let all: Vec<Holds> = parts.iter().map(of).collect();
            match all.contains(&Holds::No) {
                true => Holds::No,
                false => all.into_iter().max().unwrap_or(Holds::No),
            }
        }
        Rich::If(pair, otherwise) => match (of(&pair[0]), of(&pair[1]), otherwise) {
            (first, Holds::No, None) => first.max(Holds::Idly),
            (_, Holds::No, Some(otherwise)) => of(otherwise),
            (first, ..) => first,
        },
        Rich::Unless(pair, otherwise) => match (of(&pair[0]), of(&pair[1]), otherwise) {
            (first, Holds::No, _) => first,
            (.., None) => Holds::No,
            (.., Some(otherwise)) => of(otherwise),
        },
    }
}
