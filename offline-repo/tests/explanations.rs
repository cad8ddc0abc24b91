//! How a request that cannot be met is explained; `golden/conflicts.txt` holds the texts.

mod support;

use std::collections::BTreeMap;

use offline_repo::closure::{Wishes, closure};
use offline_repo::resolve::Resolver;
use offline_repo::universe::{IndexText, Universe};
use support::tables::index;

/// What it is about, the indexes with their priorities, the request.
type Case<'a> = (&'a str, &'a [(&'a str, i32)], &'a [&'a str]);

const CASES: &[Case<'_>] = &[
    (
        "a package that nobody has",
        &[("database 17 | Depends: client, libfoo1\nclient 17", 0)],
        &["database"],
    ),
    (
        "a version that is too low",
        &[(
            "database 17 | Depends: client\nclient 17 | Depends: libc (>= 2.41)\nlibc 2.36-9",
            0,
        )],
        &["database"],
    ),
    (
        "two packages that conflict",
        &[(
            "postfix 3 | Conflicts: exim\nexim 4\nweb 1 | Depends: exim",
            0,
        )],
        &["postfix", "web"],
    ),
    (
        "two packages that conflict by a name that both provide",
        &[(
            "postfix 3 | Provides: mta | Conflicts: mta\nexim 4 | Provides: mta | Conflicts: mta",
            0,
        )],
        &["postfix", "exim"],
    ),
    (
        "pinned out",
        &[
            ("agent 1 | Depends: runtime", 500),
            ("runtime 2\nrunner 1", -1),
        ],
        &["agent"],
    ),
    (
        "pinned out, and too old elsewhere",
        &[
            ("agent 1 | Depends: runtime (>= 2)\nruntime 1", 500),
            ("runtime 2", -1),
        ],
        &["agent"],
    ),
    (
        "Breaks",
        &[(
            "libc 2.41 | Breaks: locales (<< 2.41)\ntool 1 | Depends: libc (>= 2.41)\nlocales 2.36",
            0,
        )],
        &["tool", "locales"],
    ),
    (
        "another architecture",
        &[("wine 9 | Depends: wine32:i386\nwine32 9", 0)],
        &["wine"],
    ),
    (
        "the same package in two versions",
        &[("etcd 3.4\netcd 3.5\nold 1 | Depends: etcd (= 3.4)", 0)],
        &["old", "etcd=3.5"],
    ),
    (
        "no alternative can be had",
        &[(
            "app 1 | Depends: awk (>= 2) or gawk (>= 9)\nmawk 1 | Provides: awk\ngawk 5",
            0,
        )],
        &["app"],
    ),
    (
        "a version that nobody has",
        &[("etcd 3.4\netcd 3.5", 0)],
        &["etcd=3.6"],
    ),
];

#[test]
fn conflicts_are_explained() {
    let mut text = String::new();
    for (what, indexes, requests) in CASES {
        let texts = indexes.iter().map(|(lines, priority)| IndexText {
            origin: "Packages".into(),
            text: index(lines).into(),
            priority: *priority,
        });
        let universe = Universe::parse(texts.collect(), "amd64").unwrap();
        let requests = requests.iter().map(|request| request.to_string()).collect();
        let wishes = Wishes {
            groups: BTreeMap::from([("g".to_string(), requests)]),
            ..Wishes::default()
        };
        let error = closure(&Resolver::new(&universe).unwrap(), &wishes).unwrap_err();
        text += &format!("== {what}\n{} {error}\n\n", error.code());
    }
    let golden = include_str!("golden/conflicts.txt");
    assert_eq!(text.trim_end(), golden.trim_end(), "\n{text}");
}
