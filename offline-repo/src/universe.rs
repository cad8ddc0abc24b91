//! All packages of some indexes, in compact form: a record holds offsets into the index's text.

mod mentions;
mod reading;
pub mod reduced;
mod views;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use crate::dependency::{self, Alternatives};
use crate::digest::Sha256;
use crate::error::{Error, Result};
use crate::record::{Record, Span, slice};
use crate::status::{self, Installed};
use crate::version;
use mentions::Mentions;
use reduced::Reduced;

/// More packages than any archive has.
const PACKAGE_LIMIT: usize = 2_000_000;

/// Where a package sits in the universe.
pub type PackageId = u32;

/// An index as text, with the place it came from.
#[derive(Debug, Clone)]
pub struct IndexText {
    /// Path or URL, for messages.
    pub origin: String,
    /// The Packages file.
    pub text: Arc<String>,
    /// Packages of an index with a higher priority win over newer versions elsewhere.
    pub priority: i32,
}

/// An index that was read.
#[derive(Debug, Clone)]
struct Index {
    origin: String,
    text: Arc<String>,
    priority: i32,
    /// The order in which it mentions names, once that was asked for.
    mentions: Arc<OnceLock<Mentions>>,
}

impl Index {
    fn of(index: IndexText) -> Self {
        Index {
            origin: index.origin,
            text: index.text,
            priority: index.priority,
            mentions: Arc::default(),
        }
    }
}

/// Packages of all indexes. Of packages with the same name and version the first index's one is kept.
#[derive(Debug, Default)]
pub struct Universe {
    native: Box<str>,
    indexes: Vec<Index>,
    records: Vec<Record>,
    by_name: HashMap<Box<str>, Vec<PackageId>>,
    /// Packages that are installed already, and what must not become of them.
    installed: HashMap<PackageId, Installed>,
    /// Packages of indexes whose priority is negative: nobody gets them.
    pinned_out: HashMap<Box<str>, Vec<PackageId>>,
}

impl Universe {
    /// Reads indexes for one architecture; packages of others are left out.
    pub fn parse(indexes: Vec<IndexText>, architecture: &str) -> Result<Self> {
        let mut universe = Universe::empty(architecture);
        for index in indexes {
            let number = universe.next_number(&index.origin)?;
            let records = reading::records(number, &index.origin, &index.text, architecture)?;
            universe.add(Index::of(index), records)?;
        }
        universe.index_names();
        Ok(universe)
    }

    /// The same from what was kept of indexes for that architecture, each with its origin and its priority.
    pub fn of_reduced(indexes: Vec<(String, i32, Reduced)>, architecture: &str) -> Result<Self> {
        let mut universe = Universe::empty(architecture);
        for (origin, priority, reduced) in indexes {
            let number = universe.next_number(&origin)?;
            let mut records = reduced.records;
            records.iter_mut().for_each(|record| record.index = number);
            let index = Index {
                origin,
                text: reduced.text,
                priority,
                mentions: reduced.mentions,
            };
            universe.add(index, records)?;
        }
        universe.index_names();
        Ok(universe)
    }

    fn empty(architecture: &str) -> Self {
        Universe {
            native: architecture.into(),
            ..Universe::default()
        }
    }

    fn next_number(&self, origin: &str) -> Result<u16> {
        let number = u16::try_from(self.indexes.len());
        number.map_err(|_| Error::invalid(origin, "is one index too many"))
    }

    fn add(&mut self, index: Index, mut records: Vec<Record>) -> Result<()> {
        if self.records.len() + records.len() > PACKAGE_LIMIT {
            let message = format!("has, with those before it, more than {PACKAGE_LIMIT} packages");
            return Err(Error::invalid(&index.origin, message));
        }
        match self.records.is_empty() {
            true => self.records = records,
            false => self.records.append(&mut records),
        }
        self.indexes.push(index);
        Ok(())
    }

