//! Closure proofs of yum repositories: does a group install on a system in a given state, from the repository alone?
//!
//! A state is what rpm answers to [`QUERY`]. The question is that of `dnf install GROUP…` with the repository as the only
//! source: everything that is installed stays, in its version or in a newer one from the repository, or something from there
//! takes its place by Obsoletes. As for dnf, what installed packages lack already is no obstacle.

use super::metadata::Elements;
use super::repodata;
use super::resolve;
use super::universe::Universe;
use crate::error::{Error, Result};
use crate::proof::{Base, Groups, Verdict, obstacle_of};

/// How rpm is asked what is installed: `rpm -qa --qf QUERY`.
///
/// The `…NEVRS` tags are relations as a spec file writes them (rpm-queryformat(7)); brackets repeat a line for each element,
/// and for a tag that is not there would print `(none)`.
pub const QUERY: &str = "Package: %{NAME}\\nVersion: %|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\\nArchitecture: %{ARCH}\\n\
    %|PROVIDENAME?{[Provides: %{PROVIDENEVRS}\\n]}:{}|%|REQUIRENAME?{[Requires: %{REQUIRENEVRS}\\n]}:{}|\
    %|CONFLICTNAME?{[Conflicts: %{CONFLICTNEVRS}\\n]}:{}|%|OBSOLETENAME?{[Obsoletes: %{OBSOLETENEVRS}\\n]}:{}|\
    %|BASENAMES?{[File: %{FILENAMES}\\n]}:{}|";

/// Proves or refutes, for each group, that it installs on `base` from the repository whose packages these are.
///
/// # Errors
/// When metadata or the answer of rpm cannot be read. That a group does not install is a verdict, not an error.
pub(crate) fn prove(
    packages: &[Elements],
    architecture: &str,
    base: Base<'_>,
    groups: &Groups,
) -> Result<Vec<Verdict>> {
    let universe = universe(packages, architecture, base, groups)?;
    let verdict = |(group, requests): (&String, &Vec<String>)| {
        let (clash, explanation) = obstacle_of(resolve::check(&universe, requests))?.unzip();
        Ok(Verdict {
            base: base.name.to_string(),
            group: group.clone(),
            installs: clash.is_none(),
            clash,
            explanation: explanation.unwrap_or_default(),
        })
    };
    groups.iter().map(verdict).collect()
}

