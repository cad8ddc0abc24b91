//! An upgrade from its archive to the disk: what is written, what is left when it ends half-way, and what is refused.

#[path = "../support/mod.rs"]
mod support;

mod site;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use bootstrap::Error;
use bootstrap::upgrade::assess::keep;
use bootstrap::upgrade::esp::{TRIES, only};
use bootstrap::upgrade::grubenv::Choice;
use bootstrap::upgrade::record::Outcome;
use bootstrap::upgrade::{open, read_key};

use site::{Site, Upgrade, without_paths};

fn choice(site: &Site) -> Choice {
    site.esp().environment().unwrap().unwrap().choice()
}

/// The running version, and nothing else, is what both boot loaders start.
fn assert_only_the_running_version(site: &Site, when: &str) {
    assert_eq!(site.entries(), ["base_1.efi"], "{when}");
    assert_eq!(choice(site), only("base_1"), "{when}");
    assert_eq!(site.records().trial().unwrap(), None, "{when}");
    assert!(site.bios_file("1", "").is_none() && site.esp_folder().join("farrow/base_1").is_dir());
}

#[test]
fn a_version_is_written_beside_the_running_one() {
    let site = Site::new();
    let upgrade = Upgrade::new("2");
    let before = site.partitions();
    let plan = site.upgrade(&upgrade.pack()[..]).unwrap();
    support::golden(
        &support::data("upgrades/plan.txt"),
        &without_paths(&plan.to_text(), &site),
    );
    for (name, content) in ["root-b", "verity-b"].iter().zip(&upgrade.contents) {
        assert!(site.content(name, content.len()) == *content, "{name}");
    }
    let hash = &upgrade.release.root_hash;
    for (old, new) in before.iter().zip(&site.partitions()) {
        assert_eq!(
            (&old.name, old.start, old.sectors),
            (&new.name, new.start, new.sectors)
        );
        let half = match new.name.as_str() {
            "root-b" => &hash[..32],
            "verity-b" => &hash[32..],
            _ => {
                assert_eq!(old.unique, new.unique);
                continue;
            }
        };
        assert_eq!(new.unique.replace('-', ""), half);
    }
    assert_eq!(site.entries(), ["base_1.efi", "base_2+3.efi"]);
    let trial = Choice {
        trial: Some(("base_2".into(), TRIES)),
        ..only("base_1")
    };
    assert_eq!(choice(&site), trial);
    assert_eq!(site.bios_file("2", "entry.cfg").unwrap(), b"entry.cfg of 2");
    assert_eq!(site.bios_file("2", "linux.tmp"), None);
    let record = site.records().trial().unwrap().unwrap();
    assert_eq!(
        (record.outcome, record.slot.as_str(), &record.to.root_hash),
        (Outcome::Trying, "b", hash)
    );
    keep(&site.image, &record, &site.place(), &site.records()).unwrap();
    assert_eq!(
        (site.entries(), choice(&site)),
        (
            vec!["base_1.efi".into(), "base_2.efi".into()],
            only("base_2")
        )
    );
    // The next one takes the place of what failed or was not tried; the running one stays.
    let third = Upgrade::new("3");
    site.upgrade(&third.pack()[..]).unwrap();
    assert_eq!(site.entries(), ["base_1.efi", "base_3+3.efi"]);
    assert_eq!(site.bios_file("2", "entry.cfg"), None);
    assert!(site.content("root-b", 4096) == third.contents[0][..4096]);
}

/// A source that ends at any place, and then a whole one.
#[test]
fn an_upgrade_that_ends_half_way_changes_nothing_that_boots() {
    let packed = Upgrade::new("2").pack();
    let site = Site::new();
    let mut places: Vec<usize> = (0..packed.len()).step_by(100_003).collect();
    // Every block of what comes behind the slot's content.
    places.extend((packed.len().saturating_sub(30 * 512)..packed.len() - 1024).step_by(256));
    for place in places {
        let error = match site.upgrade(&packed[..place]) {
            Err(error) => error,
            // Only what fills the last block was cut off.
            Ok(_) => continue,
        };
        assert_eq!(error.code(), "FR-UPGRADE-SOURCE", "{place}: {error}");
        assert_only_the_running_version(&site, &format!("after {place} bytes"));
    }
    site.upgrade(&packed[..]).unwrap();
    assert_eq!(site.entries(), ["base_1.efi", "base_2+3.efi"]);
}

/// One changed bit anywhere is found before anything leads to the version.
#[test]
fn no_changed_bit_is_ever_tried() {
    let packed = Upgrade::new("2").pack();
    let mut tried = 0;
    for place in (0..packed.len() - 1024)
        .step_by(40_009)
        .chain((0..6000).step_by(61))
    {
        let site = Site::new();
        let mut bad = packed.clone();
        bad[place] ^= 4;
        // Fields of a header that mean nothing, and what fills blocks, may differ.
        if let Err(error) = site.upgrade(&bad[..]) {
            assert!(error.code().starts_with("FR-UPGRADE-"), "{place}: {error}");
            assert_only_the_running_version(&site, &format!("bit of byte {place}"));
            tried += 1;
        }
    }
    assert!(tried > 100, "{tried}");
}

type Change = fn(&mut Upgrade, &mut Site);

