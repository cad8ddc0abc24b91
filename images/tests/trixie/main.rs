//! Closures from the real archive, compared with what Debian 13's own apt computes from the same indexes. That apt comes
//! from the archive, too, and runs in a tools tree of this crate: the host needs none.
//!
//! A closure of ours that is not apt's is installed by real apt and dpkg; one that cannot be installed fails the test.

mod apt;
mod install;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use images::sandbox::run_if_requested;
use libtest_mimic::{Arguments, Failed, Trial};
use offline_repo::archive::{self, Upstream};
use offline_repo::cache::Cache;
use offline_repo::closure::{Wishes, closure};
use offline_repo::http::Client;
use offline_repo::mirror::Mirrors;
use offline_repo::openpgp::Keyring;
use offline_repo::resolve::Resolver;
use offline_repo::universe::{IndexText, Universe};

use apt::Apt;
use install::Installer;

/// Sets of roots whose closures are compared; the first is a whole database platform.
const SETS: &[&str] = &[
    "systemd-sysv systemd-resolved systemd-boot udev dbus iproute2 linux-image-cloud-amd64 openssh-server cloud-init \
     postgresql-17 patroni python3-etcd pgbouncer haproxy etcd-server etcd-client vip-manager2 nginx-light prometheus \
     prometheus-alertmanager prometheus-pushgateway prometheus-blackbox-exporter prometheus-node-exporter \
     prometheus-postgres-exporter prometheus-pgbouncer-exporter dnsmasq chrony pgbackrest curl ca-certificates",
    "qemu-system-x86 qemu-utils ovmf seabios erofs-utils cryptsetup-bin systemd-boot-efi dosfstools mtools e2fsprogs kmod",
    "default-mta apache2 php",
    "build-essential",
];

/// How many random sets are compared; `FARROW_TEST_CASES` sets another number, `FARROW_TEST_SEED` draws others.
const CASES: u64 = 30;
/// Packages in the largest of them.
const LARGEST_SET: usize = 30;
fn main() {
    run_if_requested();
    let test = || compare_with_apt().map_err(Failed::from);
    let trial = Trial::test("closures_are_those_of_debian_13s_apt", test);
    libtest_mimic::run(&Arguments::from_args(), vec![trial]).exit();
}

fn upstream(name: &str, suites: &[&str], keys: &[&str]) -> Upstream {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/keys");
    let key = |name: &&str| fs::read(folder.join(format!("debian-archive-{name}.asc"))).unwrap();
    Upstream {
        name: name.into(),
        archive: name.into(),
        url: None,
        suites: suites.iter().map(|suite| suite.to_string()).collect(),
        components: vec!["main".into()],
        keys: keys.iter().map(key).collect(),
        priority: 0,
    }
}

fn upstreams() -> Vec<Upstream> {
    vec![
        upstream(
            "debian",
            &["trixie", "trixie-updates"],
            &["trixie-automatic", "trixie-stable"],
        ),
        upstream(
            "debian-security",
            &["trixie-security"],
            &["trixie-security-automatic"],
        ),
    ]
}

/// The indexes by suite.
fn load(client: &Client, cache: &Cache) -> offline_repo::Result<Vec<(String, IndexText)>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut texts = Vec::new();
    for upstream in upstreams() {
        let keyring = Keyring::from_files(&upstream.keys)?;
        for suite in &upstream.suites {
            let signed = archive::fetch_release(client, &upstream, &keyring, suite, now.as_secs())?;
            let packages =
                archive::fetch_packages(client, cache, &signed, "main", "amd64", &|_| {})?;
            let text = IndexText {
                origin: packages.url,
                text: packages.text.into(),
                priority: 0,
            };
            texts.push((suite.clone(), text));
        }
    }
    Ok(texts)
}

fn compare_with_apt() -> Result<(), String> {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("trixie");
    let shown = |error: &dyn std::fmt::Display| error.to_string();
    let client = Client::new(Mirrors::from_host(BTreeMap::new()), false).map_err(|e| shown(&e))?;
    let cache = Cache::new(&scratch);
    let texts = match load(&client, &cache) {
        Ok(texts) => texts,
        Err(error) if matches!(error.code(), "FR-LOCK-MIRROR" | "FR-FETCH-HTTP") => {
            eprintln!(
                "SKIPPED: the comparison with the real archive, which cannot be reached: {error}"
            );
            return Ok(());
        }
        Err(error) => return Err(error.to_string()),
    };
    let apt = Apt::new(&scratch, &client, &cache, &texts)?;
    let indexes = texts.into_iter().map(|(_, text)| text).collect();
    let universe = Universe::parse(indexes, "amd64").map_err(|e| shown(&e))?;
    assert!(universe.len() > 50_000);
    let resolver = Resolver::new(&universe).map_err(|e| shown(&e))?;
    for set in SETS {
        let roots: Vec<&str> = set.split_ascii_whitespace().collect();
        let found = ours(&resolver, &roots, false);
        let expected = apt.closure(&roots, false);
        if found != expected || found.is_none() {
            let difference = Difference {
                roots,
                recommends: false,
                found,
                expected,
            };
            return Err(difference.to_string());
        }
    }
    let compared = random_sets(&universe, &resolver, &apt);
    compared.report(&apt.version);
    install_all(&compared, &scratch, &client, &cache)?;
    // The archive changes every day: one set of a small sample may differ, without and with Recommends.
    let mut sets: Vec<_> = compared.different.iter().map(|d| &d.roots).collect();
    sets.sort_unstable();
    sets.dedup();
    let (drawn, different) = (compared.count / 2, sets.len());
    match different <= (drawn / 100).max(1) {
        true => Ok(()),
        false => Err(format!("{different} of {drawn} sets differ")),
    }
}

