//! Where files lie in a repository: flat, everything in one folder, or as in Debian's archive, `pool` and `dists`
//! (<https://wiki.debian.org/DebianRepository/Format>). Stock apt reads both.

use serde::{Deserialize, Serialize};

use crate::lock::{Format, LockedPackage, file_name};
use crate::marker::Marker;

/// The only component of a repository of ours.
pub const COMPONENT: &str = "main";

/// How a repository is laid out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// Packages and indexes in one folder; the source entry names `./` as suite.
    #[default]
    Flat,
    /// `pool/main/…` and `dists/SUITE/main/binary-ARCH`; the source entry names suite and component.
    Pool,
}

impl Layout {
    /// Path of a package's file in the repository.
    pub fn package_path(self, name: &str, version: &str, architecture: &str) -> String {
        let file = file_name(name, version, architecture);
        match self {
            Layout::Flat => file,
            Layout::Pool => format!("pool/{COMPONENT}/{}/{name}/{file}", initial(name)),
        }
    }

    /// Path of a locked package's file; RPM packages lie at the top in either layout.
    pub(crate) fn path_of(self, package: &LockedPackage) -> String {
        match package.format() {
            Format::Deb => {
                self.package_path(&package.name, &package.version, &package.architecture)
            }
            Format::Rpm => package.file_name(),
        }
    }

    /// Folder of the Release files, "" or with a slash at its end.
    pub fn release_folder(self, codename: &str) -> String {
        match self {
            Layout::Flat => String::new(),
            Layout::Pool => format!("dists/{codename}/"),
        }
    }

    /// Folder of the package index below that of the Release files, "" or with a slash at its end.
    pub fn index_folder(self, architecture: &str) -> String {
        match self {
            Layout::Flat => String::new(),
            Layout::Pool => format!("{COMPONENT}/binary-{architecture}/"),
        }
    }
}

/// First letter of a name, or the first four of those that begin with "lib", as Debian's pool is divided.
fn initial(name: &str) -> &str {
    match name.starts_with("lib") {
        true => name.get(..4).unwrap_or(name),
        false => name.get(..1).unwrap_or(name),
    }
}

/// What a marker tells about the layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The layout.
    pub layout: Layout,
    /// Path of the Release file.
    pub release: String,
    /// Path of the uncompressed package index.
    pub packages: String,
}

/// Finds the layout of a repository by the one `Release` and `Packages` that its marker lists.
pub fn detect(marker: &Marker) -> Option<Found> {
    let one = |name: &str| {
        let is_named = |path: &&str| path.rsplit('/').next() == Some(name);
        let paths = marker.files.iter().map(|(path, _)| path.as_str());
        let mut found = paths.filter(is_named);
        found.next().filter(|_| found.next().is_none())
    };
    let (release, packages) = (one("Release")?, one("Packages")?);
    let layout = match (release, packages) {
        ("Release", "Packages") => Layout::Flat,
        _ if release.starts_with("dists/") && packages.starts_with("dists/") => Layout::Pool,
        _ => return None,
    };
    Some(Found {
        layout,
        release: release.to_string(),
        packages: packages.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_packages() {
        for (layout, name, expected) in [
            (Layout::Flat, "curl", "curl_1%3a2_amd64.deb"),
            (
                Layout::Pool,
                "curl",
                "pool/main/c/curl/curl_1%3a2_amd64.deb",
            ),
            (
                Layout::Pool,
                "libpq5",
                "pool/main/libp/libpq5/libpq5_1%3a2_amd64.deb",
            ),
            (Layout::Pool, "lib", "pool/main/lib/lib/lib_1%3a2_amd64.deb"),
        ] {
            assert_eq!(layout.package_path(name, "1:2", "amd64"), expected);
        }
    }
}
