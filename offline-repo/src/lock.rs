//! The lock: every package with version, place, size and digest, and the signed indexes it was taken from.

mod reading;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::error::Result;
use crate::files;
pub use crate::minimal::LockedBase;
use crate::rpm;
pub use crate::rpm::modules::LockedModules;

/// The version of the format that this crate reads and writes.
pub const SCHEMA: u32 = 1;

/// A lock file (`NAME.lock`, TOML).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Version of this format, 1.
    pub schema: u32,
    /// Name of what is locked.
    pub name: String,
    /// Debian architecture, for example "amd64".
    pub architecture: String,
    /// What was asked for by group, of RPM packages: there a request need not be a package's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, Vec<String>>,
    /// The signed indexes, in the order of the request.
    #[serde(rename = "index", default)]
    pub indexes: Vec<LockedIndex>,
    /// The packages, sorted by name.
    #[serde(rename = "package", default)]
    pub packages: Vec<LockedPackage>,
    /// Modular metadata of RPM upstreams.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<LockedModules>,
    /// Base states that were computed from the indexes.
    #[serde(rename = "base", default, skip_serializing_if = "Vec::is_empty")]
    pub bases: Vec<LockedBase>,
}

/// A signed index that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedIndex {
    /// Name of the upstream in the recipe.
    pub upstream: String,
    /// Name of its archive.
    pub archive: String,
    /// URL that the recipe itself gives; absent when the archive's mirror is a matter of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Suite, for example "trixie-updates".
    pub suite: String,
    /// Component, for example "main".
    pub component: String,
    /// Architecture of the index.
    pub architecture: String,
    /// Date of the Release file, seconds since 1970.
    pub date: u64,
    /// Fingerprint of the key whose signature was accepted.
    pub signed_by: String,
    /// SHA-256 of the InRelease file.
    pub in_release_sha256: Sha256,
    /// SHA-256 of the Packages file as fetched (compressed).
    pub packages_sha256: Sha256,
}

/// A package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPackage {
    /// Package name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Architecture of the package: the lock's, or "all".
    pub architecture: String,
    /// Archive it is fetched from.
    pub archive: String,
    /// Suite it was found in.
    pub suite: String,
    /// Path below the archive's base URL.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the `.deb`.
    pub sha256: Sha256,
    /// Whether the closure of the essential packages contains it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub essential: bool,
    /// Groups whose closure contains it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// The package that first needed it, `group NAME`, or `essential`.
    pub why: String,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Kinds of package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// Debian's.
    Deb,
    /// RPM.
    Rpm,
}

impl LockedPackage {
    /// Its kind, by the end of its path: no archive of either kind names its packages otherwise.
    pub fn format(&self) -> Format {
        match self.path.ends_with(".rpm") {
            true => Format::Rpm,
            false => Format::Deb,
        }
    }

    /// The file's name in a flat repository: `name_version_arch.deb`, with the epoch's colon as `%3a`, as apt
    /// names the files it downloads; `name-version-release.arch.rpm` for an RPM package.
    pub fn file_name(&self) -> String {
        match self.format() {
            Format::Deb => file_name(&self.name, &self.version, &self.architecture),
            Format::Rpm => rpm::file_name(&self.name, &self.version, &self.architecture),
        }
    }
}

/// See [`LockedPackage::file_name`].
pub fn file_name(name: &str, version: &str, architecture: &str) -> String {
    format!("{name}_{}_{architecture}.deb", version.replace(':', "%3a"))
}

impl Lock {
    /// Writes a lock file.
    pub fn save(&self, path: &Path) -> Result<()> {
        files::write_atomic(path, self.to_text().as_bytes(), 0o644)
    }

    /// The text of the lock file; the same lock always gives the same text.
    pub fn to_text(&self) -> String {
        let body = toml::to_string(self).expect("a lock holds only what TOML can hold");
        format!("# Written by 'farrow lock'; every later step uses exactly these packages.\n{body}")
    }

