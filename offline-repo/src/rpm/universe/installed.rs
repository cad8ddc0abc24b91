//! What is installed on a machine, as rpm itself says it in answer to [`crate::rpm::proof::QUERY`].

use super::primary::Reading;
use super::{Kind, PackageId, Stored, Universe};
use crate::rpm::dependency::Comparison;
use crate::rpm::{evr, is_architecture, is_package_name};

impl Universe {
    /// Adds the packages of an answer to [`crate::rpm::proof::QUERY`] as installed ones. Call it before
    /// [`Universe::finish`]. An error comes with the number of its line, from 1.
    pub fn read_installed(&mut self, text: &str) -> Result<(), (usize, String)> {
        let index = u16::try_from(self.priorities.len()).map_err(|_| (1, "is too much".into()))?;
        self.priorities.push(0);
        let mut package: Option<Reading> = None;
        for (number, line) in text.lines().enumerate() {
            let fail = |message: &str| Err((number + 1, message.to_string()));
            if line.is_empty() {
                continue;
            }
            let Some((key, value)) = line.split_once(": ") else {
                return fail("is not 'Key: value'");
            };
            if key == "Package" {
                self.install(package.take(), index)
                    .map_err(|message| (number, message))?;
                let mut next = Reading::default();
                next.record.name = self.strings.intern(value);
                package = Some(next);
                continue;
            }
            let Some(package) = &mut package else {
                return fail("comes before the first 'Package:'");
            };
            match key {
                "Version" => package.record.evr = self.strings.intern(without_zero(value)),
                "Architecture" => package.record.architecture = self.strings.intern(value),
                "File" => package.files.push(self.strings.intern(value)),
                _ => match kind(key) {
                    // What rpm itself can do is no package's business.
                    Some(Kind::Requires) if value.starts_with("rpmlib(") => {}
                    Some(kind) => {
                        let stored = self.stored(value);
                        package.relations.push((kind as usize, stored));
                    }
                    None => return fail("has a key that is not known"),
                },
            }
        }
        self.install(package, index)
            .map_err(|message| (text.lines().count(), message))
    }

    /// A relation as rpm prints it: a name, or a name, a comparison and a version. Names may hold spaces.
    fn stored(&mut self, text: &str) -> Stored {
        let mut words = text.rsplitn(3, ' ');
        let (evr, sign, name) = (words.next(), words.next(), words.next());
        let comparison = sign.and_then(Comparison::parse);
        match (name, comparison, evr) {
            (Some(name), Some(comparison), Some(evr)) if !text.starts_with('(') => Stored {
                name: self.strings.intern(name),
                evr: self.strings.intern(without_zero(evr)),
                comparison,
            },
            _ => Stored {
                name: self.strings.intern(text),
                evr: self.strings.intern(""),
                comparison: Comparison::ANY,
            },
        }
    }

    fn install(&mut self, package: Option<Reading>, index: u16) -> Result<(), String> {
        let Some(package) = package else {
            return Ok(());
        };
        let text = |id| self.strings.text(id);
        let record = &package.record;
        let architecture = text(record.architecture);
        // Keys that rpm trusts are listed among its packages.
        if architecture == "(none)" {
            return Ok(());
        }
        let (name, evr) = (text(record.name), text(record.evr));
        if !is_package_name(name) || !evr::is_valid(evr) || !is_architecture(architecture) {
            let shown = name.escape_debug();
            return Err(format!(
                "package '{shown}' has no valid name, version or architecture"
            ));
        }
        self.installed.insert(self.records.len() as PackageId);
        package.store(self, index);
        Ok(())
    }

    /// Whether a package is installed.
    pub fn is_installed(&self, id: PackageId) -> bool {
        self.installed.contains(&id)
    }

    /// The installed packages.
    pub fn installed(&self) -> impl Iterator<Item = PackageId> {
        self.installed.iter().copied()
    }

    /// Prefers these versions, by name, to all others.
    pub fn keep(&mut self, versions: &[(String, String)]) {
        for (name, evr) in versions {
            let same = self.named(name).iter().copied();
            let same: Vec<PackageId> = same.filter(|id| self.evr(*id) == evr).collect();
            self.kept.extend(same);
        }
    }

    /// Whether a package should stay as it is if that is possible.
    pub fn is_kept(&self, id: PackageId) -> bool {
        self.kept.contains(&id) || self.is_installed(id)
    }

    /// Whether anything should stay as it is.
    pub fn keeps_some(&self) -> bool {
        !self.kept.is_empty() || !self.installed.is_empty()
    }
}

/// An epoch of 0 that is stated, as some packages have it, is what all others mean: shown, it would look like another version.
fn without_zero(evr: &str) -> &str {
    evr.strip_prefix("0:").unwrap_or(evr)
}

fn kind(key: &str) -> Option<Kind> {
    Some(match key {
        "Provides" => Kind::Provides,
        "Requires" => Kind::Requires,
        "Conflicts" => Kind::Conflicts,
        "Obsoletes" => Kind::Obsoletes,
        _ => return None,
    })
}