fn ours(resolver: &Resolver<'_>, roots: &[&str], recommends: bool) -> Option<BTreeSet<String>> {
    let roots = roots.iter().map(|root| root.to_string()).collect();
    let wishes = Wishes {
        groups: BTreeMap::from([("g".to_string(), roots)]),
        recommends,
        ..Wishes::default()
    };
    let universe = resolver.universe();
    let chosen = closure(resolver, &wishes).ok()?;
    let title = |id| format!("{} {}", universe.name(id), universe.version(id));
    Some(chosen.iter().map(|chosen| title(chosen.id)).collect())
}

/// What came of the comparison of random sets.
struct Compared<'a> {
    seed: u64,
    count: usize,
    /// How many of them nobody can have.
    impossible: usize,
    different: Vec<Difference<'a>>,
    /// The set with the smallest closure, without Recommends.
    smallest: Option<(Vec<&'a str>, BTreeSet<String>)>,
}

impl Compared<'_> {
    fn report(&self, version: &str) {
        for difference in &self.different {
            eprintln!("{difference}");
        }
        println!(
            "{version}, seed {}: {} of {} closures are apt's, {} of them none",
            self.seed,
            self.count - self.different.len(),
            self.count,
            self.impossible
        );
    }
}

/// Random sets of packages, without and with Recommends: the closures are apt's, or nobody can have the set.
fn random_sets<'a>(universe: &'a Universe, resolver: &Resolver<'_>, apt: &Apt) -> Compared<'a> {
    let number = |name: &str, default: u64| {
        let given = std::env::var(name).ok().and_then(|n| n.parse().ok());
        given.unwrap_or(default)
    };
    let seed = number("FARROW_TEST_SEED", 1);
    let sets = draw(universe, seed, number("FARROW_TEST_CASES", CASES));
    let (next, impossible) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let different = Mutex::new(BTreeMap::new());
    let closures = Mutex::new(BTreeMap::new());
    let compare = || loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(roots) = sets.get(number) else {
            return;
        };
        for recommends in [false, true] {
            let found = ours(resolver, roots, recommends);
            let expected = apt.closure(roots, recommends);
            if let (Some(found), false) = (&found, recommends) {
                let mut closures = closures.lock().unwrap();
                closures.insert((found.len(), number), found.clone());
                closures.split_off(&(found.len() + 1, 0));
            }
            if found != expected {
                let difference = Difference {
                    roots: roots.clone(),
                    recommends,
                    found,
                    expected,
                };
                let key = (number, recommends);
                different.lock().unwrap().insert(key, difference);
            } else if found.is_none() {
                impossible.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(compare);
        }
    });
    let smallest = closures.into_inner().unwrap().into_iter().next();
    Compared {
        seed,
        count: 2 * sets.len(),
        impossible: impossible.into_inner(),
        different: different.into_inner().unwrap().into_values().collect(),
        smallest: smallest.map(|((_, number), closure)| (sets[number].clone(), closure)),
    }
}

/// Installs the closures that are not apt's, and in any case the smallest of all, so that it is known that this can be done.
fn install_all(
    compared: &Compared<'_>,
    scratch: &Path,
    client: &Client,
    cache: &Cache,
) -> Result<(), String> {
    let installer = Installer::new(scratch, client, cache)?;
    let install = |roots: &[&str], recommends: bool, closure: &BTreeSet<String>| {
        let count = installer
            .install(roots, recommends, closure)
            .map_err(|error| format!("{}: {error}", roots.join(" ")))?;
        eprintln!(
            "INSTALLED by real apt and dpkg (recommends: {recommends}), {count} packages: {}",
            roots.join(" ")
        );
        Ok::<(), String>(())
    };
    if let Some((roots, closure)) = &compared.smallest {
        install(roots, false, closure)?;
    }
    for difference in &compared.different {
        match &difference.found {
            Some(closure) => install(&difference.roots, difference.recommends, closure)?,
            None => return Err(format!("nothing to install: {difference}")),
        }
    }
    Ok(())
}

fn draw(universe: &Universe, seed: u64, cases: u64) -> Vec<Vec<&str>> {
    let mut names: Vec<&str> = universe.names().collect();
    names.sort_unstable();
    let mut random = Random(seed);
    let mut set = || {
        let size = 1 + random.below(LARGEST_SET);
        let names = (0..size).map(|_| names[random.below(names.len())]);
        names.collect()
    };
    (0..cases).map(|_| set()).collect()
}

/// A closure that is not apt's.
struct Difference<'a> {
    roots: Vec<&'a str>,
    recommends: bool,
    found: Option<BTreeSet<String>>,
    expected: Option<BTreeSet<String>>,
}

impl fmt::Display for Difference<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (recommends, roots) = (self.recommends, self.roots.join(" "));
        write!(out, "DIFFERENT (recommends: {recommends}): {roots}")?;
        let mut only = |whose: &str, a: &BTreeSet<String>, b: &BTreeSet<String>| {
            let mut names = a.difference(b);
            names.try_for_each(|name| write!(out, "\n  only {whose}: {name}"))
        };
        match (&self.found, &self.expected) {
            (Some(found), Some(expected)) => {
                only("ours", found, expected)?;
                only("apt's", expected, found)
            }
            (None, _) => write!(out, "\n  ours: none, apt has one"),
            (_, None) => write!(out, "\n  apt: none, ours has one"),
        }
    }
}

/// A small generator of numbers that are the same everywhere (Knuth's MMIX constants).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}
