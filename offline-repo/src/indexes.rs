//! The indexes of an apt repository as values: Packages in its forms, Release, its signatures.

use std::path::Path;

use rayon::prelude::*;

use crate::compression;
use crate::deb;
use crate::digest::Sha256;
use crate::error::{Error, Result};
use crate::layout::{self, COMPONENT, Layout};
use crate::lock::{Format, Lock, LockedPackage};
use crate::metadata::{self, ReleaseInput};
use crate::publish::PublishOptions;
use crate::signer::Signer;

/// The stanza of a package whose file is at hand and will be known as `path`.
pub(crate) fn stanza(package: &LockedPackage, file: &Path, path: &str) -> Result<String> {
    let control = deb::control(file)?;
    metadata::package_stanza(&control, package, path).map_err(|message| Error::Deb {
        path: file.to_path_buf(),
        message,
    })
}

/// Packages in three forms. Both compressions take one core for a moment, so they run side by side.
fn package_indexes(stanzas: &[String]) -> [(&'static str, Vec<u8>); 3] {
    let text = stanzas.join("\n").into_bytes();
    let (gz, xz) = rayon::join(|| compression::gzip(&text), || compression::xz(&text));
    [("Packages", text), ("Packages.gz", gz), ("Packages.xz", xz)]
}

/// Paths and contents of everything apt reads but the packages.
pub(crate) fn signed(
    stanzas: &[String],
    lock: &Lock,
    options: &PublishOptions,
    signer: &Signer,
) -> Result<Vec<(String, Vec<u8>)>> {
    let folder = options.layout.release_folder(&options.codename);
    let index = options.layout.index_folder(&lock.architecture);
    let (mut made, mut listed) = (Vec::new(), Vec::new());
    for (name, bytes) in package_indexes(stanzas) {
        let sha256 = Sha256::of(&bytes);
        listed.push((format!("{index}{name}"), sha256, bytes.len() as u64));
        let by_hash = format!("{folder}{index}by-hash/SHA256/{sha256}");
        made.push((by_hash, bytes.clone()));
        made.push((format!("{folder}{index}{name}"), bytes));
    }
    let release = metadata::release(&ReleaseInput {
        name: &options.name,
        codename: &options.codename,
        components: match options.layout {
            Layout::Flat => None,
            Layout::Pool => Some(COMPONENT),
        },
        architectures: &architectures(lock),
        epoch: options.epoch,
        files: &listed,
    });
    let detached = signer.detach_armored(release.as_bytes(), options.epoch)?;
    let inline = signer.clearsign(&release, options.epoch)?;
    made.push((format!("{folder}Release.gpg"), detached.into_bytes()));
    made.push((format!("{folder}InRelease"), inline.into_bytes()));
    made.push((format!("{folder}Release"), release.into_bytes()));
    Ok(made)
}

fn architectures(lock: &Lock) -> Vec<String> {
    let packages = lock.packages.iter();
    let mut found: Vec<String> = packages
        .filter(|package| package.format() == Format::Deb)
        .map(|package| package.architecture.clone())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// The package indexes once more, from the lock and the packages of a repository: paths and contents.
pub(crate) fn again(
    lock: &Lock,
    root: &Path,
    found: &layout::Found,
) -> Result<Vec<(String, Vec<u8>)>> {
    let stanza_of = |package: &LockedPackage| {
        let path = found.layout.path_of(package);
        stanza(package, &root.join(&path), &path)
    };
    let stanzas: Vec<String> = lock
        .packages
        .par_iter()
        .filter(|package| package.format() == Format::Deb)
        .map(stanza_of)
        .collect::<Result<_>>()?;
    let folder = found.packages.trim_end_matches("Packages");
    let made = package_indexes(&stanzas).into_iter();
    Ok(made
        .map(|(name, bytes)| (format!("{folder}{name}"), bytes))
        .collect())
}
