//! Repositories and bundles made from the test archive.

use std::fs;
use std::path::Path;

use offline_repo::bundle::{Bundle, BundleOptions, bundle};
use offline_repo::cache::Cache;
use offline_repo::digest::Sha256;
use offline_repo::fetch::{Fetched, fetch};
use offline_repo::layout::Layout;
use offline_repo::locking::{LockRequest, lock};
use offline_repo::openpgp::Keyring;
use offline_repo::progress::silent;
use offline_repo::publish::{PublishOptions, Published, publish};
use offline_repo::serve::{self, Site};

use super::{NOW, Server, archive, archive_signer, client, repository_signer, request};

pub fn fetched(dir: &Path, request: &LockRequest) -> Fetched {
    let server = Server::start(archive(&archive_signer()));
    let cache = Cache::new(&dir.join("cache"));
    let client = client(&[&server], false);
    let locked = lock(request, &client, &cache, &silent).unwrap();
    fetch(&locked, &client, &cache, &silent).unwrap()
}

pub fn options() -> PublishOptions {
    PublishOptions {
        name: "pigsty".into(),
        codename: "trixie".into(),
        epoch: NOW,
        url: None,
        groups: Default::default(),
        bases: Vec::new(),
        additions: Default::default(),
        layout: Layout::Flat,
    }
}

pub fn built(dir: &Path) -> Published {
    built_for(dir, &request())
}

pub fn built_for(dir: &Path, request: &LockRequest) -> Published {
    built_as(dir, request, Layout::Flat)
}

pub fn built_as(dir: &Path, request: &LockRequest, layout: Layout) -> Published {
    publish(
        &fetched(dir, request),
        &PublishOptions {
            layout,
            ..options()
        },
        &repository_signer(),
        dir,
        &silent,
    )
    .unwrap()
}

pub fn bundled(dir: &Path, out: &Path) -> Bundle {
    try_bundled(dir, out).unwrap()
}

pub fn try_bundled(dir: &Path, out: &Path) -> offline_repo::Result<Bundle> {
    let options = BundleOptions {
        version: "1.0.0".into(),
        codename: "trixie".into(),
        architecture: "amd64".into(),
        epoch: NOW,
    };
    bundle(&dir.join("pigsty"), &options, out, &silent)
}

pub fn keyring() -> Keyring {
    repository_signer().public_key().unwrap().keyring().unwrap()
}

/// Paths below a folder with their digests.
pub fn content(dir: &Path) -> Vec<(String, Sha256)> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => pending.push(path),
                false => found.push((
                    path.strip_prefix(dir).unwrap().display().to_string(),
                    Sha256::of_file(&path).unwrap().0,
                )),
            }
        }
    }
    found.sort();
    found
}

/// A server of a folder of repositories, until the test's process ends; its URL.
pub fn served(path: &Path) -> String {
    let site = Site::of_repositories(path).unwrap();
    let server = serve::Server::bind(site, "127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", server.address().unwrap());
    std::thread::spawn(move || server.run(&|| false, |_| {}));
    url
}
