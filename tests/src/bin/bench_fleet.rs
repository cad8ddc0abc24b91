//! Speed of the sandbox of four machines in containers, each figure beside its bar. The image of an earlier run of the
//! tests is used again. With an argument (`watch`, `pgbench` or `floor`), that part alone.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::fleet::Fleet;
use e2e::world::World;

/// How long the services may take to work without the bootstrap.
const FLOOR_LIMIT: Duration = Duration::from_secs(120);

/// Seconds over which the watcher's processor time is taken.
const REST: u32 = 30;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-fleet: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What can be measured on its own.
const PARTS: [&str; 3] = ["watch", "pgbench", "floor"];

fn run() -> Result<()> {
    let only = std::env::args().nth(1);
    if let Some(part) = &only {
        ensure!(
            PARTS.contains(&part.as_str()),
            "no part `{part}`, but {PARTS:?}"
        );
    }
    let world = World::keep()?;
    let fleet = Fleet::start(&world, "bench-fleet", "sandbox", &[])?;
    println!(
        "sandbox ready in containers {:>8.1} s    bar 20 s",
        fleet.boot_seconds
    );
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    if wanted("watch") {
        watcher(&fleet, "node-1")?;
        watcher(&fleet, "meta")?;
    }
    if wanted("pgbench") {
        pgbench(&fleet)?;
    }
    if wanted("floor") {
        floor(&fleet)?;
    }
    fleet.stop()
}

/// A shell script, after the function that names what the bootstrap started on a machine.
macro_rules! script {
    ($name:literal) => {
        concat!(
            include_str!("../floor/units.sh"),
            include_str!(concat!("../floor/", $name))
        )
    };
}

/// The same services with configuration that is there already, and nobody who waits for one before he starts another.
fn floor(fleet: &Fleet<'_>) -> Result<()> {
    let boot = fleet.ask(
        "node-1",
        "systemctl show -P UserspaceTimestampMonotonic; systemctl show -P ExecMainStartTimestampMonotonic farrow-bootstrap",
    )?;
    let (from, to) = boot.split_once('\n').context("two times")?;
    let systemd = (to.trim().parse::<f64>()? - from.trim().parse::<f64>()?) / 1e6;
    let nodes = fleet.nodes();
    for node in &nodes {
        fleet.ask(node, script!("stop.sh"))?;
    }
    for node in ["meta", "node-1"] {
        fleet.ask(node, script!("forget.sh"))?;
    }
    for node in &nodes {
        fleet.ask(node, script!("wipe.sh"))?;
    }
    let start = Instant::now();
    for node in &nodes {
        fleet.ask(node, script!("start.sh"))?;
    }
    for node in &nodes {
        fleet.until(node, script!("works.sh"), FLOOR_LIMIT, |_| true)?;
    }
    let services = start.elapsed().as_secs_f64();
    println!(
        "the same without the bootstrap {:>5.1} s    ({systemd:.1} s systemd, {services:.1} s services)",
        systemd + services
    );
    Ok(())
}

/// Memory and processor time of `farrow-bootstrap watch` on a machine at rest.
fn watcher(fleet: &Fleet<'_>, node: &str) -> Result<()> {
    let script = format!(
        "p=$(systemctl show -P MainPID farrow-watch.service)\n\
         t() {{ awk '{{print $14 + $15 + $16 + $17}}' /proc/$p/stat; }}\n\
         a=$(t); sleep {REST}; b=$(t)\n\
         awk -v ticks=$((b - a)) -v hz=$(getconf CLK_TCK) -v s={REST} '/^VmRSS/ {{print $2 / 1000, 100 * ticks / hz / s}}' /proc/$p/status\n"
    );
    let said = fleet.ask(node, &script)?;
    let (memory, share) = said.split_once(' ').context("two figures")?;
    println!("watch on {node:<18} {memory:>8} MB   bar 5 MB");
    println!("watch on {node:<18} {share:>8} %    bar 0.5 % of a core");
    Ok(())
}

/// Transactions a second through HAProxy and the pool, and straight into PostgreSQL.
fn pgbench(fleet: &Fleet<'_>) -> Result<()> {
    let script = format!(
        "export PGSSLMODE=verify-full PGSSLROOTCERT=/etc/farrow/ca.crt PGUSER=test PGDATABASE=test PGHOST=pg-test-1 PGPASSWORD={}\n\
         b=/usr/lib/postgresql/17/bin/pgbench\n\
         $b -i -q -s 10 -p 5432 >/dev/null 2>&1\n\
         for p in 5432 5433 5432 5433; do $b -M simple -c 16 -j 2 -T 15 -n -p $p 2>/dev/null | awk -v p=$p '/^tps/ {{print p, $3}}'; done\n",
        fleet.password("pg-test", "test")?
    );
    let said = fleet.ask("node-1", &script)?;
    let rate = |port: &str| -> f64 {
        let lines = said.lines().filter_map(|line| line.strip_prefix(port));
        lines
            .filter_map(|rest| rest.trim().parse::<f64>().ok())
            .sum::<f64>()
            / 2.0
    };
    let (straight, through) = (rate("5432"), rate("5433"));
    println!("pgbench straight        {straight:>12.0} tps");
    println!(
        "pgbench through 5433    {through:>12.0} tps  {:.0} % of straight, bar 80 %",
        100.0 * through / straight
    );
    Ok(())
}
