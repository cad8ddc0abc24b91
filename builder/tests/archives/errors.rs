//! What is printed when something is refused, compared with golden files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use crate::golden::golden;
use crate::site::{FIRST, Site, only};

const PLATFORM: &str = "[packages]\nplatform = [\"database\"]\n";

/// A second upstream for the recipe `shelf`.
fn upstream(kind: &str, more: &str) -> String {
    format!(
        "{PLATFORM}\n[[upstream]]\nname = \"other\"\nkind = \"{kind}\"\narchive = \"other\"\nkeys = [\"archive.asc\"]\n{more}"
    )
}

#[test]
fn wrong_recipes() {
    let site = Site::new();
    let both = "suites = [\"x\"]\ncomponents = [\"main\"]\n";
    let target = "\n[[target]]\nname = \"arm\"\narchitecture = \"arm64\"\n";
    for (name, more) in [
        ("FR-RECIPE-UPSTREAM.kinds", upstream("rpm", "")),
        (
            "FR-RECIPE-UPSTREAM.suites",
            upstream("deb", "components = [\"main\"]\n"),
        ),
        (
            "FR-RECIPE-KEYFILE",
            upstream("deb", both).replace("archive.asc", "nobody.asc"),
        ),
        ("FR-LOCK-MIRROR", upstream("deb", both)),
        (
            "FR-RECIPE-GROUP",
            "[packages]\nplatform = [\"@nobody\"]\n".into(),
        ),
        (
            "FR-RECIPE-FILE",
            format!("{PLATFORM}\n[[file]]\npath = \"/../x\"\ncontent = \"\"\n"),
        ),
        (
            "FR-RECIPE-VERSION",
            format!("{PLATFORM}\n[image]\nversion = \"1.0+3\"\n"),
        ),
        (
            "FR-RECIPE-TARGET.twice",
            format!("{PLATFORM}{target}{target}"),
        ),
        (
            "FR-RECIPE-TARGET.base",
            format!("{PLATFORM}\n[[base]]\nname = \"x\"\nkind = \"status\"\n"),
        ),
        (
            "FR-RESOLVE-UNKNOWN",
            PLATFORM.replace("database", "databose"),
        ),
        (
            "FR-LOCK-INDEX",
            upstream("deb", both)
                .replace("\"main\"", "\"contrib\"")
                .replace("\"x\"", "\"trixie\"")
                .replace(
                    "archive = \"other\"",
                    "archive = \"other\"\nurl = \"URL/debian\"",
                ),
        ),
    ] {
        site.shelf(&more);
        let code = i32::from(name.starts_with("FR-RECIPE")) + 1;
        golden(name, &site.refusal(&["lock", "shelf.toml"], code));
        assert!(!site.path("shelf.lock").exists(), "{name}");
    }
}

#[test]
fn wrong_recipes_without_the_shelf() {
    let site = Site::new();
    let rpm = "schema = 1\nname = \"x\"\n\n[distribution]\nid = \"a\"\nsuite = \"b\"\ncode = \"c\"\n\n[packages]\na = [\"b\"]\n\n\
               [[upstream]]\nname = \"x\"\nkind = \"rpm\"\narchive = \"x\"\nkeys = []\n";
    for (name, text) in [
        (
            "FR-RECIPE-UPSTREAM.components",
            format!("{rpm}components = [\"main\"]\n"),
        ),
        ("FR-RECIPE-NAME", rpm.replace("\"x\"", "\"X y\"")),
        (
            "FR-RECIPE-EXTENDS",
            "schema = 1\nname = \"x\"\nextends = \"wrong\"\n".into(),
        ),
    ] {
        site.write("wrong.toml", &text);
        golden(name, &site.refusal(&["lock", "wrong.toml"], 2));
    }
}

#[test]
fn locks_that_cannot_be() {
    let site = Site::new();
    let clash = [
        ("newdb", "1", "amd64", "Depends: newssl\n"),
        ("newssl", "1", "amd64", "Conflicts: ssl\n"),
    ];
    site.publish("trixie", &[FIRST, &clash].concat());
    site.shelf("[packages]\nplatform = [\"database\", \"newdb\"]\n");
    golden(
        "FR-RESOLVE-CONFLICT",
        &site.refusal(&["lock", "shelf.toml"], 1),
    );
    site.shelf(PLATFORM);
    golden(
        "FR-FETCH-OFFLINE",
        &site.refusal(&["lock", "shelf.toml", "--offline"], 1),
    );
    site.json(&["lock", "shelf.toml"]);
    for (name, words) in [
        ("FR-LOCK-WHY", ["--why", "databasé"]),
        ("FR-LOCK-UPGRADE", ["--upgrade", "databas"]),
        ("FR-RECIPE-TARGET.unknown", ["--for", "arm"]),
    ] {
        golden(
            name,
            &site.refusal(&[&["lock", "shelf.toml"], &words[..]].concat(), 2),
        );
    }
    site.shelf(&format!(
        "{PLATFORM}\n[[target]]\nname = \"arm\"\narchitecture = \"arm64\"\n"
    ));
    golden(
        "FR-LOCK-TARGETS",
        &site.refusal(&["lock", "shelf.toml", "--lock", "one.lock"], 2),
    );
    let lock = fs::read_to_string(site.path("shelf.lock")).unwrap();
    site.write("shelf.lock", &lock.replace("schema = 1", "schema = 9"));
    golden(
        "FR-REPO-INVALID",
        &site.refusal(&["repo", "build", "shelf.toml"], 1),
    );
    golden(
        "FR-RESOLVE-ARCHIVE",
        &site.refusal(&["resolve", "x", "--archive", "nowhere"], 2),
    );
}

