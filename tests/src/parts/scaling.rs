//! A cluster that grows and shrinks by the machines that are there, while clients use it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::cluster::Cluster;
use e2e::fleet::Fleet;
use e2e::load::{Session, Target};
use e2e::world::World;

/// Bar for a replica of an empty database to serve after its power-on.
const SERVING: Duration = Duration::from_secs(60);
/// Bar for targets, names and HAProxy to follow who came.
const FOLLOWED: Duration = Duration::from_secs(10);
/// Bar for whoever died to be gone from everywhere.
const GONE: Duration = Duration::from_secs(120);
/// Bar for a gap of the writers meanwhile, in seconds: the primary stays what it is.
const GAP: f64 = 5.0;
/// How long a fleet may take to be green.
const GREEN: Duration = Duration::from_secs(120);

const CLUSTER: &str = "pg-auto";
const FIRST: &str = "pg-auto-1";
/// Instance ids and addresses of those that come.
const COMING: [(&str, &str); 3] = [
    ("i-0a", "10.10.10.31"),
    ("i-0b", "10.10.10.32"),
    ("i-0c", "10.10.10.33"),
];

/// One member becomes four, then two, as two die, then one, as one leaves in order; a writer, a reader and one open
/// session use the first member all the time.
pub fn one_to_four_to_two(world: &World) -> Result<()> {
    let fleet = Fleet::start_apart(world, "scaling", "autoscale", &[])?;
    let members = vec![(FIRST.to_owned(), FIRST.to_owned())];
    let cluster = Cluster::new(&fleet, CLUSTER, ("app", "app"), members, GREEN)?;
    let target = Target {
        node: FIRST.into(),
        // Past the pool, which would change what is behind a session.
        address: fleet.address(FIRST, 5436)?.parse()?,
        name: FIRST.into(),
    };
    let session = Session::open(&cluster.account, &target)?;
    session.query("create temporary table mine as select 1")?;
    let mut names = Vec::new();
    let observed = cluster.during(1, || {
        for (id, address) in COMING {
            names.push(joins(&fleet, id, address)?);
        }
        ensure!(streaming(&fleet)? == 3, "not all three stream");
        refuses_others(&fleet)?;
        for name in &names[..2] {
            fleet.order(&["power-cut", name])?;
        }
        let cut = Instant::now();
        for (name, (_, address)) in names.iter().zip(COMING).take(2) {
            is_gone(&fleet, name, address, GONE.saturating_sub(cut.elapsed()))?;
        }
        println!(
            "    two that died are gone after {:.1} s, bar {:.0} s",
            cut.elapsed().as_secs_f64(),
            GONE.as_secs_f64()
        );
        ensure!(streaming(&fleet)? == 1, "the third does not stream");
        let (name, (_, address)) = (&names[2], COMING[2]);
        fleet.order(&["power-off", name])?;
        is_gone(&fleet, name, address, GONE)
    })?;
    let kept = session.query("select count(*) from mine")?;
    ensure!(kept == ["1"], "the open session lost its table: {kept:?}");
    ensure!(observed.lost == 0, "{} rows lost", observed.lost);
    let seen = &observed.seen;
    for (what, logs) in [("written", &seen.writers), ("read", &seen.readers)] {
        let (gap, _) = seen
            .longest_gap(logs, |_| true, observed.from)
            .context("a client")?;
        println!("    longest time in which nothing was {what}: {gap:.1} s, bar {GAP:.0} s");
        ensure!(gap <= GAP, "{gap:.1} s in which nothing was {what}");
    }
    ensure!(seen.two_primaries() == 0.0, "two primaries");
    fleet.stop()
}

