//! What goes wrong with the sandbox: plain data.

use std::time::Duration;

/// One thing that goes wrong.
pub struct Scenario {
    /// What happens.
    pub name: &'static str,
    /// Words for `farrow machine`; `@P` is the primary, `@R` a replica.
    pub orders: &'static [&'static [&'static str]],
    /// How long it lasts before it is undone.
    pub lasts: Duration,
    /// Words for `farrow machine` that undo it; none: it stays so, and is not waited for to be green again.
    pub undo: Option<&'static [&'static [&'static str]]>,
    /// Machines through which nobody can be expected to come; all when every machine is off.
    pub dark: &'static [&'static str],
    /// Bar for the longest gap of writers elsewhere, in seconds.
    pub bar: f64,
}

const SECOND: Duration = Duration::from_secs(1);

/// Patroni hands the primary's part to a replica.
pub const SWITCHOVER: Scenario = Scenario {
    name: "switchover",
    orders: &[&[
        "exec",
        "@P",
        "--",
        "sh",
        "-c",
        "patronictl -c /etc/patroni/config.yml switchover --force",
    ]],
    lasts: SECOND,
    undo: Some(&[]),
    dark: &[],
    bar: 10.0,
};

/// PostgreSQL's first process dies.
pub const KILL_POSTGRES: Scenario = Scenario {
    name: "kill -9 of postgres",
    orders: &[&[
        "exec",
        "@P",
        "--",
        "sh",
        "-c",
        "kill -9 $(head -1 /data/postgres/*/postmaster.pid)",
    ]],
    lasts: SECOND,
    undo: Some(&[]),
    dark: &[],
    bar: 15.0,
};

/// The primary's machine loses its power.
pub const CUT_PRIMARY: Scenario = Scenario {
    name: "power-off of the primary",
    orders: &[&["power-cut", "@P"]],
    lasts: Duration::from_secs(45),
    undo: Some(&[&["power-on", "@P"]]),
    dark: &["@P"],
    bar: 45.0,
};

/// The primary hears and reaches nobody.
pub const ISOLATED_PRIMARY: Scenario = Scenario {
    name: "primary cut off from all",
    orders: &[&["cut", "@P"]],
    lasts: Duration::from_secs(45),
    undo: Some(&[&["heal"]]),
    dark: &["@P"],
    bar: 45.0,
};

/// All power is gone, and comes back.
pub const ALL_OFF: Scenario = Scenario {
    name: "all four off and on",
    orders: &[
        &["power-cut", "meta"],
        &["power-cut", "node-1"],
        &["power-cut", "node-2"],
        &["power-cut", "node-3"],
    ],
    lasts: Duration::from_secs(5),
    undo: Some(&[
        &["power-on", "meta"],
        &["power-on", "node-1"],
        &["power-on", "node-2"],
        &["power-on", "node-3"],
    ]),
    dark: &[],
    bar: 90.0,
};

/// Everything that is done to the sandbox, in this order.
pub const ALL: &[Scenario] = &[
    SWITCHOVER,
    KILL_POSTGRES,
    Scenario {
        name: "kill -9 of patroni",
        orders: &[&[
            "exec",
            "@P",
            "--",
            "systemctl",
            "kill",
            "-s",
            "KILL",
            "--kill-whom=main",
            "patroni",
        ]],
        lasts: SECOND,
        undo: Some(&[]),
        dark: &[],
        bar: 45.0,
    },
    Scenario {
        name: "kill -9 of haproxy",
        orders: &[&[
            "exec",
            "@R",
            "--",
            "systemctl",
            "kill",
            "-s",
            "KILL",
            "haproxy",
        ]],
        lasts: SECOND,
        undo: Some(&[]),
        dark: &[],
        bar: 15.0,
    },
    Scenario {
        name: "kill -9 of etcd",
        orders: &[&[
            "exec",
            "meta",
            "--",
            "systemctl",
            "kill",
            "-s",
            "KILL",
            "etcd",
        ]],
        lasts: SECOND,
        undo: Some(&[]),
        dark: &[],
        bar: 10.0,
    },
    CUT_PRIMARY,
    Scenario {
        name: "power-off of a replica",
        orders: &[&["power-cut", "@R"]],
        lasts: Duration::from_secs(10),
        undo: Some(&[&["power-on", "@R"]]),
        dark: &["@R"],
        bar: 10.0,
    },
    Scenario {
        name: "power-off of the meta node",
        orders: &[&["power-cut", "meta"]],
        lasts: Duration::from_secs(40),
        undo: Some(&[&["power-on", "meta"]]),
        dark: &[],
        bar: 15.0,
    },
    Scenario {
        name: "store stopped for 3 minutes",
        orders: &[&["exec", "meta", "--", "systemctl", "stop", "etcd"]],
        lasts: Duration::from_secs(180),
        undo: Some(&[&["exec", "meta", "--", "systemctl", "start", "etcd"]]),
        dark: &[],
        bar: 15.0,
    },
    ISOLATED_PRIMARY,
    Scenario {
        name: "primary cut off from the store",
        orders: &[&["cut", "@P", "--from", "meta"]],
        lasts: Duration::from_secs(40),
        undo: Some(&[&["heal"]]),
        dark: &[],
        bar: 45.0,
    },
    Scenario {
        name: "20 % packet loss",
        orders: &[&["loss", "@P", "20"]],
        lasts: Duration::from_secs(20),
        undo: Some(&[&["heal"]]),
        dark: &[],
        bar: 45.0,
    },
    Scenario {
        name: "reboot of the primary",
        orders: &[&["power-off", "@P"]],
        lasts: Duration::ZERO,
        undo: Some(&[&["power-on", "@P"]]),
        dark: &["@P"],
        bar: 10.0,
    },
    Scenario {
        name: "reboot of a replica",
        orders: &[&["power-off", "@R"]],
        lasts: Duration::ZERO,
        undo: Some(&[&["power-on", "@R"]]),
        dark: &["@R"],
        bar: 10.0,
    },
    Scenario {
        name: "reboot of the offline instance",
        orders: &[&["power-off", "node-3"]],
        lasts: Duration::ZERO,
        undo: Some(&[&["power-on", "node-3"]]),
        dark: &["node-3"],
        bar: 10.0,
    },
    Scenario {
        name: "reboot of the meta node",
        orders: &[&["power-off", "meta"]],
        lasts: Duration::ZERO,
        undo: Some(&[&["power-on", "meta"]]),
        dark: &[],
        bar: 10.0,
    },
    ALL_OFF,
];

/// What is done to a cluster that replicates synchronously. Patroni notices a dead server within 5 s, restarts it and then
/// has no synchronous replica for another 7 s; the next failure must not come before, because nobody may take over then.
pub const SYNCHRONOUS: &[Scenario] = &[
    SWITCHOVER,
    Scenario {
        lasts: Duration::from_secs(10),
        ..KILL_POSTGRES
    },
    CUT_PRIMARY,
    ISOLATED_PRIMARY,
];

/// What is done to emulated machines: the one that lost its power first comes back with the rest. They take up to 300 s to
/// start, and the former primary is rewound meanwhile, by then against a busy cluster.
pub const EMULATED: &[Scenario] = &[
    Scenario {
        undo: None,
        ..CUT_PRIMARY
    },
    Scenario {
        bar: 500.0,
        ..ALL_OFF
    },
];
