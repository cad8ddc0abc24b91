//! What clients see while machines, processes and the network fail: longest gaps, lost rows, two primaries at once.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::fleet::Fleet;
use e2e::load::{Account, Load, Target, wait_primary};
use e2e::world::World;

/// The database machines of the sandbox.
const MEMBERS: [(&str, &str); 3] = [
    ("node-1", "pg-test-1"),
    ("node-2", "pg-test-2"),
    ("node-3", "pg-test-3"),
];
/// How long the load runs before something is done to the machines.
const BEFORE: Duration = Duration::from_secs(4);
/// How long all may take to be green again.
const GREEN: Duration = Duration::from_secs(120);

/// One thing that goes wrong.
struct Scenario {
    name: &'static str,
    /// Shell script in a machine, or orders to `farrow machine`; `@P` is the primary, `@R` a replica.
    orders: &'static [&'static [&'static str]],
    /// How long it lasts before it is undone.
    lasts: Duration,
    undo: &'static [&'static [&'static str]],
    /// Machines through which nobody can be expected to come.
    dark: &'static [&'static str],
    /// Bar for the longest gap of writers elsewhere, in seconds.
    bar: f64,
}

const SECOND: Duration = Duration::from_secs(1);

const SCENARIOS: &[Scenario] = &[
    Scenario {
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
        undo: &[],
        dark: &[],
        bar: 10.0,
    },
    Scenario {
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
        undo: &[],
        dark: &[],
        bar: 15.0,
    },
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
        undo: &[],
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
        undo: &[],
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
        undo: &[],
        dark: &[],
        bar: 10.0,
    },
    Scenario {
        name: "power-off of the primary",
        orders: &[&["power-cut", "@P"]],
        lasts: Duration::from_secs(45),
        undo: &[&["power-on", "@P"]],
        dark: &["@P"],
        bar: 45.0,
    },
    Scenario {
        name: "power-off of a replica",
        orders: &[&["power-cut", "@R"]],
        lasts: Duration::from_secs(10),
        undo: &[&["power-on", "@R"]],
        dark: &["@R"],
        bar: 10.0,
    },
    Scenario {
        name: "power-off of the meta node",
        orders: &[&["power-cut", "meta"]],
        lasts: Duration::from_secs(40),
        undo: &[&["power-on", "meta"]],
        dark: &[],
        bar: 15.0,
    },
    Scenario {
        name: "store stopped",
        orders: &[&["exec", "meta", "--", "systemctl", "stop", "etcd"]],
        lasts: Duration::from_secs(60),
        undo: &[&["exec", "meta", "--", "systemctl", "start", "etcd"]],
        dark: &[],
        bar: 15.0,
    },
    Scenario {
        name: "primary cut off from all",
        orders: &[&["cut", "@P"]],
        lasts: Duration::from_secs(45),
        undo: &[&["heal"]],
        dark: &["@P"],
        bar: 45.0,
    },
    Scenario {
        name: "primary cut off from the store",
        orders: &[&["cut", "@P", "--from", "meta"]],
        lasts: Duration::from_secs(40),
        undo: &[&["heal"]],
        dark: &[],
        bar: 45.0,
    },
    Scenario {
        name: "20 % packet loss",
        orders: &[&["loss", "@P", "20"]],
        lasts: Duration::from_secs(20),
        undo: &[&["heal"]],
        dark: &[],
        bar: 45.0,
    },
];

/// What came of one scenario.
struct Outcome {
    name: &'static str,
    write_gap: f64,
    read_gap: f64,
    acknowledged: usize,
    lost: usize,
    two_primaries: f64,
    green: f64,
    bar: f64,
}

/// Runs every scenario on one sandbox, one after the other, with a writer and a reader through each member.
pub fn scenarios(world: &World) -> Result<()> {
    let fleet = Fleet::start(world, "failover", "sandbox", &[])?;
    let bench = Bench::new(&fleet)?;
    let mut outcomes = Vec::new();
    for (round, scenario) in (1..).zip(SCENARIOS) {
        let outcome = bench
            .run(scenario, round)
            .with_context(|| scenario.name.to_owned())?;
        println!(
            "    {:<32} gap {:>5.1} s (bar {:>4.0}), reads {:>5.1} s, {:>4} rows, {} lost, two primaries {:.1} s, green after {:>5.1} s",
            outcome.name,
            outcome.write_gap,
            outcome.bar,
            outcome.read_gap,
            outcome.acknowledged,
            outcome.lost,
            outcome.two_primaries,
            outcome.green
        );
        outcomes.push(outcome);
    }
    std::fs::write(world.root.join("failover.md"), render(&outcomes)?)?;
    for outcome in &outcomes {
        ensure!(
            outcome.two_primaries == 0.0,
            "{}: two primaries",
            outcome.name
        );
        ensure!(
            outcome.lost == 0,
            "{}: {} rows lost",
            outcome.name,
            outcome.lost
        );
        ensure!(
            outcome.write_gap <= outcome.bar,
            "{}: {:.1} s without writes, bar {:.0} s",
            outcome.name,
            outcome.write_gap,
            outcome.bar
        );
    }
    fleet.stop()
}

