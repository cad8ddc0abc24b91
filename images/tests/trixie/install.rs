//! Closures of ours, really installed: real apt and dpkg in a configured tree of the essential packages and apt, with a
//! repository of exactly the closure and that tree's packages as the only source, and no network.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use images::root::{self, Package, RootInput, RootTree};
use images::sandbox::{Sandbox, remove_tree};
use offline_repo::cache::Cache;
use offline_repo::fetch::{Fetched, fetch};
use offline_repo::http::Client;
use offline_repo::layout::Layout;
use offline_repo::lock::Lock;
use offline_repo::locking::{self, LockRequest};
use offline_repo::progress::silent;
use offline_repo::publish::{PublishOptions, publish};
use offline_repo::signer::Signer;

use crate::upstreams;

/// Where the scratch folder is in a sandbox that copies trees.
const SCRATCH: &str = "/run/farrow/scratch";
/// Where the repository is in the tree.
const ARCHIVE: &str = "/srv/archive";
/// The repository's name.
const NAME: &str = "closure";

/// Run in the tree. `--error-on=any` makes apt fail where it would otherwise only warn, as about a signature; nothing that the
/// packages bring may start. Everything is asked for by name and version, so that apt can add nothing of its own.
const SCRIPT: &str = r#"
set -eu
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*
sed 's#^URIs:.*#URIs: file:/srv/archive/closure/#' /srv/archive/closure.sources > /etc/apt/sources.list.d/closure.sources
mkdir -p /var/cache/apt/archives/partial /var/lib/apt/lists/partial /var/log/apt
apt-get -q -o APT::Sandbox::User=root update --error-on=any >&2
xargs -a /srv/archive/packages apt-get -q -o APT::Sandbox::User=root -o Dpkg::Options::=--force-unsafe-io \
    install -y --no-install-recommends >&2
test -z "$(dpkg --audit)"
dpkg-query -W -f 'STATUS ${Package} ${Version} ${db:Status-Status}\n'
"#;

/// What installs closures.
pub struct Installer<'a> {
    scratch: &'a Path,
    client: &'a Client,
    cache: &'a Cache,
    base: RootTree,
}

impl<'a> Installer<'a> {
    /// Makes the tree that every closure is tried in a copy of.
    pub fn new(scratch: &'a Path, client: &'a Client, cache: &'a Cache) -> Result<Self, String> {
        let request = LockRequest {
            name: "base".into(),
            architecture: "amd64".into(),
            upstreams: upstreams(),
            groups: BTreeMap::from([("base".into(), vec!["apt".into()])]),
            include_essential: true,
            ..LockRequest::default()
        };
        let lock = locking::lock(&request, client, cache, &silent).map_err(shown)?;
        let fetched = fetch(&lock, client, cache, &silent).map_err(shown)?;
        let package = |(package, path): (&offline_repo::lock::LockedPackage, &Path)| Package {
            name: package.name.clone(),
            version: package.version.clone(),
            architecture: package.architecture.clone(),
            path: path.to_owned(),
            sha256: package.sha256.to_string(),
        };
        let input = RootInput {
            packages: fetched.packages().map(package).collect(),
            files_before: Vec::new(),
            files_after: Vec::new(),
            users: Vec::new(),
            users_after: Vec::new(),
            scripts: Vec::new(),
            hostname: "scratch".into(),
            epoch: lock.epoch(),
            emulator: None,
            exclude_documentation: true,
        };
        let base = root::build(&input, scratch, &|_| {}, &|_| {}).map_err(shown)?;
        Ok(Installer {
            scratch,
            client,
            cache,
            base,
        })
    }

    /// Installs the closure of `roots`, which is to be `expected` ("name version"); how many packages that were.
    pub fn install(
        &self,
        roots: &[&str],
        recommends: bool,
        expected: &BTreeSet<String>,
    ) -> Result<usize, String> {
        let roots: Vec<String> = roots.iter().map(|root| root.to_string()).collect();
        let lock = locking::resolve_set(
            &roots,
            "amd64",
            upstreams(),
            recommends,
            self.client,
            self.cache,
            &silent,
        )
        .map_err(shown)?;
        let titles = titles(&lock);
        if titles != *expected {
            return Err("the archive changed while this test ran".into());
        }
        let fetched = fetch(&lock, self.client, self.cache, &silent).map_err(shown)?;
        let tree = self.scratch.join("install/tree");
        remove_tree(&self.scratch.join("install")).map_err(shown)?;
        let archive = self.publish(&fetched)?;
        self.copy_base(&tree)?;
        let sandbox = Sandbox::new(&tree)
            .ignore_sync()
            .bind_ro(&archive, ARCHIVE)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("SYSTEMD_OFFLINE", "1")
            .env("LC_ALL", "C.UTF-8");
        let output = sandbox.run(&["sh", "-c", SCRIPT], None).map_err(shown)?;
        check(&String::from_utf8_lossy(&output.stdout), &titles)?;
        remove_tree(&self.scratch.join("install")).map_err(shown)?;
        Ok(titles.len())
    }

    /// The signed repository of exactly the closure, and the list of what to ask for.
    fn publish(&self, fetched: &Fetched) -> Result<PathBuf, String> {
        let archive = self.scratch.join("install/archive");
        let options = PublishOptions {
            name: NAME.into(),
            codename: "trixie".into(),
            epoch: fetched.lock().epoch(),
            url: None,
            groups: BTreeMap::default(),
            bases: Vec::new(),
            additions: Default::default(),
            layout: Layout::Flat,
        };
        let signer = Signer::from_secret([9; 32], "scratch").map_err(shown)?;
        publish(fetched, &options, &signer, &archive, &silent).map_err(shown)?;
        let packages = fetched.lock().packages.iter();
        let asked: String = packages
            .map(|package| format!("{}={}\n", package.name, package.version))
            .collect();
        fs::write(archive.join("packages"), asked).map_err(shown)?;
        Ok(archive)
    }

    fn copy_base(&self, tree: &Path) -> Result<(), String> {
        let scratch = self.scratch.canonicalize().map_err(shown)?;
        let inside = |path: &Path| -> Result<String, String> {
            let path = path.strip_prefix(&scratch).map_err(shown)?;
            Ok(Path::new(SCRATCH).join(path).to_string_lossy().into_owned())
        };
        let to = inside(&scratch.join(tree.strip_prefix(self.scratch).map_err(shown)?))?;
        let words = ["cp", "--archive", "--reflink=auto", "--"];
        let from = inside(&self.base.path)?;
        Sandbox::new(&self.base.path)
            .read_only()
            .bind(&scratch, SCRATCH)
            .run(&[&words[..], &[&from, &to]].concat(), None)
            .map(drop)
            .map_err(shown)
    }
}

fn shown(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn titles(lock: &Lock) -> BTreeSet<String> {
    let packages = lock.packages.iter();
    packages
        .map(|package| format!("{} {}", package.name, package.version))
        .collect()
}

/// Every package of the closure is installed in its version.
fn check(said: &str, titles: &BTreeSet<String>) -> Result<(), String> {
    let lines = said
        .lines()
        .filter_map(|line| line.strip_prefix("STATUS ")?.strip_suffix(" installed"));
    let installed: BTreeSet<&str> = lines.collect();
    let missing = titles
        .iter()
        .find(|title| !installed.contains(title.as_str()));
    match missing {
        None => Ok(()),
        Some(missing) => Err(format!("{missing} was not installed:\n{said}")),
    }
}
