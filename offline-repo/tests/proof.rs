//! Whether groups install on systems in given states: small tables, and each verdict checked against what is expected.

mod support;

use std::collections::BTreeMap;

use offline_repo::proof::{Base, Verdict, prove};
use offline_repo::universe::IndexText;
use support::tables::{index, status};

fn verdict(repository: &str, installed: &str, requests: &[&str]) -> Verdict {
    let text = status(installed);
    judge(repository, &text, requests).unwrap()
}

fn judge(repository: &str, status: &str, requests: &[&str]) -> offline_repo::Result<Verdict> {
    let packages = IndexText {
        origin: "Packages".into(),
        text: index(repository).into(),
        priority: 0,
    };
    let base = Base {
        name: "this machine",
        status,
    };
    let requests = requests.iter().map(ToString::to_string).collect();
    let groups = BTreeMap::from([("g".to_string(), requests)]);
    let verdicts = prove(packages, "amd64", base, &groups)?;
    Ok(verdicts.into_iter().next().unwrap())
}

#[test]
fn what_installs_and_what_does_not() {
    // Repository, what is installed, request, and the clash if there is one.
    let table: &[(&str, &str, &str, &[&str], &str)] = &[
        (
            "everything is in the repository",
            "aa 1 | Depends: bb\nbb 1",
            "zz 1",
            &["aa"],
            "",
        ),
        (
            "a dependency is installed",
            "aa 1 | Depends: bb (>= 2)",
            "bb 2",
            &["aa"],
            "",
        ),
        (
            "the installed one is too old and there is no other",
            "aa 1 | Depends: bb (>= 2)",
            "bb 1",
            &["aa"],
            "aa 1 (Depends: bb (>= 2)), which nothing satisfies",
        ),
        (
            "the installed one is too old and the repository has a newer one",
            "aa 1 | Depends: bb (>= 2)\nbb 2",
            "bb 1",
            &["aa"],
            "",
        ),
        (
            "the newer one breaks something installed",
            "aa 1 | Depends: bb (>= 2)\nbb 2 | Breaks: cc (<< 2)",
            "bb 1\ncc 1 | Depends: bb",
            &["aa"],
            "bb 2 (Breaks: cc (<< 2)) and cc 1",
        ),
        (
            "an installed package conflicts with it",
            "aa 1",
            "cc 1 | Conflicts: aa",
            &["aa"],
            "cc 1 (Conflicts: aa) and aa 1",
        ),
        (
            "it conflicts with what is provided by an installed package",
            "aa 1 | Conflicts: mta | Provides: mta",
            "cc 1 | Provides: mta",
            &["aa"],
            "aa 1 (Conflicts: mta) and cc 1",
        ),
        (
            "a newer version no longer conflicts",
            "aa 1\ncc 2",
            "cc 1 | Conflicts: aa",
            &["aa"],
            "",
        ),
        (
            "what is installed is never downgraded",
            "aa 1 | Depends: bb (= 1)\nbb 1",
            "bb 2",
            &["aa"],
            "aa 1 (Depends: bb (= 1)), which nothing satisfies",
        ),
        (
            "the request is installed in a newer version",
            "aa 1",
            "aa 2",
            &["aa"],
            "",
        ),
        (
            "an installed package needs exactly the old version",
            "aa 1 | Depends: bb (>= 2)\nbb 2",
            "bb 1\ncc 1 | Depends: bb (= 1)",
            &["aa"],
            "bb 2 (another version of the package) and bb 1",
        ),
        (
            "nothing has it",
            "aa 1",
            "bb 1",
            &["nn"],
            "the request (nn), which nothing satisfies",
        ),
        (
            "the base is broken by itself",
            "aa 1",
            "cc 1 | Depends: dd",
            &["aa"],
            "cc 1 (Depends: dd), which nothing satisfies",
        ),
        (
            "an empty tree",
            "aa 1\nee 1 | Essential: yes",
            "",
            &["aa"],
            "",
        ),
        (
            "an empty tree that the essential packages cannot be had for",
            "aa 1\nee 1 | Essential: yes | Depends: ff",
            "",
            &["aa"],
            "ee 1 (Depends: ff), which nothing satisfies",
        ),
    ];
    for (what, repository, installed, requests, expected) in table {
        let found = verdict(repository, installed, requests);
        let clash = found
            .clash
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        assert_eq!(clash, *expected, "{what}\n{}", found.explanation.join("\n"));
        assert_eq!(found.installs, expected.is_empty(), "{what}");
        assert_eq!(found.explanation.is_empty(), expected.is_empty(), "{what}");
    }
}

#[test]
fn holds_and_other_architectures_keep_a_version() {
    let repository = "aa 1 | Depends: bb (>= 2)\nbb 2";
    let held = status("bb 1").replace("install ok installed", "hold ok installed");
    assert!(!judge(repository, &held, &["aa"]).unwrap().installs);
    let foreign = status("bb 1").replace("amd64", "i386");
    assert!(judge(repository, &foreign, &["aa"]).unwrap().installs);
    let both = format!("{}{foreign}", status("bb 1"));
    assert!(!judge(repository, &both, &["aa"]).unwrap().installs);
    let removed =
        status("cc 1 | Conflicts: aa").replace("install ok installed", "deinstall ok config-files");
    assert!(judge("aa 1", &removed, &["aa"]).unwrap().installs);
}

#[test]
fn what_is_no_status_file_is_refused() {
    for (text, message) in [
        (
            status("bb 1").replace("install ok installed", "install ok half-configured"),
            "the status of this machine: package 'bb' is half-configured; run dpkg --configure -a first",
        ),
        (
            status("bb 1").replace("install ok installed", "fine"),
            "the status of this machine: package 'bb' has no valid Status field",
        ),
        (
            status("bb 1").replace("Version: 1", "Version: /"),
            "the status of this machine:5: a package without a valid Version field ends here",
        ),
        (
            "nonsense".to_string(),
            "the status of this machine:1: expected 'Field: value'",
        ),
    ] {
        let error = judge("aa 1", &text, &["aa"]).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}
