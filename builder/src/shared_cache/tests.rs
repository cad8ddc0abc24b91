//! What comes from a store, and what is refused.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use offline_repo::digest::Sha256;
use offline_repo::signer::Signer;

use super::push::Pushed;
use super::*;
use crate::cache::Entry;

/// Bytes of the part that is shared: data with a hole in the middle.
const PART: u64 = 3 << 20;

/// A store in a folder with one part in it, and the part's builder.
struct Site {
    folder: tempfile::TempDir,
    signer: Signer,
    digest: String,
}

impl Site {
    fn new() -> Self {
        let site = Site {
            folder: tempfile::tempdir().unwrap(),
            signer: signer(1),
            digest: "ab".repeat(32),
        };
        let part = site.part().path;
        fs::create_dir_all(&part).unwrap();
        let file = File::create(part.join("part.img")).unwrap();
        file.set_len(PART).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(b"end", PART - 3).unwrap();
        fs::write(part.join("stage"), "image/base\n").unwrap();
        let key = site.signer.public_key().unwrap();
        fs::write(site.path("key.asc"), key.armored).unwrap();
        site
    }

    fn with_store() -> Self {
        let site = Site::new();
        assert_eq!(site.push(false).unwrap().pushed.len(), 1);
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn part(&self) -> Entry {
        Entry {
            kind: "part",
            name: self.digest.clone(),
            path: self.path("cache").join(&self.digest),
            bytes: PART,
            used: 0,
        }
    }

    fn push(&self, dry_run: bool) -> Result<Pushed> {
        let store = self.path("store");
        let by = (&self.signer, None);
        let cache = self.path("cache");
        push(
            store.to_str().unwrap(),
            &[self.part()],
            by,
            &cache,
            dry_run,
            &|_, _| (),
        )
    }

    /// The statement about the part.
    fn statement(&self) -> PathBuf {
        let fingerprint = self.signer.public_key().unwrap().fingerprint;
        let wanted = Wanted {
            kind: Kind::Part,
            digest: &self.digest,
        };
        self.path("store")
            .join(statement::name(wanted, &fingerprint))
    }

    fn read(&self) -> Statement {
        let wanted = Wanted {
            kind: Kind::Part,
            digest: &self.digest,
        };
        let keyring = self.signer.public_key().unwrap().keyring().unwrap();
        Statement::read(
            &fs::read(self.statement()).unwrap(),
            &keyring,
            wanted,
            now(),
        )
        .unwrap()
    }

    /// Signs another statement about the part.
    fn state(&self, statement: &Statement) {
        let text = statement.sign(&self.signer, now()).unwrap();
        fs::write(self.statement(), text).unwrap();
    }

    fn blob(&self) -> PathBuf {
        self.path("store").join(store::blob_name(&self.read().blob))
    }

    /// Looks for a result as a bake does: what was found, if anything, and what was said.
    fn find(&self, kind: Kind) -> (Option<PathBuf>, Vec<Note>) {
        let url = self.path("store");
        let shared = SharedCache::open(url.to_str().unwrap(), &[self.path("key.asc")]).unwrap();
        self.find_in(&shared, kind)
    }

    fn find_in(&self, shared: &SharedCache, kind: Kind) -> (Option<PathBuf>, Vec<Note>) {
        let work = self.path("work");
        let _ = fs::remove_dir_all(&work);
        fs::create_dir(&work).unwrap();
        let path = work.join("result");
        let notes = Mutex::new(Vec::new());
        let wanted = Wanted {
            kind,
            digest: &self.digest,
        };
        let tools = ToolsTree {
            root: "/nonexistent".into(),
            digest: String::new(),
        };
        let found = shared.find(wanted, &path, &tools, &|note| {
            notes.lock().unwrap().push(note);
        });
        let left = fs::read_dir(&work).unwrap().count();
        assert_eq!(left, usize::from(found), "nothing else is left");
        (found.then_some(path), notes.into_inner().unwrap())
    }
}

/// Changes something in a store.
type Falsify = fn(&Site);

fn signer(seed: u8) -> Signer {
    Signer::from_secret([seed; 32], "Builder").unwrap()
}

#[test]
fn a_part_comes_back_as_it_was() {
    let site = Site::with_store();
    let (found, notes) = site.find(Kind::Part);
    let found = found.unwrap();
    let original = fs::read(site.part().path.join("part.img")).unwrap();
    assert!(fs::read(&found).unwrap() == original);
    let blocks = found.metadata().unwrap().blocks();
    assert!(blocks * 512 < PART / 2, "the hole is a hole: {blocks}");
    assert!(matches!(&notes[..], [Note::Took(_)]), "{notes:?}");
}

#[test]
fn what_is_falsified_is_refused_by_name() {
    let cases: [(&str, Falsify); 11] = [
        ("has the digest", |site| {
            let file = File::options().write(true).open(site.blob()).unwrap();
            file.write_all_at(b"X", 20).unwrap();
        }),
        ("bytes instead of", |site| {
            let file = File::options().append(true).open(site.blob()).unwrap();
            file.set_len(file.metadata().unwrap().len() + 1).unwrap();
        }),
        ("is not there", |site| fs::remove_file(site.blob()).unwrap()),
        ("its statement is about part cdcd", |site| {
            let digest = "cd".repeat(32);
            let known = site.read();
            let wanted = Wanted {
                kind: Kind::Part,
                digest: &digest,
            };
            let other = Statement::new(wanted, known.blob.clone(), known.size, known.unpacked);
            site.state(&other);
        }),
        ("which is not a listed key", |site| {
            let text = site.read().sign(&signer(2), now()).unwrap();
            fs::write(site.statement(), text).unwrap();
        }),
        ("its statement", |site| {
            let text = serde_json::to_string(&site.read()).unwrap();
            fs::write(site.statement(), text).unwrap();
        }),
        ("does not match the content", |site| {
            let text = fs::read_to_string(site.statement()).unwrap();
            let (size, other) = (site.read().size, site.read().size + 1);
            let text = text.replace(&format!("\"size\":{size}"), &format!("\"size\":{other}"));
            fs::write(site.statement(), text).unwrap();
        }),
        ("more than 68719476736", |site| {
            let mut known = site.read();
            known.unpacked = (64 << 30) + 1;
            site.state(&known);
        }),
        ("more than 16384", |site| {
            fs::write(site.statement(), vec![b'x'; 20_000]).unwrap();
        }),
        ("more bytes than its statement says", |site| {
            let mut known = site.read();
            known.unpacked -= 1;
            site.state(&known);
        }),
        ("1 bytes less than its statement says", |site| {
            let mut known = site.read();
            known.unpacked += 1;
            site.state(&known);
        }),
    ];
    for (expected, falsify) in cases {
        let site = Site::with_store();
        falsify(&site);
        let (found, notes) = site.find(Kind::Part);
        assert!(found.is_none(), "{expected}");
        let [Note::Warning(text)] = &notes[..] else {
            panic!("{expected}: {notes:?}");
        };
        let name = format!("part {} is not used", site.digest);
        assert!(
            text.contains(&name) && text.contains(expected),
            "{expected}: {text}"
        );
    }
}

#[test]
fn a_hostile_tree_is_refused_before_anything_is_written() {
    let site = Site::with_store();
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Link);
    header.set_size(0);
    archive
        .append_link(&mut header, "tree/x", "/etc/shadow")
        .unwrap();
    let content = archive.into_inner().unwrap();
    let packed = zstd::encode_all(&content[..], 1).unwrap();
    let digest = Sha256::of(&packed).to_string();
    let blob = site.path("store").join(store::blob_name(&digest));
    fs::create_dir_all(blob.parent().unwrap()).unwrap();
    fs::write(&blob, &packed).unwrap();
    let wanted = Wanted {
        kind: Kind::Base,
        digest: &site.digest,
    };
    let sizes = (packed.len() as u64, content.len() as u64);
    let statement = Statement::new(wanted, digest, sizes.0, sizes.1);
    let fingerprint = site.signer.public_key().unwrap().fingerprint;
    let place = site
        .path("store")
        .join(statement::name(wanted, &fingerprint));
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(place, statement.sign(&site.signer, now()).unwrap()).unwrap();
    let (found, notes) = site.find(Kind::Base);
    assert!(found.is_none());
    let said = format!("{notes:?}");
    assert!(
        said.contains("a hard link that leads out of the tree"),
        "{said}"
    );
}

