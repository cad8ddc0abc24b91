//! Packages are unpacked ahead of dpkg, on all processors, into package files without compression.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use super::input::Package;
use crate::deb::plain;
use crate::error::{Error, Result};
use crate::unfinished::Unfinished;

/// Packages that are being unpacked, and those that are ready.
pub(super) struct Ahead<'a> {
    packages: Vec<&'a Package>,
    /// The place of each among them, by its file's name.
    places: BTreeMap<String, usize>,
    folder: Unfinished,
    next: AtomicUsize,
    /// Those that are ready, and what went wrong with others.
    done: Mutex<BTreeMap<usize, Option<Error>>>,
    changed: Condvar,
}

impl<'a> Ahead<'a> {
    /// Of packages in the order in which they are wanted, in a folder of `cache`.
    pub(super) fn new(packages: Vec<&'a Package>, cache: &Path) -> Result<Self> {
        let places = packages.iter().enumerate();
        let places = places.map(|(place, package)| (Self::name(package), place));
        Ok(Self {
            places: places.collect(),
            packages,
            folder: Unfinished::begin(cache)?,
            next: AtomicUsize::new(0),
            done: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The name of a package's file in the folder.
    pub(super) fn name(package: &Package) -> String {
        format!("{}_{}.deb", package.name, package.architecture)
    }

    /// Unpacks one after the other, beside other callers, until all before `end` are taken or [`Ahead::stop`] is called.
    pub(super) fn work(&self, end: usize) {
        let end = end.min(self.packages.len());
        let take = |next: usize| (next < end).then_some(next + 1);
        while let Ok(index) = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
        {
            let package = self.packages[index];
            let result = plain::write(&package.path, &self.place(package));
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            done.insert(index, result.err());
            self.changed.notify_all();
        }
    }

    /// Lets workers end after what they are at.
    pub(super) fn stop(&self) {
        self.next.store(self.packages.len(), Ordering::Relaxed);
    }

    /// Waits until a package is ready; one that is not among them is unpacked now.
    pub(super) fn wait(&self, package: &Package) -> Result<()> {
        let Some(place) = self.places.get(&Self::name(package)) else {
            return plain::write(&package.path, &self.place(package));
        };
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match done.get_mut(place).map(Option::take) {
                Some(None) => return Ok(()),
                Some(Some(error)) => return Err(error),
                None => {
                    let wait = self.changed.wait(done);
                    done = wait.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Removes a package's file, which is not needed any more.
    pub(super) fn remove(&self, package: &Package) -> Result<()> {
        let place = self.place(package);
        std::fs::remove_file(&place).map_err(Error::io("remove", &place))
    }

    /// Where a package's file is, or will be.
    pub(super) fn place(&self, package: &Package) -> PathBuf {
        self.folder.path().join(Self::name(package))
    }
}
