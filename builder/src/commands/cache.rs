//! `farrow cache`: what is in the cache, and bounding it.

use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::cache::{self, Entry, Rule};
use crate::cli::{CacheArgs, CacheGcArgs, CacheVerb};
use crate::diagnostic::Result;
use crate::session::{Done, Session};

/// What is not used for so many days goes when no other rule is given.
const DAYS: u64 = 30;

/// Lists, or removes.
pub fn run(session: &Session, args: &CacheArgs) -> Result<()> {
    match &args.verb {
        None => list(session),
        Some(CacheVerb::Gc(args)) => collect(session, args),
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

fn totals<'a>(entries: impl Iterator<Item = &'a Entry>) -> (usize, u64) {
    entries.fold((0, 0), |(count, bytes), entry| {
        (count + 1, bytes + entry.bytes)
    })
}

fn size(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
