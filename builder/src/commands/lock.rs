//! `farrow lock` and `farrow resolve`.

use std::collections::BTreeMap;
use std::path::Path;

use offline_repo::archive::Upstream;
use offline_repo::cache::Cache;
use offline_repo::lock::Lock;
use offline_repo::locking::LockRequest;
use serde_json::json;

use crate::cli::{LockArgs, ResolveArgs};
use crate::diagnostic::{Diagnostic, Result};
use crate::embedded;
use crate::locks::{self, Change, Upgrade};
use crate::recipe::{self, Recipe, UpstreamKind};
use crate::session::{Done, Session};
use crate::stages;

/// Writes the locks of a recipe beside it: that of its own platform, and one for each target.
pub fn run(session: &Session, args: &LockArgs) -> Result<()> {
    let recipe = Recipe::load(&args.recipe)?;
    let recipes = match &args.target {
        Some(target) => vec![recipe.for_target(target)?],
        None => all_targets(&recipe)?,
    };
    if let (Some(lock), true) = (&args.lock, recipes.len() > 1) {
        return Err(Diagnostic::invalid(
            "FR-LOCK-TARGETS",
            format!(
                "{} cannot hold the locks of {} platforms",
                lock.display(),
                recipes.len()
            ),
        )
        .with_hint("name one of them with --for"));
    }
    let upgrade = match &args.upgrade {
        None => Upgrade::Nothing,
        Some(names) if names.is_empty() => Upgrade::All,
        Some(names) => Upgrade::Some(names.clone()),
    };
    let mut written = Vec::new();
    for recipe in &recipes {
        let path = args.lock.clone().unwrap_or_else(|| locks::beside(recipe));
        let old = path.exists().then(|| Lock::load(&path)).transpose()?;
        let lock = locks::lock(session, recipe, &path, &upgrade)?;
        if let Some(package) = &args.why {
            return say_why(session, &lock, package);
        }
        let changes = old.map_or_else(Vec::new, |old| locks::changes(&old, &lock));
        written.push(report(session, recipe, &path, &lock, &changes));
    }
    let first = &written[0];
    session.finish(json!({"packages": first["packages"], "bytes": first["bytes"], "lock": first["lock"], "locks": written}))
}

/// The recipe itself, then the recipe for each of its targets.
fn all_targets(recipe: &Recipe) -> Result<Vec<Recipe>> {
    let targets = recipe.targets.iter();
    let others = targets.map(|target| recipe.for_target(&target.name));
    std::iter::once(Ok(recipe.clone())).chain(others).collect()
}

fn report(
    session: &Session,
    recipe: &Recipe,
    path: &Path,
    lock: &Lock,
    changes: &[Change],
) -> serde_json::Value {
    for Change { name, from, to } in changes {
        let line = match (from, to) {
            (Some(from), Some(to)) => format!("changed  {name}  {from} -> {to}"),
            (None, Some(to)) => format!("added    {name}  {to}"),
            (from, None) => format!("removed  {name}  {}", from.as_deref().unwrap_or_default()),
        };
        session.say(&line);
    }
    let bytes: u64 = lock.packages.iter().map(|package| package.size).sum();
    session.say(&format!(
        "{}: {} packages, {:.1} MB",
        path.display(),
        lock.packages.len(),
        bytes as f64 / 1e6
    ));
    json!({"target": recipe.target, "packages": lock.packages.len(), "bytes": bytes, "lock": path, "changes": changes})
}

