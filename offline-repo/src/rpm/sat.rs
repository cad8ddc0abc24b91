//! A SAT solver with learning: clauses, watched literals, the first unique implication point.
//!
//! It decides nothing by itself: which package is taken next is the policy's business ([`super::policy`]). The shape is
//! that of libsolv's (src/solver.c), so that where requirements contradict each other the same way out is found.

use super::clauses::{Clause, Literal};

/// Number of a clause.
pub type ClauseId = u32;

/// A contradiction that no decision is to blame for: the clauses that it follows from.
#[derive(Debug)]
pub struct Contradiction(pub Vec<ClauseId>);

/// Why a literal holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    Decision,
    Clause(ClauseId),
}

/// Clauses, and what has been decided so far.
#[derive(Debug, Default)]
pub struct Sat {
    clauses: Vec<Clause>,
    /// The two literals by which each clause of more than one is watched.
    watched: Vec<[Literal; 2]>,
    /// Clauses from which each learnt one follows, by its number; empty for given ones.
    origins: Vec<Vec<ClauseId>>,
    /// Clauses that watch a literal, by its index. The last one is looked at first: which contradiction is met first
    /// decides what is learnt, and libsolv goes through its lists like that.
    watches: Vec<Vec<ClauseId>>,
    /// By package: 0 undecided, the level if it is there, the negated level if not.
    levels: Vec<i32>,
    reasons: Vec<Option<Reason>>,
    trail: Vec<Literal>,
    propagated: usize,
    /// Clauses of one literal.
    units: Vec<ClauseId>,
}

fn index(literal: Literal) -> usize {
    (literal.unsigned_abs() as usize) * 2 + usize::from(literal < 0)
}

impl Sat {
    /// For packages with literals up to `variables`.
    pub fn new(variables: usize) -> Self {
        Sat {
            watches: vec![Vec::new(); (variables + 1) * 2],
            levels: vec![0; variables + 1],
            reasons: vec![None; variables + 1],
            ..Sat::default()
        }
    }

    /// Adds a clause before anything is decided.
    pub fn add(&mut self, clause: Clause) -> ClauseId {
        self.store(clause, Vec::new())
    }

    fn store(&mut self, clause: Clause, origins: Vec<ClauseId>) -> ClauseId {
        let number = self.clauses.len() as ClauseId;
        match clause.as_slice() {
            [] | [_] => {
                self.units.push(number);
                self.watched.push([0; 2]);
            }
            [first, second, ..] => {
                self.watches[index(*first)].push(number);
                self.watches[index(*second)].push(number);
                self.watched.push([*first, *second]);
            }
        }
        self.clauses.push(clause);
        self.origins.push(origins);
        number
    }

    /// All clauses, learnt ones last.
    pub fn clauses(&self) -> &[Clause] {
        &self.clauses
    }

    /// Whether a literal holds (`Some(true)`), its opposite does, or neither is decided.
    pub fn value(&self, literal: Literal) -> Option<bool> {
        match self.levels[literal.unsigned_abs() as usize] {
            0 => None,
            level => Some((level > 0) == (literal > 0)),
        }
    }

    /// The level at which a package's literal was decided to hold; 0 if it does not.
    pub fn level_of(&self, literal: Literal) -> i32 {
        self.levels[literal.unsigned_abs() as usize].max(0)
    }

    /// What holds, in the order in which it was decided.
    pub fn trail(&self) -> &[Literal] {
        &self.trail
    }

    /// Decides what follows from clauses of one literal: level 1.
    pub fn start(&mut self) -> Result<i32, Contradiction> {
        // The first clause comes first, the learnt ones before it.
        self.watches.iter_mut().for_each(|list| list.reverse());
        for unit in self.units.clone() {
            match self.clauses[unit as usize].first().copied() {
                None => return Err(self.explain(unit)),
                Some(literal) => match self.value(literal) {
                    Some(true) => {}
                    Some(false) => return Err(self.explain(unit)),
                    None => self.assign(literal, 1, Reason::Clause(unit)),
                },
            }
        }
        match self.propagate(1) {
            None => Ok(1),
            Some(conflict) => Err(self.explain(conflict)),
        }
    }

    fn assign(&mut self, literal: Literal, level: i32, reason: Reason) {
        let variable = literal.unsigned_abs() as usize;
        self.levels[variable] = if literal > 0 { level } else { -level };
        self.reasons[variable] = Some(reason);
        self.trail.push(literal);
    }

