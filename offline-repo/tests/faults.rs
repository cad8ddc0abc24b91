//! The table in `docs/faults.md`: each fault is brought about, and what the library says is the table's text.
//! `FARROW_UPDATE_GOLDEN=1` writes the table anew.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use offline_repo::cache::Cache;
use offline_repo::digest::Sha256;
use offline_repo::fetch::fetch;
use offline_repo::http::Options;
use offline_repo::install::install;
use offline_repo::lock::Lock;
use offline_repo::locking::lock;
use offline_repo::progress::silent;
use offline_repo::publish::publish;
use offline_repo::{Error, Result};
use support::members;
use support::repository::{built, bundled, keyring, options};
use support::{
    Fault, NOW, Server, archive, archive_signer, client, client_of, quick, repository_signer,
    request, scratch, sign_index,
};

const SSL: &str = "/debian/pool/main/ssl_3.5_amd64.deb";
const DISTS: &str = "/debian/dists/trixie";
const BEGIN: &str = "<!-- made by offline-repo/tests/faults.rs -->\n";
const END: &str = "<!-- end -->\n";

/// Rows of one table: fault and outcome.
type Rows = Vec<(String, String)>;

#[test]
fn the_documented_outcomes_are_what_happens() {
    let sections: [(&str, Rows); 4] = [
        ("A mirror, while packages are fetched", mirror_faults()),
        ("A mirror, while its index is read", index_faults()),
        ("A bundle that was made to harm", bundle_faults()),
        ("The disk", disk_faults()),
    ];
    let mut text = String::new();
    for (title, rows) in sections {
        text += &format!("## {title}\n\n| Fault | Outcome |\n|---|---|\n");
        for (fault, outcome) in rows {
            text += &format!("| {fault} | {} |\n", outcome.replace('|', "\\|"));
        }
        text.push('\n');
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/faults.md");
    let document = fs::read_to_string(&path).unwrap();
    let (head, rest) = document.split_once(BEGIN).unwrap();
    let (old, tail) = rest.split_once(END).unwrap();
    if std::env::var_os("FARROW_UPDATE_GOLDEN").is_some() {
        fs::write(&path, format!("{head}{BEGIN}{text}{END}{tail}")).unwrap();
        return;
    }
    // A check that this machine cannot make is not compared.
    for (now, before) in text.lines().zip(old.lines()) {
        if now.contains("SKIPPED") {
            println!("{now}");
        } else {
            assert_eq!(
                now, before,
                "docs/faults.md; FARROW_UPDATE_GOLDEN=1 writes it anew"
            );
        }
    }
    assert_eq!(text.lines().count(), old.lines().count());
}

/// Code and text of an error on one line, without what differs between runs.
fn shown(error: &Error, names: &[(&str, &str)]) -> String {
    let mut text = error.to_string().replace("\n  ", " / ");
    for (long, short) in names {
        text = text.replace(long, short);
    }
    let mut out = String::new();
    for word in text.split_inclusive(|c: char| !c.is_ascii_hexdigit()) {
        let hex = word.trim_end_matches(|c: char| !c.is_ascii_hexdigit());
        match hex.len() {
            64 => out += &format!("<sha256>{}", &word[64..]),
            _ => out += word,
        }
    }
    format!("`{}` {}", error.code(), out.replace('<', "&lt;"))
}

fn mirror_faults() -> Rows {
    let four = |fault: Fault| vec![fault; 4];
    let cases: Vec<(&str, Vec<Fault>)> = vec![
        ("cuts the connection halfway, once", vec![Fault::Cut]),
        (
            "cuts it halfway, then ignores `Range`",
            vec![Fault::Cut, Fault::Whole],
        ),
        (
            "cuts it, then answers 206 with another range",
            vec![Fault::Cut, Fault::OtherRange],
        ),
        (
            "cuts it, then answers 206 with false bytes under the right range",
            vec![Fault::Cut, Fault::FalseRange],
        ),
        (
            "cuts it, then answers 206 without saying which range",
            vec![Fault::Cut, Fault::NamelessRange],
        ),
        (
            "cuts it, then answers 416 with a smaller size",
            vec![Fault::Cut, Fault::NoRange(1000)],
        ),
        (
            "always ends after a few bytes",
            vec![Fault::CutAfter(10); 8],
        ),
        ("stalls halfway, once", vec![Fault::Stall]),
        ("sends a few bytes a second, once", vec![Fault::Trickle]),
        (
            "accepts connections and never answers",
            four(Fault::Silence),
        ),
        ("answers 503, once", vec![Fault::Status(503)]),
        ("answers 503, always", four(Fault::Status(503))),
        ("answers 404", four(Fault::Status(404))),
        ("has other bytes of the same size", four(Fault::Flip)),
        ("has a shorter file", four(Fault::Other(b"short".to_vec()))),
        (
            "announces one byte less than it has",
            four(Fault::Length(-1)),
        ),
        (
            "announces one byte more than it has",
            four(Fault::Length(1)),
        ),
        ("announces no length and never ends", four(Fault::Endless)),
        (
            "answers 206 to a question for all",
            four(Fault::UnaskedRange),
        ),
        (
            "redirects in a circle",
            vec![Fault::Redirect(SSL.into()); 30],
        ),
        (
            "redirects to `file:///etc/passwd`",
            four(Fault::Redirect("file:///etc/passwd".into())),
        ),
        (
            "redirects to `ftp:`",
            four(Fault::Redirect("ftp://127.0.0.1/x".into())),
        ),
    ];
    let mut rows = Rows::new();
    for (name, faults) in cases {
        for mirrors in [1, 2] {
            let alone = fetched_despite(&faults, mirrors);
            if mirrors == 1 {
                rows.push((name.to_string(), alone));
            } else {
                // Whatever one mirror does, a good one beside it serves the file.
                assert!(alone.starts_with("fetched"), "{name}: {alone}");
            }
        }
    }
    rows
}

fn fetched_despite(faults: &[Fault], mirrors: usize) -> String {
    let servers: Vec<Server> = (0..mirrors)
        .map(|_| Server::start(archive(&archive_signer())))
        .collect();
    let dir = scratch();
    let cache = Cache::new(dir.path());
    let bases: Vec<String> = (servers.iter())
        .map(|s| format!("{}/debian", s.url))
        .collect();
    let client = client_of(
        &bases,
        Options {
            patience: Duration::from_millis(400),
            ..quick()
        },
    );
    let locked = lock(&request(), &client, &cache, &silent).unwrap();
    servers[0].requests();
    servers[0].fault(SSL, faults);
    let result = fetch(&locked, &client, &cache, &silent);
    let package = locked.package("ssl").unwrap();
    let final_file = cache.path(&package.sha256);
    assert_eq!(final_file.exists(), result.is_ok());
    match result {
        Err(error) => shown(&error, &[(&servers[0].url, "http://mirror")]),
        Ok(_) => {
            let asked = servers[0].requests();
            let ours: Vec<_> = asked.iter().filter(|r| r.starts_with(SSL)).collect();
            let resumed = ours.iter().filter(|r| r.contains(" from ")).count();
            format!(
                "fetched, with {} requests, {resumed} of them for the rest",
                ours.len()
            )
        }
    }
}

fn index_faults() -> Rows {
    type Edit = fn(&Server);
    let cases: Vec<(&str, Edit)> = vec![
        ("InRelease is cut off", |s| {
            edit(s, "InRelease", |b| b.truncate(200))
        }),
        ("InRelease has one bit flipped", |s| {
            edit(s, "InRelease", |b| b[60] ^= 1)
        }),
        ("InRelease is signed by another key", |s| {
            let mut site = s.site.lock().unwrap();
            let text = text_of(&site.files);
            sign_index(&mut site.files, text.as_bytes(), &repository_signer(), NOW);
        }),
        ("InRelease is 30 days old", |s| {
            let mut site = s.site.lock().unwrap();
            let text = text_of(&site.files);
            sign_index(
                &mut site.files,
                text.as_bytes(),
                &archive_signer(),
                NOW - 30 * 86400,
            );
        }),
        ("InRelease has 17 MiB", |s| {
            edit(s, "InRelease", |b| b.resize(17 << 20, b' '))
        }),
        (
            "Packages is not what InRelease lists; a copy by hash is there",
            |s| {
                edit(s, "main/binary-amd64/Packages.xz", |b| b[20] ^= 1);
            },
        ),
        (
            "Packages is not what InRelease lists, and no copy by hash",
            |s| {
                drop_by_hash(s);
                edit(s, "main/binary-amd64/Packages.xz", |b| b[20] ^= 1);
            },
        ),
        (
            "the index is replaced between InRelease and Packages",
            |s| {
                drop_by_hash(s);
                let mut done = false;
                s.site.lock().unwrap().hook = Some(Box::new(move |files, path| {
                    if !done && path.ends_with("Packages.xz") {
                        done = true;
                        let text = text_of(files);
                        sign_index(files, (text + "\n").as_bytes(), &archive_signer(), NOW - 60);
                    }
                }));
            },
        ),
        ("`Filename: ../../etc/passwd`", |s| {
            rename(s, "../../etc/passwd")
        }),
        ("`Filename: /etc/passwd`", |s| rename(s, "/etc/passwd")),
        (
            "`Filename: pool/%2e%2e/ssl.deb` (asked for as written, not decoded)",
            |s| {
                rename(s, "pool/%2e%2e/ssl.deb");
            },
        ),
        ("a bomb without a signature in place of Packages.xz", |s| {
            drop_by_hash(s);
            edit(s, "main/binary-amd64/Packages.xz", |b| {
                *b = offline_repo::compression::xz(&vec![0; 32 << 20]);
            });
        }),
        (
            "a signed Packages.xz that unpacks to 32 MiB of zeros",
            |s| {
                let mut site = s.site.lock().unwrap();
                sign_index(
                    &mut site.files,
                    &vec![0; 32 << 20],
                    &archive_signer(),
                    NOW - 86400,
                );
            },
        ),
    ];
    let mut rows = Rows::new();
    for (name, edit) in cases {
        let server = Server::start(archive(&archive_signer()));
        edit(&server);
        let dir = scratch();
        let locked = lock(
            &request(),
            &client(&[&server], false),
            &Cache::new(dir.path()),
            &silent,
        );
        rows.push((
            name.to_string(),
            match locked {
                Ok(_) => format!("locked, with {} requests", server.requests().len()),
                Err(error) => shown(&error, &[(&server.url, "http://mirror")]),
            },
        ));
    }
    rows
}

fn edit(server: &Server, path: &str, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut site = server.site.lock().unwrap();
    edit(site.files.get_mut(&format!("{DISTS}/{path}")).unwrap());
}

fn drop_by_hash(server: &Server) {
    let mut site = server.site.lock().unwrap();
    site.files.retain(|path, _| !path.contains("/by-hash/"));
}

fn text_of(files: &std::collections::HashMap<String, Vec<u8>>) -> String {
    let packed = &files[&format!("{DISTS}/main/binary-amd64/Packages.xz")];
    let codec = offline_repo::compression::Codec::Xz;
    let text = offline_repo::compression::decompress("x", codec, packed, 1 << 20).unwrap();
    String::from_utf8(text).unwrap()
}

/// Gives one package another path in the index.
fn rename(server: &Server, path: &str) {
    let mut site = server.site.lock().unwrap();
    let text = text_of(&site.files).replace("pool/main/ssl_3.5_amd64.deb", path);
    sign_index(
        &mut site.files,
        text.as_bytes(),
        &archive_signer(),
        NOW - 86400,
    );
}

fn bundle_faults() -> Rows {
    let dir = scratch();
    built(dir.path());
    let good = bundled(dir.path(), dir.path()).path;
    let mut rows = Rows::new();
    for (name, made) in members::hostile(&good) {
        let bundle = dir.path().join("hostile.tar.gz");
        fs::write(&bundle, made).unwrap();
        let place = dir.path().join("place");
        let target = place.join("www");
        fs::create_dir_all(target.join("pigsty")).unwrap();
        fs::write(target.join("pigsty/old"), "old").unwrap();
        let before = support::repository::content(&place);
        let result = install(&bundle, &target, Some(&keyring()), &silent);
        let text = match &result {
            Ok(_) => "installed".to_string(),
            Err(error) => shown(error, &[(&bundle.display().to_string(), "BUNDLE")]),
        };
        if result.is_err() {
            assert_eq!(support::repository::content(&place), before, "{name}");
        }
        assert!(fs::symlink_metadata("/etc/farrow-evil").is_err(), "{name}");
        fs::remove_dir_all(&place).unwrap();
        rows.push((name, text));
    }
    // Whatever the names and headers pretended, little memory was used for them.
    let peak = members::peak_memory();
    assert!(peak < 200 << 10, "{peak} kB");
    rows
}

/// Runs a shell's commands with a small file system of its own at `$FARROW_TEST_OUT`; `None` when this machine does not allow it.
fn on_small_disk(dir: &Path, mount: &str, script: &str) -> Option<String> {
    let own = match nix::unistd::getuid().is_root() {
        true => vec!["--mount"],
        false => vec!["--user", "--map-root-user", "--mount"],
    };
    let unshared = |script: &str| {
        Command::new("unshare")
            .args(&own)
            .args(["sh", "-e", "-c", script])
            .arg(std::env::current_exe().unwrap())
            .env("FARROW_TEST_OUT", dir)
            .output()
    };
    let mount = format!("mount -t tmpfs -o {mount} tmpfs \"$FARROW_TEST_OUT\"\n");
    let possible = unshared(&mount).is_ok_and(|output| output.status.success());
    if !possible {
        println!("SKIPPED: no mount namespace on this machine");
        return None;
    }
    let output = unshared(&(mount + script)).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(text)
}

/// Builds at `$FARROW_TEST_OUT` and says how that ended.
#[test]
#[ignore = "started by the_documented_outcomes_are_what_happens"]
fn build_in_a_child() {
    let out = PathBuf::from(std::env::var_os("FARROW_TEST_OUT").unwrap());
    let server = Server::start(archive(&archive_signer()));
    let text = match build(&out, &server) {
        Ok(()) => "made whole".to_string(),
        Err(error) => {
            let names = [
                (out.to_str().unwrap(), "OUT"),
                (server.url.as_str(), "http://mirror"),
            ];
            let hint = error.hint().unwrap_or_default();
            format!("{}; help: {hint}", shown(&error, &names))
        }
    };
    for repository in [out.join("pigsty"), out.join("www/pigsty")] {
        if repository.exists() {
            let report = offline_repo::marker::verify(&repository, Some(&keyring())).unwrap();
            assert!(report.is_complete(), "{}", report.summary());
        }
    }
    println!("SAID<{text}>SAID");
}

/// Lock, fetch, publish, bundle, install; all below `out`.
fn build(out: &Path, server: &Server) -> Result<()> {
    let client = client(&[server], false);
    let cache = Cache::new(&out.join("cache"));
    let locked: Lock = lock(&request(), &client, &cache, &silent)?;
    locked.save(&out.join("pigsty.lock"))?;
    let fetched = fetch(&locked, &client, &cache, &silent)?;
    publish(&fetched, &options(), &repository_signer(), out, &silent)?;
    let bundle = support::repository::try_bundled(out, out)?;
    install(&bundle.path, &out.join("www"), Some(&keyring()), &silent)?;
    Ok(())
}

/// What the children said, in order.
fn said(text: &str) -> Vec<String> {
    let parts = text.split("SAID<").skip(1);
    parts
        .map(|part| part.split(">SAID").next().unwrap().to_string())
        .collect()
}

fn disk_faults() -> Rows {
    let run = "\"$0\" --exact build_in_a_child --ignored --nocapture --test-threads 1\n";
    let mut rows = Rows::new();
    let mut outcomes: BTreeMap<String, u32> = BTreeMap::new();
    let mut skipped = false;
    // Sizes at which the disk fills up in each of the stages.
    for size in (40..1100).step_by(152) {
        let dir = scratch();
        let script = format!("{run}mount -o remount,size=64m tmpfs \"$FARROW_TEST_OUT\"\n{run}");
        let Some(text) = on_small_disk(dir.path(), &format!("size={size}k"), &script) else {
            skipped = true;
            break;
        };
        let said = said(&text);
        assert_eq!(said.len(), 2, "{text}");
        // With room the same command finishes.
        assert_eq!(said[1], "made whole", "{size} KiB");
        *outcomes.entry(family(&said[0])).or_default() += 1;
    }
    let text = match skipped {
        true => "SKIPPED: no mount namespace on this machine".to_string(),
        false => {
            assert!(
                outcomes
                    .keys()
                    .any(|outcome| outcome.contains("No space left")),
                "{outcomes:?}"
            );
            assert!(
                (outcomes.keys()).all(|o| o.contains("free some space there") || o == "made whole"),
                "{outcomes:?}"
            );
            let full = "`FR-REPO-IO` failed to write FILE: No space left on device (os error 28)";
            format!(
                "{full}; nothing incomplete under a final name; with room, the same command finishes"
            )
        }
    };
    rows.push((
        "full, at any moment of fetch, publish, bundle and install".into(),
        text,
    ));
    let dir = scratch();
    let text = on_small_disk(
        dir.path(),
        "size=64m",
        &format!("mount -o remount,ro tmpfs \"$FARROW_TEST_OUT\"\n{run}"),
    );
    let outcome = match text {
        None => "SKIPPED: no mount namespace on this machine".into(),
        Some(text) => said(&text).remove(0),
    };
    rows.push(("read-only".into(), outcome));
    rows
}

/// An outcome without the name of the file.
fn family(outcome: &str) -> String {
    let hint = outcome.split("; help: ").nth(1).unwrap_or_default();
    match outcome.contains("No space left on device") {
        true => format!("No space left; {}", hint.replace(char::is_numeric, "")),
        false => outcome.to_string(),
    }
}

#[test]
fn digests_are_shortened() {
    let digest = Sha256::of(b"x").to_string();
    let error = Error::Invalid {
        origin: "u".into(),
        message: format!("{digest} and {digest}"),
    };
    assert_eq!(
        shown(&error, &[]),
        "`FR-REPO-INVALID` u: &lt;sha256> and &lt;sha256>"
    );
}
