//! Where farrow keeps things on the host: cache, tools tree, and the state that outlives both.

use std::env;
use std::path::PathBuf;

use offline_repo::signer::KeyKind;

use crate::diagnostic::{Diagnostic, Result};

/// Folders of one run; none of them need exist yet.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Downloads and the bake cache; safe to delete.
    pub cache: PathBuf,
    /// Tools trees; safe to delete.
    pub tools: PathBuf,
    /// Signing keys and deployment secrets; never inside a cache.
    pub state: PathBuf,
}

impl Paths {
    /// `$FARROW_CACHE`, `$FARROW_TOOLS` and `$FARROW_STATE`, else the places of the XDG base directory specification.
    pub fn from_environment() -> Result<Self> {
        Ok(Self {
            cache: chosen("FARROW_CACHE", "XDG_CACHE_HOME", ".cache", "farrow")?,
            tools: chosen(
                "FARROW_TOOLS",
                "XDG_DATA_HOME",
                ".local/share",
                "farrow/tools",
            )?,
            state: chosen("FARROW_STATE", "XDG_STATE_HOME", ".local/state", "farrow")?,
        })
    }

    /// The key that signs repositories: `$FARROW_SIGNING_KEY`, else one of its kind in the state folder.
    pub fn signing_key(&self, kind: KeyKind) -> PathBuf {
        let name = match kind {
            KeyKind::Ed25519 => "signing.key",
            KeyKind::Rsa3072 => "signing-rsa-3072.key",
            KeyKind::Rsa4096 => "signing-rsa-4096.key",
        };
        match env::var_os("FARROW_SIGNING_KEY") {
            Some(path) => absolute(path.into()),
            None => self.state.join(name),
        }
    }
}

fn chosen(own: &str, xdg: &str, fallback: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = env::var_os(own).filter(|value| !value.is_empty()) {
        return Ok(absolute(path.into()));
    }
    if let Some(base) = env::var_os(xdg)
        .map(PathBuf::from)
        .filter(|base| base.is_absolute())
    {
        return Ok(base.join(name));
    }
    match env::var_os("HOME")
        .map(PathBuf::from)
        .filter(|home| home.is_absolute())
    {
        Some(home) => Ok(home.join(fallback).join(name)),
        None => Err(
            Diagnostic::invalid("FR-PATHS-HOME", format!("neither {own} nor HOME is set"))
                .with_hint(format!("set {own} to a folder")),
        ),
    }
}

fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}
