//! `farrow cache push`: what a store lacks of this cache. Blobs first, then the statements about them, so a store never
//! says something of a blob that it does not have. A blob that is there is left alone; pushing again goes on.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use images::elsewhere::{Kind, Wanted};
use images::pack;
use images::tools::ToolsTree;
use offline_repo::digest::Sha256;
use offline_repo::openpgp::Keyring;
use offline_repo::signer::Signer;
use serde::Serialize;

use super::statement::{self, Statement, kind_of};
use super::store::{Access, Failure, Store, blob_name};
use super::{blob, now};
use crate::cache::Entry;
use crate::diagnostic::{Diagnostic, Result};

/// Uploads at a time.
const CONNECTIONS: usize = 4;

/// Something that a store lacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// `download`, `part` or `base`.
    pub kind: &'static str,
    /// Its digest.
    pub name: String,
    /// Bytes that were sent; 0 when only a statement was missing, or nothing was sent.
    pub bytes: u64,
}

/// What came of a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pushed {
    /// What the store lacked, and has now.
    pub pushed: Vec<Item>,
    /// How many entries it had before.
    pub present: usize,
    /// Fingerprint of the key that readers have to trust.
    pub key: String,
}

/// Pushes entries of a cache to the store of an address; with `dry_run`, only says what is missing there. `say` gets how
/// many entries are done.
pub fn push(
    url: &str,
    entries: &[Entry],
    (signer, tools): (&Signer, Option<&ToolsTree>),
    cache: &Path,
    dry_run: bool,
    say: &(dyn Fn(u64, &Entry) + Sync),
) -> Result<Pushed> {
    let access = match dry_run {
        true => Access::Read,
        false => Access::Write,
    };
    let store = Store::open(url, access)?;
    let public = signer.public_key()?;
    let push = Push {
        store: &store,
        signer,
        keyring: public.keyring()?,
        fingerprint: public.fingerprint.clone(),
        tools,
        cache,
        dry_run,
    };
    let shared: Vec<&Entry> = entries.iter().filter(|entry| is_shared(entry)).collect();
    let done = side_by_side(&shared, |entry| push.entry(entry), say);
    let mut pushed = Vec::new();
    let mut present = 0;
    for (entry, outcome) in shared.iter().zip(done) {
        match outcome.map_err(|failure| failed(&store, entry, failure))? {
            Some(bytes) => pushed.push(Item {
                kind: entry.kind,
                name: entry.name.clone(),
                bytes,
            }),
            None => present += 1,
        }
    }
    if !dry_run {
        // For who wants to compare it with the key that came another way.
        let name = format!("keys/{}.asc", public.fingerprint);
        let there = store.size(&name).and_then(|there| match there {
            Some(_) => Ok(()),
            None => store.put(&name, public.armored.into_bytes()),
        });
        there.map_err(|failure| broken(&store, &name, failure))?;
    }
    Ok(Pushed {
        pushed,
        present,
        key: public.fingerprint,
    })
}

/// Whether an entry of the cache is of use to others.
fn is_shared(entry: &Entry) -> bool {
    match entry.kind {
        "part" => pack::is_shared(&entry.path),
        kind => kind == "download" || kind == "base",
    }
}

struct Push<'a> {
    store: &'a Store,
    signer: &'a Signer,
    keyring: Keyring,
    fingerprint: String,
    /// Whose tar packs trees; none when there are none.
    tools: Option<&'a ToolsTree>,
    cache: &'a Path,
    dry_run: bool,
}

