//! Which of several candidates is taken: libsolv's order (src/policy.c), as dnf asks for it.

use std::cmp::Ordering;
use std::collections::HashSet;

use super::clauses::{holds, literal, of_relation, package};
use super::dependency::Relation;
use super::evr::{self, Evr};
use super::sat::Sat;
use super::universe::{Kind, PackageId, Universe};

/// How much of the order counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything.
    Choose,
    /// Only what leaves candidates out, not what puts them in order.
    Prune,
    /// As `Prune`, without regard to recommendations.
    Versions,
}

/// Leaves out worse candidates and puts the best of the others first.
pub fn filter(universe: &Universe, sat: &Sat, list: &mut Vec<PackageId>, mode: Mode) {
    prune_kept(universe, list);
    prune_priority(universe, list);
    prune_architecture(universe, list);
    prune_versions(universe, list);
    if mode == Mode::Versions || list.len() < 2 {
        return;
    }
    let (recommended, suggested) = wanted(universe, sat);
    prune_recommended(universe, sat, &recommended, list);
    if mode == Mode::Choose && list.len() > 1 {
        put_old_versions_last(universe, list);
        sort_by_common_provides(universe, list);
        put_suggested_first(universe, sat, &suggested, list);
    }
}

/// Puts packages in order that are taken all.
pub fn order(universe: &Universe, sat: &Sat, list: &mut Vec<PackageId>) {
    put_old_versions_last(universe, list);
    sort_by_common_provides(universe, list);
    let (_, suggested) = wanted(universe, sat);
    put_suggested_first(universe, sat, &suggested, list);
}

/// What is there already is as good as anything that could come.
fn prune_kept(universe: &Universe, list: &mut Vec<PackageId>) {
    let is_kept = |id: &PackageId| universe.is_kept(*id);
    if universe.keeps_some() && list.iter().any(is_kept) {
        list.retain(is_kept);
    }
}

fn prune_priority(universe: &Universe, list: &mut Vec<PackageId>) {
    if let Some(best) = list.iter().map(|id| universe.priority(*id)).max() {
        list.retain(|id| universe.priority(*id) == best);
    }
}

/// Packages for every architecture stay, of the others those of the best one.
fn prune_architecture(universe: &Universe, list: &mut Vec<PackageId>) {
    let ranks = list.iter().filter_map(|id| universe.architecture_rank(*id));
    // Other than between x86_64 and i686, between i686 and i386 libsolv sees no difference here.
    let class = |rank: usize| rank.min(1);
    if let Some(best) = ranks.min().map(class) {
        let rank = |id: &PackageId| universe.architecture_rank(*id);
        list.retain(|id| rank(id).is_none_or(|rank| class(rank) == best));
    }
}

/// The highest version of each name, sorted by name; then those are left out that another one replaces.
fn prune_versions(universe: &Universe, list: &mut Vec<PackageId>) {
    if list.len() < 2 {
        return;
    }
    let rank = |id: PackageId| universe.architecture_rank(id);
    list.sort_by(|a, b| {
        universe.name(*a).cmp(universe.name(*b)).then_with(|| {
            let by_rank = match (rank(*a), rank(*b)) {
                (Some(a), Some(b)) => a.cmp(&b),
                _ => Ordering::Equal,
            };
            by_rank.then(a.cmp(b))
        })
    });
    let mut best: Vec<PackageId> = Vec::new();
    for id in list.drain(..) {
        match best.last_mut() {
            Some(last) if universe.name(*last) == universe.name(id) => {
                if universe.compare(*last, id) == Ordering::Less {
                    *last = id;
                }
            }
            _ => best.push(id),
        }
    }
    *list = best;
    prune_obsoleted(universe, list);
}

fn prune_obsoleted(universe: &Universe, list: &mut Vec<PackageId>) {
    let replaced: Vec<HashSet<PackageId>> =
        list.iter().map(|id| obsoleted(universe, *id)).collect();
    let all = list.clone();
    let at = |id: PackageId| all.iter().position(|other| *other == id);
    // Whether one replaces another, directly or through others of the list.
    let leads = |from: usize, to: usize| {
        let (mut pending, mut seen) = (vec![from], HashSet::new());
        while let Some(place) = pending.pop() {
            if replaced[place].contains(&all[to]) {
                return true;
            }
            if seen.insert(place) {
                pending.extend(replaced[place].iter().filter_map(|id| at(*id)));
            }
        }
        false
    };
    let is_replaced = |place: usize| {
        (0..all.len()).any(|other| {
            other != place && replaced[other].contains(&all[place]) && !leads(place, other)
        })
    };
    let gone: Vec<bool> = (0..all.len()).map(is_replaced).collect();
    let mut gone = gone.into_iter();
    list.retain(|_| !gone.next().unwrap_or(false));
}

