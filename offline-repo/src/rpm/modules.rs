//! Modular metadata (`modules.yaml`, libmodulemd's yaml_specs): passed through to the repository, and read for the one thing
//! that a closure depends on, which packages dnf hides because no default stream holds them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use saphyr_parser::{Event, Parser};
use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::lock::LockedPackage;

/// A file of modular metadata of an upstream, as its signed `repomd.xml` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedModules {
    /// Archive it is fetched from.
    pub archive: String,
    /// Suite it was found in.
    pub suite: String,
    /// Path below the archive's base URL.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the file as fetched (compressed).
    pub sha256: Sha256,
}

impl LockedModules {
    /// It as something to fetch.
    pub(crate) fn described(&self) -> LockedPackage {
        LockedPackage {
            name: "modules.yaml".into(),
            version: format!("of {}", self.suite),
            architecture: "noarch".into(),
            archive: self.archive.clone(),
            suite: self.suite.clone(),
            path: self.path.clone(),
            size: self.size,
            sha256: self.sha256,
            essential: false,
            groups: Vec::new(),
            why: String::new(),
        }
    }
}

/// The largest file known, that of EL 8's AppStream, has 7 MB unpacked.
pub(crate) const LIMIT: u64 = 64 << 20;

/// Nesting of a stream's description is below 10.
const DEPTH_LIMIT: usize = 32;

/// What files of modular metadata say of packages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modules {
    /// Packages of each stream by (module, stream), as `name-epoch:version-release.arch`.
    artifacts: BTreeMap<(String, String), Vec<String>>,
    /// The default stream of each module that has one.
    defaults: BTreeMap<String, String>,
}

/// What one document says, as far as it is of interest.
#[derive(Default)]
struct Document {
    kind: String,
    module: String,
    stream: String,
    packages: Vec<String>,
}

impl Document {
    /// Takes a scalar by the keys that lead to it.
    fn take(&mut self, path: &[&str], value: &str) {
        let value = || value.to_string();
        match path {
            ["document"] => self.kind = value(),
            ["data", "name" | "module"] => self.module = value(),
            ["data", "stream"] => self.stream = value(),
            ["data", "artifacts", "rpms", ""] => self.packages.push(value()),
            _ => {}
        }
    }
}

/// An open mapping with the key whose value is next, or a sequence.
enum Open {
    Map(Option<String>),
    List,
}

impl Modules {
    /// Adds what the documents of a file say. Documents of unknown kinds are of no interest.
    pub fn read(&mut self, text: &str) -> Result<(), String> {
        let (mut open, mut document) = (Vec::new(), Document::default());
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            let (event, _) =
                event.map_err(|e| format!("line {}: {}", e.marker().line(), e.info()))?;
            match event {
                Event::DocumentStart(_) => document = Document::default(),
                Event::DocumentEnd => self.add(std::mem::take(&mut document)),
                Event::MappingStart(..) => open.push(Open::Map(None)),
                Event::SequenceStart(..) => open.push(Open::List),
                Event::MappingEnd | Event::SequenceEnd => {
                    open.pop();
                    value_is_done(&mut open);
                }
                Event::Alias(_) => value_is_done(&mut open),
                Event::Scalar(value, ..) => match open.last_mut() {
                    Some(Open::Map(key @ None)) => *key = Some(value.into_owned()),
                    _ => {
                        document.take(&path(&open), &value);
                        value_is_done(&mut open);
                    }
                },
                _ => {}
            }
            if open.len() > DEPTH_LIMIT {
                return Err(format!("is nested deeper than {DEPTH_LIMIT}"));
            }
        }
        Ok(())
    }

    fn add(&mut self, document: Document) {
        let Document {
            kind,
            module,
            stream,
            packages,
        } = document;
        match kind.as_str() {
            "modulemd" => {
                let known = self.artifacts.entry((module, stream)).or_default();
                known.extend(packages);
            }
            "modulemd-defaults" if !stream.is_empty() => {
                self.defaults.insert(module, stream);
            }
            _ => {}
        }
    }

    /// Which packages dnf sees while nobody has enabled or disabled a stream.
    pub fn visible(&self) -> Visible {
        let (mut shown, mut hidden) = (HashSet::new(), HashSet::new());
        for ((module, stream), packages) in &self.artifacts {
            let set = match self.defaults.get(module) == Some(stream) {
                true => &mut shown,
                false => &mut hidden,
            };
            set.extend(packages.iter().filter_map(|nevra| normal(nevra)));
        }
        let names = shown.iter().map(|(name, ..)| name.clone()).collect();
        Visible {
            shown,
            hidden,
            names,
        }
    }
}

