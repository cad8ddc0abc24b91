//! From a request to a lock: signed indexes, one universe, one closure.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::archive::{self, PackagesFile, SignedRelease, Upstream};
use crate::cache::Cache;
use crate::closure::{Chosen, Wishes};
use crate::error::{Error, Result};
use crate::http::Client;
use crate::keeping;
use crate::lock::{Lock, LockedBase, LockedIndex, LockedPackage, SCHEMA};
use crate::minimal;
use crate::progress::{Callback, Progress};
use crate::universe::Universe;
use crate::universe::reduced::Reduced;

/// What is to be locked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LockRequest {
    /// Name of the recipe.
    pub name: String,
    /// Debian architecture, for example "amd64".
    pub architecture: String,
    /// Archives, the most trusted first.
    pub upstreams: Vec<Upstream>,
    /// Requested packages by group; a request is a name, `name=version`, or `a | b (>= 1)`.
    pub groups: BTreeMap<String, Vec<String>>,
    /// Whether all `Essential: yes` packages are roots too, as an image needs them.
    pub include_essential: bool,
    /// Whether Recommends are followed.
    pub recommends: bool,
    /// Whether the lock describes the smallest system of the first suite, as a base state.
    pub minimal_base: bool,
    /// Name and version of packages that should stay as they are, if they are still to be had and nothing that is asked for
    /// needs another version.
    pub keep: Vec<(String, String)>,
    /// Packages that are to be in their newest version; what that version needs may change with them.
    pub upgrade: Vec<String>,
    /// The time at which signatures and indexes must be valid, seconds since 1970; `None`: now.
    pub now: Option<u64>,
}

/// Fetches and verifies the indexes, resolves the request, and returns the lock.
pub fn lock(
    request: &LockRequest,
    client: &Client,
    cache: &Cache,
    progress: Callback<'_>,
) -> Result<Lock> {
    let (mut universe, indexes) = load_universe(request, client, cache, progress)?;
    progress(Progress::Stage {
        name: "resolve",
        items: 0,
        bytes: 0,
    });
    let of_bases = base_universe(request, &universe, &indexes);
    let wishes = Wishes {
        groups: request.groups.clone(),
        include_essential: request.include_essential,
        recommends: request.recommends,
    };
    // The base states are computed from a universe of their own, at the same time.
    let (bases, chosen) = rayon::join(
        || bases(of_bases),
        || keeping::closure(&mut universe, &wishes, &request.keep, &request.upgrade),
    );
    let bases = bases?;
    let packages = chosen?
        .into_iter()
        .map(|chosen| locked(&universe, &indexes, chosen))
        .collect();
    let lock = Lock {
        schema: SCHEMA,
        name: request.name.clone(),
        architecture: request.architecture.clone(),
        requests: BTreeMap::new(),
        indexes,
        packages,
        modules: Vec::new(),
        bases,
    };
    // What is written must be readable: the checks of the reader hold for it, too.
    Lock::parse("the new lock", &lock.to_text())
}

/// What the base states that are asked for are computed from: the indexes of the first suite, which is what an installation
/// medium has.
fn base_universe(
    request: &LockRequest,
    universe: &Universe,
    indexes: &[LockedIndex],
) -> Option<Universe> {
    if !request.minimal_base {
        return None;
    }
    let first = &indexes[0];
    let same =
        |index: &LockedIndex| (&index.upstream, &index.suite) == (&first.upstream, &first.suite);
    let numbers: Vec<usize> = (0..indexes.len()).filter(|n| same(&indexes[*n])).collect();
    Some(universe.of_indexes(&numbers))
}

/// The base states.
fn bases(universe: Option<Universe>) -> Result<Vec<LockedBase>> {
    let base = |universe: Universe| {
        Ok(LockedBase {
            kind: "minimal".into(),
            status: minimal::status(&universe)?,
        })
    };
    universe.into_iter().map(base).collect()
}

/// The closure of any set of packages, without essential packages: a lock with the single group "request".
pub fn resolve_set(
    packages: &[String],
    architecture: &str,
    upstreams: Vec<Upstream>,
    recommends: bool,
    client: &Client,
    cache: &Cache,
    progress: Callback<'_>,
) -> Result<Lock> {
    let request = LockRequest {
        name: "request".into(),
        architecture: architecture.into(),
        upstreams,
        groups: BTreeMap::from([("request".into(), packages.to_vec())]),
        recommends,
        ..LockRequest::default()
    };
    lock(&request, client, cache, progress)
}

