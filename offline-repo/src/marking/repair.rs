//! apt's problem resolver, where nothing is installed (`pkgProblemResolver::ResolveInternal` and `DoUpgrade`).

use std::cmp::Reverse;

use super::Marking;
use crate::dependency::{Alternatives, Relation};
use crate::error::Result;
use crate::scores;
use crate::universe::PackageId;

/// Rounds of the problem resolver.
const ROUNDS: usize = 20;

impl Marking<'_, '_> {
    /// Gives up packages until nothing that is marked lacks something or conflicts with something: the lower score of two that
    /// conflict, and who lacks something. What is protected stays, and what it lacks is put back, with what that lacks.
    pub(super) fn repair(&mut self, roots: &[PackageId]) -> Result<Vec<PackageId>> {
        let marked = self.marked();
        if self.all_whole(&marked)? {
            return Ok(marked);
        }
        let mut scores = scores::scores(self.resolver, &marked, roots)?;
        let mut untried = vec![true; self.universe.len()];
        // What is put back has its place in the order, too: that of a score of its own.
        let mut order: Vec<PackageId> = self.universe.ids().collect();
        order.sort_by_key(|id| Reverse(scores[*id as usize]));
        for _ in 0..ROUNDS {
            let before = self.marked();
            for id in &order {
                if self.is_marked(*id) {
                    self.repair_one(*id, &mut scores, &mut untried)?;
                }
            }
            if self.marked() == before {
                break;
            }
        }
        Ok(self.marked())
    }

    fn marked(&self) -> Vec<PackageId> {
        let ids = self.universe.ids();
        ids.filter(|id| self.is_marked(*id)).collect()
    }

    fn repair_one(
        &mut self,
        id: PackageId,
        scores: &mut [i64],
        untried: &mut [bool],
    ) -> Result<()> {
        let protected = self.state(id).protected;
        let depends = self.universe.depends(id)?;
        for group in &depends {
            if self.is_met(group) {
                continue;
            }
            if !protected {
                self.state_mut(id).marked = false;
                return Ok(());
            }
            self.put_back_one_of(id, group, scores, untried)?;
        }
        let mut given_up = Vec::new();
        for enemy in self.resolver.enemies_in_order(id)? {
            if !self.is_marked(enemy) {
                continue;
            }
            if scores[id as usize] > scores[enemy as usize] {
                given_up.push(enemy);
            } else if !protected {
                self.state_mut(id).marked = false;
                return Ok(());
            }
        }
        for enemy in given_up {
            let state = self.state_mut(enemy);
            state.marked &= state.protected;
        }
        Ok(())
    }

    /// Puts back the first package that satisfies a group and can be put back; it becomes no more important than `id`.
    fn put_back_one_of(
        &mut self,
        id: PackageId,
        group: &Alternatives<'_>,
        scores: &mut [i64],
        untried: &mut [bool],
    ) -> Result<()> {
        for relation in group {
            for target in self.targets(relation) {
                if self.put_back(target, untried)? {
                    let limit = scores[id as usize];
                    let score = &mut scores[target as usize];
                    *score = (*score).min(limit);
                    break;
                }
            }
            if self.is_met(group) {
                break;
            }
        }
        Ok(())
    }

    /// Marks a package again, and what it lacks; no if something that it lacks cannot be had. Each package is tried once.
    fn put_back(&mut self, id: PackageId, untried: &mut [bool]) -> Result<bool> {
        let state = *self.state(id);
        if !untried[id as usize] || !state.candidate || state.protected {
            return Ok(false);
        }
        untried[id as usize] = false;
        self.state_mut(id).marked = true;
        for group in &self.universe.depends(id)? {
            let mut failed = false;
            for relation in group {
                if self.is_met(group) {
                    break;
                }
                failed = !self.put_back_target(id, relation, untried)?;
                if !failed {
                    break;
                }
            }
            if failed {
                self.state_mut(id).marked = state.marked;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Puts back the package of that name, or the first provider of a name that no package has.
    fn put_back_target(
        &mut self,
        of: PackageId,
        relation: &Relation<'_>,
        untried: &mut [bool],
    ) -> Result<bool> {
        let named = self.universe.versions(relation.name).iter().copied();
        let providers = self.resolver.providers(relation.name);
        let own = self.universe.name(of);
        let mut others = providers.into_iter().rev();
        let target = match named.clone().next() {
            Some(_) => named.clone().find(|id| self.is_candidate(*id)),
            None => others.find(|id| self.universe.name(*id) != own),
        };
        let Some(target) = target else {
            return Ok(false);
        };
        let satisfies = |id: &PackageId| self.is_candidate(*id);
        if !self.resolver.satisfiers(relation).iter().any(satisfies) {
            return Ok(false);
        }
        self.put_back(target, untried)
    }

    /// What can satisfy a relation in the order of apt's cache: the package of that name, then the providers, the one that was
    /// read last first.
    fn targets(&self, relation: &Relation<'_>) -> Vec<PackageId> {
        let mut found = self.resolver.satisfiers(relation);
        found.sort_by_key(|id| {
            let is_named = self.universe.name(*id) == relation.name;
            (!is_named, Reverse(*id))
        });
        found
    }

    pub(super) fn all_whole(&self, marked: &[PackageId]) -> Result<bool> {
        for id in marked {
            if !self.is_whole(*id)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