#[test]
fn without_a_key_no_part_is_taken_and_that_is_said_once() {
    let site = Site::with_store();
    let shared = SharedCache::open(site.path("store").to_str().unwrap(), &[]).unwrap();
    let (found, notes) = site.find_in(&shared, Kind::Part);
    assert!(found.is_none());
    assert!(matches!(&notes[..], [Note::Warning(text)] if text.contains("--cache-key")));
    assert!(site.find_in(&shared, Kind::Part).1.is_empty());
}

#[test]
fn a_store_that_does_not_answer_is_named_once_and_soon() {
    let site = Site::with_store();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    for url in [url.as_str(), site.path("nowhere").to_str().unwrap()] {
        let shared = SharedCache::open(url, &[site.path("key.asc")]).unwrap();
        let begin = Instant::now();
        let (found, notes) = site.find_in(&shared, Kind::Part);
        assert!(found.is_none() && begin.elapsed() < Duration::from_secs(20));
        let said = format!("{notes:?}");
        assert!(notes.len() == 1 && said.contains(url), "{said}");
        assert!(site.find_in(&shared, Kind::Part).1.is_empty());
    }
}

#[test]
fn pushing_again_sends_what_is_missing_and_nothing_else() {
    let site = Site::new();
    assert_eq!(site.push(true).unwrap().pushed.len(), 1);
    assert!(!site.path("store").exists(), "a dry run writes nothing");
    let first = site.push(false).unwrap();
    assert!(first.pushed[0].bytes > 0);
    let blob = site.blob();
    let written = blob.metadata().unwrap().ino();
    let again = site.push(false).unwrap();
    assert_eq!((again.pushed.len(), again.present), (0, 1));
    // As a push that was killed between the blob and its statement leaves it.
    fs::remove_file(site.statement()).unwrap();
    let rest = site.push(false).unwrap();
    assert_eq!((rest.pushed.len(), rest.pushed[0].bytes), (1, 0));
    assert_eq!(blob.metadata().unwrap().ino(), written);
    // A statement that nobody can use.
    fs::write(site.statement(), "nonsense").unwrap();
    assert_eq!(site.push(false).unwrap().pushed.len(), 1);
    assert!(site.find(Kind::Part).0.is_some());
}

#[test]
fn builders_with_different_keys_share_a_store() {
    let one = Site::with_store();
    let two = Site {
        folder: tempfile::tempdir().unwrap(),
        signer: signer(2),
        digest: one.digest.clone(),
    };
    let by = (&two.signer, None);
    let cache = one.path("cache");
    let store = one.path("store");
    let pushed = push(
        store.to_str().unwrap(),
        &[one.part()],
        by,
        &cache,
        false,
        &|_, _| (),
    );
    assert_eq!(pushed.unwrap().pushed[0].bytes, 0, "the blob is there");
    let key = two.signer.public_key().unwrap();
    fs::write(one.path("key.asc"), key.armored).unwrap();
    assert!(one.find(Kind::Part).0.is_some());
}

#[test]
fn parts_that_are_quickly_made_are_not_shared() {
    let site = Site::new();
    let stage = site.part().path.join("stage");
    for (text, count) in [
        ("image/root\n", 0),
        ("image/repository\n", 0),
        ("image/var\n", 0),
        ("image/base\n", 1),
    ] {
        fs::write(&stage, text).unwrap();
        assert_eq!(site.push(true).unwrap().pushed.len(), count, "{text}");
    }
}
