//! A bundle's repository on a machine that may have it already: what is complete is left alone, what is not is repaired.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::install::{install, name_of};
use crate::marker::{self, MARKER_LIMIT, Marker};
use crate::openpgp::Keyring;
use crate::progress::Callback;
use crate::publish::{beside_names, is_beside};
use crate::tarball::{self, Stop};

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

/// Sees to it that the bundle's repository is below `target`, as [`install`] does; gives its folder and what was done.
///
/// # Errors
/// Those of [`install`].
pub fn place(
    bundle: &Path,
    target: &Path,
    keyring: Option<&Keyring>,
    progress: Callback<'_>,
) -> Result<(PathBuf, Placed)> {
    let name = name_of(bundle)?;
    let path = target.join(&name);
    let placed = if path.symlink_metadata().is_err() {
        Placed::Unpacked
    } else {
        state(bundle, target, &name, keyring)?
    };
    if placed != Placed::LeftAlone {
        install(bundle, target, keyring, progress)?;
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
    let wanted = marker_of(bundle, name)?;
    Ok(match wanted.manifest == marker.manifest {
        true => Placed::LeftAlone,
        false => Placed::Replaced,
    })
}

/// The marker in a bundle, which is its last member.
fn marker_of(bundle: &Path, name: &str) -> Result<Marker> {
    let fail = |message: String| Error::Bundle {
        path: bundle.to_path_buf(),
        message,
    };
    let file = File::open(bundle).map_err(|e| Error::io("open", bundle, e))?;
    let input = flate2::read::MultiGzDecoder::new(BufReader::with_capacity(1 << 20, file));
    let wanted = format!("{name}/{}", marker::NAME);
    let mut text = None;
    let outcome = tarball::read(input, &mut |member| {
        if member.path == wanted {
            let mut found = String::new();
            member
                .content
                .take(MARKER_LIMIT)
                .read_to_string(&mut found)?;
            text = Some(found);
        }
        std::io::Result::Ok(())
    });
    if let Err(Stop::Refused(e) | Stop::Damaged(_, e)) = outcome {
        return Err(fail(format!("is cut off or damaged: {e}")));
    }
    match text {
        Some(text) => Marker::parse(&bundle.display().to_string(), &text),
        None => Err(fail(format!("is cut off: it has no {}", marker::NAME))),
    }
}
