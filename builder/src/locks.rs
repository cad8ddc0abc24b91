//! Locks of recipes: when one is kept, what an upgrade may change, and what it did change.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use offline_repo::cache::Cache;
use offline_repo::http::Client;
use offline_repo::lock::Lock;
use offline_repo::locking::{self, LockRequest};
use offline_repo::progress::Callback;
use offline_repo::proof::RequiredBase;
use serde::Serialize;

use crate::commands::write_file;
use crate::diagnostic::{Diagnostic, Result, nearest};
use crate::interrupt;
use crate::recipe::{BaseKind, Recipe, UpstreamKind};
use crate::session::{Done, Session};
use crate::stages::{archive_progress, client, upstream};

/// The kind of base state that a lock holds.
const MINIMAL: &str = "minimal";

/// What a new lock may change in an old one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upgrade {
    /// Nothing, unless the recipe changed; then only what the change needs.
    Nothing,
    /// These packages, and what their new versions need.
    Some(Vec<String>),
    /// Everything.
    All,
}

/// A package that differs between two locks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Package name.
    pub name: String,
    /// Version in the old lock; absent for what is new.
    pub from: Option<String>,
    /// Version in the new lock; absent for what is gone.
    pub to: Option<String>,
}

/// Where a recipe's lock is: beside its file; for a recipe that farrow ships, in the working folder.
pub fn beside(recipe: &Recipe) -> PathBuf {
    let ending = match &recipe.target {
        Some(target) => format!("{target}.lock"),
        None => "lock".to_string(),
    };
    match &recipe.path {
        Some(path) => path.with_extension(ending),
        None => PathBuf::from(format!("{}.{ending}", recipe.name)),
    }
}

/// The lock of a recipe: the one in `path` if it fits and nothing is to be upgraded, else a new one from the signed indexes.
pub fn lock(session: &Session, recipe: &Recipe, path: &Path, upgrade: &Upgrade) -> Result<Lock> {
    let lock = session.stage("lock", |stage| {
        let old = match path.exists() {
            true => Some(Lock::load(path)?),
            false => None,
        };
        if let (Upgrade::Nothing, Some(lock)) = (upgrade, &old)
            && fits(lock, recipe)
        {
            return Ok(Done::reused(lock.clone()));
        }
        let mut request = request(recipe)?;
        if let Some(old) = &old {
            keep(&mut request, old, upgrade)?;
        }
        let cache = Cache::new(&session.paths.cache);
        let report = archive_progress(stage);
        let lock = chooser(recipe.kind)(&request, &client(session)?, &cache, &report)?;
        interrupt::clean_on_interrupt(path.parent().unwrap_or(Path::new(".")));
        write_file(path, lock.to_text().as_bytes(), 0o644)?;
        Ok(Done::made(lock))
    })?;
    session.add_file("lock", path)?;
    Ok(lock)
}