    /// Draws conclusions; returns a clause that cannot hold any more.
    fn propagate(&mut self, level: i32) -> Option<ClauseId> {
        while let Some(literal) = self.trail.get(self.propagated).copied() {
            self.propagated += 1;
            let mut watching = std::mem::take(&mut self.watches[index(-literal)]);
            let mut conflict = None;
            let mut at = watching.len();
            while at > 0 && conflict.is_none() {
                at -= 1;
                let number = watching[at];
                match self.visit(number, -literal) {
                    Visit::Moved => {
                        watching.remove(at);
                    }
                    Visit::Holds => {}
                    Visit::Implies(implied) => self.assign(implied, level, Reason::Clause(number)),
                    Visit::Conflict => conflict = Some(number),
                }
            }
            self.watches[index(-literal)] = watching;
            if conflict.is_some() {
                return conflict;
            }
        }
        None
    }

    /// Looks at a clause of which the watched literal `wrong` has become false.
    fn visit(&mut self, number: ClauseId, wrong: Literal) -> Visit {
        let [first, second] = self.watched[number as usize];
        let other = if first == wrong { second } else { first };
        if self.value(other) == Some(true) {
            return Visit::Holds;
        }
        let clause = &self.clauses[number as usize];
        let is_free = |l: &&Literal| **l != other && self.value(**l) != Some(false);
        if let Some(free) = clause.iter().find(is_free).copied() {
            self.watched[number as usize] = [free, other];
            self.watches[index(free)].push(number);
            return Visit::Moved;
        }
        match self.value(other) {
            None => Visit::Implies(other),
            _ => Visit::Conflict,
        }
    }

    /// Takes a decision at the next level, and learns from each contradiction until none is left. Returns the level
    /// then, which is lower when decisions had to be given up.
    pub fn decide(&mut self, level: i32, literal: Literal) -> Result<i32, Contradiction> {
        let mut level = level + 1;
        self.assign(literal, level, Reason::Decision);
        while let Some(conflict) = self.propagate(level) {
            if level <= 1 {
                return Err(self.explain(conflict));
            }
            let (clause, origins, back) = self.analyze(conflict, level);
            level = back;
            self.revert(level);
            let learnt = clause[0];
            let number = self.store(clause, origins);
            self.assign(learnt, level, Reason::Clause(number));
        }
        Ok(level)
    }

    /// Gives up everything that was decided above a level.
    pub fn revert(&mut self, level: i32) {
        while let Some(literal) = self.trail.last() {
            let variable = literal.unsigned_abs() as usize;
            if self.levels[variable].abs() <= level {
                break;
            }
            self.levels[variable] = 0;
            self.reasons[variable] = None;
            self.trail.pop();
        }
        self.propagated = self.propagated.min(self.trail.len());
    }

    /// The clause that follows from a conflict: its first literal is the one to conclude at the returned level.
    fn analyze(&self, conflict: ClauseId, level: i32) -> (Clause, Vec<ClauseId>, i32) {
        let mut seen = vec![false; self.levels.len()];
        let mut learnt = vec![0];
        let mut origins = vec![conflict];
        let (mut open, mut back) = (0, 1);
        let mut clause = conflict;
        let mut at = self.trail.len();
        loop {
            for literal in &self.clauses[clause as usize] {
                let variable = literal.unsigned_abs() as usize;
                let own = self.levels[variable].abs();
                if std::mem::replace(&mut seen[variable], true) {
                    continue;
                }
                if own >= level {
                    open += 1;
                } else if self.value(*literal) == Some(false) {
                    learnt.push(*literal);
                    back = back.max(own);
                }
            }
            let decided = loop {
                at -= 1;
                if seen[self.trail[at].unsigned_abs() as usize] {
                    break self.trail[at];
                }
            };
            open -= 1;
            if open == 0 {
                learnt[0] = -decided;
                break;
            }
            match self.reasons[decided.unsigned_abs() as usize] {
                Some(Reason::Clause(number)) => {
                    clause = number;
                    origins.push(number);
                }
                // Only the last open literal of a level can be its decision.
                _ => unreachable!("a decision comes last"),
            }
        }
        // The second watched literal is one that becomes free last.
        let of_back =
            |literal: &Literal| self.levels[literal.unsigned_abs() as usize].abs() == back;
        if let Some(at) = learnt.iter().skip(1).position(of_back) {
            learnt.swap(1, at + 1);
        }
        (learnt, origins, back)
    }

    /// The given clauses from which a contradiction follows that no decision can avoid.
    fn explain(&self, conflict: ClauseId) -> Contradiction {
        let mut found = Vec::new();
        let mut pending = vec![conflict];
        let mut seen = std::collections::HashSet::new();
        while let Some(number) = pending.pop() {
            if !seen.insert(number) {
                continue;
            }
            match self.origins[number as usize].as_slice() {
                [] => found.push(number),
                origins => pending.extend(origins),
            }
            for literal in &self.clauses[number as usize] {
                let reason = self.reasons[literal.unsigned_abs() as usize];
                if let Some(Reason::Clause(number)) = reason {
                    pending.push(number);
                }
            }
        }
        found.sort_unstable();
        Contradiction(found)
    }
}

enum Visit {
    Moved,
    Holds,
    Implies(Literal),
    Conflict,
}
