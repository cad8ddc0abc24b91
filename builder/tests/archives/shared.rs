//! Package files that builders share: through a folder, over HTTP, falsified, and from a store that does not answer.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::golden::golden;
use crate::site::{Site, files};
use crate::support::Fault;

/// A site whose first builder has built `shelf` and pushed its package files to the folder `store`.
fn pushed() -> (Site, String) {
    let site = Site::with_shelf();
    let built = site.json(&["repo", "build", "shelf.toml"]);
    let pushed = site.json(&["cache", "push", "store"]);
    assert!(pushed["bytes"].as_u64().unwrap() > 0);
    let again = site.json(&["cache", "push", "store"]);
    assert_eq!(again["pushed"].as_array().unwrap().len(), 0);
    assert_eq!(again["present"], pushed["pushed"].as_array().unwrap().len());
    let manifest = built["manifest"].as_str().unwrap().to_owned();
    (site, manifest)
}

/// A builder with an empty cache, and the same lock and key.
fn second(site: &Site, store: &str) -> Output {
    second_command(site, store).output().unwrap()
}

fn second_command(site: &Site, store: &str) -> Command {
    let _ = fs::remove_dir_all(site.path("second"));
    let words = [
        "repo",
        "build",
        "shelf.toml",
        "--out",
        "second/out",
        "--json",
    ];
    let mut command = site.command(&[&words[..], &["--cache-from", store]].concat());
    command.env("FARROW_CACHE", site.path("second/cache"));
    command
}

/// Shows the store's files below this path of the archive's server.
fn show(site: &Site, at: &str) -> Vec<String> {
    let files = files(&site.path("store"));
    let shown = files.into_iter().map(|(path, bytes)| {
        let path = format!("{at}/{}", path.display());
        site.serve(&path, bytes);
        path
    });
    shown.collect()
}

/// The manifest that it made, and what it said.
fn made(output: &Output) -> (String, String) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    (document["manifest"].as_str().unwrap().to_owned(), said)
}

fn empty_archive(site: &Site) {
    site.forget("pool/");
}

#[test]
fn another_builder_needs_no_archive() {
    let (site, manifest) = pushed();
    empty_archive(&site);
    assert_eq!(made(&second(&site, "store")).0, manifest);
    let url = format!("file://{}", site.path("store").display());
    assert_eq!(made(&second(&site, &url)).0, manifest);
    show(&site, "store");
    let url = format!("{}/debian/store", site.url());
    assert_eq!(made(&second(&site, &url)).0, manifest);
}

#[test]
fn falsified_package_files_come_from_the_archive() {
    let (site, manifest) = pushed();
    let blobs = files(&site.path("store/blobs"));
    let falsify: [fn(&Path, Vec<u8>); 3] = [
        |path, mut bytes| {
            bytes[100] ^= 1;
            fs::write(path, bytes).unwrap();
        },
        |path, bytes| fs::write(path, &bytes[1..]).unwrap(),
        |path, bytes| fs::write(path, [&bytes[..], b"x"].concat()).unwrap(),
    ];
    for falsify in falsify {
        for (path, bytes) in &blobs {
            falsify(&site.path("store/blobs").join(path), bytes.clone());
        }
        let (found, said) = made(&second(&site, "store"));
        assert_eq!(found, manifest);
        let named = blobs.keys().filter(|path| {
            let digest = path.file_name().unwrap_or_default().to_string_lossy();
            said.contains(&format!("{digest} is not used"))
        });
        // The packages of the lock; the other blobs are indexes.
        assert_eq!(named.count(), 5, "{said}");
    }
}

#[test]
fn a_store_that_does_not_answer_is_named_once() {
    let (site, manifest) = pushed();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    for store in [format!("http://{address}/x"), "nowhere".to_owned()] {
        let (found, said) = made(&second(&site, &store));
        assert_eq!(found, manifest);
        assert_eq!(said.matches("is not asked again").count(), 1, "{said}");
    }
}

