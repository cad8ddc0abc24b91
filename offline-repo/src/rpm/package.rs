//! What yum metadata says about a package, taken from its header as `createrepo_c` takes it (its src/parsehdr.c).

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use super::evr;
use super::header::{Header, Headers};
use super::tag;
use crate::error::{Error, Result};

/// Change log entries that are listed, as `createrepo_c --changelog-limit` has it by default.
const CHANGELOG_LIMIT: usize = 10;

/// A package as its header describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Epoch; 0 when there is none.
    pub epoch: u64,
    /// Version.
    pub version: String,
    /// Release.
    pub release: String,
    /// Architecture; `src` for a source package.
    pub architecture: String,
    /// One line.
    pub summary: String,
    /// Several lines.
    pub description: String,
    /// Who packaged it.
    pub packager: String,
    /// Home page.
    pub url: String,
    /// When it was built, seconds since 1970.
    pub build_time: u64,
    /// Bytes of its files.
    pub installed_size: u64,
    /// Bytes of its unpacked payload.
    pub archive_size: u64,
    /// Licence.
    pub license: String,
    /// Vendor.
    pub vendor: String,
    /// Group.
    pub group: String,
    /// Host that built it.
    pub build_host: String,
    /// File name of the source package.
    pub source_rpm: String,
    /// Where the header lies in the file.
    pub header_range: (u64, u64),
    /// Relations by kind, in the order of [`RELATIONS`].
    pub relations: [Vec<Relation>; 8],
    /// Files.
    pub files: Vec<PackageFile>,
    /// Change log, the oldest of the listed entries first.
    pub changelog: Vec<Change>,
}

/// A kind of relation: its element in `primary.xml`, and the tags of names, versions and flags.
#[derive(Debug, Clone, Copy)]
pub struct RelationKind {
    /// Name of the element.
    pub element: &'static str,
    tags: [u32; 3],
}

/// The kinds in the order in which metadata lists them.
pub const RELATIONS: [RelationKind; 8] = [
    kind(
        "provides",
        [tag::PROVIDE_NAME, tag::PROVIDE_VERSION, tag::PROVIDE_FLAGS],
    ),
    kind(
        "requires",
        [tag::REQUIRE_NAME, tag::REQUIRE_VERSION, tag::REQUIRE_FLAGS],
    ),
    kind(
        "conflicts",
        [
            tag::CONFLICT_NAME,
            tag::CONFLICT_VERSION,
            tag::CONFLICT_FLAGS,
        ],
    ),
    kind(
        "obsoletes",
        [
            tag::OBSOLETE_NAME,
            tag::OBSOLETE_VERSION,
            tag::OBSOLETE_FLAGS,
        ],
    ),
    kind(
        "suggests",
        [tag::SUGGEST_NAME, tag::SUGGEST_VERSION, tag::SUGGEST_FLAGS],
    ),
    kind(
        "enhances",
        [tag::ENHANCE_NAME, tag::ENHANCE_VERSION, tag::ENHANCE_FLAGS],
    ),
    kind(
        "recommends",
        [
            tag::RECOMMEND_NAME,
            tag::RECOMMEND_VERSION,
            tag::RECOMMEND_FLAGS,
        ],
    ),
    kind(
        "supplements",
        [
            tag::SUPPLEMENT_NAME,
            tag::SUPPLEMENT_VERSION,
            tag::SUPPLEMENT_FLAGS,
        ],
    ),
];
const PROVIDES: usize = 0;
const REQUIRES: usize = 1;

const fn kind(element: &'static str, tags: [u32; 3]) -> RelationKind {
    RelationKind { element, tags }
}

/// One relation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relation {
    /// A name, a path, or a rich dependency in parentheses.
    pub name: String,
    /// `EQ`, `LT`, `LE`, `GT`, `GE`; `None` without a version.
    pub flags: Option<&'static str>,
    /// The version as stated.
    pub evr: String,
    /// Whether a script needs it before the package is there.
    pub pre: bool,
}

/// A file of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageFile {
    /// Absolute path.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
}

/// What a path of a package is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A file or link.
    File,
    /// A folder.
    Dir,
    /// Owned, and not in the payload.
    Ghost,
}

/// An entry of the change log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Name, address, version.
    pub author: String,
    /// Seconds since 1970.
    pub date: u64,
    /// Text.
    pub text: String,
}