/// What is installed and what the repository has.
fn universe(
    packages: &[Elements],
    architecture: &str,
    base: Base<'_>,
    groups: &Groups,
) -> Result<Universe> {
    let own = |message| Error::invalid("metadata of the repository", message);
    let mut universe = Universe::new(architecture);
    let primary = repodata::text("primary", packages);
    universe.read_primary(primary.as_bytes(), 0).map_err(own)?;
    universe
        .read_installed(base.status)
        .map_err(|(line, message)| Error::Syntax {
            origin: format!("the packages of {}", base.name),
            line,
            message,
        })?;
    universe.finish();
    let wanted = universe.wanted_paths(groups);
    if !wanted.is_empty() {
        let filelists = repodata::text("filelists", packages);
        universe
            .read_filelists(filelists.as_bytes(), &wanted)
            .map_err(own)?;
    }
    Ok(universe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sha256;
    use crate::rpm::metadata::{Place, elements};
    use crate::rpm::package::{Package, Relation};

    /// Kinds of relation by their place in [`Package::relations`].
    const REQUIRES: usize = 1;
    const CONFLICTS: usize = 2;
    const OBSOLETES: usize = 3;

    fn package(
        name: &str,
        version: &str,
        relations: &[(usize, &str, Option<&'static str>, &str)],
    ) -> Elements {
        let mut package = Package {
            name: name.into(),
            version: version.into(),
            release: "1".into(),
            architecture: "noarch".into(),
            ..Package::default()
        };
        for (kind, name, flags, evr) in relations {
            package.relations[*kind].push(Relation {
                name: name.to_string(),
                flags: *flags,
                evr: evr.to_string(),
                pre: false,
            });
        }
        let place = Place {
            path: format!("{name}-{version}-1.noarch.rpm"),
            size: 1,
            sha256: Sha256::of(format!("{package:?}").as_bytes()),
            time: 1,
        };
        elements(&package, &place)
    }

    fn shelf() -> Vec<Elements> {
        vec![
            package(
                "database",
                "2",
                &[
                    (REQUIRES, "ssl", Some("GE"), "2"),
                    (REQUIRES, "/usr/share/zone", None, ""),
                ],
            ),
            package("ssl", "2", &[]),
            package(
                "replacement",
                "1",
                &[
                    (OBSOLETES, "old", Some("LT"), "9"),
                    (REQUIRES, "ssl", None, ""),
                ],
            ),
            package("tools", "1", &[(CONFLICTS, "guard", Some("LT"), "8")]),
        ]
    }

    fn verdict(status: &str, request: &str) -> String {
        let groups = Groups::from([("g".to_string(), vec![request.to_string()])]);
        let base = Base { name: "b", status };
        let found = prove(&shelf(), "x86_64", base, &groups).unwrap().remove(0);
        assert_eq!(found.installs, found.clash.is_none());
        found
            .clash
            .map_or("installs".into(), |clash| clash.to_string())
    }

    const MACHINE: &str = "Package: zone\nVersion: 1-1\nArchitecture: noarch\nProvides: zone = 1-1\nFile: /usr/share/zone\n\
        Package: ssl\nVersion: 1-1\nArchitecture: x86_64\nProvides: ssl = 1-1\n";

    #[test]
    fn what_installs_on_a_machine() {
        let with = |more: &str| format!("{MACHINE}{more}");
        let bound = "Package: app\nVersion: 1:1-1\nArchitecture: noarch\nRequires: ssl = 1-1\nRequires: rpmlib(A) <= 1\n";
        let guard = "Package: guard\nVersion: 7-1\nArchitecture: noarch\nProvides: guard = 7-1\n";
        let stated = guard
            .replace(": 7-1", ": 0:7-1")
            .replace("= 7-1", "= 0:7-1");
        let old = "Package: old\nVersion: 3-1\nArchitecture: noarch\nProvides: old = 3-1\n";
        let key = "Package: gpg-pubkey\nVersion: a-b\nArchitecture: (none)\n";
        // What an installed package lacks already is no obstacle, for dnf neither.
        let broken = "Package: broken\nVersion: 1-1\nArchitecture: noarch\nRequires: nothing\n";
        for (status, request, expected) in [
            (with(""), "database", "installs"),
            (with(key), "database", "installs"),
            (with(broken), "database", "installs"),
            (with(old), "replacement", "installs"),
            (with(guard), "ssl", "installs"),
            (
                with(guard),
                "tools",
                "tools-1-1.noarch (Conflicts: guard < 8) and guard-7-1.noarch",
            ),
            (
                with(&stated),
                "tools",
                "tools-1-1.noarch (Conflicts: guard < 8) and guard-7-1.noarch",
            ),
            (
                with(""),
                "nobody",
                "the request (nobody), which nothing satisfies",
            ),
            (
                String::new(),
                "database",
                "database-2-1.noarch (Requires: /usr/share/zone), which nothing satisfies",
            ),
        ] {
            assert_eq!(
                verdict(&status, request),
                expected,
                "{request} on\n{status}"
            );
        }
        // The new ssl would break what is installed.
        let found = verdict(&with(bound), "database");
        assert!(found.contains("ssl") || found.contains("app"), "{found}");
        assert_ne!(found, "installs");
    }

    #[test]
    fn answers_that_are_none() {
        for (text, line, message) in [
            ("Version: 1-1\n", 1, "comes before the first 'Package:'"),
            ("Package: a\nnothing\n", 2, "is not 'Key: value'"),
            (
                "Package: a\nVersion: 1-1\nSize: 7\n",
                3,
                "has a key that is not known",
            ),
            (
                "Package: a\nPackage: b\n",
                1,
                "package 'a' has no valid name, version or architecture",
            ),
        ] {
            let found = Universe::new("x86_64").read_installed(text).unwrap_err();
            assert_eq!(found, (line, message.to_string()), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_answer_is_read_without_panic(text in "(Package: a\nVersion: 1-1\nArchitecture: noarch\n)?((Requires|Provides|File|X): [a(=<) 1/]{0,9}\n){0,4}[a: \n]{0,6}") {
            let mut universe = Universe::new("x86_64");
            let _ = universe.read_installed(&text);
            universe.finish();
        }
    }
}
