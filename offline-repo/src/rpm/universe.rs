//! All packages of some yum repositories for one architecture, in compact form: texts are numbers.

mod installed;
mod primary;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::BufRead;
use std::ops::Range;

use super::dependency::{Comparison, Relation, overlap};
use super::evr::Evr;
use super::modules::Visible;
use super::package::{RELATIONS, is_primary};
use super::reader::{self, Item};
use super::strings::{Strings, TextId};
use crate::digest::Sha256;
use primary::Reading;

/// Where a package sits in the universe.
pub type PackageId = u32;

/// More packages or relations than any repository has.
const PACKAGE_LIMIT: usize = 1_000_000;
const RELATION_LIMIT: usize = 50_000_000;

/// Kinds of relation: indexes into [`RELATIONS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Provides,
    Requires,
    Conflicts,
    Obsoletes,
    Suggests,
    Enhances,
    Recommends,
    Supplements,
}

/// A relation as numbers.
#[derive(Debug, Clone, Copy)]
struct Stored {
    name: TextId,
    evr: TextId,
    comparison: Comparison,
}

#[derive(Debug, Clone, Default)]
struct Record {
    index: u16,
    name: TextId,
    evr: TextId,
    architecture: TextId,
    path: TextId,
    size: u64,
    sha256: Option<Sha256>,
    relations: [Range<u32>; RELATIONS.len()],
    files: Range<u32>,
}

/// Packages of all repositories, in the order of their indexes.
#[derive(Debug, Default)]
pub struct Universe {
    architectures: Vec<String>,
    strings: Strings,
    records: Vec<Record>,
    relations: Vec<Stored>,
    files: Vec<TextId>,
    priorities: Vec<i32>,
    by_name: HashMap<TextId, Vec<PackageId>>,
    /// By provided name: the package, which versions.
    providers: HashMap<TextId, Vec<(PackageId, Comparison, TextId)>>,
    owners: HashMap<TextId, Vec<PackageId>>,
    /// What must stay, in its version or a newer one.
    installed: BTreeSet<PackageId>,
    /// What should stay in its version.
    kept: HashSet<PackageId>,
}

/// Architectures whose packages can be installed on a machine of one, the best first (rpm's `arch_compat`).
pub fn compatible(architecture: &str) -> Vec<String> {
    let list: &[&str] = match architecture {
        "x86_64" => &["x86_64", "i686", "i586", "i486", "i386"],
        other => &[other],
    };
    list.iter().map(|name| name.to_string()).collect()
}

impl Universe {
    /// An empty one for machines of an architecture.
    pub fn new(architecture: &str) -> Self {
        let mut universe = Universe {
            architectures: compatible(architecture),
            ..Universe::default()
        };
        // Number 0 is the empty text.
        universe.strings.intern("");
        universe
    }

    /// An empty one that keeps packages of every architecture, to list them; nothing can be resolved in it.
    pub fn of_all_architectures() -> Self {
        Universe {
            architectures: Vec::new(),
            ..Universe::new("noarch")
        }
    }

    /// Adds the packages of a `primary.xml`; with a higher `priority` they win over newer versions elsewhere.
    pub fn read_primary(&mut self, input: impl BufRead, priority: i32) -> Result<(), String> {
        let index = u16::try_from(self.priorities.len()).map_err(|_| "is one index too many")?;
        self.priorities.push(priority);
        let mut reading = Reading::default();
        reader::read(input, |item| {
            reading.take(item, self, index)?;
            match self.records.len() > PACKAGE_LIMIT || self.relations.len() > RELATION_LIMIT {
                true => Err("has more packages than any repository".into()),
                false => Ok(()),
            }
        })
    }

    /// Adds the owners of `wanted` paths from a `filelists.xml`.
    pub fn read_filelists(
        &mut self,
        input: impl BufRead,
        wanted: &HashSet<String>,
    ) -> Result<(), String> {
        let by_digest: HashMap<String, PackageId> = (self.records.iter().zip(0..))
            .filter_map(|(record, id)| Some((record.sha256?.to_string(), id)))
            .collect();
        let mut current: Option<PackageId> = None;
        reader::read(input, |item| {
            match item {
                Item::Start(name, attributes) if name == "package" => {
                    let id = attributes.get("pkgid").unwrap_or_default();
                    current = by_digest.get(id).copied();
                }
                Item::End(name, path) if name == "file" && wanted.contains(&path) => {
                    let path = self.strings.intern(&path);
                    let owners = self.owners.entry(path).or_default();
                    owners.extend(current.filter(|id| !owners.contains(id)));
                    owners.sort_unstable();
                }
                _ => {}
            }
            Ok(())
        })
    }

    /// Leaves out packages that dnf does not see; call it before [`Universe::finish`].
    pub fn retain(&mut self, visible: &Visible) {
        let strings = &self.strings;
        self.records.retain(|record| {
            let text = |id| strings.text(id);
            let architecture = text(record.architecture);
            visible.has(text(record.name), text(record.evr), architecture)
        });
    }

