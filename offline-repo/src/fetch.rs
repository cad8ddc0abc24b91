//! From a lock to verified files: what is in the cache, what is missing, and fetching that.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::http::{Client, Expected};
use crate::lock::{Lock, LockedPackage};
use crate::percent;
use crate::progress::{Callback, Progress};

/// Connections at a time: enough to hide a mirror's latency, few enough to be a polite guest.
const CONNECTIONS: usize = 8;

/// What a lock needs, split by whether the cache has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchPlan {
    /// In the cache, by name and size; content is verified when it is used.
    pub have: Vec<LockedPackage>,
    /// To be fetched.
    pub missing: Vec<LockedPackage>,
}

impl FetchPlan {
    /// Looks into the cache, without reading content.
    pub fn new(lock: &Lock, cache: &Cache) -> Self {
        let modules = lock.modules.iter().map(|modules| modules.described());
        let (have, missing) = (lock.packages.iter().cloned())
            .chain(modules)
            .partition(|p| cache.has(&p.sha256, p.size));
        FetchPlan { have, missing }
    }

    /// Whether nothing has to be fetched.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty()
    }

    /// Bytes to fetch.
    pub fn missing_bytes(&self) -> u64 {
        self.missing.iter().map(|p| p.size).sum()
    }
}

impl std::fmt::Display for FetchPlan {
    /// One line per package to fetch, then the sum.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for package in &self.missing {
            writeln!(
                f,
                "fetch {} {} {}",
                package.name, package.version, package.size
            )?;
        }
        let (missing, bytes) = (self.missing.len(), self.missing_bytes());
        writeln!(
            f,
            "{missing} to fetch, {bytes} bytes; {} in the cache",
            self.have.len()
        )
    }
}

/// All packages of a lock as verified files. Only [`fetch`] makes one.
#[derive(Debug, Clone)]
pub struct Fetched {
    lock: Lock,
    packages: Vec<(LockedPackage, PathBuf)>,
    modules: Vec<PathBuf>,
}

impl Fetched {
    /// The lock that all of them are listed in.
    pub fn lock(&self) -> &Lock {
        &self.lock
    }

    /// Each package with the path of its `.deb`, in the order of the lock.
    pub fn packages(&self) -> impl ExactSizeIterator<Item = (&LockedPackage, &Path)> {
        self.packages
            .iter()
            .map(|(package, path)| (package, path.as_path()))
    }

    /// Paths of the files of modular metadata, in the order of the lock.
    pub fn modules(&self) -> impl Iterator<Item = &Path> {
        self.modules.iter().map(PathBuf::as_path)
    }

    /// Path of one package's `.deb`.
    pub fn path(&self, name: &str) -> Option<&Path> {
        self.packages
            .iter()
            .find(|(p, _)| p.name == name)
            .map(|(_, path)| path.as_path())
    }
}

/// Verifies what the cache has, fetches the rest, and returns only when every file has its digest.
pub fn fetch(
    lock: &Lock,
    client: &Client,
    cache: &Cache,
    progress: Callback<'_>,
) -> Result<Fetched> {
    let plan = FetchPlan::new(lock, cache);
    let damaged: Vec<LockedPackage> = plan
        .have
        .par_iter()
        .map(|p| {
            Ok(if cache.verify(&p.sha256, p.size)? {
                None
            } else {
                Some(p.clone())
            })
        })
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect();
    let mut missing = plan.missing;
    missing.extend(damaged);
    // Large files first, so that no connection is left alone with one at the end.
    missing.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.name.cmp(&b.name)));
    if client.is_offline() && !missing.is_empty() {
        missing.sort_by(|a, b| a.name.cmp(&b.name));
        return Err(Error::Offline {
            missing: missing
                .iter()
                .map(|p| format!("{} {}", p.name, p.version))
                .collect(),
        });
    }
    download(lock, &missing, client, cache, progress)?;
    let packages = lock
        .packages
        .iter()
        .map(|p| (p.clone(), cache.path(&p.sha256)))
        .collect();
    let modules = lock.modules.iter().map(|one| cache.path(&one.sha256));
    Ok(Fetched {
        lock: lock.clone(),
        packages,
        modules: modules.collect(),
    })
}

