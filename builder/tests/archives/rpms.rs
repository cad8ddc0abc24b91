//! Recipes of RPM packages: the closure of any set, upgrades of some packages, base states, packages of our own, RSA keys.

use std::time::{SystemTime, UNIX_EPOCH};

use offline_repo::digest::Sha256;
use offline_repo::lock::Lock;
use offline_repo::openpgp::Keyring;
use offline_repo::repository::Repository;
use offline_repo::rpm::header::Headers;
use offline_repo::rpm::metadata::{Place, elements};
use offline_repo::rpm::package::Package;
use offline_repo::rpm::repodata;
use serde_json::{Value, json};

use crate::golden::golden;
use crate::site::Site;
use crate::support::archive_signer;
use crate::support::rpm::rpm;

/// A relation of a package: kind, name, flags, version.
type Related<'a> = (&'a str, &'a str, u32, &'a str);
/// Name, version, relations.
type Listed<'a> = (&'a str, &'a str, &'a [Related<'a>]);

const GE: u32 = 12;
const EQ: u32 = 8;

const FIRST: &[Listed<'_>] = &[
    ("libc", "1", &[]),
    ("ssl", "1", &[("provides", "ssl", EQ, "1-1")]),
    (
        "database",
        "1",
        &[("requires", "libc", 0, ""), ("requires", "ssl", 0, "")],
    ),
    ("web", "1", &[("requires", "ssl", EQ, "1-1")]),
    ("tools", "1", &[]),
];

/// Newer versions; the new database needs the new ssl, beside which the old web cannot be.
const SECOND: &[Listed<'_>] = &[
    ("libc", "2", &[]),
    ("ssl", "2", &[("provides", "ssl", EQ, "2-1")]),
    (
        "database",
        "2",
        &[("requires", "libc", 0, ""), ("requires", "ssl", GE, "2")],
    ),
    ("web", "2", &[("requires", "ssl", GE, "1")]),
    ("tools", "2", &[]),
];

const RECIPE: &str = r#"
schema = 1
name = "shelf"

[distribution]
id = "rocky"
suite = "el9"
code = "el9"

[[upstream]]
name = "shelf"
kind = "rpm"
archive = "shelf"
url = "URL/debian"
suites = ["el9"]
keys = ["archive.asc"]
"#;

const PLATFORM: &str = "[packages]\nplatform = [\"database\", \"web\"]\nother = [\"tools\"]\n";

/// A yum repository with these packages, and the recipe with this at its end.
fn site(packages: &[Listed<'_>], more: &str) -> Site {
    let site = Site::new();
    publish(&site, packages);
    recipe(&site, more);
    site
}

fn recipe(site: &Site, more: &str) {
    site.write("shelf.toml", &format!("{RECIPE}\n{more}"));
}

fn publish(site: &Site, packages: &[Listed<'_>]) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let described = packages.iter().map(|(name, version, relations)| {
        let bytes = rpm(name, &format!("{version}-1"), "x86_64", relations);
        let package = Package::from_headers(&Headers::read(&bytes[..]).unwrap()).unwrap();
        let place = Place {
            path: format!("{name}-{version}-1.x86_64.rpm"),
            size: bytes.len() as u64,
            sha256: Sha256::of(&bytes),
            time: 1,
        };
        site.serve(&format!("el9/{}", place.path), bytes);
        elements(&package, &place)
    });
    let described: Vec<_> = described.collect();
    for (path, bytes) in repodata::files(&described, None, &archive_signer(), now - 3600).unwrap() {
        site.serve(&format!("el9/{path}"), bytes);
    }
}

fn changes(site: &Site, words: &[&str]) -> Vec<String> {
    let document = site.json(&[&["lock", "shelf.toml"], words].concat());
    let changes = document["locks"][0]["changes"].as_array().unwrap().iter();
    changes
        .map(|change| {
            assert_eq!(
                (&change["from"], &change["to"]),
                (&json!("1-1"), &json!("2-1"))
            );
            change["name"].as_str().unwrap().to_string()
        })
        .collect()
}

#[test]
fn an_upgrade_of_one_package_changes_only_what_it_must() {
    let site = site(FIRST, PLATFORM);
    site.json(&["lock", "shelf.toml"]);
    publish(&site, &[FIRST, SECOND].concat());
    // Newer versions alone change nothing, not even when the recipe asks for something else besides.
    assert_eq!(changes(&site, &[]), [""; 0]);
    recipe(&site, &format!("{PLATFORM}more = [\"libc\"]\n"));
    assert_eq!(changes(&site, &[]), [""; 0]);
    // A leaf; then one whose new version needs another, beside which a third cannot stay; then all.
    assert_eq!(changes(&site, &["--upgrade", "tools"]), ["tools"]);
    let found = changes(&site, &["--upgrade", "database"]);
    assert_eq!(found, ["database", "ssl", "web"]);
    assert_eq!(changes(&site, &["--upgrade"]), ["libc"]);
    let why = site.json(&["lock", "shelf.toml", "--why", "ssl"]);
    assert_eq!(why["why"], json!(["group platform", "database", "ssl"]));
    golden(
        "FR-LOCK-UPGRADE",
        &site.refusal(&["lock", "shelf.toml", "--upgrade", "databas"], 2),
    );
}

#[test]
fn a_new_request_comes_in_its_newest_version() {
    let site = site(FIRST, "[packages]\nplatform = [\"tools\"]\n");
    site.json(&["lock", "shelf.toml"]);
    publish(&site, &[FIRST, SECOND].concat());
    recipe(&site, PLATFORM);
    site.json(&["lock", "shelf.toml"]);
    let lock = Lock::load(&site.path("shelf.lock")).unwrap();
    let versions: Vec<(&str, &str)> = (lock.packages.iter())
        .map(|package| (package.name.as_str(), package.version.as_str()))
        .collect();
    let expected = [
        ("database", "2-1"),
        ("libc", "2-1"),
        ("ssl", "2-1"),
        ("tools", "1-1"),
        ("web", "2-1"),
    ];
    assert_eq!(versions, expected);
}

#[test]
fn any_set_of_packages_is_resolved() {
    let site = site(FIRST, PLATFORM);
    let by_recipe = site.json(&["resolve", "database", "--recipe", "shelf.toml"]);
    let packages = by_recipe["packages"].as_array().unwrap();
    let found: Vec<Value> = (packages.iter())
        .map(|package| {
            json!([
                package["name"],
                package["version"],
                package["arch"],
                package["why"]
            ])
        })
        .collect();
    let expected = [
        json!(["database", "1-1", "x86_64", "group request"]),
        json!(["libc", "1-1", "x86_64", "database"]),
        json!(["ssl", "1-1", "x86_64", "database"]),
    ];
    assert_eq!(found, expected);
    let mirror = format!("vendor={}/debian/el9", site.url());
    let by_archive = site.json(&[
        "resolve",
        "database",
        "--kind",
        "rpm",
        "--archive",
        "vendor",
        "--mirror",
        &mirror,
        "--key",
        "keys/archive.asc",
    ]);
    assert_eq!(by_archive["packages"], by_recipe["packages"]);
    golden(
        "FR-RESOLVE-ARCHIVE.key",
        &site.refusal(&["resolve", "x", "--kind", "rpm", "--archive", "vendor"], 2),
    );
}

/// As rpm prints it: the key of an archive, and a package that keeps the ssl in its version.
const MACHINE: &str = "Package: gpg-pubkey\nVersion: 1-1\nArchitecture: (none)\n\
    Package: ssl\nVersion: 1-1\nArchitecture: x86_64\nProvides: ssl = 1-1\n\
    Package: app\nVersion: 1-1\nArchitecture: noarch\nProvides: app = 1-1\nRequires: ssl = 1-1\n";
const BASES: &str = "\n[[base]]\nname = \"nothing\"\nkind = \"empty\"\n\n\
    [[base]]\nname = \"a machine\"\nkind = \"status\"\nstatus = \"machine.list\"\n";

#[test]
fn groups_are_proved_on_bases() {
    let site = site(FIRST, &format!("{PLATFORM}{BASES}"));
    site.write("machine.list", MACHINE);
    site.json(&["repo", "build", "shelf.toml"]);
    let text = std::fs::read(site.path("out/repo/shelf/closure.json")).unwrap();
    let document: Value = serde_json::from_slice(&text).unwrap();
    let verdicts = document["verdicts"].as_array().unwrap();
    assert_eq!(verdicts.len(), 4, "{document:#}");
    assert!(verdicts.iter().all(|verdict| verdict["installs"] == true));
    let again = site.json(&["repo", "build", "shelf.toml"]);
    let stages = again["stages"].as_array().unwrap();
    assert!(
        stages.iter().all(|stage| stage["reused"] == true),
        "{again}"
    );
    // The new database needs an ssl that the machine's own package does not go with.
    publish(&site, SECOND);
    let said = site.refusal(&["repo", "build", "shelf.toml", "--lock", "new.lock"], 1);
    assert!(
        said.contains("app-1-1.noarch") && said.contains("a machine"),
        "{said}"
    );
    golden("FR-REPO-CLOSURE.rpm", &said);
    site.write("machine.list", "Package: ssl\nVersion 1\n");
    let build = ["repo", "build", "shelf.toml", "--lock", "new.lock"];
    golden("FR-REPO-SYNTAX.rpms", &site.refusal(&build, 1));
    recipe(
        &site,
        &format!("{PLATFORM}\n[[base]]\nname = \"x\"\nkind = \"minimal\"\n"),
    );
    golden("FR-RECIPE-TARGET.minimal", &site.refusal(&build, 2));
}

#[test]
fn packages_of_our_own_are_signed_with_an_rsa_key() {
    let more = "[repository]\nkey = \"rsa-3072\"\n[services]\ncatalogue = [\"node-exporter\"]\n";
    let site = site(
        FIRST,
        &format!("[packages]\nplatform = [\"database\", \"web = 1-1\", \"tools.x86_64\"]\n{more}"),
    );
    site.json(&["repo", "build", "shelf.toml"]);
    let again = site.json(&["repo", "build", "shelf.toml"]);
    let stages = again["stages"].as_array().unwrap();
    assert!(
        stages.iter().all(|stage| stage["reused"] == true),
        "{again}"
    );
    // The key stays where keys are; another kind of key is another file.
    assert!(site.path("state/signing-rsa-3072.key").exists());
    assert!(!site.path("state/signing.key").exists());
    let folder = site.path("out/repo/shelf");
    let key = std::fs::read(site.path("out/repo/shelf.asc")).unwrap();
    let keyring = Keyring::from_files(&[key]).unwrap();
    let repository = Repository::open(&folder, Some(&keyring)).unwrap();
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let (repomd, signature) = (read(repodata::REPOMD), read(repodata::SIGNATURE));
    keyring
        .verify_detached("repomd.xml", &repomd, &signature, None)
        .unwrap();
    let own = |name: &str| {
        let found = repository
            .packages()
            .iter()
            .find(|package| package.name == name);
        Package::open(&found.unwrap().path).unwrap()
    };
    let requires: Vec<(String, Option<&str>, String)> = (own("shelf-platform").relations[1].iter())
        .map(|r| (r.name.clone(), r.flags, r.evr.clone()))
        .collect();
    let plain = |name: &str| (name.to_string(), None, String::new());
    let exact = |name: &str| (name.to_string(), Some("EQ"), "1-1".to_string());
    assert_eq!(requires, [plain("database"), exact("tools"), exact("web")]);
    let paths =
        |name: &str| -> Vec<String> { own(name).files.into_iter().map(|file| file.path).collect() };
    assert_eq!(paths("farrow"), ["/usr/bin/farrow"]);
    let files = paths("farrow-bootstrap");
    for path in [
        "/usr/bin/farrow-bootstrap",
        "/usr/lib/farrow",
        "/usr/lib/farrow/image.json",
    ] {
        assert!(files.iter().any(|found| found == path), "{files:?}");
    }
    assert!(!files.iter().any(|found| found == "/usr/lib"), "{files:?}");
}
