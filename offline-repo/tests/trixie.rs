//! The real archive: its signatures, and closures compared with what this host's apt computes from the same indexes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use offline_repo::archive::{self, Upstream};
use offline_repo::cache::Cache;
use offline_repo::closure::{Wishes, closure};
use offline_repo::http::Client;
use offline_repo::mirror::Mirrors;
use offline_repo::openpgp::Keyring;
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

fn keys(names: &[&str]) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/keys");
    names
        .iter()
        .map(|name| folder.join(format!("debian-archive-{name}.asc")))
        .collect()
}

fn upstreams() -> Vec<(Upstream, Vec<PathBuf>)> {
    let upstream = |name: &str, suites: &[&str], files: Vec<PathBuf>| {
        let upstream = Upstream {
            name: name.into(),
            archive: name.into(),
            url: None,
            suites: suites.iter().map(|s| s.to_string()).collect(),
            components: vec!["main".into()],
            keys: files.iter().map(|file| fs::read(file).unwrap()).collect(),
            priority: 0,
        };
        (upstream, files)
    };
    vec![
        upstream(
            "debian",
            &["trixie", "trixie-updates"],
            keys(&["trixie-automatic", "trixie-stable"]),
        ),
        upstream(
            "debian-security",
            &["trixie-security"],
            keys(&["trixie-security-automatic"]),
        ),
    ]
}

/// The indexes, or the reason why there are none.
fn load(client: &Client, cache: &Cache) -> Result<Universe, offline_repo::Error> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let mut texts = Vec::new();
    for (upstream, _) in upstreams() {
        let keyring = Keyring::from_files(&upstream.keys)?;
        for suite in &upstream.suites {
            let signed = archive::fetch_release(client, &upstream, &keyring, suite, now)?;
            let packages =
                archive::fetch_packages(client, cache, &signed, "main", "amd64", &|_| {})?;
            texts.push(IndexText {
                origin: packages.url,
                text: packages.text.into(),
                priority: 0,
            });
        }
    }
    Universe::parse(texts, "amd64")
}

/// An apt of its own: empty dpkg status, only these archives.
struct Apt {
    root: PathBuf,
}

impl Apt {
    fn new(root: PathBuf, client: &Client) -> Option<Self> {
        for folder in [
            "lists/partial",
            "cache/archives/partial",
            "etc/preferences.d",
        ] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("status"), "").unwrap();
        let mut sources = String::new();
        for (upstream, files) in upstreams() {
            let url = &client.archive_urls(&upstream.archive, None).unwrap()[0];
            let files: Vec<String> = files
                .iter()
                .map(|file| file.canonicalize().unwrap().display().to_string())
                .collect();
            sources += &format!(
                "Types: deb\nURIs: {url}\nSuites: {}\nComponents: main\nSigned-By: {}\n\n",
                upstream.suites.join(" "),
                files.join(", ")
            );
        }
        fs::write(root.join("archive.sources"), sources).unwrap();
        let configuration = format!(
            "Dir::State \"{0}\";\nDir::State::lists \"{0}/lists\";\nDir::State::status \"{0}/status\";\nDir::Cache \"{0}/cache\";\n\
             Dir::Etc \"{0}/etc\";\nDir::Etc::sourcelist \"{0}/archive.sources\";\nDir::Etc::sourceparts \"/dev/null\";\n\
             Dir::Etc::parts \"/dev/null\";\nAPT::Architecture \"amd64\";\nAPT::Architectures \"amd64\";\nAPT::Sandbox::User \"\";\n\
             Acquire::Languages \"none\";\nDebug::NoLocking \"true\";\n",
            root.display()
        );
        fs::write(root.join("apt.conf"), configuration).unwrap();
        let apt = Apt { root };
        apt.run(&["update"]).map(|_| apt)
    }

    fn run(&self, arguments: &[&str]) -> Option<String> {
        let mut command = Command::new("apt-get");
        command
            .env("APT_CONFIG", self.root.join("apt.conf"))
            .env("LC_ALL", "C")
            .args(arguments);
        let output = command.output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// "name version" of what apt would install.
    fn closure(&self, roots: &[&str], recommends: bool) -> Option<BTreeSet<String>> {
        let option = match recommends {
            true => "--install-recommends",
            false => "--no-install-recommends",
        };
        // Not `-s`: it also looks for an order of installation, which takes a hundred times as long.
        let output = self.run(&[&["-qq", "--print-uris", option, "install"], roots].concat())?;
        let files = output.lines().filter_map(|line| line.split(' ').nth(1));
        Some(
            files
                .filter_map(|file| {
                    let mut parts = file.split('_');
                    let (name, version) = (parts.next()?, parts.next()?);
                    Some(format!("{name} {}", version.replace("%3a", ":")))
                })
                .collect(),
        )
    }
}

