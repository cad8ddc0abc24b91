//! Speed of the sandbox of four machines in containers, each figure beside its bar. The image of an earlier run of the
//! tests is used again.

use std::process::ExitCode;

use anyhow::{Context, Result};
use e2e::fleet::Fleet;
use e2e::world::World;

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

fn run() -> Result<()> {
    let world = World::keep()?;
    let fleet = Fleet::start(&world, "bench-fleet", "sandbox", &[])?;
    println!(
        "sandbox ready in containers {:>8.1} s    bar 20 s",
        fleet.boot_seconds
    );
    for node in ["node-1", "meta"] {
        watcher(&fleet, node)?;
    }
    pgbench(&fleet)?;
    fleet.stop()
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
