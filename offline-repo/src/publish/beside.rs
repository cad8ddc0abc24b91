//! Files beside a repository: its public key, and source entries for apt and for dnf.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Families, PublishOptions};
use crate::error::{Error, Result};
use crate::files;
use crate::layout::Layout;
use crate::metadata;
use crate::rpm::repodata;
use crate::signer::Signer;

/// Names of files that may lie beside a repository `name`, sorted. The key is always there, the others for the
/// clients that the repository serves.
pub fn beside_names(name: &str) -> [String; 5] {
    ["asc", "gpg", "list", "repo", "sources"].map(|ending| format!("{name}.{ending}"))
}

/// Whether `found` is what lies beside a repository `name` for apt, for dnf, or for both.
pub(crate) fn is_beside<'a>(name: &str, found: impl Iterator<Item = &'a String>) -> bool {
    let found: Vec<&String> = found.collect();
    let [asc, gpg, list, repo, sources] = &beside_names(name);
    [
        vec![asc, gpg, list, sources],
        vec![asc, repo],
        vec![asc, gpg, list, repo, sources],
    ]
    .contains(&found)
}

/// Writes them into `out`, and removes those of an earlier repository for other clients.
pub(super) fn write(
    options: &PublishOptions,
    families: Families,
    signer: &Signer,
    out: &Path,
) -> Result<Vec<PathBuf>> {
    let name = &options.name;
    let key = signer.public_key()?;
    let url = options
        .url
        .clone()
        .unwrap_or_else(|| format!("http://h.{name}/{name}/"));
    let suite = match options.layout {
        Layout::Flat => None,
        Layout::Pool => Some(options.codename.as_str()),
    };
    let list = metadata::list(&url, suite, &format!("/etc/apt/keyrings/{name}.asc"));
    let contents = [
        Some(key.armored.clone().into_bytes()),
        families.apt.then_some(key.binary),
        families.apt.then(|| list.into_bytes()),
        (families.yum).then(|| repodata::repo_file(name, &url, &[repodata::KEY]).into_bytes()),
        (families.apt).then(|| metadata::sources(&url, suite, &key.armored).into_bytes()),
    ];
    let mut paths = Vec::new();
    for (file, content) in beside_names(name).iter().zip(contents) {
        let path = out.join(file);
        match content {
            Some(bytes) => {
                files::write_atomic(&path, &bytes, 0o644)?;
                paths.push(path);
            }
            None if path.exists() => {
                fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
            }
            None => {}
        }
    }
    Ok(paths)
}
