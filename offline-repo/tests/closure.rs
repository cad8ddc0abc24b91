//! Tables of small universes: what a request needs, and how it is told that it cannot be met.

mod support;

use std::collections::BTreeMap;

use offline_repo::closure::{Chosen, Wishes, closure};
use offline_repo::resolve::Resolver;
use offline_repo::universe::{IndexText, Universe};
use support::tables::index;

fn universe(indexes: &[(&str, i32)]) -> Universe {
    let texts = indexes.iter().map(|(lines, priority)| IndexText {
        origin: "Packages".into(),
        text: index(lines).into(),
        priority: *priority,
    });
    Universe::parse(texts.collect(), "amd64").unwrap()
}

fn wishes(requests: &[&str]) -> Wishes {
    Wishes {
        groups: BTreeMap::from([(
            "g".to_string(),
            requests.iter().map(|r| r.to_string()).collect(),
        )]),
        ..Wishes::default()
    }
}

fn solve(universe: &Universe, wishes: &Wishes) -> Result<Vec<Chosen>, String> {
    let resolver = Resolver::new(universe).unwrap();
    closure(&resolver, wishes).map_err(|e| format!("{} {e}", e.code()))
}

/// "name=version" of each chosen package.
fn names(universe: &Universe, wishes: &Wishes) -> String {
    match solve(universe, wishes) {
        Ok(chosen) => {
            let name = |c: &Chosen| format!("{}={}", universe.name(c.id), universe.version(c.id));
            chosen.iter().map(name).collect::<Vec<_>>().join(" ")
        }
        Err(error) => error,
    }
}

#[test]
fn what_a_request_needs() {
    let tables: &[(&str, &str, &[&str], &str)] = &[
        ("versions", "aa 1\naa 2\naa 1.9", &["aa"], "aa=2"),
        ("an exact version", "aa 1\naa 2", &["aa=1"], "aa=1"),
        (
            "first alternative",
            "aa 1 | Depends: bb or cc\nbb 1\ncc 1",
            &["aa"],
            "aa=1 bb=1",
        ),
        (
            "second, the first does not exist",
            "aa 1 | Depends: bb or cc\ncc 1",
            &["aa"],
            "aa=1 cc=1",
        ),
        (
            "second, the first is too old",
            "aa 1 | Depends: bb (>= 2) or cc\nbb 1\ncc 1",
            &["aa"],
            "aa=1 cc=1",
        ),
        (
            "second, requested anyway",
            "aa 1 | Depends: bb or cc\nbb 1\ncc 1",
            &["aa", "cc"],
            "aa=1 cc=1",
        ),
        (
            "the first, though the second is needed deeper down",
            "aa 1 | Depends: bb or cc, dd\nbb 1\ncc 1\ndd 1 | Depends: ee\nee 1 | Depends: cc",
            &["aa"],
            "aa=1 bb=1 cc=1 dd=1 ee=1",
        ),
        (
            "the second, if it is there when the choice comes",
            "aa 1 | Depends: dd, bb or cc\nbb 1\ncc 1\ndd 1 | Depends: ee\nee 1 | Depends: cc",
            &["aa"],
            "aa=1 cc=1 dd=1 ee=1",
        ),
        (
            "of equal providers the one heard of last",
            "aa 1 | Depends: vv\nbb 1 | Provides: vv\ncc 1 | Provides: vv",
            &["aa"],
            "aa=1 cc=1",
        ),
        (
            "a conflict about another architecture",
            "aa 1 | Depends: bb | Conflicts: bb:i386\nbb 1",
            &["aa"],
            "aa=1 bb=1",
        ),
        (
            "what was asked for keeps away what it conflicts with",
            "aa 1 | Conflicts: bb\ncc 1 | Depends: bb or dd\nbb 1\ndd 1",
            &["cc", "aa"],
            "aa=1 cc=1 dd=1",
        ),
        (
            "real before provider",
            "aa 1 | Depends: vv\nbb 9 | Provides: vv\nvv 1",
            &["aa"],
            "aa=1 vv=1",
        ),
        (
            "provider",
            "aa 1 | Depends: vv\nbb 9 | Provides: vv, ww",
            &["aa"],
            "aa=1 bb=9",
        ),
        (
            "provider of higher priority",
            "aa 1 | Depends: vv\nbb 1 | Provides: vv | Priority: optional\ncc 1 | Provides: vv | Priority: required",
            &["aa"],
            "aa=1 cc=1",
        ),
        (
            "versioned provides",
            "aa 1 | Depends: vv (>= 2)\nbb 1 | Provides: vv\ncc 1 | Provides: vv (= 2)",
            &["aa"],
            "aa=1 cc=1",
        ),
        (
            "pre-depends",
            "aa 1 | Pre-Depends: bb\nbb 1",
            &["aa"],
            "aa=1 bb=1",
        ),
        (
            "recommends are not followed",
            "aa 1 | Recommends: bb\nbb 1",
            &["aa"],
            "aa=1",
        ),
        (
            "cycles",
            "aa 1 | Depends: bb\nbb 1 | Depends: aa",
            &["aa"],
            "aa=1 bb=1",
        ),
        (
            "any architecture",
            "aa 1 | Depends: py:any\npy 1 | Multi-Arch: allowed",
            &["aa"],
            "aa=1 py=1",
        ),
        (
            "conflict takes the other alternative",
            "aa 1 | Depends: bb or cc\nbb 1 | Conflicts: dd\ncc 1\ndd 1",
            &["aa", "dd"],
            "aa=1 cc=1 dd=1",
        ),
        (
            "breaks of another version",
            "aa 1 | Breaks: bb (<< 1)\nbb 1",
            &["aa", "bb"],
            "aa=1 bb=1",
        ),
        (
            "conflict with a name it provides",
            "aa 1 | Provides: vv | Conflicts: vv\nbb 1 | Depends: vv",
            &["aa", "bb"],
            "aa=1 bb=1",
        ),
        (
            "an older version where the newest does not fit",
            "aa 1 | Depends: bb (<< 2)\nbb 1\nbb 2",
            &["aa"],
            "aa=1 bb=1",
        ),
        (
            "alternatives in a request",
            "aa 1\nbb 1",
            &["zz | bb"],
            "bb=1",
        ),
    ];
    for (what, lines, requests, expected) in tables {
        let universe = universe(&[(lines, 0)]);
        assert_eq!(names(&universe, &wishes(requests)), *expected, "{what}");
    }
}