/// Each refusal has its text, and leaves what boots alone.
#[test]
fn refusals() {
    let cases: [(&str, Change); 12] = [
        ("signature", |upgrade, _| {
            upgrade.signature = Some(site::sign(b"another document"))
        }),
        ("format", |upgrade, _| upgrade.release.schema = 1),
        ("name", |upgrade, _| upgrade.release.name = "slim".into()),
        ("architecture", |upgrade, _| {
            upgrade.release.architecture = "riscv64".into()
        }),
        ("version-older", |upgrade, _| {
            upgrade.release.version = "0.9".into()
        }),
        ("version-same", |upgrade, _| {
            upgrade.release.version = "1".into()
        }),
        ("size", |upgrade, _| {
            upgrade.contents[0] = vec![0; 5 << 20];
            upgrade.describe();
        }),
        ("digest", |upgrade, _| upgrade.contents[0][5000] ^= 1),
        ("digest-of-boot-file", |upgrade, _| {
            upgrade.contents[2][0] ^= 1
        }),
        ("root-hash", |upgrade, _| {
            upgrade.release.root_hash = "ab".repeat(32)
        }),
        ("hash-tree", |upgrade, _| {
            upgrade.contents[1] = vec![0; 4096];
            upgrade.describe();
        }),
        ("trial", |_, site| {
            let running = Upgrade::new("1.5");
            site.upgrade(&running.pack()[..]).unwrap();
            site.image.root_hash = running.release.root_hash;
        }),
    ];
    for (name, change) in cases {
        let (mut upgrade, mut site) = (Upgrade::new("2"), Site::new());
        change(&mut upgrade, &mut site);
        let entries = site.entries();
        let error = site.upgrade(&upgrade.pack()[..]).unwrap_err();
        golden(name, &error, &site);
        assert_eq!(site.entries(), entries, "{name}");
    }
}

/// What needs no archive.
#[test]
fn other_refusals() {
    let site = Site::new();
    golden(
        "key",
        &read_key(Path::new("/nowhere/upgrade.key")).unwrap_err(),
        &site,
    );
    let source = |source: &str| open(source).map(|_| ()).unwrap_err();
    golden(
        "source-scheme",
        &source("https://10.10.10.10/base.upgrade"),
        &site,
    );
    golden("source-missing", &source("/nowhere/base.upgrade"), &site);
    golden("source-folder", &source("/"), &site);
    golden("cut-off", &site.upgrade(io::empty()).unwrap_err(), &site);
    golden(
        "no-archive",
        &site.upgrade(&[b'x'; 4096][..]).unwrap_err(),
        &site,
    );
    golden(
        "machine",
        &bootstrap::upgrade::machine::not_an_image("it was not started from one"),
        &site,
    );
    let mut disk = site.disk();
    disk.other.root.length = 1 << 20;
    golden(
        "size-of-slot",
        &site
            .upgrade_with(&Upgrade::new("2").pack()[..], &disk)
            .unwrap_err(),
        &site,
    );
    // A file system that is always full.
    let full = bootstrap::upgrade::apply::no_room(1 << 20, 100 << 20, "2");
    golden("space", &full, &site);
    golden("busy", &bootstrap::upgrade::busy(), &site);
}

fn golden(name: &str, error: &Error, site: &Site) {
    let text = format!(
        "{}\n{error}\nhint: {}\n",
        error.code(),
        error.hint().unwrap_or_default()
    );
    support::golden(
        &support::data(&format!("upgrades/{name}.txt")),
        &without_paths(&text, site),
    );
}

/// A code that no golden file shows.
#[test]
fn every_code_has_a_text() {
    let codes = |folder: &Path| -> BTreeSet<String> {
        let files = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let texts = files
            .filter(|path| path.is_file())
            .map(|path| fs::read_to_string(path).unwrap());
        let words = texts.flat_map(|text| {
            let words = text.split(|c: char| !c.is_ascii_uppercase() && c != '-');
            words
                .filter(|word| word.starts_with("FR-UPGRADE-") && word.len() > 11)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        });
        words.collect()
    };
    let used = codes(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/upgrade"));
    let shown = codes(&support::data("upgrades"));
    assert!(used.len() >= 12, "{used:?}");
    assert_eq!(used, shown);
}

/// Over HTTP, also from a server that sends little at a time, or ends early.
#[test]
fn an_upgrade_over_http() {
    let packed = Upgrade::new("2").pack();
    for (head, body, code) in [
        (
            format!("200 OK\r\nContent-Length: {}", packed.len()),
            &packed[..],
            None,
        ),
        (
            format!("200 OK\r\nContent-Length: {}", packed.len()),
            &packed[..packed.len() / 2],
            Some("FR-UPGRADE-SOURCE"),
        ),
        ("200 OK".into(), &packed[..], Some("FR-HTTP")),
        (
            "200 OK\r\nTransfer-Encoding: chunked".into(),
            &packed[..],
            Some("FR-HTTP"),
        ),
        (
            "404 Not Found\r\nContent-Length: 0".into(),
            &[],
            Some("FR-HTTP"),
        ),
    ] {
        let site = Site::new();
        let url = serve(format!("HTTP/1.1 {head}\r\n\r\n"), body.to_vec());
        let outcome = open(&url).and_then(|source| site.upgrade(source));
        assert_eq!(outcome.as_ref().err().map(Error::code), code, "{head}");
        if code.is_some() {
            assert_only_the_running_version(&site, &head);
        }
    }
}

/// Answers one request, in pieces.
fn serve(head: String, body: Vec<u8>) -> String {
    use std::io::Write;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/base.upgrade", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let _ = stream.read(&mut request);
        let _ = stream.write_all(head.as_bytes());
        for piece in body.chunks(70_001) {
            if stream.write_all(piece).is_err() {
                return;
            }
        }
    });
    url
}