/// Packages that one replaces: by name and version, not by what they provide.
pub fn obsoleted(universe: &Universe, id: PackageId) -> HashSet<PackageId> {
    let relations = universe.relations(id, Kind::Obsoletes);
    let found = relations.flat_map(|relation| universe.matching(&relation));
    found
        .filter(|other| universe.name(*other) != universe.name(id))
        .collect()
}

/// What an installed package may have become: itself, a newer version of it, or what replaces it.
pub fn heirs(universe: &Universe, id: PackageId) -> Vec<PackageId> {
    let own = universe.architecture(id);
    let newer = |other: &PackageId| {
        let theirs = universe.architecture(*other);
        (theirs == own || [theirs, own].contains(&"noarch"))
            && universe.compare(*other, id) == Ordering::Greater
    };
    let named = universe.named(universe.name(id)).iter().copied();
    let replaces = |other: &PackageId| {
        let mut relations = universe.relations(*other, Kind::Obsoletes);
        relations.any(|relation| universe.matching(&relation).contains(&id))
    };
    let others = universe
        .ids()
        .filter(|other| !universe.is_installed(*other));
    let mut all: Vec<PackageId> = named.filter(newer).chain(others.filter(replaces)).collect();
    all.push(id);
    all.sort_unstable();
    all.dedup();
    all
}

/// What packages that are there recommend, and what they suggest.
fn wanted(universe: &Universe, sat: &Sat) -> (HashSet<PackageId>, HashSet<PackageId>) {
    let (mut recommended, mut suggested) = (HashSet::new(), HashSet::new());
    for decided in sat.trail().iter().filter(|literal| **literal > 0) {
        for (kind, set) in [
            (Kind::Recommends, &mut recommended),
            (Kind::Suggests, &mut suggested),
        ] {
            for relation in universe.relations(package(*decided), kind) {
                set.extend(candidates(universe, sat, &relation).into_iter().flatten());
            }
        }
    }
    (recommended, suggested)
}

/// Packages of each part of a relation whose conditions hold, that part satisfied or not.
fn candidates(universe: &Universe, sat: &Sat, relation: &Relation<'_>) -> Vec<Vec<PackageId>> {
    let clauses = of_relation(universe, relation, false).unwrap_or_default();
    let applies = |clause: &&Vec<i32>| {
        let mut conditions = clause.iter().filter(|literal| **literal < 0);
        conditions.all(|literal| sat.value(-literal) == Some(true))
    };
    let positive = |clause: &Vec<i32>| {
        let literals = clause.iter().filter(|literal| **literal > 0);
        literals.map(|literal| package(*literal)).collect()
    };
    clauses.iter().filter(applies).map(positive).collect()
}

/// Candidates of each part of a recommendation that is not satisfied yet and still can be.
pub fn missing(universe: &Universe, sat: &Sat, relation: &Relation<'_>) -> Vec<Vec<PackageId>> {
    let mut parts = candidates(universe, sat, relation);
    let value = |id: &PackageId| sat.value(literal(*id));
    parts.retain(|part| !part.iter().any(|id| value(id) == Some(true)));
    for part in &mut parts {
        part.retain(|id| value(id).is_none());
    }
    parts
}

/// Whether something that is there makes a package wanted, by its Supplements (or Enhances).
pub fn is_wanted_by_own_words(universe: &Universe, sat: &Sat, id: PackageId, kind: Kind) -> bool {
    let is_there = |id: PackageId| sat.value(literal(id)) == Some(true);
    let mut relations = universe.relations(id, kind);
    relations.any(|relation| holds(universe, &relation, &is_there))
}

/// Whether what was chosen recommends a package, or the package itself says that it supplements it.
pub fn is_wanted(universe: &Universe, sat: &Sat, id: PackageId) -> bool {
    wanted(universe, sat).0.contains(&id)
        || is_wanted_by_own_words(universe, sat, id, Kind::Supplements)
}

