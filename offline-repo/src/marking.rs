//! Which packages `apt-get install` marks on a system without any packages: its greedy choice, step by step.
//!
//! apt goes depth first through the dependencies of what is asked for and takes the first alternative that can be
//! had, so that the order of everything decides; afterwards packages that exclude each other are given up by score.
//! The rules are those of `pkgDepCache::MarkInstall` and `pkgProblemResolver` in apt 2.2 to 3.0, as far as they
//! concern a system on which nothing is installed.

mod repair;

use std::cmp::Reverse;

use crate::dependency::{Alternatives, Relation};
use crate::error::{Error, Result};
use crate::resolve::Resolver;
use crate::universe::{PackageId, Universe};

/// Depth of dependencies at which apt gives up a branch.
const DEPTH_LIMIT: usize = 3000;

/// Stack for that depth.
const STACK_BYTES: usize = 64 << 20;

/// What is known of a package.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// It would be installed.
    marked: bool,
    /// Its state must not change any more: it was asked for, or something that was asked for needs just it, or must
    /// not have it.
    protected: bool,
    /// It is the version of its name that may be installed.
    candidate: bool,
}

/// What apt would install for `required`, or nothing when its marking leaves something broken.
pub(crate) fn mark(
    resolver: &Resolver<'_>,
    required: &[Alternatives<'_>],
    recommends: bool,
) -> Result<Option<Vec<PackageId>>> {
    std::thread::scope(|scope| {
        let work = || Marking::new(resolver, recommends).run(required);
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let thread = thread.spawn_scoped(scope, work);
        let thread = thread.map_err(|e| Error::io("start", "a thread of the resolver", e))?;
        thread.join().expect("no panic while packages are marked")
    })
}

struct Marking<'r, 'u> {
    resolver: &'r Resolver<'u>,
    universe: &'u Universe,
    recommends: bool,
    states: Vec<State>,
}

impl<'r, 'u> Marking<'r, 'u> {
    fn new(resolver: &'r Resolver<'u>, recommends: bool) -> Self {
        let universe = resolver.universe();
        let mut states = vec![State::default(); universe.len()];
        for name in universe.names() {
            if let Some(id) = universe.versions(name).first() {
                states[*id as usize].candidate = true;
            }
        }
        Marking {
            resolver,
            universe,
            recommends,
            states,
        }
    }

    fn run(mut self, required: &[Alternatives<'_>]) -> Result<Option<Vec<PackageId>>> {
        let mut roots = Vec::new();
        for group in required {
            let Some(root) = self.root(group) else {
                return Ok(None);
            };
            self.state_mut(root).protected = true;
            self.state_mut(root).marked = true;
            roots.push(root);
        }
        for root in &roots {
            self.install(*root, true, 0)?;
        }
        let marked = self.repair(&roots)?;
        let whole = self.all_whole(&marked)?;
        Ok(whole.then_some(marked))
    }

    /// The package that a request means; the request may name another version than the preferred one. Nothing when another
    /// version of it was asked for before.
    fn root(&mut self, group: &Alternatives<'_>) -> Option<PackageId> {
        let found = self.resolver.alternatives(group);
        let first = |test: &dyn Fn(PackageId) -> bool| found.iter().copied().find(|id| test(*id));
        let root = first(&|id| self.is_marked(id))
            .or_else(|| first(&|id| self.is_candidate(id)))
            .or_else(|| first(&|_| true))?;
        for version in self.universe.versions(self.universe.name(root)) {
            if *version != root && self.is_marked(*version) {
                return None;
            }
            self.state_mut(*version).candidate = *version == root;
        }
        Some(root)
    }

    /// Marks a package and what it needs. No: it cannot be had, and is not a candidate any more unless it is protected.
    fn install(&mut self, id: PackageId, asked_for: bool, depth: usize) -> Result<bool> {
        let State {
            marked,
            protected,
            candidate,
        } = *self.state(id);
        if depth > DEPTH_LIMIT || !candidate || (protected && !marked) {
            return Ok(false);
        }
        if marked && !protected {
            return Ok(true);
        }
        let depends = self.universe.depends(id)?;
        if !depends.iter().all(|group| self.can_be_had(group)) {
            if !protected {
                *self.state_mut(id) = State::default();
            }
            return Ok(false);
        }
        let gives_up = !protected && !asked_for;
        let cleared = self.clear_enemies(id, protected, asked_for)?;
        if !cleared && gives_up {
            return Ok(false);
        }
        self.state_mut(id).marked = true;
        // While its dependencies are looked after nobody may take it away.
        self.state_mut(id).protected = true;
        let recommends = match self.recommends {
            true => self.universe.recommends(id)?,
            false => Vec::new(),
        };
        let needed = depends.iter().map(|group| (group, true));
        let wanted = recommends.iter().map(|group| (group, false));
        let open: Vec<(&Alternatives<'_>, bool)> = needed
            .chain(wanted)
            .filter(|(group, _)| protected || !self.is_met(group))
            .collect();
        let satisfied = self.install_dependencies(&open, protected, asked_for, depth)?;
        self.state_mut(id).protected = protected;
        if !satisfied && gives_up {
            self.state_mut(id).marked = false;
            self.state_mut(id).candidate = false;
            return Ok(false);
        }
        Ok(cleared && satisfied)
    }

    /// Takes the marks of packages that `id` conflicts with; if `id` is protected they are no candidates any more.
    fn clear_enemies(&mut self, id: PackageId, protected: bool, asked_for: bool) -> Result<bool> {
        let mut cleared = true;
        for enemy in self.resolver.enemies_in_order(id)? {
            let state = *self.state(enemy);
            if !state.candidate {
                continue;
            }
            if state.marked && state.protected {
                cleared = false;
                if !protected && !asked_for {
                    break;
                }
            } else if state.marked {
                self.state_mut(enemy).marked = false;
            } else if protected {
                self.state_mut(enemy).candidate = false;
                self.state_mut(enemy).protected = true;
            }
        }
        Ok(cleared)
    }

    fn install_dependencies(
        &mut self,
        groups: &[(&Alternatives<'_>, bool)],
        protected: bool,
        asked_for: bool,
        depth: usize,
    ) -> Result<bool> {
        let mut satisfied = true;
        for (group, needed) in groups {
            if self.is_met(group) {
                // What a protected package needs and only one package gives becomes protected, too.
                let solutions = self.solutions(group);
                if !protected || !needed || solutions.len() != 1 {
                    continue;
                }
                let only = solutions[0];
                if !self.state(only).protected {
                    self.state_mut(only).protected = true;
                    satisfied &= self.install(only, false, depth + 1)?;
                }
                continue;
            }
            if !self.install_one_of(group, protected && *needed, depth)? && *needed {
                satisfied = false;
                if !protected && !asked_for {
                    break;
                }
            }
        }
        Ok(satisfied)
    }

    /// Marks the first package that satisfies the group and can be had.
    fn install_one_of(
        &mut self,
        group: &Alternatives<'_>,
        protect: bool,
        depth: usize,
    ) -> Result<bool> {
        let solutions = self.solutions(group);
        let only = solutions.len() == 1;
        for solution in solutions {
            if !self.is_candidate(solution) {
                continue;
            }
            if protect && only {
                let state = self.state(solution);
                if state.protected && !state.marked {
                    continue;
                }
                self.state_mut(solution).marked = true;
                self.state_mut(solution).protected = true;
            }
            if self.install(solution, false, depth + 1)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Candidates for a group in apt's order; those that must not be installed are left out.
    fn solutions(&self, group: &Alternatives<'_>) -> Vec<PackageId> {
        let mut all: Vec<PackageId> = Vec::new();
        for relation in group {
            let mut found = self.resolver.satisfiers(relation);
            found.retain(|id| {
                let state = self.state(*id);
                state.candidate && (state.marked || !state.protected)
            });
            if found.len() > 1 {
                found.sort_by_cached_key(|id| self.preference(relation, *id));
            }
            found.retain(|id| !all.contains(id));
            all.extend(found);
        }
        all
    }

    /// Smaller is better. Of equal packages apt takes the one that it heard of last.
    fn preference(&self, relation: &Relation<'_>, id: PackageId) -> impl Ord + use<> {
        (
            !self.state(id).protected,
            self.universe.name(id) != relation.name,
            !self.universe.is_essential(id),
            !self.universe.is_important(id),
            self.universe.rank(id),
            Reverse(self.universe.first_mention(self.universe.name(id))),
        )
    }

    fn is_met(&self, group: &Alternatives<'_>) -> bool {
        self.satisfied_by(group, |id| self.is_marked(id))
    }

    fn can_be_had(&self, group: &Alternatives<'_>) -> bool {
        self.satisfied_by(group, |id| self.is_marked(id) || self.is_candidate(id))
    }

    fn satisfied_by(&self, group: &Alternatives<'_>, test: impl Fn(PackageId) -> bool) -> bool {
        let mut relations = group.iter();
        relations.any(|relation| self.resolver.satisfiers(relation).into_iter().any(&test))
    }

    /// Whether all that a package needs is marked, and nothing that it conflicts with.
    fn is_whole(&self, id: PackageId) -> Result<bool> {
        let depends = self.universe.depends(id)?;
        let enemies = self.resolver.enemies_in_order(id)?;
        Ok(depends.iter().all(|group| self.is_met(group))
            && !enemies.into_iter().any(|enemy| self.is_marked(enemy)))
    }

    fn is_marked(&self, id: PackageId) -> bool {
        self.state(id).marked
    }

    fn is_candidate(&self, id: PackageId) -> bool {
        self.state(id).candidate
    }

    fn state(&self, id: PackageId) -> &State {
        &self.states[id as usize]
    }

    fn state_mut(&mut self, id: PackageId) -> &mut State {
        &mut self.states[id as usize]
    }
}
