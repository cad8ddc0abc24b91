//! Closures from the real archive, compared with what Debian 13's own apt computes from the same indexes. That apt comes
//! from the archive, too, and runs in a tools tree of this crate: the host needs none.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use images::sandbox::{Sandbox, run_if_requested};
use images::tools;
use libtest_mimic::{Arguments, Failed, Trial};
use offline_repo::archive::{self, Upstream};
use offline_repo::cache::Cache;
use offline_repo::closure::{Wishes, closure};
use offline_repo::digest::Sha256;
use offline_repo::http::Client;
use offline_repo::locking::{self, LockRequest};
use offline_repo::mirror::Mirrors;
use offline_repo::openpgp::Keyring;
use offline_repo::progress::silent;
use offline_repo::resolve::Resolver;
use offline_repo::universe::{IndexText, Universe};

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
/// Where the scratch folder is inside the tree.
const INSIDE: &str = "/oracle";

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
            return Err(difference(&roots, false, found, expected));
        }
    }
    random_sets(&universe, &resolver, &apt)
}

/// Debian 13's apt in a tree, with an empty dpkg status and exactly the given indexes.
struct Apt {
    sandbox: Sandbox,
    version: String,
}

impl Apt {
    fn new(
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
    fn closure(&self, roots: &[&str], recommends: bool) -> Option<BTreeSet<String>> {
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

/// Random sets of packages, without and with Recommends: the closures are apt's, or nobody can have the set.
fn random_sets(universe: &Universe, resolver: &Resolver<'_>, apt: &Apt) -> Result<(), String> {
    let number = |name: &str, default: u64| {
        let given = std::env::var(name).ok().and_then(|n| n.parse().ok());
        given.unwrap_or(default)
    };
    let seed = number("FARROW_TEST_SEED", 1);
    let sets = draw(universe, seed, number("FARROW_TEST_CASES", CASES));
    let (next, impossible) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let different = Mutex::new(Vec::new());
    let compare = || {
        while let Some(roots) = sets.get(next.fetch_add(1, Ordering::Relaxed)) {
            for recommends in [false, true] {
                let found = ours(resolver, roots, recommends);
                let expected = apt.closure(roots, recommends);
                if found != expected {
                    let text = difference(roots, recommends, found, expected);
                    different.lock().unwrap().push(text);
                } else if found.is_none() {
                    impossible.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(compare);
        }
    });
    let different = different.into_inner().unwrap();
    let compared = 2 * sets.len();
    for text in &different {
        eprintln!("{text}");
    }
    eprintln!(
        "{}, seed {seed}: {} of {compared} closures are apt's, {} of them none",
        apt.version,
        compared - different.len(),
        impossible.into_inner()
    );
    // The archive changes every day: one of a small sample may differ.
    match different.len() <= (compared / 100).max(1) {
        true => Ok(()),
        false => Err(format!("{} of {compared} closures differ", different.len())),
    }
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

fn difference(
    roots: &[&str],
    recommends: bool,
    found: Option<BTreeSet<String>>,
    expected: Option<BTreeSet<String>>,
) -> String {
    let mut text = format!("DIFFERENT (recommends: {recommends}): {}", roots.join(" "));
    let mut only = |whose: &str, a: &BTreeSet<String>, b: &BTreeSet<String>| {
        for name in a.difference(b) {
            write!(text, "\n  only {whose}: {name}").unwrap();
        }
    };
    match (&found, &expected) {
        (Some(found), Some(expected)) => {
            only("ours", found, expected);
            only("apt's", expected, found);
        }
        (None, _) => text += "\n  ours: none, apt has one",
        (_, None) => text += "\n  apt: none, ours has one",
    }
    text
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
