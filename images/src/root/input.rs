//! What a root tree is made from, as plain data with a digest.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::emulation::Emulator;

/// The code that decides what a tree looks like: when it changes, so do the digests of trees.
const CODE: [&str; 20] = [
    include_str!("../root.rs"),
    include_str!("background.rs"),
    include_str!("background/compile_python.py"),
    include_str!("changes.rs"),
    include_str!("dpkg.rs"),
    include_str!("filter.rs"),
    include_str!("finish.rs"),
    include_str!("finish/accounts.rs"),
    include_str!("finish/bytecode.rs"),
    include_str!("finish/clean.rs"),
    include_str!("finish/layout.rs"),
    include_str!("finish/times.rs"),
    include_str!("layers.rs"),
    include_str!("maker.rs"),
    include_str!("merge.rs"),
    include_str!("order.rs"),
    include_str!("policy.rs"),
    include_str!("prepare.rs"),
    include_str!("record.rs"),
    include_str!("unpack.rs"),
];

/// A package to install.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture.
    pub architecture: String,
    /// Where the verified `.deb` file is.
    #[serde(skip)]
    pub path: PathBuf,
    /// SHA-256 of the file in hex.
    pub sha256: String,
}

/// A file, link or folder that is put into the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Absolute path in the tree. Missing parents are made, mode 0755, owner root.
    pub path: String,
    /// Permission bits; ignored for links.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What it is.
    pub kind: Content,
}

/// What a [`FileEntry`] is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// A regular file with these bytes. A file or link that is there is replaced.
    File(#[serde(with = "as_hex")] Vec<u8>),
    /// A symbolic link to this target. A file or link that is there is replaced.
    Symlink(String),
    /// A folder. One that is there gets the mode and owner.
    Directory,
}

/// An account with a fixed id, so that data outlives a change of image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemUser {
    /// Name of the user and of its own group.
    pub name: String,
    /// User id, below 1000 and not one of base-passwd's.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Full name or purpose.
    pub comment: String,
    /// Home folder; not made.
    pub home: String,
    /// Login shell.
    pub shell: String,
    /// Groups that exist in base-passwd or belong to another account of the list, which it joins.
    pub groups: Vec<String>,
}

/// A shell script that runs in the tree when all packages are configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// What errors and progress call it.
    pub name: String,
    /// The text, for the tree's `sh -eu`.
    pub text: String,
}

/// Everything a root tree depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootInput {
    /// The closed set of packages, in any order.
    pub packages: Vec<Package>,
    /// Put into the tree before anything of dpkg runs.
    pub files_before: Vec<FileEntry>,
    /// Put into the tree when all packages are configured.
    pub files_after: Vec<FileEntry>,
    /// Accounts with fixed ids, made before any package is unpacked.
    pub users: Vec<SystemUser>,
    /// Accounts with fixed ids that no package asks for, made when all packages are configured.
    pub users_after: Vec<SystemUser>,
    /// Run as root when all packages are configured, in this order, without a network.
    pub scripts: Vec<Script>,
    /// Content of `/etc/hostname`.
    pub hostname: String,
    /// Seconds since 1970; no time in the tree is later. Not earlier than the packages, or Python's compiled files
    /// would not match their sources.
    pub epoch: u64,
    /// Leaves out documentation, manual pages and translations (licences stay).
    pub exclude_documentation: bool,
    /// Who runs the packages' scripts when they are for another processor. Not part of the digest: what scripts do does
    /// not depend on what runs them.
    #[serde(skip)]
    pub emulator: Option<Emulator>,
}

impl RootInput {
    /// SHA-256 in hex over everything that decides what the tree will be.
    pub fn digest(&self) -> String {
        let added = (&self.files_after, &self.users_after, &self.hostname);
        digest_of(&(self.base_digest(), added))
    }

    /// The same over what decides the part of the tree that packages make.
    pub(super) fn base_digest(&self) -> String {
        let mut packages: Vec<&Package> = self.packages.iter().collect();
        packages.sort_by(|a, b| (&a.name, &a.architecture).cmp(&(&b.name, &b.architecture)));
        digest_of(&(self.beginning_digest(), packages, &self.scripts))
    }

    /// The same over what there is before the first package.
    pub(super) fn beginning_digest(&self) -> String {
        let settings = (self.epoch, self.exclude_documentation);
        digest_of(&(CODE, &self.files_before, &self.users, settings))
    }
}

pub(super) fn digest_of(value: &(impl Serialize + std::fmt::Debug)) -> String {
    // Plain data with string keys cannot fail to serialise; a debug text would do as well.
    let bytes = serde_json::to_vec(value).unwrap_or_else(|_| format!("{value:?}").into_bytes());
    hex::encode(Sha256::digest(bytes))
}

/// Bytes as a hexadecimal string, which JSON holds in less space than a list of numbers.
mod as_hex {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        hex::decode(text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input() -> RootInput {
        let package = |name: &str| Package {
            name: name.into(),
            version: "1".into(),
            architecture: "all".into(),
            path: format!("/cache/{name}").into(),
            sha256: "00".into(),
        };
        RootInput {
            packages: vec![package("a"), package("b")],
            files_before: Vec::new(),
            files_after: Vec::new(),
            users: Vec::new(),
            users_after: Vec::new(),
            scripts: Vec::new(),
            hostname: "node".into(),
            epoch: 1,
            exclude_documentation: true,
            emulator: None,
        }
    }

    #[test]
    fn digest_follows_content_and_not_places() {
        let one = input();
        let mut moved = one.clone();
        moved.packages.reverse();
        moved.packages[0].path = "/elsewhere".into();
        moved.emulator = Some(Emulator {
            architecture: crate::architecture::Architecture::Arm64,
            program: "/elsewhere".into(),
        });
        assert_eq!(one.digest(), moved.digest());
        let mut later = one.clone();
        later.hostname = "other".into();
        assert_eq!(one.base_digest(), later.base_digest());
        let changes: [fn(&mut RootInput); 5] = [
            |input| {
                input.scripts.push(Script {
                    name: "a".into(),
                    text: "true".into(),
                });
            },
            |input| input.packages[0].sha256 = "01".into(),
            |input| input.epoch = 2,
            |input| input.hostname = "other".into(),
            |input| {
                let kind = Content::File(vec![1]);
                input.files_after.push(FileEntry {
                    path: "/a".into(),
                    mode: 0o644,
                    uid: 0,
                    gid: 0,
                    kind,
                });
            },
        ];
        for change in changes {
            let mut changed = one.clone();
            change(&mut changed);
            assert_ne!(one.digest(), changed.digest());
        }
    }
}
