//! Which packages a request needs: Debian's relations, handed to a SAT solver in apt's order of preference.
//!
//! Every package name is one variable group of the solver; there are no virtual names in it. A relation becomes
//! the list of packages that satisfy it, best first: the package of that name, then its providers.
//! As with apt, only the preferred version of each package is a candidate; if that has no solution, a second
//! attempt admits all versions. The solver is asked only when what apt itself would mark does not work out.

use std::collections::{BTreeSet, HashMap};

use crate::dependency::{Alternatives, Relation};
use crate::error::{Error, Result};
use crate::marking;
use crate::solver::{self, Ask};
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
        let any_allowed = |id: PackageId| {
            relation.qualifier != Some("any") || universe.allows_any_architecture(id)
        };
        // A named architecture is about packages of that one, and only the native one is here.
        let foreign = |name: &str| !["any", "native", universe.native()].contains(&name);
        if relation.qualifier.is_some_and(foreign) {
            return Vec::new();
        }
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

    /// Packages that provide a name, each once.
    pub(crate) fn providers(&self, name: &str) -> BTreeSet<PackageId> {
        let found = self.providers.get(name).into_iter().flatten();
        found.map(|(id, _)| *id).collect()
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
        Ok(self.enemies_in_order(id)?.into_iter().collect())
    }

    /// The same in the order of the fields, some more than once.
    pub(crate) fn enemies_in_order(&self, id: PackageId) -> Result<Vec<PackageId>> {
        let own = self.universe.name(id);
        let conflicts = self.universe.conflicts(id)?;
        let enemies = conflicts.iter().flatten();
        let enemies = enemies.flat_map(|relation| self.excluded_by(relation));
        // A package may conflict with a name that it provides itself: with all others, not with itself.
        Ok(enemies
            .filter(|enemy| self.universe.name(*enemy) != own)
            .collect())
    }

    /// Packages that a Conflicts or Breaks names. One without an architecture is about every one, and so is `any`.
    pub(crate) fn excluded_by(&self, relation: &Relation<'_>) -> Vec<PackageId> {
        self.satisfiers(&Relation {
            qualifier: relation.qualifier.filter(|name| *name != "any"),
            ..*relation
        })
    }

    /// What apt would mark for `required`; nothing when that leaves something broken.
    pub fn mark(
        &self,
        required: &[Alternatives<'_>],
        recommends: bool,
    ) -> Result<Option<Vec<PackageId>>> {
        for group in required {
            self.check_known(group)?;
        }
        marking::mark(self, required, recommends)
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
        let ask = |preferred_only| Ask {
            required,
            kept: &[],
            wanted,
            preferred_only,
        };
        match solver::attempt(self, ask(true)) {
            Err(Error::Unsatisfiable { .. }) => solver::attempt(self, ask(false)),
            other => other,
        }
    }

    /// Whether `required` can be had beside all installed packages, some of them perhaps in the version of an index;
    /// [`Error::Unsatisfiable`] if not.
    pub(crate) fn extend_installed(&self, required: &[Alternatives<'_>]) -> Result<()> {
        for group in required {
            self.check_known(group)?;
        }
        let ask = Ask {
            required,
            kept: &self.universe.installed_names(),
            wanted: &[],
            preferred_only: false,
        };
        solver::attempt(self, ask).map(drop)
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
