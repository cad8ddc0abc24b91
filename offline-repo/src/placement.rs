//! A bundle's repository on a machine that may have it already: what is complete is left alone, what is not is repaired.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::bundle_reader::BundleFile;
use crate::error::{Error, Result};
use crate::install::install_since;
use crate::marker::{self, MARKER_LIMIT, Marker};
use crate::openpgp::Keyring;
use crate::progress::{Callback, silent};
use crate::publish::{beside_names, is_beside};

/// What became of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// It was not there.
    Unpacked,
    /// It was there, every file with the content that the bundle's marker lists.
    LeftAlone,
    /// It was there, and something in it was missing or wrong.
    Repaired,
    /// Another one of that name was there, complete.
    Replaced,
}

impl Placed {
    /// In one word, for people and programs.
    pub fn word(self) -> &'static str {
        match self {
            Placed::Unpacked => "installed",
            Placed::LeftAlone => "unchanged",
            Placed::Repaired => "repaired",
            Placed::Replaced => "replaced",
        }
    }
}

/// Sees to it that the bundle's repository is below `target`, as [`install_since`] does; gives its folder and what was
/// done.
///
/// # Errors
/// Those of [`install_since`].
pub fn place(
    bundle: &Path,
    since: Option<&Path>,
    target: &Path,
    keyring: Option<&Keyring>,
    progress: Callback<'_>,
) -> Result<(PathBuf, Placed)> {
    let name = BundleFile::open(bundle)?.name()?;
    let path = target.join(&name);
    let placed = if path.symlink_metadata().is_err() {
        Placed::Unpacked
    } else {
        state(bundle, target, &name, keyring)?
    };
    if placed != Placed::LeftAlone {
        install_since(bundle, since, target, keyring, progress)?;
    }
    Ok((path, placed))
}

/// How what is there compares with the bundle.
fn state(bundle: &Path, target: &Path, name: &str, keyring: Option<&Keyring>) -> Result<Placed> {
    let path = target.join(name);
    let names = beside_names(name);
    let beside = is_beside(
        name,
        names.iter().filter(|file| target.join(file).is_file()),
    );
    let Ok(marker) = Marker::load(&path) else {
        return Ok(Placed::Repaired);
    };
    let trusted = keyring.is_none_or(|keyring| {
        let origin = path.join(marker::NAME).display().to_string();
        marker.check_signature(&origin, keyring).is_ok()
    });
    if !beside || !trusted || !marker.compare(&path)?.is_complete() {
        return Ok(Placed::Repaired);
    }
    let wanted = marker_of(bundle)?;
    Ok(match wanted.manifest == marker.manifest {
        true => Placed::LeftAlone,
        false => Placed::Replaced,
    })
}

/// The marker in a bundle, which is its last member.
fn marker_of(bundle: &Path) -> Result<Marker> {
    let source = BundleFile::open(bundle)?;
    let mut bytes = Vec::new();
    let each = &mut |path: &str, content: &mut dyn Read| match path {
        marker::NAME => {
            bytes = source.read_small(content, MARKER_LIMIT)?;
            Ok(())
        }
        _ => source.skip(content),
    };
    let contents = source.read("marker", each, &silent)?;
    source.check(&contents)?;
    let origin = bundle.display().to_string();
    let text =
        String::from_utf8(bytes).map_err(|_| Error::invalid(&origin, "is not UTF-8 text"))?;
    Marker::parse(&origin, &text)
}
