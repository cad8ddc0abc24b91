//! What is kept of an index changes nothing but the time that a lock takes.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use offline_repo::cache::Cache;
use offline_repo::compression::{Codec, decompress};
use offline_repo::digest::Sha256;
use offline_repo::lock::Lock;
use offline_repo::locking::{LockRequest, lock};
use offline_repo::progress::silent;
use offline_repo::universe::reduced::{Reduced, identity};
use offline_repo::universe::{IndexText, Universe};
use proptest::prelude::*;
use support::{Server, archive, archive_signer, client, request};

const PACKAGES: &str = "/debian/dists/trixie/main/binary-amd64/Packages.xz";

struct Place {
    server: Server,
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Place {
            server: Server::start(archive(&archive_signer())),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn lock(&self) -> Lock {
        let request = LockRequest {
            minimal_base: true,
            ..request()
        };
        let cache = Cache::new(self.dir.path());
        let client = client(&[&self.server], false);
        lock(&request, &client, &cache, &silent).unwrap()
    }

    fn packed(&self) -> Vec<u8> {
        self.server.site.lock().unwrap().files[PACKAGES].clone()
    }

    fn identity(&self) -> Sha256 {
        identity(&Sha256::of(&self.packed()), "amd64")
    }

    /// The file of what is kept of its index.
    fn kept(&self) -> PathBuf {
        let name = self.identity().to_string();
        self.dir.path().join("indexes").join(name)
    }

    /// Writes other bytes there.
    fn replace(&self, bytes: &[u8], mode: u32) {
        let path = self.kept();
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[test]
fn a_lock_is_the_same_with_and_without_it() {
    let place = Place::new();
    let first = place.lock().to_text();
    let kept = fs::read(place.kept()).unwrap();
    // The index itself is not looked at again, nor asked for.
    fs::remove_dir_all(place.dir.path().join("downloads")).unwrap();
    place.server.requests();
    assert_eq!(place.lock().to_text(), first);
    let asked = place.server.requests();
    assert!(
        !asked.iter().any(|path| path.contains("Packages")),
        "{asked:?}"
    );
    Cache::new(place.dir.path()).remove_derived().unwrap();
    assert_eq!(place.lock().to_text(), first);
    assert_eq!(fs::read(place.kept()).unwrap(), kept);
}

#[test]
fn a_damaged_one_is_made_again() {
    let place = Place::new();
    let first = place.lock().to_text();
    let good = fs::read(place.kept()).unwrap();
    for at in (0..good.len()).step_by(good.len() / 40) {
        let mut flipped = good.clone();
        flipped[at] ^= 1 << (at % 8);
        for damaged in [&flipped[..], &good[..at]] {
            place.replace(damaged, 0o444);
            assert_eq!(place.lock().to_text(), first, "{at}");
            assert_eq!(fs::read(place.kept()).unwrap(), good, "{at}");
        }
    }
}

#[test]
fn what_others_can_write_does_not_count() {
    let place = Place::new();
    let first = place.lock().to_text();
    let text = decompress("x", Codec::Xz, &place.packed(), 1 << 20).unwrap();
    let text = String::from_utf8(text).unwrap();
    let other = text.replace("Version: 3.5", "Version: 3.6");
    let other = Reduced::of("Packages", &other, "amd64").unwrap();
    let other = other.to_bytes(&place.identity());
    for mode in [0o666, 0o464, 0o446] {
        place.replace(&other, mode);
        assert_eq!(place.lock().to_text(), first, "{mode:o}");
    }
    // One's own file counts: this is what the rule is about.
    place.replace(&other, 0o444);
    assert!(place.lock().to_text().contains("version = \"3.6\""));
}

fn stanza((name, version, relations, flags): (usize, u8, Vec<(u8, usize)>, u8)) -> String {
    const FIELDS: [&str; 9] = [
        "Depends",
        "Pre-Depends",
        "Recommends",
        "Suggests",
        "Provides",
        "Conflicts",
        "Breaks",
        "Replaces",
        "Enhances",
    ];
    let mut fields = std::collections::BTreeMap::<&str, Vec<String>>::new();
    for (field, other) in relations {
        let field = FIELDS[usize::from(field) % FIELDS.len()];
        fields
            .entry(field)
            .or_default()
            .push(format!("p{other} | q{other} (>= 1)"));
    }
    let relations = fields
        .iter()
        .map(|(name, all)| format!("{name}: {}\n", all.join(", ")));
    let architecture = ["amd64", "all", "arm64"][usize::from(flags) % 3];
    let essential = if flags & 4 != 0 {
        "Essential: yes\n"
    } else {
        ""
    };
    format!(
        "Package: p{name}\nVersion: {version}\nArchitecture: {architecture}\n{essential}Priority: optional\n{}\
         Filename: p/{name}_{version}.deb\nSize: {}\nSHA256: {}\nDescription: \u{e9}\n\n",
        relations.collect::<String>(),
        1 + usize::from(flags),
        Sha256::of(&[flags])
    )
}

/// All that can be asked of a package.
fn shown(universe: &Universe, id: u32) -> String {
    let relations = [
        universe.depends(id),
        universe.recommends(id),
        universe.suggests(id),
        universe.conflicts(id),
    ];
    let identity = [
        universe.name(id),
        universe.version(id),
        universe.architecture(id),
        universe.path(id),
        universe.provides(id),
    ];
    format!(
        "{identity:?} {relations:?} {:?} {:?} {:?} {}",
        universe.versions(universe.name(id)),
        (universe.size(id), universe.sha256(id), universe.rank(id)),
        (universe.is_essential(id), universe.is_important(id)),
        universe.index(id),
    )
}

proptest! {
    #[test]
    fn nothing_that_is_asked_differs(
        indexes in prop::collection::vec(prop::collection::vec(
            (0..9usize, 0..3u8, prop::collection::vec((any::<u8>(), 0..9usize), 0..5), any::<u8>()), 0..8), 1..4),
    ) {
        let texts: Vec<String> = indexes.into_iter().map(|all| all.into_iter().map(stanza).collect()).collect();
        let whole = texts.iter().map(|text| IndexText {
            origin: "Packages".into(),
            text: Arc::new(text.clone()),
            priority: 0,
        });
        let whole = Universe::parse(whole.collect(), "amd64").unwrap();
        let identity = Sha256::of(b"x");
        let kept = texts.iter().map(|text| {
            let bytes = Reduced::of("Packages", text, "amd64").unwrap().to_bytes(&identity);
            ("Packages".to_string(), 0, Reduced::from_bytes(&bytes, &identity).unwrap())
        });
        let kept = Universe::of_reduced(kept.collect(), "amd64").unwrap();
        prop_assert_eq!(whole.len(), kept.len());
        for id in whole.ids() {
            prop_assert_eq!(shown(&whole, id), shown(&kept, id));
        }
        for n in 0..9 {
            for name in [format!("p{n}"), format!("q{n}")] {
                prop_assert_eq!(whole.first_mention(&name), kept.first_mention(&name));
            }
        }
    }
}
