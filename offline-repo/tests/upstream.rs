//! Locking and fetching from an archive that is honest, forged, stale, slow or broken.

mod support;

use offline_repo::cache::Cache;
use offline_repo::fetch::{FetchPlan, fetch};
use offline_repo::lock::Lock;
use offline_repo::locking::{LockRequest, lock, resolve_set};
use offline_repo::progress::silent;
use offline_repo::{Error, Result};
use support::{Fault, NOW, Server, archive, archive_signer, client, repository_signer, request};

const IN_RELEASE: &str = "/debian/dists/trixie/InRelease";
const SSL: &str = "/debian/pool/main/ssl_3.5_amd64.deb";

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

    fn cache(&self) -> Cache {
        Cache::new(self.dir.path())
    }

    fn lock(&self, request: &LockRequest) -> Result<Lock> {
        lock(
            request,
            &client(&[&self.server], false),
            &self.cache(),
            &silent,
        )
    }

    fn edit(&self, path: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        edit(
            self.server
                .site
                .lock()
                .unwrap()
                .files
                .get_mut(path)
                .unwrap(),
        );
    }
}

/// The error without the server's address, which differs each time.
fn shown(error: &Error, place: &Place) -> String {
    format!("{} {error}", error.code()).replace(&place.server.url, "http://m")
}

#[test]
fn the_lock_says_what_and_why() {
    let place = Place::new();
    let locked = place.lock(&request()).unwrap();
    let lines: Vec<String> = locked
        .packages
        .iter()
        .map(|p| {
            format!(
                "{} {} {} [{}] {}",
                p.name,
                p.version,
                p.essential,
                p.groups.join(","),
                p.why
            )
        })
        .collect();
    assert_eq!(
        lines,
        [
            "base-system 12 true [] essential",
            "database 17~rc1 false [platform] group platform",
            "libc 1:2.41-1+deb13u1 true [platform] database",
            "ssl 3.5 false [platform] database",
        ]
    );
    assert_eq!(locked.epoch(), NOW - 86400);
    assert_eq!(
        locked.indexes[0].signed_by,
        archive_signer().public_key().unwrap().fingerprint
    );
    assert_eq!(locked, place.lock(&request()).unwrap());
    // No mirror's name may get into a lock.
    assert!(!locked.to_text().contains("http"));

    let client = client(&[&place.server], false);
    let set = resolve_set(
        &["tools".into()],
        "amd64",
        request().upstreams,
        false,
        &client,
        &place.cache(),
        &silent,
    );
    // Without a fixed time the index, made for 2026, is judged by this machine's clock.
    match set {
        Ok(lock) => assert_eq!(lock.packages.len(), 1),
        Err(error) => assert!(
            matches!(error, Error::Expired { .. } | Error::Signature { .. }),
            "{error}"
        ),
    }
}

