//! What two repositories hold different packages of: added, removed, in another version, with their sizes.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::repository::RepositoryPackage;
use crate::version;

/// A package that only one of two repositories holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Only {
    /// Package name.
    pub name: String,
    /// Debian architecture.
    pub architecture: String,
    /// Version.
    pub version: String,
    /// Size in bytes.
    pub size: u64,
}

/// A package that both hold, in different versions or with different content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// Package name.
    pub name: String,
    /// Debian architecture.
    pub architecture: String,
    /// Version in the old repository.
    pub from: String,
    /// Version in the new one; the same as `from` where only the content differs.
    pub to: String,
    /// Size in the old repository in bytes.
    pub size_from: u64,
    /// Size in the new one in bytes.
    pub size_to: u64,
}

/// The packages in which a new repository differs from an old one, each list sorted by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Only in the new one.
    pub added: Vec<Only>,
    /// Only in the old one.
    pub removed: Vec<Only>,
    /// Newer in the new one.
    pub upgraded: Vec<Changed>,
    /// Older in the new one.
    pub downgraded: Vec<Changed>,
    /// The same version with other content.
    pub rebuilt: Vec<Changed>,
}

type Key<'a> = (&'a str, &'a str);

/// Compares packages by name and architecture; where a repository holds several versions, their highest ones.
pub fn difference(old: &[RepositoryPackage], new: &[RepositoryPackage]) -> Difference {
    let (old, new) = (highest(old), highest(new));
    let mut found = Difference::default();
    for (key, package) in &new {
        match old.get(key) {
            None => found.added.push(only(package)),
            Some(before) if before.sha256 == package.sha256 => {}
            Some(before) => {
                let change = changed(before, package);
                match version::compare(&before.version, &package.version) {
                    Ordering::Less => found.upgraded.push(change),
                    Ordering::Greater => found.downgraded.push(change),
                    Ordering::Equal => found.rebuilt.push(change),
                }
            }
        }
    }
    let gone = old.iter().filter(|(key, _)| !new.contains_key(*key));
    found.removed = gone.map(|(_, package)| only(package)).collect();
    found
}

fn highest(packages: &[RepositoryPackage]) -> BTreeMap<Key<'_>, &RepositoryPackage> {
    let mut highest: BTreeMap<Key<'_>, &RepositoryPackage> = BTreeMap::new();
    for package in packages {
        let kept = highest
            .entry((&package.name, &package.architecture))
            .or_insert(package);
        if version::compare(&kept.version, &package.version) == Ordering::Less {
            *kept = package;
        }
    }
    highest
}

fn only(package: &RepositoryPackage) -> Only {
    Only {
        name: package.name.clone(),
        architecture: package.architecture.clone(),
        version: package.version.clone(),
        size: package.size,
    }
}

fn changed(from: &RepositoryPackage, to: &RepositoryPackage) -> Changed {
    Changed {
        name: to.name.clone(),
        architecture: to.architecture.clone(),
        from: from.version.clone(),
        to: to.version.clone(),
        size_from: from.size,
        size_to: to.size,
    }
}

impl Difference {
    /// Whether both hold the same packages.
    pub fn is_empty(&self) -> bool {
        *self == Difference::default()
    }

    /// How many bytes of packages the new repository has more than the old one.
    pub fn growth(&self) -> i64 {
        let sum = |list: &[Only]| list.iter().map(|p| p.size as i64).sum::<i64>();
        let grown = |list: &[Changed]| -> i64 {
            let each = list.iter().map(|p| p.size_to as i64 - p.size_from as i64);
            each.sum()
        };
        sum(&self.added) - sum(&self.removed)
            + grown(&self.upgraded)
            + grown(&self.downgraded)
            + grown(&self.rebuilt)
    }
}

/// One line for each package: `+` added, `-` removed, `>` upgraded, `<` downgraded, `=` rebuilt; sizes in bytes.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (sign, list) in [('+', &self.added), ('-', &self.removed)] {
            for p in list {
                writeln!(
                    f,
                    "{sign} {} {} {}, {}",
                    p.name, p.version, p.architecture, p.size
                )?;
            }
        }
        for (sign, list) in [
            ('>', &self.upgraded),
            ('<', &self.downgraded),
            ('=', &self.rebuilt),
        ] {
            for p in list {
                writeln!(
                    f,
                    "{sign} {} {} -> {} {}, {} -> {}",
                    p.name, p.from, p.to, p.architecture, p.size_from, p.size_to
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str, size: u64, content: u8) -> RepositoryPackage {
        RepositoryPackage {
            name: name.into(),
            version: version.into(),
            architecture: "amd64".into(),
            path: "pool".into(),
            sha256: format!("{content:02x}").repeat(32).parse().unwrap(),
            size,
            essential: false,
        }
    }

    #[test]
    fn every_kind_of_difference() {
        let old = [
            package("gone", "1", 10, 1),
            package("newer", "1.9", 20, 2),
            package("older", "1:1", 30, 3),
            package("other", "1", 40, 4),
            package("same", "1", 50, 5),
            package("two", "1", 60, 6),
            package("two", "2", 60, 7),
        ];
        let new = [
            package("comes", "1", 1, 8),
            package("newer", "1.10", 21, 9),
            package("older", "2", 29, 10),
            package("other", "1", 41, 11),
            package("same", "1", 50, 5),
            package("two", "2", 60, 7),
        ];
        let found = difference(&old, &new);
        assert_eq!(
            found.to_string(),
            "+ comes 1 amd64, 1\n- gone 1 amd64, 10\n> newer 1.9 -> 1.10 amd64, 20 -> 21\n\
             < older 1:1 -> 2 amd64, 30 -> 29\n= other 1 -> 1 amd64, 40 -> 41\n"
        );
        assert_eq!(found.growth(), 1 - 10 + 1 - 1 + 1);
        assert!(difference(&new, &new).is_empty());
    }
}
