//! That groups install on this machine, from the repository alone, proved before anything of it is touched.

use offline_repo::error::Error;
use offline_repo::proof::{Base, Verdict};
use offline_repo::repository::Repository;

use crate::diagnostic::Result;

/// How many packages may be replaced by ones that do the same.
const LIMIT: usize = 8;

/// Proves it; gives the installed packages that have to go because one of the group does the same.
///
/// # Errors
/// The clash that is in the way, by the names of both packages.
pub fn prove(repository: &Repository, groups: &[String], status: &str) -> Result<Vec<String>> {
    let (mut status, mut replaced) = (status.to_owned(), Vec::new());
    loop {
        let base = Base {
            name: "this machine",
            status: &status,
        };
        let verdicts = repository.prove(base, groups)?;
        let Some(refused) = verdicts.into_iter().find(|verdict| !verdict.installs) else {
            return Ok(replaced);
        };
        match same_function(&refused, &status) {
            Some((name, rest)) if replaced.len() < LIMIT => {
                replaced.push(name);
                status = rest;
            }
            _ => {
                let found: std::result::Result<(), Error> = refused.into_result();
                found?;
                return Ok(replaced);
            }
        }
    }
}

/// The installed one of two packages of which only one can be there because both do the same: each provides the name with
/// which the other conflicts, as mail servers and time daemons do (Debian Policy, 7.6.2). Also the status without it.
fn same_function(refused: &Verdict, status: &str) -> Option<(String, String)> {
    let clash = refused.clash.as_ref()?;
    let function = clash.requirement.strip_prefix("Conflicts: ")?;
    let pair = [Some(clash.package.as_str()), clash.with.as_deref()];
    pair.into_iter().flatten().find_map(|package| {
        let name = package.split(' ').next()?;
        let stanza = status.split("\n\n").find(|stanza| {
            let first = stanza.trim_start().lines().next();
            first.and_then(|line| line.strip_prefix("Package: ")) == Some(name)
        })?;
        (provides(stanza, function) && may_go(stanza))
            .then(|| (name.to_owned(), status.replacen(stanza, "", 1)))
    })
}

fn field<'a>(stanza: &'a str, name: &str) -> &'a str {
    let mut lines = stanza.lines();
    let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    found.unwrap_or_default()
}

fn provides(stanza: &str, function: &str) -> bool {
    let names = field(stanza, "Provides").split(',');
    names
        .map(|name| name.split('(').next().unwrap_or_default().trim())
        .any(|name| name == function)
}

/// What a system cannot do without stays, and so does what is on hold.
fn may_go(stanza: &str) -> bool {
    field(stanza, "Essential") != "yes"
        && field(stanza, "Protected") != "yes"
        && !["required", "important"].contains(&field(stanza, "Priority"))
        && field(stanza, "Status").starts_with("install ")
}

#[cfg(test)]
mod tests {
    use offline_repo::proof::Clash;

    use super::*;

    const STATUS: &str = "Package: aa\nStatus: install ok installed\nPriority: required\nProvides: time-daemon\n
Package: timesyncd\nStatus: install ok installed\nPriority: standard\nProvides: time-daemon (= 1), x\n
Package: zz\nStatus: install ok installed\n";

    #[test]
    fn one_of_two_that_do_the_same() {
        for (package, requirement, with, expected) in [
            (
                "chrony 4",
                "Conflicts: time-daemon",
                "timesyncd 257",
                Some("timesyncd"),
            ),
            (
                "timesyncd 257",
                "Conflicts: time-daemon",
                "chrony 4",
                Some("timesyncd"),
            ),
            ("chrony 4", "Conflicts: time-daemon", "aa 1", None),
            ("chrony 4", "Conflicts: zz", "zz 1", None),
            ("chrony 4", "Breaks: time-daemon", "timesyncd 257", None),
        ] {
            let refused = Verdict {
                base: "b".into(),
                group: "g".into(),
                installs: false,
                clash: Some(Clash {
                    package: package.into(),
                    requirement: requirement.into(),
                    with: Some(with.into()),
                }),
                explanation: Vec::new(),
            };
            let found = same_function(&refused, STATUS);
            let name = found.as_ref().map(|(name, _)| name.as_str());
            assert_eq!(name, expected, "{package} {requirement} {with}");
            if let Some((_, rest)) = found {
                assert!(!rest.contains("timesyncd") && rest.contains("Package: zz"));
            }
        }
    }
}
