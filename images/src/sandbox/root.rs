//! What becomes `/` of a sandbox.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::canonical;
use crate::error::Result;

/// A tree, or several that are seen as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Root {
    /// The tree, which can be written to.
    Writable(PathBuf),
    /// The tree, protected from writes: mount points for binds are made on a tmpfs above it.
    ReadOnly(PathBuf),
    /// Trees seen as one.
    Layers(Layers),
}

/// Trees seen as one: what is written goes to the uppermost (overlayfs, Documentation/filesystems/overlayfs.rst).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// Trees that are only read, the uppermost first.
    pub lower: Vec<PathBuf>,
    /// The folder that gets what is written, and marks of what is removed.
    pub upper: PathBuf,
    /// An empty folder beside it, for the kernel.
    pub work: PathBuf,
}

impl Root {
    /// The same with paths that mean the same wherever they are looked up from.
    pub(super) fn canonical(&self) -> Result<Self> {
        Ok(match self {
            Root::Writable(path) => Root::Writable(canonical(path)?),
            Root::ReadOnly(path) => Root::ReadOnly(canonical(path)?),
            Root::Layers(Layers { lower, upper, work }) => Root::Layers(Layers {
                lower: lower
                    .iter()
                    .map(|path| canonical(path))
                    .collect::<Result<_>>()?,
                upper: canonical(upper)?,
                work: canonical(work)?,
            }),
        })
    }
}

/// The path that errors name.
impl fmt::Display for Root {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Root::Writable(path) | Root::ReadOnly(path) => path.display().fmt(formatter),
            Root::Layers(layers) => layers.upper.display().fmt(formatter),
        }
    }
}
