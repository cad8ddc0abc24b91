//! `farrow repo install`: a bundle becomes a repository of this machine, and with `--group` the packages of a role, from that
//! repository alone. Nothing starts and no database is made: that is for `farrow-bootstrap run`.
//!
//! Every step finds out what is there already, so a run that was killed is finished by the next one.

mod apt;
mod host;
mod proof;
mod quiet;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use offline_repo::placement::Placed;
use offline_repo::repository::Repository;
use serde::Serialize;
use serde_json::json;

use crate::cli::InstallArgs;
use crate::commands::write_file;
use crate::diagnostic::{Diagnostic, Result};
use crate::interrupt;
use crate::own_packages;
use crate::session::{Done, Session, Stage};
use crate::stages;

use apt::Apt;
use quiet::Quiet;

/// Where apt looks for sources (sources.list(5)).
const SOURCES: &str = "/etc/apt/sources.list.d";

/// Runs it.
pub fn run(session: &Session, args: &InstallArgs) -> Result<()> {
    if !args.group.is_empty() {
        host::check()?;
    }
    let target =
        std::path::absolute(&args.target).map_err(|e| Diagnostic::io("find", &args.target, e))?;
    let (path, placed) = place(session, args, &target)?;
    let mut result = json!({"path": path, "repository": placed.word()});
    if args.group.is_empty() {
        session.say(&format!("{} {}", placed.word(), path.display()));
        return session.finish(result);
    }
    let repository = Repository::open(&path, None)?;
    let wanted = wanted(&repository, &args.group)?;
    let changes = install_packages(session, &repository, &args.group, &wanted)?;
    session.say(&format!(
        "{} {}\n{} packages installed, {} changed, {} removed; nothing was started\nnext: farrow-bootstrap run --metadata DIR",
        placed.word(),
        path.display(),
        changes.installed.len(),
        changes.changed.len(),
        changes.removed.len()
    ));
    result["groups"] = json!(args.group);
    result["packages"] = json!(changes);
    session.finish(result)
}

/// Unpacks the bundle unless the repository is there, whole.
fn place(session: &Session, args: &InstallArgs, target: &Path) -> Result<(PathBuf, Placed)> {
    session.stage("repository", |stage| {
        interrupt::clean_on_interrupt(target);
        let report = stages::archive_progress(stage);
        let (path, placed) = offline_repo::placement::place(
            &args.tarball,
            args.since.as_deref(),
            target,
            None,
            &report,
        )?;
        Ok(Done {
            reused: placed == Placed::LeftAlone,
            value: (path, placed),
        })
    })
}

/// A package at the version that the repository has.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    name: String,
    version: String,
}

/// The packages that stand for these groups, and before them those that every machine needs.
fn wanted(repository: &Repository, groups: &[String]) -> Result<Vec<Wanted>> {
    let folder = repository.path();
    let prefix = folder.file_name().unwrap_or_default().to_string_lossy();
    let find = |name: &str| {
        let found = repository
            .packages()
            .iter()
            .find(|package| package.name == name);
        found.map(|package| Wanted {
            name: package.name.clone(),
            version: package.version.clone(),
        })
    };
    let missing = |what: String| {
        let packages = repository.packages().iter();
        let known = packages.filter(|package| package.architecture == "all");
        let known = known.filter_map(|package| package.name.strip_prefix(&format!("{prefix}-")));
        lacks(folder, &what, &known.collect::<Vec<_>>())
    };
    let mut found = Vec::new();
    for name in [own_packages::BOOTSTRAP, own_packages::FARROW] {
        found.push(find(name).ok_or_else(|| missing(format!("package {name}")))?);
    }
    for group in groups {
        let name = own_packages::group_package(&prefix, group);
        found.push(find(&name).ok_or_else(|| missing(format!("group `{group}`")))?);
    }
    Ok(found)
}

/// The refusal of a repository that has not what was asked for, but these groups.
fn lacks(folder: &Path, what: &str, groups: &[&str]) -> Diagnostic {
    let message = format!("the repository {} has no {what}", folder.display());
    Diagnostic::invalid("FR-INSTALL-GROUP", message).with_hint(match groups.is_empty() {
        true => "its recipe has no services: it was not made for existing machines".into(),
        false => format!("its groups: {}", groups.join(", ")),
    })
}

fn interrupted() -> Diagnostic {
    let message = "interrupted; what dpkg had begun was finished";
    Diagnostic::failed("FR-INSTALL-INTERRUPTED", message)
        .with_hint("run the same command again to finish")
}

/// What an installation changed, by name.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Changes {
    installed: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
}