#[test]
fn a_server_that_misbehaves_is_not_believed() {
    let (site, manifest) = pushed();
    let shown = show(&site, "store");
    let url = format!("{}/debian/store", site.url());
    for fault in [
        Fault::Flip,
        Fault::TooMuch,
        Fault::Length(5),
        Fault::Length(-5),
        Fault::Endless,
        Fault::Status(403),
        Fault::Other(b"x".to_vec()),
        Fault::Redirect("file:///etc/shadow".into()),
    ] {
        for path in &shown {
            site.fault(path, fault.clone());
        }
        let (found, said) = made(&second(&site, &url));
        assert_eq!(found, manifest, "{fault:?}");
        assert!(said.contains("warning: "), "{fault:?}: {said}");
    }
}

/// Requests to a bucket are signed when there are credentials (AWS Signature Version 4), and only then.
#[test]
fn requests_to_a_bucket_are_signed_with_credentials_of_the_environment() {
    let (site, manifest) = pushed();
    empty_archive(&site);
    show(&site, "bucket/some/prefix");
    let endpoint = format!("{}/debian", site.url());
    let from_bucket = |with: &[(&str, &str)]| {
        let mut command = second_command(&site, "s3://bucket/some/prefix");
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"] {
            command.env_remove(name);
        }
        command.env("AWS_ENDPOINT_URL", &endpoint);
        command.envs(with.iter().copied());
        let (found, said) = made(&command.output().unwrap());
        assert_eq!(found, manifest);
        assert!(!said.contains("a secret"), "{said}");
        site.authorizations()
    };
    assert!(from_bucket(&[]).is_empty());
    let signed = from_bucket(&[
        ("AWS_ACCESS_KEY_ID", "somebody"),
        ("AWS_SECRET_ACCESS_KEY", "a secret"),
        ("AWS_REGION", "somewhere-1"),
    ]);
    assert!(!signed.is_empty());
    for header in signed {
        let start = header.starts_with("AWS4-HMAC-SHA256 Credential=somebody/");
        assert!(
            start && header.contains("/somewhere-1/s3/aws4_request"),
            "{header}"
        );
    }
}

/// The whole way with a bucket of a real server: `AWS_ENDPOINT_URL`, `AWS_…` and `FARROW_TEST_BUCKET` name it.
#[test]
#[ignore = "needs an S3-compatible server"]
fn a_bucket_of_a_real_server_is_written_and_read() {
    let bucket = std::env::var("FARROW_TEST_BUCKET").expect("FARROW_TEST_BUCKET");
    let site = Site::with_shelf();
    let built = site.json(&["repo", "build", "shelf.toml"]);
    // Larger than one piece of an upload.
    let large: Vec<u8> = (0..40_000_000_u32).map(|n| (n % 251) as u8).collect();
    let digest = offline_repo::digest::Sha256::of(&large).to_string();
    let folder = site.path("cache/downloads/sha256").join(&digest[..2]);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(&digest), &large).unwrap();
    let store = format!("s3://{bucket}/{}", std::process::id());
    let pushed = site.json(&["cache", "push", &store]);
    assert!(pushed["bytes"].as_u64().unwrap() > large.len() as u64);
    let again = site.json(&["cache", "push", &store]);
    assert_eq!(again["pushed"].as_array().unwrap().len(), 0);
    empty_archive(&site);
    let (found, said) = made(&second(&site, &store));
    assert_eq!(built["manifest"], found, "{said}");
    assert!(!said.contains("warning"), "{said}");
}

#[test]
fn a_damaged_file_is_not_pushed() {
    let site = Site::new();
    let digest = "0".repeat(64);
    let folder = site.path("cache/downloads/sha256/00");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(&digest), "x").unwrap();
    golden(
        "FR-CACHE-PUSH",
        &site.refusal(&["cache", "push", "store"], 1),
    );
    assert!(!site.path("store/blobs").exists());
}

#[test]
fn wrong_addresses() {
    let site = Site::with_shelf();
    let build = |store| ["repo", "build", "shelf.toml", "--cache-from", store];
    for (name, words) in [
        ("FR-CACHE-STORE", &build("ftp://cache.example/x")[..]),
        (
            "FR-CACHE-STORE.credentials",
            &build("https://user:word@cache.example/x"),
        ),
        (
            "FR-CACHE-READONLY",
            &["cache", "push", "https://cache.example/x"],
        ),
    ] {
        golden(name, &site.refusal(words, 2));
    }
}