    /// The same with the packages of a dpkg status file beside those of the indexes. As for apt without pins, the version
    /// that may be had of an installed package is the newest, never an older one; of one on hold it is the installed one.
    pub fn with_installed(
        indexes: Vec<IndexText>,
        architecture: &str,
        origin: &str,
        status: &str,
    ) -> Result<Self> {
        let mut universe = Universe::parse(indexes, architecture)?;
        let number = universe.indexes.len() as u16;
        for (record, installed) in status::read(origin, status, number, architecture)? {
            universe
                .installed
                .insert(universe.records.len() as PackageId, installed);
            universe.records.push(record);
        }
        universe.indexes.push(Index::of(IndexText {
            origin: origin.to_string(),
            text: Arc::new(status.to_string()),
            priority: 0,
        }));
        universe.index_names();
        Ok(universe)
    }

    /// Fills the table of names, each list sorted by preference: priority, then version, then what is installed, then
    /// order of the indexes; removes later copies of the same version, and what must not replace an installed package.
    fn index_names(&mut self) {
        let mut by_name: HashMap<Box<str>, Vec<PackageId>> =
            HashMap::with_capacity(self.records.len());
        let mut pinned_out = HashMap::new();
        for id in self.ids() {
            let name = self.name(id);
            let table = match self.priority(id) < 0 {
                true => &mut pinned_out,
                false => &mut by_name,
            };
            match table.get_mut(name) {
                Some(ids) => ids.push(id),
                None => {
                    table.insert(name.into(), vec![id]);
                }
            }
        }
        for ids in by_name.values_mut().filter(|ids| ids.len() > 1) {
            ids.sort_by(|a, b| {
                (self.priority(*b).cmp(&self.priority(*a)))
                    .then_with(|| version::compare(self.version(*b), self.version(*a)))
                    .then_with(|| self.is_installed(*b).cmp(&self.is_installed(*a)))
                    .then_with(|| a.cmp(b))
            });
            ids.dedup_by(|b, a| self.version(*a) == self.version(*b));
            if let Some(place) = ids.iter().position(|id| self.is_installed(*id)) {
                ids.truncate(place + 1);
                if self.installed[&ids[place]] == Installed::Fixed {
                    ids.drain(..place);
                }
            }
        }
        self.by_name = by_name;
        self.pinned_out = pinned_out;
    }

    fn text(&self, id: PackageId, span: Span) -> &str {
        let index = usize::from(self.record(id).index);
        slice(&self.indexes[index].text, span)
    }

    fn record(&self, id: PackageId) -> &Record {
        &self.records[id as usize]
    }

    /// The architecture whose packages these are; those for all architectures count as its own.
    pub fn native(&self) -> &str {
        &self.native
    }

    /// Number of packages.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is no package at all.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Every package.
    pub fn ids(&self) -> std::ops::Range<PackageId> {
        0..self.records.len() as PackageId
    }

    /// Versions of a package, the preferred one first.
    pub fn versions(&self, name: &str) -> &[PackageId] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// Versions of a package that only indexes with a negative priority have.
    pub fn pinned_out(&self, name: &str) -> &[PackageId] {
        self.pinned_out.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether the package is installed already.
    pub fn is_installed(&self, id: PackageId) -> bool {
        self.installed.contains_key(&id)
    }

    /// Names of the installed packages, sorted.
    pub fn installed_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.installed.keys().map(|id| self.name(*id)).collect();
        names.sort_unstable();
        names
    }