/// Name, `[epoch:]version-release`, architecture.
type Nevra = (String, String, String);

/// Which packages dnf sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Visible {
    shown: HashSet<Nevra>,
    hidden: HashSet<Nevra>,
    /// Names of packages of default streams: packages of these names from outside of the stream are hidden.
    names: BTreeSet<String>,
}

impl Visible {
    /// Whether dnf sees a package.
    pub fn has(&self, name: &str, evr: &str, architecture: &str) -> bool {
        if self.hidden.is_empty() && self.names.is_empty() {
            return true;
        }
        let nevra = (name.to_string(), evr.to_string(), architecture.to_string());
        self.shown.contains(&nevra) || !self.hidden.contains(&nevra) && !self.names.contains(name)
    }
}

/// `name-epoch:version-release.arch` in its parts, an epoch of 0 left out.
fn normal(text: &str) -> Option<Nevra> {
    let (rest, architecture) = text.rsplit_once('.')?;
    let (rest, release) = rest.rsplit_once('-')?;
    let (name, version) = rest.rsplit_once('-')?;
    let version = version.strip_prefix("0:").unwrap_or(version);
    Some((
        name.to_string(),
        format!("{version}-{release}"),
        architecture.to_string(),
    ))
}

/// The keys that lead to what is read now; an element of a list has the key "".
fn path(open: &[Open]) -> Vec<&str> {
    let keys = open.iter().map(|open| match open {
        Open::Map(key) => key.as_deref().unwrap_or_default(),
        Open::List => "",
    });
    keys.collect()
}

fn value_is_done(open: &mut [Open]) {
    if let Some(Open::Map(key)) = open.last_mut() {
        *key = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "---
document: modulemd
version: 2
data:
  name: web
  stream: \"1.10\"
  profiles: {common: {rpms: [web]}}
  artifacts:
    rpms:
    - web-0:1.10-1.module.x86_64
    - web-lib-2:1-1.noarch
...
---
document: modulemd
data:
  name: web
  stream: new
  artifacts: {rpms: [\"web-0:2-1.x86_64\"]}
---
document: modulemd-defaults
version: 1
data: {module: web, stream: \"1.10\"}
---
document: modulemd
data: {name: lonely, stream: a, artifacts: {rpms: [\"lonely-0:1-1.x86_64\"]}}
";

    #[test]
    fn what_dnf_sees() {
        let mut modules = Modules::default();
        modules.read(TEXT).unwrap();
        let visible = modules.visible();
        for (name, evr, architecture, expected) in [
            ("web", "1.10-1.module", "x86_64", true),
            ("web-lib", "2:1-1", "noarch", true),
            // Of another stream, of none, of a module without a default.
            ("web", "2-1", "x86_64", false),
            ("web", "3-1", "x86_64", false),
            ("lonely", "1-1", "x86_64", false),
            ("lonely", "2-1", "x86_64", true),
            ("other", "1-1", "x86_64", true),
        ] {
            assert_eq!(
                visible.has(name, evr, architecture),
                expected,
                "{name} {evr}"
            );
        }
        assert!(Modules::default().visible().has("web", "2-1", "x86_64"));
    }

    #[test]
    fn what_is_no_metadata() {
        let read = |text: &str| Modules::default().read(text).unwrap_err();
        assert!(read("a: [b").starts_with("line 2: "), "{}", read("a: [b"));
        assert_eq!(read(&"[".repeat(99)), "is nested deeper than 32");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_panic(at in 0usize..500, text in "[-:a \n\\[{&*\"]{0,12}") {
            let at = at % TEXT.len();
            let changed = format!("{}{text}{}", &TEXT[..at], &TEXT[at..]);
            let mut modules = Modules::default();
            let _ = modules.read(&changed);
            let _ = modules.visible();
        }
    }
}