fn download(
    lock: &Lock,
    missing: &[LockedPackage],
    client: &Client,
    cache: &Cache,
    progress: Callback<'_>,
) -> Result<()> {
    let downloads = Downloads {
        lock,
        missing,
        client,
        cache,
        progress,
        total_bytes: missing.iter().map(|p| p.size).sum(),
        next: AtomicUsize::new(0),
        bytes: AtomicU64::new(0),
        items: AtomicU64::new(0),
        failed: Mutex::default(),
    };
    progress(Progress::Stage {
        name: "fetch",
        items: missing.len() as u64,
        bytes: downloads.total_bytes,
    });
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS.min(missing.len()) {
            scope.spawn(|| downloads.work());
        }
    });
    for (server, reason) in client.troubles() {
        progress(Progress::Trouble {
            server: &server,
            reason: &reason,
        });
    }
    let failed = downloads.failed.into_inner();
    one_error(failed.expect("no thread panics with it"), missing.len())
}

/// Downloads that several connections share.
struct Downloads<'a> {
    lock: &'a Lock,
    missing: &'a [LockedPackage],
    client: &'a Client,
    cache: &'a Cache,
    progress: Callback<'a>,
    total_bytes: u64,
    /// The first package that nobody has begun.
    next: AtomicUsize,
    bytes: AtomicU64,
    items: AtomicU64,
    failed: Mutex<Vec<Error>>,
}

impl Downloads<'_> {
    /// One connection: a package after the other until none is left.
    fn work(&self) {
        while let Some(package) = self.missing.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            match self.fetch(package) {
                Ok(()) => (self.progress)(Progress::Item {
                    name: &package.name,
                    done: self.items.fetch_add(1, Ordering::Relaxed) + 1,
                    total: self.missing.len() as u64,
                }),
                Err(error) => {
                    // What one file lacks says nothing of the others; a full disk or a dead network does.
                    if !error.concerns_one_file() {
                        self.next.store(self.missing.len(), Ordering::Relaxed);
                    }
                    let mut failed = self.failed.lock().expect("no thread panics with it");
                    failed.push(error);
                }
            }
        }
    }

    fn fetch(&self, package: &LockedPackage) -> Result<()> {
        let seen = AtomicU64::new(0);
        let on_bytes = |now: u64| {
            // Restarted downloads report less than before; the sum then only waits.
            let more = now.saturating_sub(seen.fetch_max(now, Ordering::Relaxed));
            (self.progress)(Progress::Bytes {
                done: self.bytes.fetch_add(more, Ordering::Relaxed) + more,
                total: self.total_bytes,
            });
        };
        fetch_one(self.lock, package, self.client, self.cache, &on_bytes)
    }
}

/// What to say of all failures. A full disk or a dead network, which all connections meet at once, is one failure.
fn one_error(mut failed: Vec<Error>, total: usize) -> Result<()> {
    let general = failed.iter().position(|error| !error.concerns_one_file());
    match failed.len() {
        0 => Ok(()),
        n if n == 1 || general.is_some() => Err(failed.swap_remove(general.unwrap_or(0))),
        n => {
            failed.sort_by_cached_key(Error::to_string);
            Err(Error::Several {
                what: format!("{n} of {total} packages could not be fetched"),
                errors: failed,
            })
        }
    }
}

fn fetch_one(
    lock: &Lock,
    package: &LockedPackage,
    client: &Client,
    cache: &Cache,
    on_bytes: &dyn Fn(u64),
) -> Result<()> {
    let bases = client.archive_urls(&package.archive, lock.archive_url(&package.archive))?;
    let path = package.path.strip_prefix("./").unwrap_or(&package.path);
    let urls: Vec<String> = bases
        .iter()
        .map(|base| format!("{base}/{}", percent::path(path)))
        .collect();
    let expected = Expected {
        name: format!("{} {}", package.name, package.version),
        size: package.size,
        sha256: package.sha256,
    };
    cache.fetch(client, &urls, &expected, on_bytes).map(drop)
}