#[test]
fn forged_and_stale_indexes_are_refused() {
    let fingerprint = repository_signer().public_key().unwrap().fingerprint;
    let own = archive_signer().public_key().unwrap().fingerprint;
    let flip = |place: &Place| place.edit(IN_RELEASE, |bytes| bytes[60] ^= 1);
    let resign = |place: &Place| {
        let mut site = place.server.site.lock().unwrap();
        support::sign_index(&mut site.files, b"", &repository_signer(), NOW);
    };
    let strip = |place: &Place| {
        place.edit(IN_RELEASE, |bytes| {
            let text = String::from_utf8(bytes.clone()).unwrap();
            *bytes = text
                .split_once("\n\n")
                .unwrap()
                .1
                .split("-----BEGIN")
                .next()
                .unwrap()
                .into();
        });
    };
    let grow = |place: &Place| place.edit(IN_RELEASE, |bytes| bytes.resize(17 << 20, b' '));
    type Edit<'a> = &'a dyn Fn(&Place);
    let cases: [(Edit<'_>, u64, String); 6] = [
        (
            &flip,
            NOW,
            format!(
                "FR-LOCK-SIGNATURE http://m{IN_RELEASE} has no acceptable signature: the signature by {own} does not match the content"
            ),
        ),
        (
            &resign,
            NOW,
            format!(
                "FR-LOCK-SIGNATURE http://m{IN_RELEASE} has no acceptable signature: made by {fingerprint}, which is not a listed key"
            ),
        ),
        (
            &strip,
            NOW,
            format!(
                "FR-LOCK-SIGNATURE http://m{IN_RELEASE} has no acceptable signature: it does not begin with a signed message"
            ),
        ),
        (
            &grow,
            NOW,
            format!("FR-REPO-SIZE http://m{IN_RELEASE} is larger than 16777216 bytes"),
        ),
        (
            &|_| {},
            NOW + 30 * 86400,
            format!(
                "FR-LOCK-EXPIRED http://m{IN_RELEASE} was valid until Tue, 24 Nov 2026 11:06:40 UTC, now it is Fri, 18 Dec 2026 11:06:40 UTC"
            ),
        ),
        (
            &|_| {},
            NOW - 30 * 86400,
            format!(
                "FR-LOCK-SIGNATURE http://m{IN_RELEASE} has no acceptable signature: made in the future, Tue, 17 Nov 2026 11:06:40 UTC"
            ),
        ),
    ];
    for (edit, now, expected) in cases {
        let place = Place::new();
        edit(&place);
        let request = LockRequest {
            now: Some(now),
            ..request()
        };
        let error = place.lock(&request).unwrap_err();
        assert_eq!(shown(&error, &place), expected);
        assert!(error.hint().is_some() || error.code() == "FR-REPO-SIZE");
    }
}

#[test]
fn mistakes_in_a_request_are_named() {
    let place = Place::new();
    let with = |edit: &dyn Fn(&mut LockRequest)| {
        let mut request = request();
        edit(&mut request);
        shown(&place.lock(&request).unwrap_err(), &place)
    };
    assert_eq!(
        with(&|r| r.upstreams[0].suites = vec!["bookworm".into()]),
        "FR-FETCH-HTTP failed to fetch http://m/debian/dists/bookworm/InRelease: the server answered 404 Not Found"
    );
    assert_eq!(
        with(&|r| r.upstreams[0].components = vec!["contrib".into()]),
        format!("FR-LOCK-INDEX http://m{IN_RELEASE} lists no contrib/binary-amd64/Packages")
    );
    assert_eq!(
        with(&|r| r.upstreams[0].archive = "ubuntu".into()),
        "FR-LOCK-MIRROR no mirror is known for the archive 'ubuntu'"
    );
    assert_eq!(
        with(&|r| r.upstreams[0].keys = vec![b"no key".to_vec()])
            .split(':')
            .next()
            .unwrap(),
        "FR-REPO-KEY key number 1 of the upstream 'base'"
    );
    assert_eq!(
        with(&|r| r.upstreams.clear()),
        "FR-REPO-INVALID pigsty: names no upstream"
    );
    assert_eq!(
        with(&|r| r
            .groups
            .get_mut("platform")
            .unwrap()
            .push("datebase".into())),
        "FR-RESOLVE-UNKNOWN no archive has a package 'datebase', did you mean 'database'?"
    );
}

#[test]
fn an_index_in_the_middle_of_an_update_is_found_by_hash() {
    let place = Place::new();
    place.edit(
        "/debian/dists/trixie/main/binary-amd64/Packages.xz",
        |bytes| bytes[20] ^= 1,
    );
    place.lock(&request()).unwrap();
    let by_hash = |path: &String| path.contains("by-hash");
    assert!(place.server.requests().iter().any(by_hash));
    // The other way round: no by-hash folder, as on simple copies of an archive.
    let place = Place::new();
    place
        .server
        .site
        .lock()
        .unwrap()
        .files
        .retain(|path, _| !by_hash(path));
    place.lock(&request()).unwrap();
}

#[test]
fn trouble_on_the_way_is_overcome() {
    let cases: [(&str, &[Fault], &[&str]); 5] = [
        ("a busy server", &[Fault::Status(503)], &[SSL, SSL]),
        ("a broken connection", &[Fault::Cut], &[SSL, "resumed"]),
        (
            "a server without ranges",
            &[Fault::Cut, Fault::Whole],
            &[SSL, "resumed"],
        ),
        ("damage in the first half", &[Fault::Flip], &[SSL]),
        (
            "two broken connections",
            &[Fault::Cut, Fault::Status(500)],
            &[SSL, "resumed", "resumed"],
        ),
    ];
    for (what, faults, expected) in cases {
        let place = Place::new();
        let locked = place.lock(&request()).unwrap();
        place.server.requests();
        place.server.fault(SSL, faults);
        let result = fetch(
            &locked,
            &client(&[&place.server], false),
            &place.cache(),
            &silent,
        );
        let requests: Vec<String> = place
            .server
            .requests()
            .into_iter()
            .filter(|r| r.starts_with(SSL))
            .collect();
        let shown: Vec<&str> = requests
            .iter()
            .map(|r| if r.contains(" from ") { "resumed" } else { SSL })
            .collect();
        assert_eq!(shown, expected, "{what}");
        match faults {
            [Fault::Flip] => {
                let text = result.unwrap_err().to_string();
                let package = locked.package("ssl").unwrap();
                let part = format!("expected {} and {}", package.sha256, package.size);
                assert!(
                    text.starts_with(&format!(
                        "ssl 3.5 from {}{SSL} has sha256 ",
                        place.server.url
                    )),
                    "{text}"
                );
                assert!(text.ends_with(&part), "{text}");
            }
            _ => assert_eq!(result.unwrap().packages().len(), 4, "{what}"),
        }
    }
}

#[test]
fn the_next_mirror_is_asked() {
    for fault in [Fault::Status(404), Fault::Flip, Fault::TooMuch] {
        let (place, other) = (Place::new(), Server::start(archive(&archive_signer())));
        let locked = place.lock(&request()).unwrap();
        place.server.fault(SSL, std::slice::from_ref(&fault));
        let client = client(&[&place.server, &other], false);
        fetch(&locked, &client, &place.cache(), &silent).unwrap();
        assert_eq!(other.requests(), [SSL], "{fault:?}");
    }
}

#[test]
fn the_cache_is_checked_and_offline_says_what_is_missing() {
    let place = Place::new();
    let locked = place.lock(&request()).unwrap();
    let online = client(&[&place.server], false);
    let offline = client(&[&place.server], true);
    let error = fetch(&locked, &offline, &place.cache(), &silent).unwrap_err();
    assert_eq!(
        shown(&error, &place),
        "FR-FETCH-OFFLINE offline, and 4 files are not in the cache: base-system 12, database 17~rc1, libc 1:2.41-1+deb13u1, ssl 3.5"
    );
    assert_eq!(
        lock(&request(), &offline, &place.cache(), &silent)
            .unwrap_err()
            .code(),
        "FR-FETCH-OFFLINE"
    );

    let plan = FetchPlan::new(&locked, &place.cache());
    assert_eq!(
        (plan.have.len(), plan.missing.len(), plan.is_empty()),
        (0, 4, false)
    );
    fetch(&locked, &online, &place.cache(), &silent).unwrap();
    assert!(FetchPlan::new(&locked, &place.cache()).is_empty());
    fetch(&locked, &offline, &place.cache(), &silent).unwrap();

    // A bit rots: the file is removed and fetched again, never used.
    let package = locked.package("ssl").unwrap();
    let path = place.cache().path(&package.sha256);
    let good = std::fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[100] ^= 4;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, &bad).unwrap();
    assert!(fetch(&locked, &offline, &place.cache(), &silent).is_err());
    assert!(!path.exists());
    fetch(&locked, &online, &place.cache(), &silent).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), good);
    // A killed download left a part behind, with other bytes than the file has: it is fetched anew.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(path.with_extension("part"), &bad[..200]).unwrap();
    fetch(&locked, &online, &place.cache(), &silent).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), good);
    assert!(!path.with_extension("part").exists());
}
