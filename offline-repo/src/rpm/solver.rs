//! Chooses packages as dnf does on a system on which nothing is installed (libsolv's `solver_run_sat`).
//!
//! Requests first; then what the chosen packages require, what leaves no choice before what leaves one; then, if wanted,
//! what they recommend and what supplements them. A contradiction is learnt from, and the last decisions that led to it
//! are taken otherwise.

use std::collections::HashSet;

use super::clauses::{Holds, Literal, how_it_holds, literal, package};
use super::policy::{self, Mode};
use super::rules::{self, Origin, Rule};
use super::sat::{Contradiction, Sat};
use super::universe::{Kind, PackageId, Universe};
use crate::error::{Error, Result};

/// A request: the words, and the packages of which one must be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// As it was written.
    pub text: String,
    /// Candidates, in any order.
    pub candidates: Vec<PackageId>,
}

/// A choice between several packages, so that it can be taken otherwise.
struct Branch {
    /// The level before the choice.
    level: i32,
    /// Candidates, and whether they have been taken once.
    choices: Vec<(PackageId, bool)>,
}

struct Solver<'u> {
    universe: &'u Universe,
    sat: Sat,
    weak: bool,
    requests: std::ops::Range<usize>,
    branches: Vec<Branch>,
}

/// The chosen packages, in ascending order; none of `excluded`. Installed packages stay, or something takes their place.
pub fn solve(
    universe: &Universe,
    requests: &[Request],
    excluded: &[PackageId],
    weak: bool,
) -> Result<Vec<PackageId>> {
    let stays: Vec<(PackageId, Vec<PackageId>)> = (universe.installed())
        .map(|id| (id, policy::heirs(universe, id)))
        .collect();
    let mut roots: Vec<PackageId> = requests.iter().flat_map(|r| r.candidates.clone()).collect();
    roots.extend(stays.iter().flat_map(|(_, heirs)| heirs));
    let mut rules = rules::of_packages(universe, &roots, weak)?;
    rules.extend((excluded.iter()).map(|id| (vec![-literal(*id)], Origin::Old(*id))));
    let packages = rules.len();
    for (id, heirs) in stays {
        let clause = heirs.iter().map(|id| literal(*id)).collect();
        rules.push((clause, Origin::Installed(id)));
    }
    for request in requests {
        let mut clause: Vec<Literal> = request.candidates.iter().map(|id| literal(*id)).collect();
        clause.sort_unstable();
        clause.dedup();
        rules.push((clause, Origin::Request(request.text.clone())));
    }
    let mut sat = Sat::new(universe.ids().len());
    for (clause, _) in &rules {
        sat.add(clause.clone());
    }
    let mut solver = Solver {
        universe,
        sat,
        weak,
        requests: packages..rules.len(),
        branches: Vec::new(),
    };
    match solver.run() {
        Ok(()) => Ok(solver.chosen()),
        Err(Contradiction(clauses)) => Err(unsatisfiable(universe, &rules, &clauses)),
    }
}

fn unsatisfiable(universe: &Universe, rules: &[Rule], clauses: &[u32]) -> Error {
    // Requests first, then what they lead to.
    let numbers = clauses.iter().rev().map(|number| *number as usize);
    let found: Vec<&Rule> = numbers.filter_map(|number| rules.get(number)).collect();
    Error::Unsatisfiable {
        clash: Box::new(rules::clash(universe, &found)),
        explanation: rules::explain(universe, &found),
    }
}

type Step<T> = std::result::Result<T, Contradiction>;

