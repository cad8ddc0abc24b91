//! RPM packages and yum repositories: headers, metadata, versions.
//!
//! ```text
//! .rpm → Header → Package → elements of primary, filelists, other → repodata/ with a signed repomd.xml
//! signed repomd.xml → primary.xml (and filelists.xml, if paths ask for it) → Universe → clauses → chosen packages
//! ```

pub mod archive;
pub mod clauses;
pub mod dependency;
pub mod evr;
pub mod header;
pub mod locking;
pub mod metadata;
pub mod modules;
pub mod package;
mod policy;
pub mod proof;
pub mod reader;
pub mod repodata;
pub mod repomd;
pub(crate) mod repository;
pub mod resolve;
mod rules;
mod sat;
mod solver;
mod strings;
mod tag;
pub mod universe;
pub mod write;
pub mod xml;

/// Package names as EL uses them: no separators of paths, relations or globs. One letter is enough (`R`).
pub fn is_package_name(name: &str) -> bool {
    (1..=200).contains(&name.len())
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b))
}

/// `x86_64`, `noarch`, …: letters, digits and underscores.
pub fn is_architecture(name: &str) -> bool {
    (1..=32).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The name of a package's file: `name-version-release.arch.rpm`, which has no epoch.
pub fn file_name(name: &str, evr: &str, architecture: &str) -> String {
    let bare = evr.split_once(':').map_or(evr, |(_, rest)| rest);
    format!("{name}-{bare}.{architecture}.rpm")
}