impl Package {
    /// Reads the headers of a `.rpm`.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        Headers::read(BufReader::new(file))
            .and_then(|headers| Package::from_headers(&headers))
            .map_err(|message| Error::Rpm {
                path: path.to_path_buf(),
                message,
            })
    }

    /// Takes everything from the headers.
    pub fn from_headers(headers: &Headers) -> std::result::Result<Self, String> {
        let main = &headers.main;
        let files = files(main)?;
        let mut package = Package {
            name: main.text(tag::NAME)?,
            epoch: main.number(tag::EPOCH)?.unwrap_or(0),
            version: main.text(tag::VERSION)?,
            release: main.text(tag::RELEASE)?,
            architecture: match main.number(tag::SOURCE_PACKAGE)?.unwrap_or(0) {
                0 => main.text(tag::ARCH)?,
                _ => "src".into(),
            },
            summary: main.text(tag::SUMMARY)?,
            description: main.text(tag::DESCRIPTION)?,
            packager: main.text(tag::PACKAGER)?,
            url: main.text(tag::URL)?,
            build_time: main.number(tag::BUILD_TIME)?.unwrap_or(0),
            installed_size: first(&[(main, tag::SIZE), (main, tag::LONG_SIZE)])?,
            archive_size: first(&[
                (main, tag::ARCHIVE_SIZE),
                (&headers.signature, tag::SIG_PAYLOAD_SIZE),
                (&headers.signature, tag::LONG_ARCHIVE_SIZE),
            ])?,
            license: main.text(tag::LICENSE)?,
            vendor: main.text(tag::VENDOR)?,
            group: main.text(tag::GROUP)?,
            build_host: main.text(tag::BUILD_HOST)?,
            source_rpm: main.text(tag::SOURCE_RPM)?,
            header_range: headers.range,
            changelog: changelog(main)?,
            ..Package::default()
        };
        for (number, kind) in RELATIONS.iter().enumerate() {
            package.relations[number] = relations(main, kind)?;
        }
        let required = std::mem::take(&mut package.relations[REQUIRES]);
        package.relations[REQUIRES] =
            filter_requires(required, &package.relations[PROVIDES], &files);
        package.files = files;
        package.check()?;
        Ok(package)
    }

    /// `[epoch:]version-release`.
    pub fn evr(&self) -> String {
        let bare = format!("{}-{}", self.version, self.release);
        match self.epoch {
            0 => bare,
            epoch => format!("{epoch}:{bare}"),
        }
    }

    /// Refuses what must not become part of a path or a URL.
    fn check(&self) -> std::result::Result<(), String> {
        let valid = super::is_package_name(&self.name)
            && evr::is_valid(&self.evr())
            && super::is_architecture(&self.architecture);
        match valid {
            true => Ok(()),
            false => Err("its name, version or architecture is not valid".into()),
        }
    }
}

/// The first of these numbers that is there, else 0.
fn first(places: &[(&Header, u32)]) -> std::result::Result<u64, String> {
    for (header, tag) in places {
        if let Some(number) = header.number(*tag)? {
            return Ok(number);
        }
    }
    Ok(0)
}

fn files(header: &Header) -> std::result::Result<Vec<PackageFile>, String> {
    /// `S_IFMT` and `S_IFDIR` of stat(2), `RPMFILE_GHOST` of rpm's rpmfi.h.
    const KIND: u64 = 0o170_000;
    const DIR: u64 = 0o040_000;
    const GHOST: u64 = 1 << 6;
    let names = header.texts(tag::BASE_NAMES)?;
    let folders = header.texts(tag::DIR_NAMES)?;
    let indexes = header.numbers(tag::DIR_INDEXES)?;
    let modes = header.numbers(tag::FILE_MODES)?;
    let flags = header.numbers(tag::FILE_FLAGS)?;
    let count = names.len();
    if [indexes.len(), modes.len(), flags.len()]
        .iter()
        .any(|n| *n != count)
    {
        return Err("its file lists do not have the same length".into());
    }
    let file = |number: usize| {
        let folder = usize::try_from(indexes[number])
            .ok()
            .and_then(|index| folders.get(index))
            .ok_or("one of its files is in no folder")?;
        let kind = match (modes[number] & KIND == DIR, flags[number] & GHOST != 0) {
            (true, _) => FileKind::Dir,
            (false, true) => FileKind::Ghost,
            (false, false) => FileKind::File,
        };
        Ok(PackageFile {
            path: format!("{folder}{}", names[number]),
            kind,
        })
    };
    (0..count).map(file).collect()
}

