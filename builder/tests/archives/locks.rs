//! Locks: what an upgrade changes, and one for each platform.

use std::collections::BTreeMap;

use offline_repo::lock::Lock;
use serde_json::{Value, json};

use crate::site::{FIRST, SECOND, Site};

fn versions(site: &Site, lock: &str) -> BTreeMap<String, String> {
    let lock = Lock::load(&site.path(lock)).unwrap();
    let packages = lock.packages.into_iter();
    packages
        .map(|package| (package.name, package.version))
        .collect()
}

fn expected(versions: [&str; 5]) -> BTreeMap<String, String> {
    let names = ["base-system", "database", "libc", "ssl", "tools"];
    let pairs = names.iter().zip(versions);
    pairs
        .map(|(name, version)| (name.to_string(), version.to_string()))
        .collect()
}

fn change(name: &str) -> Value {
    json!({"name": name, "from": "1", "to": "2"})
}

#[test]
fn an_upgrade_of_one_package_changes_only_what_it_must() {
    let site = Site::with_shelf();
    site.json(&["lock", "shelf.toml"]);
    assert_eq!(
        versions(&site, "shelf.lock"),
        expected(["1", "1", "1", "1", "1"])
    );
    site.publish("trixie", &[FIRST, SECOND].concat());
    // Newer versions alone change nothing, not even when the recipe asks for something else besides.
    let document = site.json(&["lock", "shelf.toml"]);
    assert_eq!(document["locks"][0]["changes"], json!([]));
    site.shelf("[packages]\nplatform = [\"database\", \"tools\"]\nmore = [\"libc\"]\n");
    let document = site.json(&["lock", "shelf.toml"]);
    assert_eq!(document["locks"][0]["changes"], json!([]));
    // A leaf; then one whose new version needs the new version of another; then all.
    let document = site.json(&["lock", "shelf.toml", "--upgrade", "tools"]);
    assert_eq!(document["locks"][0]["changes"], json!([change("tools")]));
    let document = site.json(&["lock", "shelf.toml", "--upgrade", "database"]);
    let both = json!([change("database"), change("ssl")]);
    assert_eq!(document["locks"][0]["changes"], both);
    assert_eq!(
        versions(&site, "shelf.lock"),
        expected(["1", "2", "1", "2", "2"])
    );
    let document = site.json(&["lock", "shelf.toml", "--upgrade"]);
    assert_eq!(document["locks"][0]["changes"], json!([change("libc")]));
    // A version that the archive no longer has cannot stay.
    site.publish(
        "trixie",
        &[&FIRST[..1], &SECOND[..3], &[("tools", "3", "all", "")]].concat(),
    );
    let document = site.json(&["lock", "shelf.toml", "--upgrade", "libc"]);
    let forced = json!([{"name": "tools", "from": "2", "to": "3"}]);
    assert_eq!(document["locks"][0]["changes"], forced);
}

/// Another platform.
const BOOKWORM: &str = r#"
schema = 1
name = "old"

[distribution]
id = "debian"
suite = "bookworm"
code = "d12"

[[upstream]]
name = "old"
kind = "deb"
archive = "old"
url = "URL/debian"
suites = ["bookworm"]
components = ["main"]
keys = ["archive.asc"]
"#;

/// Suite, architecture and packages of the three locks.
fn check_locks(site: &Site) {
    for (file, suite, architecture, database, tools) in [
        ("shelf.lock", "trixie", "amd64", "1", true),
        ("shelf.old.lock", "bookworm", "amd64", "0.9", false),
        ("shelf.arm.lock", "trixie", "arm64", "1+arm", true),
    ] {
        let lock = Lock::load(&site.path(file)).unwrap();
        assert_eq!(
            (lock.architecture.as_str(), lock.indexes[0].suite.as_str()),
            (architecture, suite)
        );
        assert!(
            lock.packages
                .iter()
                .all(|package| ["all", architecture].contains(&package.architecture.as_str()))
        );
        assert_eq!(lock.package("database").unwrap().version, database);
        assert_eq!(lock.package("tools").is_some(), tools, "{file}");
    }
}

#[test]
fn each_target_has_a_lock_of_its_own() {
    let site = Site::new();
    site.publish(
        "trixie",
        &[
            FIRST,
            &[
                ("libc", "1", "arm64", ""),
                ("database", "1+arm", "arm64", "Depends: libc, ssl\n"),
                ("ssl", "1", "arm64", ""),
            ],
        ]
        .concat(),
    );
    let old: Vec<_> = FIRST
        .iter()
        .map(|(name, _, arch, fields)| (*name, "0.9", *arch, *fields))
        .collect();
    site.publish("bookworm", &old);
    site.write("bookworm.toml", BOOKWORM);
    site.shelf(
        "[packages]\nplatform = [\"database\", \"tools\"]\n\n[[target]]\nname = \"old\"\nplatform = \"bookworm\"\npackages = { platform = [\"database\"] }\n\n\
         [[target]]\nname = \"arm\"\narchitecture = \"arm64\"\n",
    );
    // One alone, then all of them.
    site.json(&["lock", "shelf.toml", "--for", "arm"]);
    assert!(!site.path("shelf.lock").exists() && !site.path("shelf.old.lock").exists());
    let document = site.json(&["lock", "shelf.toml"]);
    let named: Vec<&Value> = document["locks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|lock| &lock["target"])
        .collect();
    assert_eq!(named, [&Value::Null, &json!("old"), &json!("arm")]);
    check_locks(&site);
    // Each of them is built from its own lock.
    for (target, ending) in [
        ("old", ".d12.x86_64.tar.gz"),
        ("arm", ".d13.aarch64.tar.gz"),
    ] {
        site.json(&[
            "repo",
            "build",
            "shelf.toml",
            "--for",
            target,
            "--out",
            target,
        ]);
        crate::site::only(&site.path(target), ending);
    }
}
