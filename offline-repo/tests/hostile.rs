//! Documents from outside with bytes changed, cut or added: every reader answers or refuses, and none panics.

mod support;

use offline_repo::lock::Lock;
use offline_repo::locking::lock;
use offline_repo::marker::{self, Marker};
use offline_repo::mirror;
use offline_repo::openpgp::Keyring;
use offline_repo::progress::silent;
use offline_repo::release::Release;
use offline_repo::universe::{IndexText, Universe};
use offline_repo::{cache::Cache, clearsign, digest::Sha256};
use proptest::prelude::*;
use support::{NOW, Server, archive, archive_signer, client, request};

/// One change to a document.
#[derive(Debug, Clone)]
enum Change {
    Cut(usize),
    Replace(usize, u8),
    Insert(usize, Vec<u8>),
    Repeat(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = 0usize..100_000;
    let interesting = prop_oneof![
        Just(b"\n\n".to_vec()),
        Just(b"\n ".to_vec()),
        Just(b"../".to_vec()),
        Just(vec![0]),
        Just(b"99999999999999999999".to_vec()),
        Just("\u{e9}".as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 1..8),
    ];
    prop_oneof![
        at.clone().prop_map(Change::Cut),
        (at.clone(), any::<u8>()).prop_map(|(at, byte)| Change::Replace(at, byte)),
        (at.clone(), interesting).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at.clone(), at).prop_map(|(at, length)| Change::Repeat(at, length)),
    ]
}

fn apply(document: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut bytes = document.to_vec();
    for change in changes {
        let length = bytes.len();
        if length == 0 {
            break;
        }
        match change {
            Change::Cut(at) => bytes.truncate(at % length),
            Change::Replace(at, byte) => bytes[at % length] = *byte,
            Change::Insert(at, more) => {
                drop(bytes.splice(at % length..at % length, more.iter().copied()))
            }
            Change::Repeat(at, count) => {
                let (at, end) = (at % length, (at % length + count % 64).min(length));
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
        }
    }
    bytes
}

/// One valid document of each kind.
struct Documents {
    in_release: Vec<u8>,
    release: String,
    packages: String,
    lock: String,
    marker: String,
    key: Vec<u8>,
}

fn documents() -> &'static Documents {
    static DOCUMENTS: std::sync::OnceLock<Documents> = std::sync::OnceLock::new();
    DOCUMENTS.get_or_init(|| {
        let files = archive(&archive_signer());
        let in_release = files["/debian/dists/trixie/InRelease"].clone();
        let release = clearsign::parse(std::str::from_utf8(&in_release).unwrap())
            .unwrap()
            .text;
        let packed = &files["/debian/dists/trixie/main/binary-amd64/Packages.xz"];
        let codec = offline_repo::compression::Codec::Xz;
        let packages =
            offline_repo::compression::decompress("Packages.xz", codec, packed, 1 << 20).unwrap();
        let server = Server::start(files);
        let dir = tempfile::tempdir().unwrap();
        let locked = lock(
            &request(),
            &client(&[&server], false),
            &Cache::new(dir.path()),
            &silent,
        )
        .unwrap();
        let listed = vec![
            ("InRelease".to_string(), Sha256::of(b"a")),
            ("a.deb".to_string(), Sha256::of(b"b")),
        ];
        Documents {
            in_release,
            release,
            packages: String::from_utf8(packages).unwrap(),
            lock: locked.to_text(),
            marker: marker::write(listed, &archive_signer(), NOW).unwrap().0,
            key: archive_signer().public_key().unwrap().binary,
        }
    })
}

fn universe(text: String) -> offline_repo::Result<Universe> {
    let index = IndexText {
        origin: "Packages".into(),
        text: text.into(),
        priority: 0,
    };
    Universe::parse(vec![index], "amd64")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn signed_text_is_accepted_only_as_it_was_signed(changes in prop::collection::vec(change(), 1..4)) {
        let documents = documents();
        let keyring = Keyring::from_files(&[&documents.key]).unwrap();
        let changed = apply(&documents.in_release, &changes);
        if let Ok((text, _)) = keyring.verify_clearsigned("InRelease", &changed, NOW) {
            prop_assert_eq!(&text, &documents.release);
        }
    }

    #[test]
    fn readers_do_not_panic(changes in prop::collection::vec(change(), 1..4)) {
        let documents = documents();
        let text = |document: &str| String::from_utf8_lossy(&apply(document.as_bytes(), &changes)).into_owned();
        let _ = Release::parse("Release", &text(&documents.release));
        let _ = Keyring::from_files(&[apply(&documents.key, &changes)]);
        mirror::parse_sources(&text(&documents.packages));
        mirror::parse_list(&text(&documents.packages));
        if let Ok(universe) = universe(text(&documents.packages)) {
            for id in universe.ids() {
                let _ = (universe.depends(id), universe.conflicts(id), universe.sha256(id));
                prop_assert!(universe.path(id).split('/').all(|part| !part.is_empty() && part != ".."));
            }
        }
        if let Ok(lock) = Lock::parse("x.lock", &text(&documents.lock)) {
            for package in &lock.packages {
                prop_assert!(!package.file_name().contains('/'));
                prop_assert!(!lock.why(&package.name).is_empty());
            }
        }
        if let Ok(marker) = Marker::parse("repo_complete", &text(&documents.marker)) {
            let keyring = Keyring::from_files(&[&documents.key]).unwrap();
            if marker.check_signature("repo_complete", &keyring).is_ok() {
                prop_assert_eq!(marker.files.len(), 2);
            }
        }
    }
}