    /// Digest of the text: changes when and only when something in the lock does.
    pub fn digest(&self) -> Sha256 {
        Sha256::of(self.to_text().as_bytes())
    }

    /// The date of the newest index, seconds since 1970: the time that everything made from this lock carries.
    pub fn epoch(&self) -> u64 {
        self.indexes
            .iter()
            .map(|index| index.date)
            .max()
            .unwrap_or(0)
    }

    /// The package of that name.
    pub fn package(&self, name: &str) -> Option<&LockedPackage> {
        let found = self
            .packages
            .binary_search_by(|package| package.name.as_str().cmp(name));
        found.ok().map(|i| &self.packages[i])
    }

    /// URL that the recipe gave for an archive.
    pub fn archive_url(&self, archive: &str) -> Option<&str> {
        self.indexes
            .iter()
            .find(|index| index.archive == archive)?
            .url
            .as_deref()
    }

    /// The base state of a kind.
    pub fn base(&self, kind: &str) -> Option<&LockedBase> {
        self.bases.iter().find(|base| base.kind == kind)
    }

    /// Why a package is there: itself first, then what needed it, up to `group NAME` or `essential`.
    pub fn why(&self, name: &str) -> Vec<String> {
        let mut chain: Vec<String> = Vec::new();
        let mut next = name;
        while let Some(package) = self.package(next).filter(|p| !chain.contains(&p.name)) {
            chain.push(package.name.clone());
            next = &package.why;
        }
        if !chain.is_empty() {
            chain.push(next.to_string());
        }
        chain
    }

    /// Packages of some groups, or of all when none is named, in the order of the lock.
    pub fn of_groups(&self, groups: &[&str]) -> Vec<&LockedPackage> {
        let is_wanted = |p: &&LockedPackage| {
            groups.is_empty() || p.groups.iter().any(|g| groups.contains(&g.as_str()))
        };
        self.packages.iter().filter(is_wanted).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn sample() -> Lock {
        let package = |name: &str, why: &str| LockedPackage {
            name: name.into(),
            version: "1:2.3-4".into(),
            architecture: "amd64".into(),
            archive: "debian".into(),
            suite: "trixie".into(),
            path: format!("pool/main/{name}.deb"),
            size: 7,
            sha256: Sha256::of(name.as_bytes()),
            essential: name == "libc6",
            groups: vec!["meta".into()],
            why: why.into(),
        };
        Lock {
            schema: SCHEMA,
            requests: BTreeMap::new(),
            name: "pigsty".into(),
            architecture: "amd64".into(),
            indexes: vec![LockedIndex {
                upstream: "base".into(),
                archive: "debian".into(),
                url: None,
                suite: "trixie".into(),
                component: "main".into(),
                architecture: "amd64".into(),
                date: 1_795_140_670,
                signed_by: "AB".into(),
                in_release_sha256: Sha256::of(b"r"),
                packages_sha256: Sha256::of(b"p"),
            }],
            packages: vec![
                package("etcd-server", "group meta"),
                package("libc6", "etcd-server"),
            ],
            modules: Vec::new(),
            bases: Vec::new(),
        }
    }

    #[test]
    fn text_round_trips_and_digest_is_stable() {
        let lock = sample();
        let text = lock.to_text();
        assert_eq!(Lock::parse("x.lock", &text).unwrap(), lock);
        assert_eq!(
            lock.digest(),
            Lock::parse("x.lock", &text).unwrap().digest()
        );
        assert_eq!(lock.why("libc6"), ["libc6", "etcd-server", "group meta"]);
        assert_eq!(lock.why("nothing"), [] as [&str; 0]);
        assert_eq!(
            lock.packages[0].file_name(),
            "etcd-server_1%3a2.3-4_amd64.deb"
        );
        assert_eq!(lock.epoch(), 1_795_140_670);
    }
}
