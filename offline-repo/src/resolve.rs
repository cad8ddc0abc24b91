//! Which packages a request needs: Debian's relations, handed to a SAT solver in apt's order of preference.
//!
//! Every package name is one variable group of the solver; there are no virtual names in it. A relation becomes
//! the list of packages that satisfy it, best first: the package of that name, then its providers.
//! As with apt, only the preferred version of each package is a candidate; if that has no solution, a second
//! attempt admits all versions.

use std::collections::{BTreeSet, HashMap};

use crate::dependency::{Alternatives, Relation};
use crate::error::{Error, Result};
use crate::solver;
use crate::suggest::closest;
use crate::universe::{PackageId, Universe};

/// Who provides a name: the provider, and the version provided if one is stated.
type Provider<'u> = (PackageId, Option<&'u str>);

/// A universe with the table of virtual packages.
pub struct Resolver<'u> {
    universe: &'u Universe,
    providers: HashMap<&'u str, Vec<Provider<'u>>>,
}

impl<'u> Resolver<'u> {
    /// Reads the Provides fields of all packages.
    pub fn new(universe: &'u Universe) -> Result<Self> {
        let mut providers: HashMap<&str, Vec<Provider<'_>>> = HashMap::new();
        for id in universe.ids() {
            let field = universe.provides(id);
            if field.is_empty() || !universe.versions(universe.name(id)).contains(&id) {
                continue;
            }
            // A broken Provides field of some package is no reason to refuse a request that may not need it.
            for relation in crate::dependency::parse(field)
                .unwrap_or_default()
                .into_iter()
                .flatten()
            {
                let version = relation.version.map(|(_, version)| version);
                providers
                    .entry(relation.name)
                    .or_default()
                    .push((id, version));
            }
        }
        // Among providers apt prefers essential ones, then the higher Priority; the name makes the rest definite.
        for list in providers.values_mut() {
            list.sort_by_key(|(id, _)| {
                (
                    !universe.is_essential(*id),
                    universe.rank(*id),
                    universe.name(*id),
                )
            });
        }
        Ok(Resolver {
            universe,
            providers,
        })
    }

    /// The universe.
    pub fn universe(&self) -> &'u Universe {
        self.universe
    }

    /// Packages that satisfy a relation, best first.
    pub fn satisfiers(&self, relation: &Relation<'_>) -> Vec<PackageId> {
        let universe = self.universe;
        let any_allowed = |id: PackageId| match relation.qualifier {
            None | Some("native") => true,
            Some("any") => universe.allows_any_architecture(id),
            Some(architecture) => universe.architecture(id) == architecture,
        };
        let real = universe.versions(relation.name).iter().copied();
        let mut found: Vec<PackageId> = real
            .filter(|id| any_allowed(*id) && relation.accepts(universe.version(*id)))
            .collect();
        let provided = self
            .providers
            .get(relation.name)
            .map_or(&[][..], Vec::as_slice);
        let provided = provided
            .iter()
            .filter(|(_, version)| relation.accepts_provided(*version));
        for (id, _) in provided {
            if !found.contains(id) {
                found.push(*id);
            }
        }
        found
    }

    /// Packages that satisfy one of the alternatives, best first.
    pub fn alternatives(&self, group: &Alternatives<'_>) -> Vec<PackageId> {
        let mut found: Vec<PackageId> = Vec::new();
        for id in group.iter().flat_map(|relation| self.satisfiers(relation)) {
            if !found.contains(&id) {
                found.push(id);
            }
        }
        found
    }

    /// Packages that must not be installed beside this one.
    pub(crate) fn enemies(&self, id: PackageId) -> Result<BTreeSet<PackageId>> {
        let own = self.universe.name(id);
        let conflicts = self.universe.conflicts(id)?;
        let enemies = conflicts.iter().flatten().flat_map(|relation| {
            // An unqualified conflict is about every architecture, and here there is only one.
            let relation = Relation {
                qualifier: None,
                ..*relation
            };
            self.satisfiers(&relation)
        });
        // A package may conflict with a name that it provides itself: with all others, not with itself.
        Ok(enemies
            .filter(|enemy| self.universe.name(*enemy) != own)
            .collect())
    }

    /// Chooses packages: every group of `required` is satisfied, `wanted` packages are taken where possible.
    pub fn solve(
        &self,
        required: &[Alternatives<'_>],
        wanted: &[PackageId],
    ) -> Result<Vec<PackageId>> {
        for group in required {
            self.check_known(group)?;
        }
        match solver::attempt(self, required, wanted, true) {
            Err(Error::Unsatisfiable { .. }) => solver::attempt(self, required, wanted, false),
            other => other,
        }
    }

    fn check_known(&self, group: &Alternatives<'_>) -> Result<()> {
        let is_known = |r: &Relation<'_>| {
            !self.universe.versions(r.name).is_empty() || self.providers.contains_key(r.name)
        };
        match group.first() {
            Some(first) if !group.iter().any(is_known) => Err(Error::UnknownPackage {
                name: first.name.to_string(),
                suggestion: closest(first.name, self.universe.names()),
            }),
            _ => Ok(()),
        }
    }
}