#[test]
fn recommends_when_asked() {
    let tables = [
        (
            "aa 1 | Recommends: bb\nbb 1 | Recommends: cc\ncc 1",
            "aa=1 bb=1 cc=1",
        ),
        ("aa 1 | Recommends: bb, cc\ncc 1", "aa=1 cc=1"),
        (
            "aa 1 | Recommends: bb or cc\nbb 1 | Conflicts: aa\ncc 1",
            "aa=1 cc=1",
        ),
        (
            "aa 1 | Recommends: bb | Depends: cc\nbb 1 | Depends: zz\ncc 1",
            "aa=1 cc=1",
        ),
    ];
    for (lines, expected) in tables {
        let universe = universe(&[(lines, 0)]);
        let wishes = Wishes {
            recommends: true,
            ..wishes(&["aa"])
        };
        assert_eq!(names(&universe, &wishes), expected, "{lines}");
    }
}

#[test]
fn suites_and_priorities() {
    let base = "aa 1 | Depends: bb\nbb 1";
    for (security, priority, expected) in [
        ("bb 1.1", 0, "aa=1 bb=1.1"),
        ("bb 0.9", 0, "aa=1 bb=1"),
        ("bb 0.9", 10, "aa=1 bb=0.9"),
        ("bb 0.9", -10, "aa=1 bb=1"),
    ] {
        let universe = universe(&[(base, 0), (security, priority)]);
        assert_eq!(
            names(&universe, &wishes(&["aa"])),
            expected,
            "{security} {priority}"
        );
    }
}

#[test]
fn essential_groups_and_reasons() {
    let lines = "base 1 | Essential: yes | Depends: libc\nlibc 1\ndb 1 | Depends: libc, ssl\nssl 1\nweb 1 | Depends: ssl";
    let universe = universe(&[(lines, 0)]);
    let wishes = Wishes {
        groups: BTreeMap::from([
            ("data".to_string(), vec!["db".to_string()]),
            ("front".to_string(), vec!["web".to_string()]),
        ]),
        include_essential: true,
        recommends: false,
    };
    let chosen = solve(&universe, &wishes).unwrap();
    let shown: Vec<String> = chosen
        .iter()
        .map(|c| {
            format!(
                "{} {} [{}] {}",
                universe.name(c.id),
                c.essential,
                c.groups.join(","),
                c.why
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            "base true [] essential",
            "db false [data] group data",
            "libc true [data] db",
            "ssl false [data,front] db",
            "web false [front] group front",
        ]
    );
}

#[test]
fn errors_explain_themselves() {
    let lines = "aa 1\nff 1 | Depends: ==";
    let universe = universe(&[(lines, 0)]);
    for (requests, expected) in [
        (
            &["ab"][..],
            "FR-RESOLVE-UNKNOWN no archive has a package 'ab', did you mean 'aa'?",
        ),
        (
            &["nothing-like-it"],
            "FR-RESOLVE-UNKNOWN no archive has a package 'nothing-like-it'",
        ),
        (
            &["ff"],
            "FR-REPO-INVALID Packages: Depends of ff 1: '==' is not a package name",
        ),
        (
            &["a b"],
            "FR-REPO-INVALID package list of group 'g': 'a b' is not a package name",
        ),
    ] {
        let error = names(&universe, &wishes(requests));
        println!("{error}\n");
        assert!(
            error.starts_with(expected),
            "{requests:?}\n{error}\n{expected}"
        );
    }
}

#[test]
fn broken_indexes_name_the_line() {
    for (text, message) in [
        (
            "Package: aa\nVersion: 1\n",
            "Packages:2: a package without a valid Architecture field ends here",
        ),
        (
            "Package: ../a\n\n",
            "Packages:2: a package without a valid Package field ends here",
        ),
        (
            "Package: aa\nVersion: 1/2\n",
            "Packages:2: a package without a valid Version field ends here",
        ),
        (
            "Package: aa\nVersion: 1\nArchitecture: all\nFilename: ../x.deb\n",
            "Packages:4: a package without a valid Filename field ends here",
        ),
        (
            "Package: aa\nVersion: 1\nArchitecture: all\nFilename: x.deb\nSize: 1\nSHA256: 00\n",
            "Packages:6: a package without valid Size and SHA256 fields ends here",
        ),
    ] {
        let texts = vec![IndexText {
            origin: "Packages".into(),
            text: text.to_string().into(),
            priority: 0,
        }];
        assert_eq!(
            Universe::parse(texts, "amd64").unwrap_err().to_string(),
            message
        );
    }
}