impl Solver<'_> {
    fn run(&mut self) -> Step<()> {
        let mut level = self.sat.start()?;
        loop {
            let before = level;
            level = self.resolve_requests(level)?;
            if level < before {
                continue;
            }
            let before = level;
            level = self.resolve_requirements(level)?;
            if level < before {
                continue;
            }
            if self.weak
                && let Some(reached) = self.resolve_weak(level)?
            {
                level = reached;
                continue;
            }
            match self.minimise()? {
                Some(reached) => level = reached,
                None => return Ok(()),
            }
        }
    }

    fn chosen(&self) -> Vec<PackageId> {
        let positive = self.sat.trail().iter().filter(|literal| **literal > 0);
        let mut ids: Vec<PackageId> = positive.map(|literal| package(*literal)).collect();
        ids.sort_unstable();
        ids
    }

    /// Candidates of a clause that does not hold yet and that is up to its positive literals.
    fn open(&self, clause: usize) -> Vec<PackageId> {
        let mut candidates = Vec::new();
        for literal in &self.sat.clauses()[clause] {
            match (self.sat.value(*literal), *literal > 0) {
                (Some(true), _) | (None, false) => return Vec::new(),
                (None, true) => candidates.push(package(*literal)),
                (Some(false), _) => {}
            }
        }
        candidates.sort_unstable();
        candidates
    }

    /// Takes the best of some candidates.
    fn install(&mut self, level: i32, mut candidates: Vec<PackageId>) -> Step<i32> {
        policy::filter(self.universe, &self.sat, &mut candidates, Mode::Choose);
        let first = candidates[0];
        if candidates.len() > 1 {
            self.branch(level, first, &candidates);
        }
        self.decide(level, literal(first))
    }

    fn branch(&mut self, level: i32, taken: PackageId, candidates: &[PackageId]) {
        let choices = candidates.iter().map(|id| (*id, *id == taken));
        self.branches.push(Branch {
            level,
            choices: choices.collect(),
        });
    }

    fn decide(&mut self, level: i32, literal: Literal) -> Step<i32> {
        let reached = self.sat.decide(level, literal)?;
        self.branches.retain(|branch| branch.level < reached);
        Ok(reached)
    }

    fn resolve_requests(&mut self, mut level: i32) -> Step<i32> {
        let start = level;
        let mut number = self.requests.start;
        while number < self.requests.end {
            let candidates = self.open(number);
            if candidates.is_empty() {
                number += 1;
                continue;
            }
            let before = level;
            level = self.install(level, candidates)?;
            if level < start {
                return Ok(level);
            }
            number = match level <= before {
                true => self.requests.start,
                false => number + 1,
            };
        }
        Ok(level)
    }

    /// Goes round all clauses until nothing is open. Clauses that leave a choice wait until all others are decided.
    fn resolve_requirements(&mut self, mut level: i32) -> Step<i32> {
        let start = level;
        let (mut at, mut quiet) = (0, 0);
        let mut postponed: Option<usize> = None;
        let mut choosing = false;
        loop {
            let count = self.sat.clauses().len();
            if quiet >= count {
                match (postponed, choosing) {
                    (Some(first), false) => (at, quiet, choosing) = (first, 0, true),
                    _ => return Ok(level),
                }
            }
            at %= count;
            let mut candidates = self.open(at);
            (at, quiet) = (at + 1, quiet + 1);
            if candidates.is_empty() {
                continue;
            }
            if !choosing {
                policy::filter(self.universe, &self.sat, &mut candidates, Mode::Prune);
                if candidates.len() > 1 {
                    postponed = postponed.or(Some(at - 1));
                    continue;
                }
            }
            level = self.install(level, candidates)?;
            if level < start {
                return Ok(level);
            }
            quiet = 0;
        }
    }

    /// Takes what is recommended and what supplements; `None` when there is nothing (more).
    fn resolve_weak(&mut self, level: i32) -> Step<Option<i32>> {
        let universe = self.universe;
        let decided: Vec<PackageId> = self.positive();
        let mut all: Vec<PackageId> = Vec::new();
        for relation in self.recommendations(&decided) {
            all.extend(policy::missing(universe, &self.sat, &relation).concat());
        }
        let mut supplements = self.supplements();
        all.extend(&supplements);
        all.sort_unstable();
        all.dedup();
        if all.is_empty() {
            return Ok(None);
        }
        if let [only] = all.as_slice() {
            return self.decide(level, literal(*only)).map(Some);
        }
        policy::filter(universe, &self.sat, &mut all, Mode::Versions);
        let best: HashSet<PackageId> = all.into_iter().collect();
        supplements.retain(|id| best.contains(id));
        policy::order(universe, &self.sat, &mut supplements);
        let mut level = level;
        for id in supplements {
            if self.sat.value(literal(id)).is_some() {
                continue;
            }
            let before = level;
            level = self.decide(level, literal(id))?;
            if level <= before {
                return Ok(Some(level));
            }
        }
        level = self.take_recommended(level, &decided, &best)?;
        Ok(Some(level))
    }

    fn positive(&self) -> Vec<PackageId> {
        let positive = self.sat.trail().iter().filter(|literal| **literal > 0);
        positive.map(|literal| package(*literal)).collect()
    }

    fn recommendations(&self, of: &[PackageId]) -> Vec<super::dependency::Relation<'_>> {
        let relations = of
            .iter()
            .map(|id| self.universe.relations(*id, Kind::Recommends));
        relations.flatten().collect()
    }

    /// Packages that nothing is decided about and that something chosen makes wanted.
    fn supplements(&self) -> Vec<PackageId> {
        let is_there = |id: PackageId| self.sat.value(literal(id)) == Some(true);
        let wanted = |id: &PackageId| {
            let mut relations = self.universe.relations(*id, Kind::Supplements);
            self.sat.value(literal(*id)).is_none()
                && relations.any(|relation| {
                    how_it_holds(self.universe, &relation, &is_there) == Holds::ByPackage
                })
                && !self.has_other_architecture(*id)
        };
        self.universe.ids().filter(wanted).collect()
    }

    /// Whether a package of the same name and another architecture was chosen.
    fn has_other_architecture(&self, id: PackageId) -> bool {
        let universe = self.universe;
        universe.named(universe.name(id)).iter().any(|other| {
            universe.architecture(*other) != universe.architecture(id)
                && self.sat.value(literal(*other)) == Some(true)
        })
    }

    fn take_recommended(
        &mut self,
        mut level: i32,
        decided: &[PackageId],
        best: &HashSet<PackageId>,
    ) -> Step<i32> {
        let universe = self.universe;
        for id in decided {
            for relation in universe.relations(*id, Kind::Recommends) {
                let parts = policy::missing(universe, &self.sat, &relation);
                let mut candidates: Vec<PackageId> = parts.concat();
                candidates.retain(|id| best.contains(id));
                if candidates.is_empty() {
                    continue;
                }
                let before = level;
                level = self.install(level, candidates)?;
                if level <= before {
                    return Ok(level);
                }
            }
        }
        Ok(level)
    }

    /// Takes a choice otherwise of which another candidate came in later anyway, which is one package less; or of which
    /// another candidate is wanted by what was chosen since, and the one taken is not.
    fn minimise(&mut self) -> Step<Option<i32>> {
        let found = self.branches.iter().enumerate();
        let better = found.filter_map(|(number, branch)| Some((number, self.better(branch)?)));
        // The first choice of all; later ones are taken again.
        let Some((number, choice)) = better.collect::<Vec<_>>().into_iter().next() else {
            return Ok(None);
        };
        let branch = &mut self.branches[number];
        let (level, id) = (branch.level, branch.choices[choice].0);
        branch.choices[choice].1 = true;
        self.branches.truncate(number + 1);
        self.sat.revert(level);
        self.decide(level, literal(id)).map(Some)
    }

    /// The place of a candidate that would have been the better choice.
    fn better(&self, branch: &Branch) -> Option<usize> {
        let level = |id: &PackageId| self.sat.level_of(literal(*id));
        let untaken = |(_, taken): &&(PackageId, bool)| !taken;
        let choices = &branch.choices;
        let place = |wanted: &dyn Fn(&PackageId) -> bool| {
            let is_wanted = |c: &(PackageId, bool)| untaken(&c) && wanted(&c.0);
            choices.iter().position(is_wanted)
        };
        if let Some(later) = place(&|id| level(id) > branch.level) {
            return Some(later);
        }
        let wanted = place(&|id| policy::is_wanted(self.universe, &self.sat, *id))?;
        let mut taken = choices
            .iter()
            .filter(|(id, taken)| *taken && level(id) == branch.level + 1);
        let unwanted = taken.any(|(id, _)| !policy::is_wanted(self.universe, &self.sat, *id));
        unwanted.then_some(wanted)
    }
}
