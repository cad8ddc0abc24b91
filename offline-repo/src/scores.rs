//! Which package apt gives up where marked packages exclude each other: the scores of its problem resolver
//! (`pkgProblemResolver::MakeScores` with its default weights).

use crate::dependency::Relation;
use crate::error::Result;
use crate::resolve::Resolver;
use crate::universe::PackageId;

/// Weight of a package that is essential or protected, in all that follows.
const ESSENTIALS: i64 = 100;
/// By priority: required, important, standard, optional, extra.
const PRIORITIES: [i64; 5] = [3, 2, 1, -1, -2];
/// What a dependency or recommendation adds to those who satisfy it, and a conflict takes.
const NEEDED: i64 = 1;
/// What is asked for comes before everything, then what is essential.
const ASKED_FOR: i64 = 10_000;
const ESSENTIAL: i64 = 5_000;

/// The score of each package; only those of `marked` count.
pub(crate) fn scores(
    resolver: &Resolver<'_>,
    marked: &[PackageId],
    asked_for: &[PackageId],
) -> Result<Vec<i64>> {
    let universe = resolver.universe();
    let mut is_marked = vec![false; universe.len()];
    for id in marked {
        is_marked[*id as usize] = true;
    }
    let present = |relation: &Relation<'_>| -> Vec<usize> {
        let found = resolver.satisfiers(relation).into_iter();
        let found = found.map(|id| id as usize);
        found.filter(|id| is_marked[*id]).collect()
    };
    let important = |id: PackageId| universe.is_essential(id) || universe.is_important(id);
    let mut base = vec![0; universe.len()];
    for id in marked {
        let own = &mut base[*id as usize];
        *own += if important(*id) { ESSENTIALS } else { 0 };
        *own += PRIORITIES[usize::from(universe.rank(*id)).min(4)];
        let needs = [universe.depends(*id)?, universe.recommends(*id)?];
        for relation in needs.iter().flatten().flatten() {
            present(relation)
                .into_iter()
                .for_each(|i| base[i] += NEEDED);
        }
        for enemy in resolver.enemies_in_order(*id)? {
            base[enemy as usize] -= NEEDED;
        }
    }
    // One level of inheritance: whoever is named by a high score is high; then those who provide it.
    let mut scores = base.clone();
    for id in marked {
        let inherited = base[*id as usize].max(0);
        let needs = [universe.depends(*id)?, universe.recommends(*id)?];
        for relation in needs.iter().flatten().flatten() {
            let named = universe.versions(relation.name).iter();
            for named in named.map(|id| *id as usize).filter(|id| is_marked[*id]) {
                scores[named] += inherited;
            }
        }
    }
    for id in marked {
        let transfer = (scores[*id as usize] - base[*id as usize]).abs();
        if transfer > 0 {
            for provider in resolver.providers(universe.name(*id)) {
                scores[provider as usize] += transfer;
            }
        }
    }
    for id in asked_for {
        scores[*id as usize] += ASKED_FOR;
    }
    for id in marked.iter().filter(|id| important(**id)) {
        scores[*id as usize] += ESSENTIAL;
    }
    Ok(scores)
}
