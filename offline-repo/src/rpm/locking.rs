//! From a request to a lock of RPM packages: signed metadata, one universe, one closure.

use std::time::{SystemTime, UNIX_EPOCH};

use super::archive::{self, SignedRepomd};
use super::modules::{LockedModules, Modules, Visible};
use super::repodata;
use super::resolve::{self, Chosen};
use super::universe::Universe;
use crate::archive::Upstream;
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::http::Client;
use crate::lock::{Lock, LockedIndex, LockedPackage, SCHEMA};
use crate::locking::LockRequest;
use crate::openpgp::Keyring;
use crate::progress::{Callback, Progress};

/// A repository whose `repomd.xml` is verified.
struct Loaded<'r> {
    upstream: &'r Upstream,
    folder: &'r str,
    signed: SignedRepomd,
}

/// Fetches and verifies the metadata, resolves the request, and returns the lock. An upstream's suites are the folders
/// of its archive that hold a `repodata/`. Essential packages are Debian's notion: there are none here.
pub fn lock(
    request: &LockRequest,
    client: &Client,
    cache: &Cache,
    progress: Callback<'_>,
) -> Result<Lock> {
    let loaded = load(request, client, progress)?;
    let modules = load_modules(&loaded, client, cache)?;
    let mut universe = Universe::new(&request.architecture);
    for one in &loaded {
        let primary = archive::listed(&one.signed, "primary")?;
        archive::fetch_file(client, cache, &one.signed, primary)?;
        archive::read_primary(cache, primary, &mut universe, one.upstream.priority)?;
    }
    universe.retain(&visible(&modules, cache)?);
    universe.finish();
    universe.keep(&request.keep);
    progress(Progress::Stage {
        name: "resolve",
        items: 0,
        bytes: 0,
    });
    if resolve::asks_for_filelists(&universe, &request.groups) {
        let wanted = universe.wanted_paths(&request.groups);
        for one in &loaded {
            let filelists = archive::listed(&one.signed, "filelists")?;
            archive::fetch_file(client, cache, &one.signed, filelists)?;
            archive::read_filelists(cache, filelists, &mut universe, &wanted)?;
        }
    }
    let (groups, weak) = (&request.groups, request.recommends);
    let chosen = resolve::upgrade(&universe, groups, weak, &request.upgrade)?;
    let packages = chosen
        .into_iter()
        .map(|chosen| locked(&universe, &loaded, chosen));
    let lock = Lock {
        schema: SCHEMA,
        name: request.name.clone(),
        architecture: request.architecture.clone(),
        modules,
        bases: Vec::new(),
        requests: request.groups.clone(),
        packages: packages.collect(),
        indexes: loaded
            .iter()
            .map(|one| index(request, one))
            .collect::<Result<_>>()?,
    };
    // What is written must be readable: the checks of the reader hold for it, too.
    Lock::parse("the new lock", &lock.to_text())
}

/// Fetches and verifies every `repomd.xml`.
fn load<'r>(
    request: &'r LockRequest,
    client: &Client,
    progress: Callback<'_>,
) -> Result<Vec<Loaded<'r>>> {
    if request.upstreams.is_empty() {
        return Err(Error::invalid(&request.name, "names no upstream"));
    }
    if client.is_offline() {
        let names = (request.upstreams.iter()).map(|u| format!("the metadata of '{}'", u.name));
        return Err(Error::Offline {
            missing: names.collect(),
        });
    }
    let clock = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let now = request.now.unwrap_or(clock);
    let folders = (request.upstreams.iter())
        .flat_map(|upstream| upstream.suites.iter().map(move |folder| (upstream, folder)));
    let total = folders.clone().count() as u64;
    progress(Progress::Stage {
        name: "index",
        items: total,
        bytes: 0,
    });
    let mut loaded = Vec::new();
    for (upstream, folder) in folders {
        let keyring = Keyring::from_files(&upstream.keys).map_err(|error| match error {
            Error::Key { origin, message } => Error::Key {
                origin: format!("{origin} of the upstream '{}'", upstream.name),
                message,
            },
            other => other,
        })?;
        loaded.push(Loaded {
            upstream,
            folder,
            signed: archive::fetch_repomd(client, upstream, &keyring, folder, now)?,
        });
        progress(Progress::Item {
            name: folder,
            done: loaded.len() as u64,
            total,
        });
    }
    Ok(loaded)
}

/// Fetches the modular metadata of those repositories that have any.
fn load_modules(
    loaded: &[Loaded<'_>],
    client: &Client,
    cache: &Cache,
) -> Result<Vec<LockedModules>> {
    let mut found = Vec::new();
    for one in loaded {
        let Some(file) = one.signed.repomd.file(repodata::MODULES) else {
            continue;
        };
        archive::fetch_file(client, cache, &one.signed, file)?;
        found.push(LockedModules {
            archive: one.upstream.archive.clone(),
            suite: one.folder.to_string(),
            path: below(one.folder, &file.path),
            size: file.size,
            sha256: file.sha256,
        });
    }
    Ok(found)
}

/// Which packages dnf sees.
fn visible(locked: &[LockedModules], cache: &Cache) -> Result<Visible> {
    let mut modules = Modules::default();
    for one in locked {
        let text = archive::modules_text(one, &cache.path(&one.sha256))?;
        (modules.read(&text)).map_err(|message| Error::invalid(&one.path, message))?;
    }
    Ok(modules.visible())
}

/// A path of a repository below its archive.
fn below(folder: &str, path: &str) -> String {
    match folder {
        "." => path.to_string(),
        folder => format!("{folder}/{path}"),
    }
}

fn index(request: &LockRequest, loaded: &Loaded<'_>) -> Result<LockedIndex> {
    Ok(LockedIndex {
        upstream: loaded.upstream.name.clone(),
        archive: loaded.upstream.archive.clone(),
        url: loaded.upstream.url.clone(),
        suite: loaded.folder.to_string(),
        component: String::new(),
        architecture: request.architecture.clone(),
        date: loaded.signed.repomd.date(),
        signed_by: loaded.signed.signed_by.clone(),
        in_release_sha256: loaded.signed.sha256,
        packages_sha256: archive::listed(&loaded.signed, "primary")?.sha256,
    })
}

fn locked(universe: &Universe, loaded: &[Loaded<'_>], chosen: Chosen) -> LockedPackage {
    let id = chosen.id;
    let from = &loaded[universe.index(id)];
    let path = universe.path(id);
    let path = path.strip_prefix("./").unwrap_or(path);
    LockedPackage {
        name: universe.name(id).to_string(),
        version: universe.evr(id).to_string(),
        architecture: universe.architecture(id).to_string(),
        archive: from.upstream.archive.clone(),
        suite: from.folder.to_string(),
        path: below(from.folder, path),
        size: universe.size(id),
        sha256: universe.sha256(id),
        essential: false,
        groups: chosen.groups,
        why: chosen.why,
    }
}
