//! Other views of a universe: some of its indexes, other preferences, and its packages as text again.

use std::fmt::Write;
use std::sync::{Arc, OnceLock};

use super::mentions::Mentions;
use super::{Index, PackageId, Universe};

impl Universe {
    /// The packages of some of the indexes, by their numbers, as if there were no others.
    pub(crate) fn of_indexes(&self, numbers: &[usize]) -> Universe {
        let is_kept = |id: &PackageId| numbers.contains(&self.index(*id));
        let records = self.ids().filter(is_kept);
        let mut universe = Universe {
            native: self.native.clone(),
            indexes: self.indexes_kept(numbers),
            records: records.map(|id| self.record(id).clone()).collect(),
            ..Universe::default()
        };
        universe.index_names();
        universe
    }

    /// All indexes, those that are not kept without anything that they mention.
    fn indexes_kept(&self, numbers: &[usize]) -> Vec<Index> {
        let mut indexes = self.indexes.clone();
        for (number, index) in indexes.iter_mut().enumerate() {
            if !numbers.contains(&number) {
                index.mentions = Arc::new(OnceLock::from(Mentions::default()));
            }
        }
        indexes
    }

    /// Makes a version the preferred one of its package, if some index has it.
    pub(crate) fn prefer(&mut self, name: &str, version: &str) {
        let Some(ids) = self.by_name.get(name) else {
            return;
        };
        let place = ids.iter().position(|id| self.version(*id) == version);
        if let (Some(place), Some(ids)) = (place, self.by_name.get_mut(name)) {
            ids[..=place].rotate_right(1);
        }
    }

    /// The fields of a package that decide what it can be installed with, as in a dpkg status file that has it.
    pub(crate) fn status_stanza(&self, id: PackageId) -> String {
        let record = self.record(id);
        let mut text = format!(
            "Package: {}\nStatus: install ok installed\nVersion: {}\nArchitecture: {}\n",
            self.name(id),
            self.version(id),
            self.architecture(id)
        );
        let flags = [
            ("Essential: yes", record.essential),
            ("Protected: yes", record.important),
            ("Multi-Arch: allowed", record.any_architecture),
        ];
        for (line, _) in flags.iter().filter(|(_, holds)| *holds) {
            writeln!(text, "{line}").expect("a string takes all text");
        }
        let fields = [
            ("Pre-Depends", record.pre_depends),
            ("Depends", record.depends),
            ("Provides", record.provides),
            ("Conflicts", record.conflicts),
            ("Breaks", record.breaks),
        ];
        for (name, span) in fields {
            let value = self.text(id, span);
            if !value.is_empty() {
                writeln!(text, "{name}: {value}").expect("a string takes all text");
            }
        }
        text
    }
}