/// The sandbox with its clients' way in.
struct Bench<'a> {
    fleet: &'a Fleet<'a>,
    account: Account,
    writers: Vec<Target>,
    readers: Vec<Target>,
    rest: Vec<Target>,
}

impl<'a> Bench<'a> {
    fn new(fleet: &'a Fleet<'a>) -> Result<Self> {
        let targets = |port: u16| -> Result<Vec<Target>> {
            MEMBERS
                .iter()
                .map(|(node, name)| {
                    Ok(Target {
                        node: (*node).to_owned(),
                        address: fleet.address(node, port)?.parse()?,
                        name: (*name).to_owned(),
                    })
                })
                .collect()
        };
        let bench = Bench {
            fleet,
            account: Account {
                user: "test".into(),
                password: fleet.password("pg-test", "test")?.to_owned(),
                database: "test".into(),
                ca: fleet.ask("node-1", "cat /etc/farrow/ca.crt")?,
            },
            writers: targets(5433)?,
            readers: targets(5434)?,
            rest: targets(8008)?,
        };
        let primary = wait_primary(&bench.rest, GREEN)?;
        bench.query(
            &primary,
            "set role test; create table if not exists load(id bigint primary key)",
        )?;
        Ok(bench)
    }

    fn query(&self, node: &str, sql: &str) -> Result<String> {
        let script = format!("runuser -u postgres -- psql -XAtq -d test <<'SQL'\n{sql};\nSQL\n");
        self.fleet.ask(node, &script)
    }

    fn order(&self, orders: &[&[&str]], primary: &str, replica: &str) -> Result<()> {
        for words in orders {
            let words: Vec<String> = words
                .iter()
                .map(|word| word.replace("@P", primary).replace("@R", replica))
                .collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            self.fleet.order(&words)?;
        }
        Ok(())
    }

    fn run(&self, scenario: &Scenario, round: i64) -> Result<Outcome> {
        let primary = wait_primary(&self.rest, GREEN)?;
        let mut others = MEMBERS.iter().map(|(node, _)| *node);
        let replica = others.find(|node| *node != primary).context("a replica")?;
        let first_id = round * 1_000_000_000;
        let load = Load::start(
            &self.account,
            &self.writers,
            &self.readers,
            &self.rest,
            first_id,
        )?;
        std::thread::sleep(BEFORE);
        let from = load.now();
        self.order(scenario.orders, &primary, replica)?;
        std::thread::sleep(scenario.lasts);
        self.order(scenario.undo, &primary, replica)?;
        let undone = Instant::now();
        self.wait_green()?;
        let green = undone.elapsed().as_secs_f64();
        std::thread::sleep(BEFORE);
        let seen = load.finish()?;
        let dark: Vec<String> = scenario
            .dark
            .iter()
            .map(|node| node.replace("@P", &primary).replace("@R", replica))
            .collect();
        let lit = |node: &str| !dark.iter().any(|dark| dark == node);
        let acknowledged = seen.acknowledged();
        let leader = wait_primary(&self.rest, GREEN)?;
        let stored = self.query(
            &leader,
            &format!("select id from load where id >= {first_id}"),
        )?;
        let stored: std::collections::BTreeSet<i64> = stored
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect();
        Ok(Outcome {
            name: scenario.name,
            write_gap: seen
                .longest_gap(&seen.writers, lit, from)
                .context("writers")?
                .0,
            read_gap: seen
                .longest_gap(&seen.readers, lit, from)
                .context("readers")?
                .0,
            acknowledged: acknowledged.len(),
            lost: acknowledged.difference(&stored).count(),
            two_primaries: seen.two_primaries(),
            green,
            bar: scenario.bar,
        })
    }

    /// All members say that they are what they should be: one primary, and two replicas that stream.
    fn wait_green(&self) -> Result<()> {
        let primary = wait_primary(&self.rest, GREEN)?;
        let script = "runuser -u postgres -- psql -XAtqc \"select count(*) from pg_stat_replication where state = 'streaming'\"";
        self.fleet
            .until(&primary, script, GREEN, |said| said == "2")?;
        for node in self.fleet.nodes() {
            self.fleet.until(
                &node,
                "test -e /run/farrow/status.json && farrow-bootstrap status >/dev/null",
                GREEN,
                |_| true,
            )?;
        }
        Ok(())
    }
}

fn render(outcomes: &[Outcome]) -> Result<String> {
    let mut text = String::from(
        "| What happens | Longest write gap (s) | Bar | Longest read gap (s) | Rows acknowledged | Lost | Two primaries (s) | All green after (s) |\n|---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for o in outcomes {
        writeln!(
            text,
            "| {} | {:.1} | {:.0} | {:.1} | {} | {} | {:.1} | {:.1} |",
            o.name,
            o.write_gap,
            o.bar,
            o.read_gap,
            o.acknowledged,
            o.lost,
            o.two_primaries,
            o.green
        )?;
    }
    Ok(text)
}