impl Push<'_> {
    /// Bytes that were sent for an entry; `None` when nothing was missing.
    fn entry(&self, entry: &Entry) -> std::result::Result<Option<u64>, Failure> {
        if self.dry_run && self.store.is_missing() {
            return Ok(Some(0));
        }
        match kind_of(entry.kind) {
            Some(kind) => self.result(kind, entry),
            None => self.download(entry),
        }
    }

    fn download(&self, entry: &Entry) -> std::result::Result<Option<u64>, Failure> {
        let name = blob_name(&entry.name);
        if self.store.size(&name)?.is_some() {
            return Ok(None);
        }
        if self.dry_run {
            return Ok(Some(0));
        }
        let found = Sha256::of_file(&entry.path).map_err(|e| Failure::Refused(e.to_string()))?;
        if found.0.to_string() != entry.name {
            return Err(Failure::Refused("it is damaged here".to_owned()));
        }
        let file = File::open(&entry.path).map_err(|e| Failure::Refused(e.to_string()))?;
        self.store.put_file(&name, &file, &|_| ())?;
        Ok(Some(found.1))
    }

    /// A part or a tree: packed only when there is no good statement about it yet.
    fn result(&self, kind: Kind, entry: &Entry) -> std::result::Result<Option<u64>, Failure> {
        let digest = &entry.name;
        let wanted = Wanted { kind, digest };
        let name = statement::name(wanted, &self.fingerprint);
        let known = self.store.small(&name, statement::LIMIT);
        let known = match known {
            // Another builder cannot use it either: it is replaced.
            Err(Failure::Refused(_)) => None,
            other => other?,
        };
        let known =
            known.and_then(|text| Statement::read(&text, &self.keyring, wanted, now()).ok());
        if let Some(known) = known
            && self.store.size(&blob_name(&known.blob))? == Some(known.size)
        {
            return Ok(None);
        }
        if self.dry_run {
            return Ok(Some(0));
        }
        let blob = blob::pack_entry(kind, &entry.path, self.tools, self.cache);
        let blob = blob.map_err(Failure::Refused)?;
        let at = blob_name(&blob.digest);
        let sent = match self.store.size(&at)? {
            Some(size) if size == blob.size => 0,
            _ => {
                self.store.put_file(&at, &blob.file, &|_| ())?;
                blob.size
            }
        };
        let statement = Statement::new(wanted, blob.digest, blob.size, blob.unpacked);
        let signed = statement.sign(self.signer, now());
        let signed = signed.map_err(|e| Failure::Refused(e.to_string()))?;
        self.store.put(&name, signed.into_bytes())?;
        Ok(Some(sent))
    }
}

/// Works on entries, a few at a time, until one fails; what is after that is not begun. Outcomes in the entries' order.
fn side_by_side(
    entries: &[&Entry],
    work: impl Fn(&Entry) -> std::result::Result<Option<u64>, Failure> + Sync,
    say: &(dyn Fn(u64, &Entry) + Sync),
) -> Vec<std::result::Result<Option<u64>, Failure>> {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let run = || {
        let mut outcomes = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(entry) = entries.get(index) else {
                return outcomes;
            };
            let outcome = work(entry);
            if outcome.is_err() {
                next.store(entries.len(), Ordering::Relaxed);
            }
            outcomes.push((index, outcome));
            say(done.fetch_add(1, Ordering::Relaxed) as u64 + 1, entry);
        }
    };
    let mut outcomes: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS.min(entries.len()))
            .map(|_| scope.spawn(run))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .flat_map(|found| found.expect("no thread panics"))
            .collect()
    });
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

fn failed(store: &Store, entry: &Entry, failure: Failure) -> Diagnostic {
    broken(store, &format!("{} {}", entry.kind, entry.name), failure)
}

fn broken(store: &Store, what: &str, failure: Failure) -> Diagnostic {
    let (reason, hint) = match failure {
        Failure::Unreachable(reason) => (
            reason,
            "run it again when the store answers: what has been pushed stays",
        ),
        Failure::Denied => (
            "it is not allowed".to_owned(),
            "give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of who may read and write there",
        ),
        Failure::Refused(reason) => (
            reason,
            "remove it from the cache and run this again: what has been pushed stays",
        ),
    };
    let message = format!("cannot push {what} to {}: {reason}", store.name());
    Diagnostic::failed("FR-CACHE-PUSH", message).with_hint(hint)
}
