//! Random packages that demand all kinds of things of each other.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Error, Result};
use fastrand::Rng;
use offline_repo::digest::Sha256;
use offline_repo::rpm::metadata::{Place, elements};
use offline_repo::rpm::package::{FileKind, Package, PackageFile, Relation};
use offline_repo::rpm::repodata;
use offline_repo::rpm::universe::Universe;
use offline_repo::signer::Signer;

use super::fields;

/// Places of relations in [`Package::relations`].
const PROVIDES: usize = 0;
const REQUIRES: usize = 1;
const CONFLICTS: usize = 2;
const OBSOLETES: usize = 3;
const SUGGESTS: usize = 4;
const ENHANCES: usize = 5;
const RECOMMENDS: usize = 6;
const SUPPLEMENTS: usize = 7;

/// Names of packages, and words that packages provide.
const NAMES: usize = 60;
const WORDS: usize = 15;
const PATHS: usize = 12;

/// Packages of 60 names, some in several versions.
pub fn packages(rng: &mut Rng) -> Vec<Package> {
    let mut all = Vec::new();
    for number in 0..NAMES {
        let versions = 1 + usize::from(rng.u8(..4) == 0) + usize::from(rng.u8(..8) == 0);
        for _ in 0..versions {
            let one = package(rng, number);
            let key = |p: &Package| (p.name.clone(), p.evr(), p.architecture.clone());
            if !all.iter().any(|other| key(other) == key(&one)) {
                all.push(one);
            }
        }
    }
    all
}

fn package(rng: &mut Rng, number: usize) -> Package {
    let mut package = Package {
        name: format!("p{number}"),
        epoch: u64::from(rng.u8(..6) == 0),
        version: rng
            .choice(["1", "1.5", "2", "2~rc1", "10"])
            .unwrap_or("1")
            .into(),
        release: rng.u8(1..4).to_string(),
        architecture: rng.choice(["x86_64", "noarch"]).unwrap_or("noarch").into(),
        summary: "A random package".into(),
        source_rpm: format!("p{number}.src.rpm"),
        ..Package::default()
    };
    let own = versioned(&package.name, "EQ", &package.evr());
    package.relations[PROVIDES].push(own);
    for _ in 0..some(rng, &[0, 0, 1, 1, 2]) {
        let version = rng.u8(1..5).to_string();
        let word = format!("word{}", rng.usize(..WORDS));
        let provided = match rng.bool() {
            true => versioned(&word, "EQ", &version),
            false => plain(&word),
        };
        package.relations[PROVIDES].push(provided);
    }
    for (kind, counts) in [
        (REQUIRES, &[0, 1, 1, 2, 2, 3][..]),
        (CONFLICTS, &[0, 0, 0, 0, 0, 0, 0, 1]),
        (RECOMMENDS, &[0, 0, 0, 1]),
        (SUGGESTS, &[0, 0, 0, 0, 1]),
        (SUPPLEMENTS, &[0, 0, 0, 0, 0, 0, 0, 1]),
        (ENHANCES, &[0, 0, 0, 0, 0, 0, 0, 1]),
    ] {
        for _ in 0..some(rng, counts) {
            let relation = relation(rng, kind == REQUIRES);
            package.relations[kind].push(relation);
        }
    }
    if rng.u8(..10) == 0 {
        let version = rng.u8(1..4).to_string();
        let replaced = versioned(&name(rng), "LT", &version);
        package.relations[OBSOLETES].push(replaced);
    }
    for _ in 0..some(rng, &[0, 1]) {
        package.files.push(PackageFile {
            path: path(rng),
            kind: FileKind::File,
        });
    }
    package
}

fn some(rng: &mut Rng, counts: &[usize]) -> usize {
    rng.choice(counts.iter().copied()).unwrap_or(0)
}

fn plain(name: &str) -> Relation {
    Relation {
        name: name.into(),
        ..Relation::default()
    }
}

fn versioned(name: &str, flags: &'static str, evr: &str) -> Relation {
    Relation {
        name: name.into(),
        flags: Some(flags),
        evr: evr.into(),
        pre: false,
    }
}

fn name(rng: &mut Rng) -> String {
    format!("p{}", rng.usize(..NAMES))
}

