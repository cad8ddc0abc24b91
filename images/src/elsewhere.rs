//! Results that somebody else may have made already: what is asked for, and by which name.
//!
//! Parts and trees are named by a digest of all that they are made from. Where else they may be, and whether that place
//! is to be trusted, is not this crate's business: its caller gives a function that looks there.

use std::path::{Path, PathBuf};

/// A kind of result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file system of an image: one file.
    Part,
    /// The tree that packages make, and what is known about it: a folder.
    Base,
}

impl Kind {
    /// Its name, which is that of its folder in a shared cache.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Part => "part",
            Kind::Base => "base",
        }
    }
}

/// A result that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// What it is.
    pub kind: Kind,
    /// SHA-256 in hex over everything it is made from.
    pub digest: &'a str,
}

/// Looks for a result elsewhere and writes it to a path that lies in an unfinished folder of the cache: of a part the
/// file, of a base what [`unpack`](crate::tree_archive::unpack) puts into the folder. When it returns false, the result
/// is made here, and what it may have written is not used.
pub type Find<'a> = &'a (dyn Fn(Wanted<'_>, &Path) -> bool + Sync);

/// The folder of results, and where to look for what it lacks.
#[derive(Clone, Copy)]
pub struct Cache<'a> {
    /// The folder; it is made when it is missing.
    pub folder: &'a Path,
    /// Where else; none: nowhere.
    pub find: Option<Find<'a>>,
}

impl<'a> From<&'a Path> for Cache<'a> {
    fn from(folder: &'a Path) -> Self {
        Cache { folder, find: None }
    }
}

impl<'a> From<&'a PathBuf> for Cache<'a> {
    fn from(folder: &'a PathBuf) -> Self {
        Cache::from(folder.as_path())
    }
}