/// The chain from the recipe's group to a package, with versions.
fn say_why(session: &Session, lock: &Lock, package: &str) -> Result<()> {
    let mut chain = lock.why(package);
    chain.reverse();
    if chain.is_empty() {
        let names = lock.packages.iter().map(|package| package.name.as_str());
        let found = Diagnostic::invalid("FR-LOCK-WHY", format!("`{package}` is not in the lock"));
        return Err(match crate::diagnostic::nearest(package, names) {
            Some(nearest) => found.with_hint(format!("did you mean `{nearest}`?")),
            None => found,
        });
    }
    for (depth, name) in chain.iter().enumerate() {
        let version = lock.package(name).map(|package| package.version.as_str());
        let line = format!(
            "{}{name} {}",
            "  ".repeat(depth),
            version.unwrap_or_default()
        );
        session.say(line.trim_end());
    }
    let groups = lock.package(package).map(|package| package.groups.clone());
    let groups = groups.unwrap_or_default();
    if !groups.is_empty() {
        session.say(&format!("in the closures of: {}", groups.join(", ")));
    }
    session.finish(json!({"why": chain, "groups": groups}))
}

/// Prints the closure of any set of packages.
pub fn resolve(session: &Session, args: &ResolveArgs) -> Result<()> {
    let (kind, request) = match &args.recipe {
        Some(recipe) => of_recipe(args, recipe)?,
        None => (args.kind, of_archive(args)?),
    };
    let client = stages::client(session)?;
    let cache = Cache::new(&session.paths.cache);
    let lock = session.stage("resolve", |stage| {
        let report = stages::archive_progress(stage);
        let lock = locks::chooser(kind)(&request, &client, &cache, &report)?;
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

/// A closure of packages from some archives, without essential packages.
fn request(args: &ResolveArgs, architecture: &str, upstreams: Vec<Upstream>) -> LockRequest {
    LockRequest {
        name: "request".into(),
        architecture: architecture.into(),
        upstreams,
        groups: BTreeMap::from([("request".into(), args.packages.clone())]),
        recommends: args.recommends,
        ..LockRequest::default()
    }
}

fn of_recipe(args: &ResolveArgs, recipe: &str) -> Result<(UpstreamKind, LockRequest)> {
    let recipe = Recipe::load(recipe)?;
    let architecture = args.arch.as_ref().unwrap_or(&recipe.architecture);
    let upstreams = recipe.upstreams.iter();
    let upstreams = upstreams.map(|known| stages::upstream(&recipe, known));
    let request = request(args, architecture, upstreams.collect::<Result<_>>()?);
    Ok((recipe.kind, request))
}

/// From an archive that farrow has the keys of, or one that the caller gives keys for.
fn of_archive(args: &ResolveArgs) -> Result<LockRequest> {
    let keys = args
        .key
        .iter()
        .map(|path| std::fs::read(path).map_err(|e| Diagnostic::io("read", path, e)));
    let keys: Vec<Vec<u8>> = keys.collect::<Result<_>>()?;
    let (suite, architecture) = match args.kind {
        UpstreamKind::Deb => ("trixie", "amd64"),
        UpstreamKind::Rpm => (".", "x86_64"),
    };
    let mut upstream = match keys.is_empty() {
        true => known_archive(args)?,
        false => Upstream {
            name: args.archive.clone(),
            archive: args.archive.clone(),
            url: None,
            suites: Vec::new(),
            components: vec!["main".into()],
            keys,
            priority: 500,
        },
    };
    upstream.suites = vec![args.suite.clone().unwrap_or_else(|| suite.into())];
    if !args.component.is_empty() {
        upstream.components.clone_from(&args.component);
    }
    let architecture = args.arch.as_deref().unwrap_or(architecture);
    Ok(request(args, architecture, vec![upstream]))
}

fn known_archive(args: &ResolveArgs) -> Result<Upstream> {
    let base = Recipe::load("tools")?;
    let is_meant =
        |known: &&recipe::Upstream| known.archive == args.archive && known.kind == args.kind;
    let Some(known) = base.upstreams.iter().find(is_meant) else {
        return Err(Diagnostic::invalid(
            "FR-RESOLVE-ARCHIVE",
            format!("farrow knows no archive `{}` of such packages", args.archive),
        )
        .with_hint(
            "it knows debian and debian-security; for another one give the --key that signs it, or a --recipe",
        ));
    };
    let mut known = known.clone();
    known.keys = embedded::key_names();
    stages::upstream(&base, &known)
}