/// Half of the paths are in `primary.xml`, half only in `filelists.xml`.
fn path(rng: &mut Rng) -> String {
    let number = rng.usize(..PATHS);
    match number % 2 {
        0 => format!("/usr/bin/tool{number}"),
        _ => format!("/usr/share/data/file{number}"),
    }
}

fn relation(rng: &mut Rng, may_be_path: bool) -> Relation {
    match rng.u8(..10) {
        0 if may_be_path => plain(&path(rng)),
        1 | 2 => {
            let depth = 1 + usize::from(rng.bool());
            plain(&rich(rng, depth))
        }
        3 | 4 => plain(&format!("word{}", rng.usize(..WORDS))),
        5 => {
            let word = format!("word{}", rng.usize(..WORDS));
            let flags = rng.choice(["EQ", "GE", "LE"]).unwrap_or("GE");
            versioned(&word, flags, &rng.u8(1..5).to_string())
        }
        6 => {
            let flags = rng.choice(["GE", "GE", "LT", "GT"]).unwrap_or("GE");
            let evr = rng
                .choice(["1", "1.5-2", "2", "0:1-1", "1:1"])
                .unwrap_or("1");
            versioned(&name(rng), flags, evr)
        }
        _ => plain(&name(rng)),
    }
}

/// A rich dependency as rpmbuild accepts it: an `if` may stand inside an `and`, not inside an `or`.
fn rich(rng: &mut Rng, depth: usize) -> String {
    let kind = rng.u8(..10);
    let part = |rng: &mut Rng| match depth > 1 && rng.u8(..3) == 0 {
        true if kind == 4 => rich(rng, depth - 1),
        true => format!("({} or {})", name(rng), name(rng)),
        false if rng.u8(..4) == 0 => format!("word{}", rng.usize(..WORDS)),
        false => name(rng),
    };
    let (a, b, c) = (part(rng), part(rng), part(rng));
    match kind {
        0..4 => format!("({a} or {b})"),
        4 => format!("({a} and {b})"),
        5 | 6 => format!("({a} if {b})"),
        7 => format!("({a} if {b} else {c})"),
        // About one package, so of simple relations only.
        8 => format!(
            "(word{} with word{})",
            rng.usize(..WORDS),
            rng.usize(..WORDS)
        ),
        _ => format!("(word{} without {})", rng.usize(..WORDS), name(rng)),
    }
}

/// Writes the metadata of packages, whose files nobody needs, into `dir`.
pub fn write(packages: &[Package], signer: &Signer, dir: &Path) -> Result<()> {
    let place = |package: &Package| Place {
        path: format!(
            "{}-{}-{}.{}.rpm",
            package.name, package.version, package.release, package.architecture
        ),
        size: 1000,
        sha256: Sha256::of(format!("{package:?}").as_bytes()),
        time: 1,
    };
    let all: Vec<_> = packages
        .iter()
        .map(|package| elements(package, &place(package)))
        .collect();
    for (path, bytes) in repodata::files(&all, None, signer, 1_795_000_000)? {
        let path = dir.join(path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, bytes)?;
    }
    Ok(())
}

/// Random packages written below `dir`, as our own reader sees them.
pub fn universe(rng: &mut Rng, dir: &Path) -> Result<Universe> {
    write(
        &packages(rng),
        &Signer::from_secret([9; 32], "random")?,
        dir,
    )?;
    let open = |kind| -> Result<_> {
        let file = flate2::read::GzDecoder::new(File::open(fields::find(dir, kind)?)?);
        Ok(BufReader::new(file))
    };
    let mut universe = Universe::new("x86_64");
    universe
        .read_primary(open("primary")?, 0)
        .map_err(Error::msg)?;
    universe.finish();
    let wanted = universe.wanted_paths(&BTreeMap::new());
    universe
        .read_filelists(open("filelists")?, &wanted)
        .map_err(Error::msg)?;
    Ok(universe)
}

/// One to four names.
pub fn names(rng: &mut Rng) -> Vec<String> {
    let count = rng.usize(1..5);
    let mut names: Vec<String> = (0..count).map(|_| name(rng)).collect();
    names.sort();
    names.dedup();
    names
}
