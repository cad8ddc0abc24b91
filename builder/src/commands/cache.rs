//! `farrow cache`: what is in the cache, bounding it, and sharing it.

use std::time::{Duration, SystemTime};

use offline_repo::signer::KeyKind;
use serde_json::json;

use crate::cache::{self, Entry, Rule};
use crate::cli::{CacheArgs, CacheGcArgs, CachePushArgs, CacheVerb};
use crate::diagnostic::Result;
use crate::interrupt;
use crate::session::{Done, Session};
use crate::shared_cache::{self, Item};
use crate::stages::{self, ToolsSource};

/// What is not used for so many days goes when no other rule is given.
const DAYS: u64 = 30;

/// Lists, or removes.
pub fn run(session: &Session, args: &CacheArgs) -> Result<()> {
    match &args.verb {
        None => list(session),
        Some(CacheVerb::Gc(args)) => collect(session, args),
        Some(CacheVerb::Push(args)) => push(session, args),
    }
}

fn list(session: &Session) -> Result<()> {
    let entries = cache::entries(&session.paths)?;
    let mut kinds = Vec::new();
    for kind in cache::KINDS {
        let of_kind = entries.iter().filter(|entry| entry.kind == kind);
        let (count, bytes) = totals(of_kind);
        if count > 0 {
            session.say(&format!("{kind:<11} {count:>5}  {:>10}", size(bytes)));
        }
        kinds.push(json!({"kind": kind, "count": count, "bytes": bytes}));
    }
    let (count, bytes) = totals(entries.iter());
    let place = session.paths.cache.display();
    session.say(&format!(
        "{:<11} {count:>5}  {:>10}  in {place}",
        "all",
        size(bytes)
    ));
    session.finish(json!({"kinds": kinds, "count": count, "bytes": bytes, "entries": entries}))
}

fn collect(session: &Session, args: &CacheGcArgs) -> Result<()> {
    let days = args.older.or(args.keep.is_none().then_some(DAYS));
    let age = days.map(|days| Duration::from_secs(days.saturating_mul(24 * 60 * 60)));
    let rule = Rule {
        keep: args.keep,
        before: age.and_then(|age| SystemTime::now().checked_sub(age)),
    };
    let (removed, left) = session.stage("gc", |stage| {
        let _alone = match args.dry_run {
            true => None,
            false => Some(cache::alone(&session.paths.cache, args.wait)?),
        };
        let entries = cache::entries(&session.paths)?;
        let (removed, left) = rule.apply(entries);
        if !args.dry_run {
            for (done, entry) in (1..).zip(&removed) {
                stage.items(done, removed.len() as u64, &entry.name);
                cache::remove(entry)?;
            }
        }
        Ok(Done::made((removed, left)))
    })?;
    let ((count, freed), (kept, bytes)) = (totals(removed.iter()), totals(left.iter()));
    for entry in removed.iter().filter(|_| args.dry_run) {
        session.say(&format!(
            "{:<11} {:>10}  {}",
            entry.kind,
            size(entry.bytes),
            entry.name
        ));
    }
    let verb = if args.dry_run { "would go" } else { "removed" };
    session.say(&format!(
        "{verb}: {count} entries, {}; left: {kept}, {}",
        size(freed),
        size(bytes)
    ));
    session
        .finish(json!({"removed": removed, "freed": freed, "left": bytes, "dry_run": args.dry_run}))
}

fn push(session: &Session, args: &CachePushArgs) -> Result<()> {
    let mut entries = cache::entries(&session.paths)?;
    let wanted: Vec<&str> = args.kind.iter().map(|kind| kind.name()).collect();
    entries.retain(|entry| wanted.is_empty() || wanted.contains(&entry.kind));
    let signer = stages::signer(session, KeyKind::Ed25519)?;
    // Trees are packed by its tar.
    let tools = match entries.iter().any(|entry| entry.kind == "base") {
        true => Some(stages::tools(session, ToolsSource::Present)?),
        false => None,
    };
    let pushed = session.stage("push", |stage| {
        interrupt::clean_on_interrupt(&session.paths.cache);
        let total = entries.len() as u64;
        let say = |done, entry: &Entry| stage.items(done, total, &entry.name);
        let (url, dry_run, cache) = (&args.url, args.dry_run, &session.paths.cache);
        let by = (&signer, tools.as_ref());
        let pushed = shared_cache::push(url, &entries, by, cache, dry_run, &say)?;
        Ok(Done {
            reused: pushed.pushed.is_empty(),
            value: pushed,
        })
    })?;
    let verb = if args.dry_run { "missing" } else { "pushed" };
    let mut bytes = 0;
    for item in &pushed.pushed {
        let Item {
            kind,
            name,
            bytes: sent,
        } = item;
        bytes += sent;
        session.say(&format!("{kind:<11} {:>10}  {name}", size(*sent)));
    }
    session.say(&format!(
        "{verb}: {}, {}; there already: {}; signed with {}",
        pushed.pushed.len(),
        size(bytes),
        pushed.present,
        pushed.key
    ));
    session.finish(json!({"pushed": pushed.pushed, "present": pushed.present, "bytes": bytes, "key": pushed.key, "dry_run": args.dry_run}))
}

fn totals<'a>(entries: impl Iterator<Item = &'a Entry>) -> (usize, u64) {
    entries.fold((0, 0), |(count, bytes), entry| {
        (count + 1, bytes + entry.bytes)
    })
}

fn size(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