fn ours(resolver: &Resolver<'_>, roots: &[&str], recommends: bool) -> Option<BTreeSet<String>> {
    let wishes = Wishes {
        groups: BTreeMap::from([(
            "g".to_string(),
            roots.iter().map(|r| r.to_string()).collect(),
        )]),
        recommends,
        ..Wishes::default()
    };
    let universe = resolver.universe();
    let chosen = closure(resolver, &wishes).ok()?;
    Some(
        chosen
            .iter()
            .map(|c| format!("{} {}", universe.name(c.id), universe.version(c.id)))
            .collect(),
    )
}

#[test]
fn closures_are_those_of_apt() {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("trixie");
    let client = Client::new(Mirrors::from_host(BTreeMap::new()), false).unwrap();
    let cache = Cache::new(&scratch);
    let universe = match load(&client, &cache) {
        Ok(universe) => universe,
        Err(error) if matches!(error.code(), "FR-LOCK-MIRROR" | "FR-FETCH-HTTP") => {
            eprintln!(
                "SKIPPED: the comparison with the real archive, which cannot be reached: {error}"
            );
            return;
        }
        Err(error) => panic!("{error}"),
    };
    assert!(universe.len() > 50_000);
    let resolver = Resolver::new(&universe).unwrap();
    let Some(apt) = Apt::new(scratch.join("apt"), &client) else {
        eprintln!("SKIPPED: the comparison with apt, which this host does not have");
        return;
    };
    for set in SETS {
        let roots: Vec<&str> = set.split_ascii_whitespace().collect();
        let (found, expected) = (
            ours(&resolver, &roots, false).unwrap(),
            apt.closure(&roots, false).unwrap(),
        );
        let differences: Vec<_> = found.symmetric_difference(&expected).collect();
        assert!(differences.is_empty(), "{set}: {differences:?}");
    }
    random_sets(&universe, &resolver, &apt);
}

/// Random sets of packages, without and with Recommends: the closures are apt's, or nobody can have the set.
fn random_sets(universe: &Universe, resolver: &Resolver<'_>, apt: &Apt) {
    let number = |name: &str, default: u64| {
        let given = std::env::var(name).ok().and_then(|n| n.parse().ok());
        given.unwrap_or(default)
    };
    let (cases, seed) = (
        number("FARROW_TEST_CASES", CASES),
        number("FARROW_TEST_SEED", 1),
    );
    let mut names: Vec<&str> = universe.names().collect();
    names.sort_unstable();
    let sets: Vec<Vec<&str>> = {
        let mut random = Random(seed);
        let mut set = || {
            let size = 1 + random.below(LARGEST_SET);
            (0..size)
                .map(|_| names[random.below(names.len())])
                .collect()
        };
        (0..cases).map(|_| set()).collect()
    };
    let next = AtomicUsize::new(0);
    let different = Mutex::new(Vec::new());
    let compare = || {
        while let Some(roots) = sets.get(next.fetch_add(1, Ordering::Relaxed)) {
            for recommends in [false, true] {
                let found = ours(resolver, roots, recommends);
                let expected = apt.closure(roots, recommends);
                if found != expected {
                    let text = difference(roots, recommends, found, expected);
                    different.lock().unwrap().push(text);
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
        "seed {seed}: {} of {compared} closures are apt's",
        compared - different.len()
    );
    // The archive changes every day: one of a small sample may differ.
    let allowed = (compared / 100).max(1);
    assert!(different.len() <= allowed, "{} differ", different.len());
}

fn difference(
    roots: &[&str],
    recommends: bool,
    found: Option<BTreeSet<String>>,
    expected: Option<BTreeSet<String>>,
) -> String {
    let what = match (found, expected) {
        (Some(found), Some(expected)) => {
            let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| {
                let names: Vec<&str> = a.difference(b).map(String::as_str).collect();
                let first = names[..names.len().min(10)].join(", ");
                format!("{} [{first}]", names.len())
            };
            format!(
                "only ours: {}, only apt's: {}",
                only(&found, &expected),
                only(&expected, &found)
            )
        }
        (None, _) => "ours: none, apt has one".to_string(),
        (_, None) => "apt: none, ours has one".to_string(),
    };
    format!("{} (recommends: {recommends}): {what}", roots.join(" "))
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