/// Fetches all indexes; the n-th index of the universe is the n-th of the list.
fn load_universe(
    request: &LockRequest,
    client: &Client,
    cache: &Cache,
    progress: Callback<'_>,
) -> Result<(Universe, Vec<LockedIndex>)> {
    if request.upstreams.is_empty() {
        return Err(Error::invalid(&request.name, "names no upstream"));
    }
    if client.is_offline() {
        let names = request
            .upstreams
            .iter()
            .map(|u| format!("the indexes of '{}'", u.name));
        return Err(Error::Offline {
            missing: names.collect(),
        });
    }
    let clock = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let now = request.now.unwrap_or(clock);
    let jobs: Vec<(&Upstream, &String)> = request
        .upstreams
        .iter()
        .flat_map(|upstream| upstream.suites.iter().map(move |suite| (upstream, suite)))
        .collect();
    progress(Progress::Stage {
        name: "index",
        items: jobs.len() as u64,
        bytes: 0,
    });
    let loaded = load_suites(request, &jobs, now, client, cache, progress);
    let (mut indexes, mut reduced, mut new) = (Vec::new(), Vec::new(), Vec::new());
    for suite in loaded {
        for loaded in suite? {
            if loaded.is_new {
                new.push((loaded.index.packages_sha256, loaded.reduced.clone()));
            }
            reduced.push((loaded.origin, loaded.priority, loaded.reduced));
            indexes.push(loaded.index);
        }
    }
    let architecture = &request.architecture;
    let keep = || {
        let mut new = new.iter();
        new.try_for_each(|(sha256, index)| cache.keep_index(sha256, architecture, index))
    };
    let (universe, kept) = rayon::join(|| Universe::of_reduced(reduced, architecture), keep);
    kept?;
    Ok((universe?, indexes))
}

/// An index that was read.
struct Loaded {
    index: LockedIndex,
    origin: String,
    priority: i32,
    reduced: Reduced,
    /// Whether the cache lacks it.
    is_new: bool,
}

/// One thread per suite: while one waits for its mirror or unpacks, the others go on.
fn load_suites(
    request: &LockRequest,
    jobs: &[(&Upstream, &String)],
    now: u64,
    client: &Client,
    cache: &Cache,
    progress: Callback<'_>,
) -> Vec<Result<Vec<Loaded>>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = jobs
            .iter()
            .map(|(upstream, suite)| {
                scope.spawn(move || load_suite(request, upstream, suite, now, client, cache))
            })
            .collect();
        let results = threads.into_iter().enumerate().map(|(i, thread)| {
            let result = thread.join().expect("no panic while an index is read");
            progress(Progress::Item {
                name: jobs[i].1,
                done: i as u64 + 1,
                total: jobs.len() as u64,
            });
            result
        });
        results.collect()
    })
}

/// What is needed of an index: kept from an earlier time, or still to be taken from the index itself.
enum Source {
    Kept(Reduced),
    Fetched(PackagesFile),
}

/// The indexes of a suite, one per component.
fn load_suite(
    request: &LockRequest,
    upstream: &Upstream,
    suite: &str,
    now: u64,
    client: &Client,
    cache: &Cache,
) -> Result<Vec<Loaded>> {
    let architecture = &request.architecture;
    let load = |signed: &SignedRelease, component: &str| {
        let listed = archive::listed(signed, component, architecture)?;
        let source = match cache.index(&listed.file.sha256, architecture) {
            Some(reduced) => Source::Kept(reduced),
            None => {
                let fetched = archive::fetch_listed(client, cache, signed, &listed, &|_| {})?;
                Source::Fetched(fetched)
            }
        };
        Ok((listed, source))
    };
    let (signed, sources) = archive::fetch_suite(client, upstream, suite, now, load)?;
    let components = upstream.components.iter().zip(sources);
    let read = components.map(|(component, (listed, source))| {
        let is_new = matches!(source, Source::Fetched(_));
        let reduced = match source {
            Source::Kept(reduced) => reduced,
            Source::Fetched(packages) => Reduced::of(&packages.url, &packages.text, architecture)?,
        };
        let index = LockedIndex {
            upstream: upstream.name.clone(),
            archive: upstream.archive.clone(),
            url: upstream.url.clone(),
            suite: suite.to_string(),
            component: component.clone(),
            architecture: architecture.clone(),
            date: signed.release.date,
            signed_by: signed.signed_by.clone(),
            in_release_sha256: signed.sha256,
            packages_sha256: listed.file.sha256,
        };
        Ok(Loaded {
            index,
            origin: listed.url,
            priority: upstream.priority,
            reduced,
            is_new,
        })
    });
    read.collect()
}

fn locked(universe: &Universe, indexes: &[LockedIndex], chosen: Chosen) -> LockedPackage {
    let id = chosen.id;
    let index = &indexes[universe.index(id)];
    LockedPackage {
        name: universe.name(id).to_string(),
        version: universe.version(id).to_string(),
        architecture: universe.architecture(id).to_string(),
        archive: index.archive.clone(),
        suite: index.suite.clone(),
        path: universe.path(id).to_string(),
        size: universe.size(id),
        sha256: universe.sha256(id),
        essential: chosen.essential,
        groups: chosen.groups,
        why: chosen.why,
    }
}
