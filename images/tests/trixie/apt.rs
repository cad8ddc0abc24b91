//! Debian 13's apt, from the archive, in a tools tree: what it would install on a system without packages.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use images::sandbox::Sandbox;
use images::tools;
use offline_repo::cache::Cache;
use offline_repo::digest::Sha256;
use offline_repo::http::Client;
use offline_repo::locking::{self, LockRequest};
use offline_repo::progress::silent;
use offline_repo::universe::IndexText;

use crate::upstreams;

/// Where the scratch folder is inside the tree.
const INSIDE: &str = "/oracle";

/// Debian 13's apt in a tree, with an empty dpkg status and exactly the given indexes.
pub struct Apt {
    sandbox: Sandbox,
    /// What `apt-get --version` says.
    pub version: String,
}

impl Apt {
    /// Makes the tree, and gives it exactly these indexes.
    pub fn new(
        scratch: &Path,
        client: &Client,
        cache: &Cache,
        texts: &[(String, IndexText)],
    ) -> Result<Self, String> {
        let tree = tree(scratch, client, cache)?;
        let state = scratch.join("apt");
        write_state(&state, texts).map_err(|e| format!("{}: {e}", state.display()))?;
        let sandbox = Sandbox::new(tree)
            .read_only()
            .map_ids(false)
            .bind(&state, INSIDE)
            .env("APT_CONFIG", &format!("{INSIDE}/apt.conf"))
            .env("LC_ALL", "C");
        let run = |words: &[&str]| sandbox.run(words, None).map_err(|e| e.to_string());
        run(&["apt-get", "-q", "update"])?;
        let version = run(&["apt-get", "--version"])?.stdout;
        let version = String::from_utf8_lossy(&version);
        let version = version.lines().next().unwrap_or_default().to_string();
        Ok(Apt { sandbox, version })
    }

    /// "name version" of what apt would install.
    pub fn closure(&self, roots: &[&str], recommends: bool) -> Option<BTreeSet<String>> {
        let option = match recommends {
            true => "--install-recommends",
            false => "--no-install-recommends",
        };
        // Not `-s`: it also looks for an order of installation, which takes a hundred times as long.
        let words = [
            &["apt-get", "-qq", "--print-uris", option, "install"],
            roots,
        ]
        .concat();
        let output = self.sandbox.run(&words, None).ok()?;
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        let files = output.lines().filter_map(|line| line.split(' ').nth(1));
        let packages = files.filter_map(|file| {
            let mut parts = file.split('_');
            let (name, version) = (parts.next()?, parts.next()?);
            Some(format!("{name} {}", version.replace("%3a", ":")))
        });
        Some(packages.collect())
    }
}

/// A tree with apt and what it needs, from the archive.
fn tree(scratch: &Path, client: &Client, cache: &Cache) -> Result<PathBuf, String> {
    let request = LockRequest {
        name: "apt".into(),
        architecture: "amd64".into(),
        upstreams: upstreams(),
        groups: BTreeMap::from([("apt".into(), vec!["apt".into()])]),
        include_essential: true,
        ..LockRequest::default()
    };
    let lock = locking::lock(&request, client, cache, &silent).map_err(|e| e.to_string())?;
    let fetched =
        offline_repo::fetch::fetch(&lock, client, cache, &silent).map_err(|e| e.to_string())?;
    let packages: Vec<(PathBuf, String)> = fetched
        .packages()
        .map(|(package, path)| (path.to_owned(), package.sha256.to_string()))
        .collect();
    let tree = tools::ensure(&scratch.join("trees"), &packages, &|_| {});
    tree.map(|tree| tree.root).map_err(|e| e.to_string())
}

/// What apt reads: the indexes as a local archive, a status file without packages, and a configuration.
fn write_state(state: &Path, texts: &[(String, IndexText)]) -> std::io::Result<()> {
    let _ = fs::remove_dir_all(state);
    for folder in ["lists/partial", "cache/archives/partial", "etc"] {
        fs::create_dir_all(state.join(folder))?;
    }
    fs::write(state.join("status"), "")?;
    for (suite, index) in texts {
        let folder = state.join("archive/dists").join(suite);
        let packages = "main/binary-amd64/Packages";
        fs::create_dir_all(folder.join("main/binary-amd64"))?;
        fs::write(folder.join(packages), index.text.as_bytes())?;
        let (sha256, size) = (Sha256::of(index.text.as_bytes()), index.text.len());
        let release = format!(
            "Origin: Debian\nSuite: {suite}\nCodename: {suite}\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nArchitectures: amd64\n\
             Components: main\nSHA256:\n {sha256} {size} {packages}\n"
        );
        fs::write(folder.join("Release"), release)?;
    }
    let suites: Vec<&str> = texts.iter().map(|(suite, _)| suite.as_str()).collect();
    // The signatures were checked when the indexes were fetched.
    let sources = format!(
        "Types: deb\nURIs: file:{INSIDE}/archive\nSuites: {}\nComponents: main\nTrusted: yes\n",
        suites.join(" ")
    );
    fs::write(state.join("archive.sources"), sources)?;
    let configuration = format!(
        "Dir::State \"{INSIDE}\";\nDir::State::lists \"{INSIDE}/lists\";\nDir::State::status \"{INSIDE}/status\";\n\
         Dir::Cache \"{INSIDE}/cache\";\nDir::Etc \"{INSIDE}/etc\";\nDir::Etc::sourcelist \"{INSIDE}/archive.sources\";\n\
         Dir::Etc::sourceparts \"/dev/null\";\nDir::Etc::parts \"/dev/null\";\nAPT::Architecture \"amd64\";\n\
         APT::Architectures \"amd64\";\nAPT::Sandbox::User \"\";\nAcquire::Languages \"none\";\nDebug::NoLocking \"true\";\n"
    );
    fs::write(state.join("apt.conf"), configuration)
}
