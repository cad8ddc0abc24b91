//! Unpacking a bundle: verified against its marker before anything gets its final name.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::bundle_reader::BundleFile;
use crate::delta::{self, Delta};
use crate::error::{Error, Result};
use crate::files::{self, Staging};
use crate::marker::{self, Marker};
use crate::openpgp::Keyring;
use crate::progress::Callback;

/// Unpacks a bundle below `target` (for example `/www`); returns the repository's folder.
///
/// With keys, one of them must have signed the marker; without, the key in the bundle is taken, which finds
/// damage but not forgery. Whatever goes wrong, nothing stays behind.
pub fn install(
    bundle: &Path,
    target: &Path,
    keyring: Option<&Keyring>,
    progress: Callback<'_>,
) -> Result<PathBuf> {
    install_since(bundle, None, target, keyring, progress)
}

/// The same for a delta, which continues the repository in `since`, a folder or a bundle; by default the one that is
/// installed already.
pub fn install_since(
    bundle: &Path,
    since: Option<&Path>,
    target: &Path,
    keyring: Option<&Keyring>,
    progress: Callback<'_>,
) -> Result<PathBuf> {
    let source = BundleFile::open(bundle)?;
    let name = source.name()?;
    files::create_dirs(target)?;
    let _held = files::lock_dir(target)?;
    let staging = Staging::new(&target.join(&name))?;
    let root = staging.path();
    let mut delta = None;
    let contents = source.read(
        "install",
        &mut |path, content| match path {
            delta::NAME => {
                delta = Some(source.read_small(content, delta::LIMIT)?);
                Ok(())
            }
            _ => unpack(content, &root.join(path)),
        },
        progress,
    )?;
    let own = match keyring {
        Some(_) => None,
        None => Some(Keyring::from_files(&[&contents.beside[0].1])?),
    };
    let marker = Marker::load(staging.path()).map_err(|error| {
        let inside = format!("{}/", staging.path().display());
        source.fail(error.to_string().replace(&inside, ""))
    })?;
    let origin = bundle.display().to_string();
    marker.check_signature(
        &origin,
        keyring.or(own.as_ref()).expect("one of the two is there"),
    )?;
    if let Some(text) = delta {
        let delta = Delta::parse(&text).map_err(|message| source.fail(message))?;
        let installed = target.join(&name);
        let since = since.unwrap_or(&installed);
        if since.symlink_metadata().is_err() {
            let message = format!(
                "is a delta on the manifest {}, which is not there",
                delta.since
            );
            return Err(source.fail(message));
        }
        delta::complete(&delta, &marker, since, staging.path(), progress)?;
    }
    marker.compare(staging.path())?.into_result(bundle)?;
    source.check(&contents)?;
    files::normalise(staging.path(), contents.epoch)?;
    for (file, bytes) in &contents.beside {
        files::write_atomic(&target.join(file), bytes, 0o644)?;
    }
    staging.install(marker::NAME)?;
    Ok(target.join(&name))
}

/// Writes one member; the number of bytes that its header announces must be there.
fn unpack(content: &mut dyn Read, path: &Path) -> Result<()> {
    files::create_dirs(files::parent(path))?;
    let fail = |e| Error::io("write", path, e);
    let mut file = File::create_new(path).map_err(fail)?;
    std::io::copy(content, &mut file).map(drop).map_err(fail)
}