/// Nobody gets a place that is taken, and nobody joins a cluster that does not scale.
fn refuses_others(fleet: &Fleet<'_>) -> Result<()> {
    for (cluster, id, address, code) in [
        (CLUSTER, COMING[0].0, "10.10.10.44", "FR-MACHINE-TAKEN"),
        (CLUSTER, "i-0d", COMING[0].1, "FR-MACHINE-TAKEN"),
        (CLUSTER, "i-0d", "10.10.10.11", "FR-NODE-UNKNOWN"),
        ("pg-meta", "i-0d", "10.10.10.44", "FR-DEPLOYMENT-NODE"),
    ] {
        let words = [
            "add",
            "--join",
            cluster,
            "--instance-id",
            id,
            "--address",
            address,
        ];
        fleet.machine(&words)?.expect_refusal(2, &[code])?;
    }
    Ok(())
}

/// A machine comes; gives its name.
fn joins(fleet: &Fleet<'_>, id: &str, address: &str) -> Result<String> {
    let start = Instant::now();
    let name = fleet.add(CLUSTER, id, address)?;
    let streams = format!(
        "runuser -u postgres -- psql -XAtqc \"select 1 from pg_stat_replication where application_name = '{name}' and state = 'streaming'\" | grep -q 1"
    );
    fleet.until(FIRST, &streams, SERVING, |_| true)?;
    let streaming = Instant::now();
    for (node, script) in places(&name, address) {
        fleet.until(node, &script, FOLLOWED * 2, |_| true)?;
    }
    let followed = streaming.elapsed();
    ensure!(
        followed <= FOLLOWED,
        "{name} is known everywhere only after {followed:?}"
    );
    let serves = format!(
        "test \"$(echo 'show servers state {CLUSTER}-replica' | python3 -c \"import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect('/run/haproxy/admin.sock'); s.sendall(sys.stdin.buffer.read()); print(s.makefile().read())\" | awk '$4 == \"{name}\" {{print $6}}')\" = 2"
    );
    fleet.until(FIRST, &serves, SERVING, |_| true)?;
    let serving = start.elapsed();
    println!(
        "    {name} serves {:.1} s after power-on (bar {:.0} s); targets, names and HAProxy knew it {:.1} s after it streamed (bar {:.0} s)",
        serving.as_secs_f64(),
        SERVING.as_secs_f64(),
        followed.as_secs_f64(),
        FOLLOWED.as_secs_f64()
    );
    ensure!(serving <= SERVING, "{name} serves only after {serving:?}");
    Ok(name)
}

/// Where a member is known, and how one finds it there.
fn places(name: &str, address: &str) -> [(&'static str, String); 3] {
    [
        (
            "meta",
            format!(
                "curl -fsS 'http://10.10.10.10:9090/api/v1/targets?state=active' | grep -qF '{address}:9630'"
            ),
        ),
        (
            "meta",
            format!("test \"$(dig +short @10.10.10.10 {name})\" = {address}"),
        ),
        (
            FIRST,
            format!("grep -qF 'server {name} ' /etc/haproxy/haproxy.cfg"),
        ),
    ]
}

/// Waits until nothing knows a member any more, replication slots included.
fn is_gone(fleet: &Fleet<'_>, name: &str, address: &str, limit: Duration) -> Result<()> {
    let end = Instant::now() + limit;
    for (node, script) in places(name, address) {
        let absent = format!("! {{ {script}; }}");
        let left = end.saturating_duration_since(Instant::now());
        fleet.until(node, &absent, left, |_| true)?;
    }
    let slot = name.replace(['-', '.'], "_");
    let slots = format!(
        "runuser -u postgres -- psql -XAtqc \"select count(*) from pg_replication_slots where slot_name = '{slot}'\""
    );
    let left = end.saturating_duration_since(Instant::now());
    fleet
        .until(FIRST, &slots, left, |said| said == "0")
        .map(drop)
}

fn streaming(fleet: &Fleet<'_>) -> Result<usize> {
    let count = "runuser -u postgres -- psql -XAtqc \"select count(*) from pg_stat_replication where state = 'streaming'\"";
    Ok(fleet.ask(FIRST, count)?.parse()?)
}
