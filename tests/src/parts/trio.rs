//! Three meta nodes: losing any one of them changes nothing for clients.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::cluster::Cluster;
use e2e::fleet::Fleet;
use e2e::world::World;

/// How long all may take to be green again.
const GREEN: Duration = Duration::from_secs(120);
/// Bar for a writer through a machine that lives when the primary's dies, and when another's does, in seconds.
const FAILOVER: f64 = 45.0;
const NOTHING: f64 = 10.0;
/// How long a machine stays off.
const OFF: Duration = Duration::from_secs(40);

/// What a client wants of any meta node that lives.
const WANTED: [(&str, &str); 5] = [
    (
        "names",
        "test \"$(dig +short +time=2 +tries=1 @$A h.pigsty)\" != ''",
    ),
    (
        "portal",
        "curl -fsS -m 5 -o /dev/null -H 'Host: h.pigsty' http://$A/",
    ),
    (
        "repository",
        "curl -fsS -m 5 -o /dev/null -H 'Host: h.pigsty' http://$A/pigsty/Packages.gz",
    ),
    (
        "metrics",
        "curl -fsS -m 5 \"http://$A:9090/api/v1/query?query=up\" | grep -q '\"success\"'",
    ),
    (
        "store",
        "curl -fsS -m 5 --cacert /etc/farrow/ca.crt --cert /etc/patroni/server.crt --key /etc/patroni/server.key https://$A:2379/health | grep -q true",
    ),
];

/// Each of the three loses its power once, while a writer and a reader use every member of `pg-meta`.
pub fn any_may_die(world: &World) -> Result<()> {
    let fleet = Fleet::start_apart(world, "trio", "trio", &[])?;
    println!(
        "    three meta nodes ready after {:.1} s",
        fleet.boot_seconds
    );
    let members = (1..=3)
        .map(|seq| (format!("meta-{seq}"), format!("pg-meta-{seq}")))
        .collect();
    let cluster = Cluster::new(&fleet, "pg-meta", ("dbuser_meta", "meta"), members, GREEN)?;
    cluster.wait_green()?;
    let nodes = fleet.nodes();
    for (round, node) in (1..).zip(&nodes) {
        let leads = cluster.primary()? == *node;
        let mut green = 0.0;
        let observed = cluster.during(round, || {
            fleet.order(&["power-cut", node])?;
            std::thread::sleep(OFF);
            for other in nodes.iter().filter(|other| *other != node) {
                serves(&fleet, other, &nodes)?;
            }
            fleet.order(&["power-on", node])?;
            let on = Instant::now();
            cluster.wait_green()?;
            green = on.elapsed().as_secs_f64();
            Ok(())
        })?;
        let bar = if leads { FAILOVER } else { NOTHING };
        let seen = &observed.seen;
        let lives = |other: &str| other != node;
        let gap = seen.longest_gap(&seen.writers, lives, observed.from);
        let gap = gap.context("a writer")?.0;
        println!(
            "    {node} off{}: gap {gap:.1} s (bar {bar:.0} s), {} rows, {} lost, green after {green:.1} s",
            if leads { ", the primary" } else { "" },
            observed.acknowledged,
            observed.lost
        );
        ensure!(gap <= bar, "{node}: {gap:.1} s without writes");
        ensure!(observed.lost == 0, "{node}: {} rows lost", observed.lost);
        ensure!(seen.two_primaries() == 0.0, "{node}: two primaries");
    }
    fleet.stop()
}

/// A meta node that lives does all that clients want of it.
fn serves(fleet: &Fleet<'_>, node: &str, nodes: &[String]) -> Result<()> {
    let last = nodes
        .iter()
        .position(|other| other == node)
        .context("a node")?;
    for (what, script) in WANTED {
        let script = format!("A=10.10.10.{}\n{script}\n", 10 + last);
        let outcome = fleet.script(node, &script)?;
        ensure!(
            outcome.code == Some(0),
            "{what} of {node}: {}{}",
            outcome.stdout,
            outcome.stderr
        );
    }
    Ok(())
}