#[test]
fn repositories_that_cannot_be_made() {
    let site = Site::with_shelf();
    let key = site.path("given.key");
    let build = |site: &Site| {
        site.command(&["repo", "build", "shelf.toml"])
            .env("FARROW_SIGNING_KEY", &key)
            .output()
            .unwrap()
    };
    fs::write(&key, "no key\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    golden("FR-REPO-KEY.readable", &site.said(&build(&site), 1));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    golden("FR-REPO-KEY", &site.said(&build(&site), 1));
    site.shelf(&format!(
        "{PLATFORM}\n[services]\ncatalogue = [\"nobody\"]\n"
    ));
    golden(
        "FR-RECIPE-SERVICE",
        &site.refusal(&["repo", "build", "shelf.toml"], 2),
    );
}

#[test]
fn repositories_that_are_damaged() {
    let site = Site::with_shelf();
    site.publish("trixie", &[FIRST, &[("broken", "1", "all", "")]].concat());
    site.shelf(&PLATFORM.replace("database", "broken"));
    golden(
        "FR-REPO-DEB",
        &site.refusal(&["repo", "build", "shelf.toml"], 1),
    );
    site.shelf(PLATFORM);
    site.json(&["repo", "build", "shelf.toml"]);
    let folder = "out/repo/shelf";
    golden(
        "FR-TOOLS-MISSING",
        &site.refusal(&["image", "build", "shelf.toml"], 1),
    );
    fs::remove_file(site.path(folder).join("ssl_1_amd64.deb")).unwrap();
    golden(
        "FR-REPO-INCOMPLETE",
        &site.refusal(&["repo", "verify", folder], 1),
    );
    fs::remove_dir_all(site.path("cache")).unwrap();
    golden(
        "FR-REPO-LOST",
        &site.refusal(&["repo", "verify", folder, "--repair", "--offline"], 1),
    );
    let bundle = only(&site.path("out"), ".tar.gz");
    let shown = bundle.file_name().unwrap().to_string_lossy().into_owned();
    let shown = format!("out/{shown}");
    golden(
        "FR-REPO-REPAIR",
        &site.refusal(&["repo", "verify", &shown, "--repair"], 2),
    );
    fs::write(&bundle, "cut").unwrap();
    golden(
        "FR-REPO-BUNDLE",
        &site.refusal(&["repo", "install", &shown, "--target", "www"], 1),
    );
    golden(
        "FR-REPO-NOTFOUND",
        &site.refusal(&["image", "build", "shelf.toml", "--repo", "nowhere"], 2),
    );
    golden(
        "FR-IO",
        &site.refusal(&["repo", "verify", folder, "--key", "nobody.asc"], 1),
    );
}

#[test]
fn wrong_usage() {
    let site = Site::new();
    fs::write(site.path("disk.vdi"), "").unwrap();
    fs::create_dir(site.path("lone")).unwrap();
    for name in ["user-data", "meta-data", "network-config"] {
        fs::write(site.path("lone").join(name), "").unwrap();
    }
    for (name, code, words) in [
        (
            "FR-DEPLOYMENT-NODE",
            2,
            &["explain", "two-node", "--node", "nobody"][..],
        ),
        (
            "FR-DEPLOYMENT-NOTFOUND",
            2,
            &["explain", "nowhere", "--node", "meta"],
        ),
        ("FR-NEW-EXISTS", 2, &["new", "keys"]),
        (
            "FR-IMAGE-FORMAT",
            2,
            &["image", "boot", "disk.vdi", "--seed", "keys"],
        ),
        (
            "FR-KEYS",
            2,
            &["image", "boot", "disk.raw", "--secure-boot", "disk.vdi"],
        ),
        ("FR-KEYS-EXISTS", 2, &["image", "keys", "keys"]),
        (
            "FR-SEED-NETWORK",
            2,
            &["image", "boot", "disk.raw", "--seed", "lone"],
        ),
        ("FR-MACHINE-NONE", 2, &["machine", "power-on", "meta"]),
    ] {
        golden(name, &site.refusal(words, code));
    }
    let output = site.command(&["new", "x"]).env_clear().output().unwrap();
    golden("FR-PATHS-HOME", &site.said(&output, 2));
}

#[test]
fn a_damaged_secret_and_too_many_machines() {
    let site = Site::new();
    let seed = ["seed", "two-node", "--out", "seeds", "--no-images"];
    assert!(site.run(&seed).status.success());
    let folder = fs::read_dir(site.path("state/deployments")).unwrap().next();
    let secret = folder.unwrap().unwrap().path().join("secret");
    fs::write(&secret, "no secret\n").unwrap();
    golden("FR-SECRET", &site.refusal(&seed, 1));
    // As two `farrow up` that run below the same folder.
    let listen = |name: &str| {
        let folder = site.path("out/run").join(name);
        fs::create_dir_all(&folder).unwrap();
        std::os::unix::net::UnixListener::bind(folder.join("control.sock")).unwrap()
    };
    let _both = [listen("one"), listen("two")];
    golden("FR-MACHINE-MANY", &site.refusal(&["machine", "list"], 2));
}

/// Needs a user who is not root; root becomes one, with a copy of the program where that user can read it.
#[test]
fn packages_are_installed_by_root_only() {
    let site = Site::new();
    let program = site.path("farrow");
    fs::copy(env!("CARGO_BIN_EXE_farrow"), &program).unwrap();
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(site.path("."), open).unwrap();
    let mut command = std::process::Command::new(program);
    command
        .args(["repo", "install", "x.tar.gz", "--group", "meta"])
        .env("HOME", "/nonexistent");
    if nix::unistd::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    golden("FR-INSTALL-ROOT", &site.said(&command.output().unwrap(), 2));
}
