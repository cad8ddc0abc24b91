//! `farrow lock` and `farrow resolve`.

use std::path::PathBuf;

use offline_repo::cache::Cache;
use offline_repo::lock::Lock;
use serde_json::json;

use crate::cli::{LockArgs, ResolveArgs};
use crate::diagnostic::{Diagnostic, Result};
use crate::embedded;
use crate::recipe::Recipe;
use crate::session::{Done, Session};
use crate::stages;

/// Writes the lock of a recipe beside it.
pub fn run(session: &Session, args: &LockArgs) -> Result<()> {
    let recipe = Recipe::load(&args.recipe)?;
    let path = args.lock.clone().unwrap_or_else(|| beside(&recipe));
    let lock = stages::lock(session, &recipe, &path, args.upgrade)?;
    match &args.why {
        Some(package) => say_why(session, &lock, package),
        None => {
            let bytes: u64 = lock.packages.iter().map(|package| package.size).sum();
            session.say(&format!(
                "{}: {} packages, {:.1} MB",
                path.display(),
                lock.packages.len(),
                bytes as f64 / 1e6
            ));
            session.finish(json!({"packages": lock.packages.len(), "bytes": bytes, "lock": path}))
        }
    }
}

/// Where a recipe's lock is: beside its file; for a recipe that farrow ships, in the working folder.
pub fn beside(recipe: &Recipe) -> PathBuf {
    match &recipe.path {
        Some(path) => path.with_extension("lock"),
        None => PathBuf::from(format!("{}.lock", recipe.name)),
    }
}

fn say_why(session: &Session, lock: &Lock, package: &str) -> Result<()> {
    let chain = lock.why(package);
    if chain.is_empty() {
        let names = lock.packages.iter().map(|package| package.name.as_str());
        let found = Diagnostic::invalid("FR-LOCK-WHY", format!("`{package}` is not in the lock"));
        return Err(match crate::diagnostic::nearest(package, names) {
            Some(nearest) => found.with_hint(format!("did you mean `{nearest}`?")),
            None => found,
        });
    }
    session.say(&chain.join("\n"));
    session.finish(json!({"why": chain}))
}

/// Prints the closure of any set of packages.
pub fn resolve(session: &Session, args: &ResolveArgs) -> Result<()> {
    // The keys of the archives that farrow knows; the suite is the caller's.
    let base = Recipe::load("tools")?;
    let known = base
        .upstreams
        .iter()
        .find(|upstream| upstream.archive == args.archive);
    let Some(known) = known else {
        return Err(Diagnostic::invalid(
            "FR-RESOLVE-ARCHIVE",
            format!("farrow knows no archive `{}`", args.archive),
        )
        .with_hint("it knows debian and debian-security; write a recipe for others"));
    };
    let mut upstream = known.clone();
    upstream.suites = vec![args.suite.clone()];
    upstream.keys = embedded::key_names();
    let upstreams = vec![stages::upstream(&base, &upstream)?];
    let client = stages::client(session)?;
    let cache = Cache::new(&session.paths.cache);
    let lock = session.stage("resolve", |stage| {
        let report = stages::archive_progress(stage);
        let lock = offline_repo::locking::resolve_set(
            &args.packages,
            &args.arch,
            upstreams,
            args.recommends,
            &client,
            &cache,
            &report,
        )?;
        Ok(Done::made(lock))
    })?;
    for package in &lock.packages {
        session.say(&format!(
            "{} {} {}",
            package.name, package.version, package.architecture
        ));
    }
    let packages: Vec<_> = lock
        .packages
        .iter()
        .map(|package| json!({"name": package.name, "version": package.version, "arch": package.architecture, "size": package.size, "sha256": package.sha256, "why": package.why}))
        .collect();
    session.finish(json!({"packages": packages}))
}