    /// Fills the tables by name; call it once after the last `primary.xml`.
    pub fn finish(&mut self) {
        for id in self.ids() {
            let record = &self.records[id as usize];
            self.by_name.entry(record.name).or_default().push(id);
            let provides = &record.relations[Kind::Provides as usize];
            let mut all: Vec<Stored> = self.relations[range(provides)].to_vec();
            // Every package provides itself, whether it says so or not.
            all.push(Stored {
                name: record.name,
                evr: record.evr,
                comparison: Comparison::EQUAL,
            });
            for provided in all {
                let entry = (id, provided.comparison, provided.evr);
                let list = self.providers.entry(provided.name).or_default();
                if !list.contains(&entry) {
                    list.push(entry);
                }
            }
            for file in &self.files[range(&record.files)] {
                self.owners.entry(*file).or_default().push(id);
            }
        }
    }

    fn record(&self, id: PackageId) -> &Record {
        &self.records[id as usize]
    }

    /// Every package.
    pub fn ids(&self) -> Range<PackageId> {
        0..self.records.len() as PackageId
    }

    /// Packages of a name, in the order of the indexes.
    pub fn named(&self, name: &str) -> &[PackageId] {
        let found = self.strings.find(name).and_then(|id| self.by_name.get(&id));
        found.map_or(&[], Vec::as_slice)
    }

    /// All package names, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(|id| self.strings.text(*id))
    }

    /// Name.
    pub fn name(&self, id: PackageId) -> &str {
        self.strings.text(self.record(id).name)
    }

    /// `[epoch:]version-release`.
    pub fn evr(&self, id: PackageId) -> &str {
        self.strings.text(self.record(id).evr)
    }

    /// Architecture.
    pub fn architecture(&self, id: PackageId) -> &str {
        self.strings.text(self.record(id).architecture)
    }

    /// `name-[epoch:]version-release.arch`.
    pub fn nevra(&self, id: PackageId) -> String {
        format!(
            "{}-{}.{}",
            self.name(id),
            self.evr(id),
            self.architecture(id)
        )
    }

    /// Path below the repository.
    pub fn path(&self, id: PackageId) -> &str {
        self.strings.text(self.record(id).path)
    }

    /// Size in bytes.
    pub fn size(&self, id: PackageId) -> u64 {
        self.record(id).size
    }

    /// Digest of the file.
    pub fn sha256(&self, id: PackageId) -> Sha256 {
        let sha256 = self.record(id).sha256;
        sha256.expect("packages without a digest are not kept")
    }

    /// Number of the index it comes from.
    pub fn index(&self, id: PackageId) -> usize {
        usize::from(self.record(id).index)
    }

    /// Priority of its index.
    pub fn priority(&self, id: PackageId) -> i32 {
        self.priorities[self.index(id)]
    }

    /// Place of its architecture among those of the machine; `None` for `noarch`.
    pub fn architecture_rank(&self, id: PackageId) -> Option<usize> {
        let own = self.architecture(id);
        self.architectures.iter().position(|known| known == own)
    }

    /// Orders two packages by version.
    pub fn compare(&self, a: PackageId, b: PackageId) -> std::cmp::Ordering {
        Evr::parse(self.evr(a)).compare(&Evr::parse(self.evr(b)))
    }

    /// Relations of a kind.
    pub fn relations(&self, id: PackageId, kind: Kind) -> impl Iterator<Item = Relation<'_>> {
        let stored = &self.relations[range(&self.record(id).relations[kind as usize])];
        stored.iter().map(|stored| Relation {
            name: self.strings.text(stored.name),
            comparison: stored.comparison,
            evr: self.strings.text(stored.evr),
        })
    }

    /// Packages that provide what a simple relation asks for, each once, in order.
    pub fn providers(&self, wanted: &Relation<'_>) -> Vec<PackageId> {
        let Some(name) = self.strings.find(wanted.name) else {
            return Vec::new();
        };
        let mut found: Vec<PackageId> = Vec::new();
        for (id, comparison, evr) in self.providers.get(&name).into_iter().flatten() {
            let offered = (*comparison, self.strings.text(*evr));
            if overlap(offered, (wanted.comparison, wanted.evr)) {
                found.push(*id);
            }
        }
        if wanted.comparison.is_any() {
            found.extend(self.owners.get(&name).into_iter().flatten());
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Packages whose own name and version a relation accepts, whatever they provide: what Obsoletes is about.
    pub fn matching(&self, wanted: &Relation<'_>) -> Vec<PackageId> {
        let accepts = |id: &PackageId| {
            overlap(
                (Comparison::EQUAL, self.evr(*id)),
                (wanted.comparison, wanted.evr),
            )
        };
        self.named(wanted.name)
            .iter()
            .copied()
            .filter(accepts)
            .collect()
    }

    /// Whether a `primary.xml` may be silent on who owns this path.
    pub fn needs_filelists(&self, name: &str) -> bool {
        name.starts_with('/') && !is_primary(name)
    }

    /// Paths that relations or requests name and that `primary.xml` may be silent on.
    pub fn wanted_paths(&self, groups: &BTreeMap<String, Vec<String>>) -> HashSet<String> {
        let requests = groups.values().flatten().map(String::as_str);
        let texts = self.strings.iter().chain(requests);
        let words = texts.filter(|text| text.contains('/')).flat_map(|text| {
            let separators: &[char] = match text.starts_with('(') {
                true => &[' ', '(', ')'],
                false => &[],
            };
            text.split(separators)
        });
        words
            .filter(|word| self.needs_filelists(word))
            .map(String::from)
            .collect()
    }
}

fn range(stored: &Range<u32>) -> Range<usize> {
    stored.start as usize..stored.end as usize
}
