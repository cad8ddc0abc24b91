//! The whole path on a real archive: lock a list of packages, fetch, publish, bundle, verify.
//!
//! `lock_and_build LIST KEYS-FOLDER OUT` reads one package name per line from LIST; the mirrors are those of
//! this host. Each stage prints how long it took.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

use offline_repo::archive::Upstream;
use offline_repo::bundle::{BundleOptions, bundle};
use offline_repo::cache::Cache;
use offline_repo::fetch::fetch;
use offline_repo::http::Client;
use offline_repo::install::install;
use offline_repo::layout::Layout;
use offline_repo::locking::{LockRequest, lock};
use offline_repo::marker;
use offline_repo::mirror::Mirrors;
use offline_repo::progress::silent;
use offline_repo::publish::{PublishOptions, publish};
use offline_repo::repository::Repository;
use offline_repo::signer::Signer;

fn upstreams(keys: &Path) -> std::io::Result<Vec<Upstream>> {
    let read = |names: &[&str]| -> std::io::Result<Vec<Vec<u8>>> {
        names
            .iter()
            .map(|name| std::fs::read(keys.join(format!("debian-archive-{name}.asc"))))
            .collect()
    };
    let upstream = |name: &str, suites: &[&str], keys: Vec<Vec<u8>>| Upstream {
        name: name.into(),
        archive: name.into(),
        url: None,
        suites: suites.iter().map(|s| s.to_string()).collect(),
        components: vec!["main".into()],
        keys,
        priority: 0,
    };
    Ok(vec![
        upstream(
            "debian",
            &["trixie", "trixie-updates"],
            read(&["trixie-automatic", "trixie-stable"])?,
        ),
        upstream(
            "debian-security",
            &["trixie-security"],
            read(&["trixie-security-automatic"])?,
        ),
    ])
}

fn timed<T, E>(what: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let start = Instant::now();
    let result = work();
    println!("{what:10} {:7.2} s", start.elapsed().as_secs_f64());
    result
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [list, keys, out] = arguments.as_slice() else {
        return Err("usage: lock_and_build LIST KEYS-FOLDER OUT".into());
    };
    let out = Path::new(out);
    let packages = std::fs::read_to_string(list)?
        .lines()
        .map(String::from)
        .filter(|l| !l.is_empty())
        .collect();
    let client = Client::new(Mirrors::from_host(BTreeMap::new()), false)?;
    let cache = Cache::new(&out.join("cache"));
    let request = LockRequest {
        name: "pigsty".into(),
        architecture: "amd64".into(),
        upstreams: upstreams(Path::new(keys))?,
        groups: BTreeMap::from([("platform".to_string(), packages)]),
        include_essential: true,
        recommends: std::env::var_os("RECOMMENDS").is_some(),
        now: None,
        ..LockRequest::default()
    };
    let locked = timed("lock", || lock(&request, &client, &cache, &silent))?;
    locked.save(&out.join("pigsty.lock"))?;
    let bytes: u64 = locked.packages.iter().map(|p| p.size).sum();
    println!(
        "{} packages, {} MB, {} of them essential",
        locked.packages.len(),
        bytes / 1_000_000,
        locked.packages.iter().filter(|p| p.essential).count()
    );
    if std::env::var_os("LOCK_ONLY").is_some() {
        return Ok(());
    }
    let fetched = timed("fetch", || fetch(&locked, &client, &cache, &silent))?;
    let key = out.join("signing-key.asc");
    if !key.exists() {
        Signer::generate("pigsty repository")?.save(&key)?;
    }
    let signer = Signer::load(&key)?;
    let options = PublishOptions {
        name: "pigsty".into(),
        codename: "trixie".into(),
        epoch: locked.epoch(),
        url: None,
        groups: Default::default(),
        bases: Vec::new(),
        additions: Default::default(),
        layout: Layout::Flat,
    };
    let published = timed("publish", || {
        publish(&fetched, &options, &signer, out, &silent)
    })?;
    println!("manifest {}", published.manifest);
    let keyring = signer.public_key()?.keyring()?;
    timed("verify", || {
        marker::verify(&published.path, Some(&keyring))?.into_result(&published.path)
    })?;
    let options = BundleOptions {
        version: "0.1.0".into(),
        codename: "trixie".into(),
        architecture: "amd64".into(),
        epoch: locked.epoch(),
    };
    let bundled = timed("bundle", || bundle(&published.path, &options, out, &silent))?;
    println!(
        "{} {} {}",
        bundled.path.display(),
        bundled.size,
        bundled.sha256
    );
    let installed = timed("install", || {
        install(&bundled.path, &out.join("www"), Some(&keyring), &silent)
    })?;
    let repository = timed("open", || Repository::open(&installed, Some(&keyring)))?;
    let closure = timed("closure", || {
        repository.closure(&["postgresql-17".to_string()], true)
    })?;
    println!("postgresql-17 with essential packages: {}", closure.len());
    Ok(())
}