fn prune_recommended(
    universe: &Universe,
    sat: &Sat,
    recommended: &HashSet<PackageId>,
    list: &mut Vec<PackageId>,
) {
    let is_wanted = |id: &PackageId| {
        recommended.contains(id) || is_wanted_by_own_words(universe, sat, *id, Kind::Supplements)
    };
    if list.iter().any(is_wanted) {
        list.retain(is_wanted);
    }
}

/// Versions that a newer one of the same name and architecture exists for.
fn put_old_versions_last(universe: &Universe, list: &mut [PackageId]) {
    list.sort_by_key(|id| is_old(universe, *id));
}

/// Whether a newer version of the same name and architecture exists, or one of an upstream with a higher priority.
pub fn is_old(universe: &Universe, id: PackageId) -> bool {
    let mut others = universe.named(universe.name(id)).iter();
    others.any(|other| {
        let better = universe.priority(*other).cmp(&universe.priority(id));
        universe.architecture(*other) == universe.architecture(id)
            && match better {
                Ordering::Greater => true,
                Ordering::Equal => universe.compare(*other, id) == Ordering::Greater,
                Ordering::Less => false,
            }
    })
}

/// Where candidates provide the same word in different versions, the higher ones come first.
fn sort_by_common_provides(universe: &Universe, list: &mut Vec<PackageId>) {
    // Words of candidates, with their place in the list; hashes as versions say nothing of age.
    let is_hash =
        |evr: &str| evr.len() >= 4 && evr.bytes().all(|b| matches!(b, b'a'..=b'f' | b'0'..=b'9'));
    let mut words: Vec<(&str, usize, &str, bool)> = Vec::new();
    for (place, id) in list.iter().enumerate() {
        let own = Relation {
            name: universe.name(*id),
            comparison: super::dependency::Comparison::EQUAL,
            evr: universe.evr(*id),
        };
        for word in universe.relations(*id, Kind::Provides).chain([own]) {
            let comparison = word.comparison;
            let counts = !comparison.greater && (comparison.less || !is_hash(word.evr));
            if !comparison.is_any() && counts {
                words.push((word.name, place, word.evr, comparison.equal));
            }
        }
    }
    words.sort_by(|a, b| a.0.cmp(b.0).then_with(|| age(a, b).0));
    words.dedup();
    let mut badness = vec![0; list.len()];
    let mut bad = 0;
    for (number, word) in words.iter().enumerate() {
        match number.checked_sub(1).map(|before| &words[before]) {
            Some(before) if before.0 == word.0 => {
                if before.1 != word.1 && age(before, word) == (Ordering::Less, true) {
                    bad += 1;
                }
            }
            _ => bad = 0,
        }
        badness[word.1] += bad;
    }
    let mut order: Vec<usize> = (0..list.len()).collect();
    order.sort_by_key(|place| badness[*place]);
    *list = order.into_iter().map(|place| list[place]).collect();
}

/// The higher version first; whether that is for certain, which it is not where only one has a release.
fn age(a: &(&str, usize, &str, bool), b: &(&str, usize, &str, bool)) -> (Ordering, bool) {
    let (left, right) = (Evr::parse(a.2), Evr::parse(b.2));
    let versions =
        (right.epoch.cmp(&left.epoch)).then_with(|| evr::compare(right.version, left.version));
    let releases = match (left.release, right.release) {
        (Some(a), Some(b)) => (evr::compare(b, a), true),
        (Some(_), None) => (Ordering::Less, false),
        (None, Some(_)) => (Ordering::Greater, false),
        (None, None) => (Ordering::Equal, true),
    };
    match versions {
        // A version that is only an upper bound is lower than the same that is provided.
        Ordering::Equal if releases.0 == Ordering::Equal => (b.3.cmp(&a.3), true),
        Ordering::Equal => releases,
        order => (order, true),
    }
}

fn put_suggested_first(
    universe: &Universe,
    sat: &Sat,
    suggested: &HashSet<PackageId>,
    list: &mut [PackageId],
) {
    let is_suggested = |id: &PackageId| {
        suggested.contains(id) || is_wanted_by_own_words(universe, sat, *id, Kind::Enhances)
    };
    list.sort_by_key(|id| !is_suggested(id));
}