/// From a request to a lock, by way of signed indexes.
type Chooser = fn(&LockRequest, &Client, &Cache, Callback<'_>) -> offline_repo::error::Result<Lock>;

/// What chooses packages of a kind.
pub fn chooser(kind: UpstreamKind) -> Chooser {
    match kind {
        UpstreamKind::Deb => locking::lock,
        UpstreamKind::Rpm => offline_repo::rpm::locking::lock,
    }
}

/// What is to be locked for a recipe.
pub fn request(recipe: &Recipe) -> Result<LockRequest> {
    let upstreams = recipe.upstreams.iter();
    Ok(LockRequest {
        name: recipe.name.clone(),
        architecture: recipe.architecture.clone(),
        upstreams: upstreams
            .map(|known| upstream(recipe, known))
            .collect::<Result<_>>()?,
        groups: recipe.packages.clone(),
        include_essential: true,
        minimal_base: needs_minimal(recipe),
        ..LockRequest::default()
    })
}

fn needs_minimal(recipe: &Recipe) -> bool {
    let mut bases = recipe.bases.iter();
    bases.any(|base| base.kind == BaseKind::Minimal)
}

/// Says which packages of the old lock stay as they are.
fn keep(request: &mut LockRequest, old: &Lock, upgrade: &Upgrade) -> Result<()> {
    let named = match upgrade {
        Upgrade::All => return Ok(()),
        Upgrade::Nothing => &[][..],
        Upgrade::Some(names) => names,
    };
    if let Some(name) = named.iter().find(|name| old.package(name).is_none()) {
        let found = Diagnostic::invalid("FR-LOCK-UPGRADE", format!("`{name}` is not in the lock"));
        let names = old.packages.iter().map(|package| package.name.as_str());
        return Err(match nearest(name, names) {
            Some(nearest) => found.with_hint(format!("did you mean `{nearest}`?")),
            None => found.with_hint("name packages of the lock, or none to upgrade all"),
        });
    }
    let stays = old.packages.iter();
    let stays = stays.filter(|package| !named.contains(&package.name));
    request.keep = stays
        .map(|package| (package.name.clone(), package.version.clone()))
        .collect();
    request.upgrade = named.to_vec();
    Ok(())
}

/// The packages that differ between two locks, sorted by name.
pub fn changes(old: &Lock, new: &Lock) -> Vec<Change> {
    let versions = |lock: &Lock| -> BTreeMap<String, String> {
        let packages = lock.packages.iter();
        packages
            .map(|p| (p.name.clone(), p.version.clone()))
            .collect()
    };
    let (old, new) = (versions(old), versions(new));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let change = |name: &&String| Change {
        name: name.to_string(),
        from: old.get(*name).cloned(),
        to: new.get(*name).cloned(),
    };
    let all = names.iter().map(change);
    all.filter(|change| change.from != change.to).collect()
}

/// The base states of a recipe with what is installed in them.
pub fn bases(recipe: &Recipe, lock: &Lock) -> Result<Vec<RequiredBase>> {
    let folder = recipe.path.as_ref().and_then(|path| path.parent());
    let status = |base: &crate::recipe::Base| match base.kind {
        BaseKind::Empty => Ok(String::new()),
        BaseKind::Minimal => lock
            .base(MINIMAL)
            .map(|base| base.status.clone())
            .ok_or_else(|| {
                Diagnostic::failed("FR-LOCK-BASE", "the lock has no minimal base".to_string())
                    .with_hint("run farrow lock --upgrade")
            }),
        BaseKind::Status => {
            let path = folder
                .unwrap_or(Path::new("."))
                .join(base.status.as_deref().unwrap_or_default());
            std::fs::read_to_string(&path).map_err(|e| Diagnostic::io("read", &path, e))
        }
    };
    let bases = recipe.bases.iter();
    let required = bases.map(|base| {
        Ok(RequiredBase {
            name: base.name.clone(),
            status: status(base)?,
        })
    });
    required.collect()
}

/// Whether a lock is one of this recipe: same architecture and indexes, and the same packages asked for.
pub fn fits(lock: &Lock, recipe: &Recipe) -> bool {
    let locked: BTreeSet<(&str, &str, &str)> = lock
        .indexes
        .iter()
        .map(|index| {
            (
                index.archive.as_str(),
                index.suite.as_str(),
                index.component.as_str(),
            )
        })
        .collect();
    let wanted = recipe.upstreams.iter().flat_map(|upstream| {
        let pairs = upstream.suites.iter().flat_map(|suite| {
            upstream
                .components
                .iter()
                .map(move |component| (suite, component))
        });
        pairs.map(|(suite, component)| {
            (
                upstream.archive.as_str(),
                suite.as_str(),
                component.as_str(),
            )
        })
    });
    if recipe.kind == UpstreamKind::Rpm {
        // A request need not be the name of a package, so the lock says what was asked for.
        return lock.architecture == recipe.architecture
            && locked == wanted.collect()
            && lock.requests == recipe.packages;
    }
    let groups_fit = recipe.packages.iter().all(|(group, names)| {
        names.iter().all(|name| {
            lock.package(name)
                .is_some_and(|package| package.groups.contains(group))
        })
    });
    let nothing_else =
        lock.packages
            .iter()
            .all(|package| match package.why.strip_prefix("group ") {
                Some(group) => recipe
                    .packages
                    .get(group)
                    .is_some_and(|names| names.contains(&package.name)),
                None => true,
            });
    let has_bases = !needs_minimal(recipe) || lock.base(MINIMAL).is_some();
    has_bases
        && lock.architecture == recipe.architecture
        && locked == wanted.collect()
        && groups_fit
        && nothing_else
}