impl Changes {
    /// Compares versions by name.
    fn between(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Self {
        let names = |from: &BTreeMap<String, String>, keep: &dyn Fn(&str, &str) -> bool| {
            let kept = from.iter().filter(|(name, version)| keep(name, version));
            kept.map(|(name, _)| name.clone()).collect()
        };
        Changes {
            installed: names(after, &|name, _| !before.contains_key(name)),
            changed: names(after, &|name, version| {
                before.get(name).is_some_and(|old| old != version)
            }),
            removed: names(before, &|name, _| !after.contains_key(name)),
        }
    }
}

/// Installs with apt, from this repository alone, while nothing may start.
fn install_packages(
    session: &Session,
    repository: &Repository,
    groups: &[String],
    wanted: &[Wanted],
) -> Result<Changes> {
    // An interrupted dpkg leaves a mess: what it began is finished first.
    interrupt::handle_gracefully();
    let lock = quiet::lock()?;
    let before = host::packages()?;
    let replaced = session.stage("proof", |_| {
        // What an interrupted dpkg has left is no state that anything could be proved of, and it was proved when it began.
        Ok(match host::is_consistent()? {
            true => Done::made(Some(proof::prove(repository, groups, &host::status()?)?)),
            false => Done::made(None),
        })
    })?;
    let source = write_source(repository.path())?;
    let quiet = Quiet::begin(lock)?;
    let apt = Apt::new(
        &source,
        &quiet,
        replaced.is_some_and(|names| names.is_empty()),
    );
    let outcome = steps(session, &apt, &before, wanted);
    // Also after a failure: the machine is left as it was found.
    quiet.end()?;
    outcome?;
    Ok(Changes::between(&before, &host::packages()?))
}

fn steps(
    session: &Session,
    apt: &Apt<'_>,
    before: &BTreeMap<String, String>,
    wanted: &[Wanted],
) -> Result<()> {
    let here = |package: &Wanted| before.get(&package.name) == Some(&package.version);
    let specifiers = |packages: &[Wanted]| -> Vec<String> {
        let pairs = packages.iter();
        pairs
            .map(|package| format!("{}={}", package.name, package.version))
            .collect()
    };
    // The bootstrap's package brings the settings by which the others make no database.
    let (first, rest) = wanted.split_at(1);
    let complete = wanted.iter().all(here) && host::is_consistent()?;
    let step = |name: &str, work: &dyn Fn(&Stage<'_>) -> Result<()>| {
        if interrupt::requested() {
            return Err(interrupted());
        }
        session.stage(name, |stage| match complete {
            true => Ok(Done::reused(())),
            false => work(stage).map(Done::made),
        })
    };
    step("index", &|stage| apt.update(stage))?;
    step("unfinished", &|stage| {
        apt.configure(stage);
        Ok(())
    })?;
    step("bootstrap", &|stage| apt.install(&specifiers(first), stage))?;
    step("packages", &|stage| apt.install(&specifiers(rest), stage))
}

/// The suite that the entry beside a repository names; none for one that is a single folder.
fn suite_of(sources: &Path) -> Option<String> {
    let text = std::fs::read_to_string(sources).ok()?;
    let suite = text
        .lines()
        .find_map(|line| line.strip_prefix("Suites: "))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    (suite != "./" && suite.chars().all(plain)).then(|| suite.to_owned())
}

/// The source entry with the key in it; gives its path.
fn write_source(repository: &Path) -> Result<PathBuf> {
    let name = repository.file_name().unwrap_or_default().to_string_lossy();
    let shown = repository.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._+-".contains(c);
    if !shown.chars().all(plain) {
        let message = format!("{shown} cannot stand in a source entry of apt");
        return Err(Diagnostic::invalid("FR-INSTALL-TARGET", message)
            .with_hint("choose a --target without spaces and special characters"));
    }
    let key = repository.with_file_name(format!("{name}.asc"));
    let key = std::fs::read_to_string(&key).map_err(|e| Diagnostic::io("read", &key, e))?;
    let suite = suite_of(&repository.with_file_name(format!("{name}.sources")));
    let text = offline_repo::metadata::sources(&format!("file:{shown}"), suite.as_deref(), &key);
    let path = Path::new(SOURCES).join(format!("{name}.sources"));
    if std::fs::read_to_string(&path).is_ok_and(|found| found == text) {
        return Ok(path);
    }
    write_file(&path, text.as_bytes(), 0o644)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_as_printed() {
        let folder = Path::new("/srv/two words/pigsty");
        let target = write_source(folder).unwrap_err();
        for (name, error) in [
            ("FR-INSTALL-TARGET", target),
            ("FR-INSTALL-INTERRUPTED", interrupted()),
            (
                "FR-INSTALL-GROUP",
                lacks(folder, "group `metta`", &["database", "meta"]),
            ),
            (
                "FR-INSTALL-GROUP.none",
                lacks(folder, "package farrow", &[]),
            ),
        ] {
            crate::golden::golden(name, &error.render(false));
        }
    }

    #[test]
    fn changes_by_name() {
        let packages = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
            let pairs = list.iter();
            pairs
                .map(|(name, version)| ((*name).into(), (*version).into()))
                .collect()
        };
        let before = packages(&[("a", "1"), ("b", "1"), ("c", "1")]);
        let after = packages(&[("a", "1"), ("b", "2"), ("d", "1")]);
        let expected = Changes {
            installed: vec!["d".into()],
            changed: vec!["b".into()],
            removed: vec!["c".into()],
        };
        assert_eq!(Changes::between(&before, &after), expected);
    }
}