    /// All package names, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(AsRef::as_ref)
    }

    /// Name of a package.
    pub fn name(&self, id: PackageId) -> &str {
        self.text(id, self.record(id).name)
    }

    /// Version of a package.
    pub fn version(&self, id: PackageId) -> &str {
        self.text(id, self.record(id).version)
    }

    /// Architecture of a package.
    pub fn architecture(&self, id: PackageId) -> &str {
        self.text(id, self.record(id).architecture)
    }

    /// Path below the archive's base URL.
    pub fn path(&self, id: PackageId) -> &str {
        self.text(id, self.record(id).path)
    }

    /// Size of the `.deb` in bytes.
    pub fn size(&self, id: PackageId) -> u64 {
        self.record(id).size
    }

    /// SHA-256 of the `.deb`.
    pub fn sha256(&self, id: PackageId) -> Sha256 {
        let known = self.record(id).sha256;
        known.expect("digests are checked when an index is read")
    }

    /// Whether the package is `Essential: yes`.
    pub fn is_essential(&self, id: PackageId) -> bool {
        self.record(id).essential
    }

    /// Whether the package is `Protected: yes`, or `Important: yes` as that was called.
    pub fn is_important(&self, id: PackageId) -> bool {
        self.record(id).important
    }

    /// Whether a dependency with the qualifier `any` may name it (`Multi-Arch: allowed`).
    pub fn allows_any_architecture(&self, id: PackageId) -> bool {
        self.record(id).any_architecture
    }

    /// Rank of its Priority field: 0 required … 4 extra or unknown.
    pub fn rank(&self, id: PackageId) -> u8 {
        self.record(id).rank
    }

    /// Number of the index it comes from.
    pub fn index(&self, id: PackageId) -> usize {
        usize::from(self.record(id).index)
    }

    fn priority(&self, id: PackageId) -> i32 {
        self.indexes[self.index(id)].priority
    }

    fn relations(&self, id: PackageId, field: &str, span: Span) -> Result<Vec<Alternatives<'_>>> {
        dependency::parse(self.text(id, span)).map_err(|message| {
            let origin = &self.indexes[self.index(id)].origin;
            Error::invalid(
                origin,
                format!(
                    "{field} of {} {}: {message}",
                    self.name(id),
                    self.version(id)
                ),
            )
        })
    }

    /// Pre-Depends, then Depends.
    pub fn depends(&self, id: PackageId) -> Result<Vec<Alternatives<'_>>> {
        let [mut all, depends] = self.depends_by_field(id)?;
        all.extend(depends);
        Ok(all)
    }

    /// Pre-Depends and Depends.
    pub fn depends_by_field(&self, id: PackageId) -> Result<[Vec<Alternatives<'_>>; 2]> {
        let record = self.record(id);
        Ok([
            self.relations(id, "Pre-Depends", record.pre_depends)?,
            self.relations(id, "Depends", record.depends)?,
        ])
    }

    /// Recommends.
    pub fn recommends(&self, id: PackageId) -> Result<Vec<Alternatives<'_>>> {
        self.relations(id, "Recommends", self.record(id).recommends)
    }

    /// Suggests.
    pub fn suggests(&self, id: PackageId) -> Result<Vec<Alternatives<'_>>> {
        self.relations(id, "Suggests", self.record(id).suggests)
    }

    /// Conflicts, then Breaks.
    pub fn conflicts(&self, id: PackageId) -> Result<Vec<Alternatives<'_>>> {
        let [mut all, breaks] = self.conflicts_by_field(id)?;
        all.extend(breaks);
        Ok(all)
    }

    /// Conflicts and Breaks.
    pub fn conflicts_by_field(&self, id: PackageId) -> Result<[Vec<Alternatives<'_>>; 2]> {
        let record = self.record(id);
        Ok([
            self.relations(id, "Conflicts", record.conflicts)?,
            self.relations(id, "Breaks", record.breaks)?,
        ])
    }

    /// How many names the indexes mention before this one, as a package or in a relation, when each package's fields are
    /// read in the order in which apt's cache generator reads them (`debListParser::NewVersion`).
    ///
    /// A name that an earlier index mentions, too, is counted again; the order stays the same.
    pub fn first_mention(&self, name: &str) -> u32 {
        let mut before = 0;
        for (number, index) in self.indexes.iter().enumerate() {
            let mentions = index.mentions.get_or_init(|| self.mentions(number));
            match mentions.place(name) {
                Some(place) => return before + place,
                None => before += mentions.len(),
            }
        }
        u32::MAX
    }

    fn mentions(&self, number: usize) -> Mentions {
        // The records of an index follow each other.
        let number_of = |record: &Record| usize::from(record.index);
        let start = self.records.partition_point(|r| number_of(r) < number);
        let end = self.records.partition_point(|r| number_of(r) <= number);
        Mentions::of(&self.records[start..end], &self.indexes[number].text)
    }

    /// Text of the Provides field, empty for most packages.
    pub fn provides(&self, id: PackageId) -> &str {
        self.text(id, self.record(id).provides)
    }
}