fn relations(header: &Header, kind: &RelationKind) -> std::result::Result<Vec<Relation>, String> {
    /// `RPMSENSE_PREREQ`, `RPMSENSE_SCRIPT_PRE`, `RPMSENSE_SCRIPT_POST` of rpm's rpmds.h.
    const PRE: u64 = 1 << 6 | 1 << 9 | 1 << 10;
    let [names, versions, flags] = kind.tags;
    let (names, versions) = (header.texts(names)?, header.texts(versions)?);
    let flags = header.numbers(flags)?;
    if versions.len() != names.len() || flags.len() != names.len() {
        return Err(format!(
            "its {} lists do not have the same length",
            kind.element
        ));
    }
    let relation = names.into_iter().zip(versions).zip(flags);
    Ok(relation
        .map(|((name, evr), flags)| Relation {
            name: name.into_owned(),
            flags: match flags & 0xf {
                2 => Some("LT"),
                4 => Some("GT"),
                8 => Some("EQ"),
                10 => Some("LE"),
                12 => Some("GE"),
                _ => None,
            },
            evr: evr.into_owned(),
            pre: kind.element == "requires" && flags & PRE != 0,
        })
        .collect())
}

/// Leaves out what no metadata lists: rpm's own features, what the package itself has, repetitions, and of glibc's
/// symbol versions all but the newest.
fn filter_requires(
    all: Vec<Relation>,
    provides: &[Relation],
    files: &[PackageFile],
) -> Vec<Relation> {
    let provided: HashSet<&str> = provides.iter().map(|r| r.name.as_str()).collect();
    let own: HashSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut last: HashMap<String, Relation> = HashMap::new();
    let (mut kept, mut libc): (Vec<Relation>, Option<Relation>) = (Vec::new(), None);
    for relation in all {
        let name = relation.name.as_str();
        let is_own = own.contains(name) && is_primary(name);
        if name.starts_with("rpmlib(") || is_own || provided.contains(name) {
            continue;
        }
        if name.starts_with("libc.so.6") {
            match &libc {
                Some(newest) if compare_symbols(&newest.name, name) != Ordering::Less => {}
                _ => libc = Some(relation),
            }
            continue;
        }
        if last.get(name) != Some(&relation) {
            last.insert(relation.name.clone(), relation.clone());
            kept.push(relation);
        }
    }
    kept.extend(libc);
    kept
}

/// Orders `libc.so.6`, `libc.so.6()`, `libc.so.6(X)`, `libc.so.6(GLIBC_2.4)` by the version in parentheses.
fn compare_symbols(a: &str, b: &str) -> Ordering {
    let rank = |name: &str| -> (u8, String) {
        let Some((_, rest)) = name.split_once('(') else {
            return (0, String::new());
        };
        match rest.split_once(')') {
            None => (1, String::new()),
            Some(("", _)) => (2, String::new()),
            Some((inner, _)) => match inner.find(|c: char| c.is_ascii_digit()) {
                None => (3, String::new()),
                Some(at) => (4, inner[at..].to_string()),
            },
        }
    };
    let (a, b) = (rank(a), rank(b));
    a.0.cmp(&b.0).then_with(|| evr::compare(&a.1, &b.1))
}

/// Whether `primary.xml` lists a path; every other one is in `filelists.xml` only.
pub fn is_primary(path: &str) -> bool {
    path.starts_with("/etc/") || path == "/usr/lib/sendmail" || path.contains("bin/")
}

/// Newest first in the header. Entries of the same second get one second more each, so that their order is kept.
fn changelog(header: &Header) -> std::result::Result<Vec<Change>, String> {
    let times = header.numbers(tag::CHANGELOG_TIME)?;
    let names = header.texts(tag::CHANGELOG_NAME)?;
    let texts = header.texts(tag::CHANGELOG_TEXT)?;
    let mut entries: Vec<Change> = Vec::new();
    let mut last = 0;
    for ((date, author), text) in times
        .into_iter()
        .zip(names)
        .zip(texts)
        .take(CHANGELOG_LIMIT)
    {
        if last == date {
            let same = entries.iter_mut().rev().enumerate();
            for (_, entry) in same.take_while(|(n, entry)| entry.date == date + *n as u64) {
                entry.date += 1;
            }
        }
        last = date;
        entries.push(Change {
            author: author.trim_end_matches(' ').to_string(),
            date,
            text: text.into_owned(),
        });
    }
    entries.reverse();
    Ok(entries)
}
