//! What clients see while machines, processes and the network fail: longest gaps, lost rows, two primaries at once.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::cluster::Cluster;
use e2e::fleet::Fleet;
use e2e::load::EMULATED_PACE;
use e2e::scenarios::{self, Scenario};
use e2e::world::World;

/// How long all may take to be green again.
const GREEN: Duration = Duration::from_secs(120);
/// The same for emulated machines.
const EMULATED_GREEN: Duration = Duration::from_secs(600);
/// Bar for four emulated machines to be ready, in seconds.
const EMULATED_READY: f64 = 300.0;
/// For what starts after a machine is ready, as monitoring does.
const LATE_STARTS: Duration = Duration::from_secs(60);
/// Longest delay of their power-on, in seconds.
const EMULATED_LATEST: u32 = 20;
/// Environment variable: only scenarios whose names contain this.
const ONLY: &str = "FARROW_E2E_SCENARIOS";
/// Failovers one after the other.
const FAILOVERS: i64 = 3;

/// What came of one scenario.
struct Outcome {
    name: &'static str,
    write_gap: f64,
    read_gap: f64,
    acknowledged: usize,
    lost: usize,
    two_primaries: f64,
    green: Option<f64>,
    bar: f64,
}

impl Outcome {
    fn green_text(&self) -> String {
        self.green
            .map_or_else(|| "-".into(), |seconds| format!("{seconds:.1}"))
    }
}

/// Runs every scenario on one sandbox, one after the other, with a writer and a reader through each member.
pub fn scenarios(world: &World) -> Result<()> {
    let fleet = Fleet::start_apart(world, "failover", "sandbox", &[])?;
    let cluster = Cluster::of_sandbox(&fleet, GREEN)?;
    run_all(world, &cluster, "failover", scenarios::ALL)?;
    fleet.stop()
}

/// The scenarios in which asynchronous replication could lose something, with `rpo = 0`.
pub fn synchronous(world: &World) -> Result<()> {
    let sandbox = world.project.join("recipes/deployments/sandbox.toml");
    let text = std::fs::read_to_string(sandbox)?;
    let text = text.replace("name = \"pg-test\"\n", "name = \"pg-test\"\nrpo = 0\n");
    ensure!(text.contains("rpo = 0"), "the sandbox has another form");
    let path = world.root.join("sandbox-rpo-0.toml");
    std::fs::write(&path, text)?;
    let fleet = Fleet::start_apart(world, "synchronous", &path.to_string_lossy(), &[])?;
    let mut cluster = Cluster::of_sandbox(&fleet, GREEN)?;
    cluster.synchronous = true;
    cluster.wait_green()?;
    run_all(world, &cluster, "failover-rpo-0", scenarios::SYNCHRONOUS)?;
    fleet.stop()
}

/// The sandbox in QEMU: from power-on in a random order to ready, and the failures that concern whole machines.
pub fn emulated(world: &World) -> Result<()> {
    let (delays, _) = super::starts::delays(1, EMULATED_LATEST);
    let options = ["--start-delays", delays.as_str()];
    let fleet = Fleet::start_in_qemu(world, "emulated", "sandbox", &options)?;
    println!(
        "    {delays}: four emulated machines ready after {:.1} s, bar {EMULATED_READY:.0} s",
        fleet.boot_seconds
    );
    let mut cluster = Cluster::of_sandbox(&fleet, EMULATED_GREEN)?;
    cluster.pace = EMULATED_PACE;
    std::thread::sleep(LATE_STARTS);
    run_all(world, &cluster, "failover-qemu", scenarios::EMULATED)?;
    ensure!(
        fleet.boot_seconds <= EMULATED_READY,
        "{:.1} s until ready",
        fleet.boot_seconds
    );
    fleet.stop()
}

/// Three primaries in a row lose their power; afterwards every port still leads where its name says.
pub fn three_in_a_row(world: &World) -> Result<()> {
    let fleet = Fleet::start_apart(world, "in-a-row", "sandbox", &[])?;
    let cluster = Cluster::of_sandbox(&fleet, GREEN)?;
    for round in 1..=FAILOVERS {
        let outcome = run(&cluster, &scenarios::CUT_PRIMARY, round)?;
        print_one(&outcome);
        check(&outcome)?;
    }
    ports_lead_where_they_say(&cluster)?;
    fleet.stop()
}

/// 5433 and 5436 to the primary, 5434 to replicas, 5438 to the offline instance; the virtual address on the primary alone.
fn ports_lead_where_they_say(cluster: &Cluster<'_>) -> Result<()> {
    let primary = cluster.primary()?;
    let is_standby = "select pg_is_in_recovery()";
    let where_from = "select pg_is_in_recovery(), host(inet_server_addr())";
    for (node, _) in &cluster.members {
        for _ in 0..20 {
            for (port, sql, expected) in [
                (5433, is_standby, "f"),
                (5434, is_standby, "t"),
                (5436, is_standby, "f"),
                (5438, where_from, "t|10.10.10.13"),
            ] {
                let said = cluster.query(node, port, sql)?;
                ensure!(said == [expected], "{node}:{port} leads to {said:?}");
            }
        }
    }
    let mut holders = Vec::new();
    for node in cluster.fleet.nodes() {
        let addresses = cluster.fleet.ask(&node, "ip -4 -o address show")?;
        if addresses.contains(" 10.10.10.3/") {
            holders.push(node);
        }
    }
    ensure!(
        holders == [primary.as_str()],
        "{primary} leads, the virtual address is on {holders:?}"
    );
    Ok(())
}

fn run_all(world: &World, cluster: &Cluster<'_>, file: &str, scenarios: &[Scenario]) -> Result<()> {
    let mut outcomes = Vec::new();
    let only = std::env::var(ONLY).unwrap_or_default();
    let wanted = scenarios
        .iter()
        .filter(|scenario| scenario.name.contains(&only));
    for (round, scenario) in (1..).zip(wanted) {
        let outcome = run(cluster, scenario, round).with_context(|| scenario.name.to_owned())?;
        print_one(&outcome);
        outcomes.push(outcome);
    }
    let table = world.root.join(format!("{file}.md"));
    std::fs::write(table, render(&outcomes)?)?;
    outcomes.iter().try_for_each(check)
}

fn run(cluster: &Cluster<'_>, scenario: &Scenario, round: i64) -> Result<Outcome> {
    let primary = cluster.primary()?;
    let mut others = cluster.members.iter().map(|(node, _)| node.as_str());
    let replica = others.find(|node| *node != primary).context("a replica")?;
    let named = |word: &str| word.replace("@P", &primary).replace("@R", replica);
    let order = |orders: &[&[&str]]| -> Result<()> {
        for words in orders {
            let words: Vec<String> = words.iter().map(|word| named(word)).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            cluster.fleet.order(&words)?;
        }
        Ok(())
    };
    let mut green = None;
    let observed = cluster.during(round, || {
        order(scenario.orders)?;
        std::thread::sleep(scenario.lasts);
        if let Some(undo) = scenario.undo {
            order(undo)?;
            let undone = Instant::now();
            cluster.wait_green()?;
            green = Some(undone.elapsed().as_secs_f64());
        } else {
            // The gap ends with a new primary, not with the observation.
            cluster.primary()?;
        }
        Ok(())
    })?;
    let dark: Vec<String> = scenario.dark.iter().map(|node| named(node)).collect();
    let lit = |node: &str| !dark.iter().any(|dark| dark == node);
    let (seen, from) = (&observed.seen, observed.from);
    let gap = |logs| seen.longest_gap(logs, lit, from).context("no client");
    Ok(Outcome {
        name: scenario.name,
        write_gap: gap(&seen.writers)?.0,
        read_gap: gap(&seen.readers)?.0,
        acknowledged: observed.acknowledged,
        lost: observed.lost,
        two_primaries: seen.two_primaries(),
        green,
        bar: scenario.bar,
    })
}

fn check(outcome: &Outcome) -> Result<()> {
    let name = outcome.name;
    ensure!(outcome.two_primaries == 0.0, "{name}: two primaries");
    ensure!(outcome.lost == 0, "{name}: {} rows lost", outcome.lost);
    ensure!(
        outcome.write_gap <= outcome.bar,
        "{name}: {:.1} s without writes, bar {:.0} s",
        outcome.write_gap,
        outcome.bar
    );
    Ok(())
}

fn print_one(outcome: &Outcome) {
    println!(
        "    {:<32} gap {:>5.1} s (bar {:>4.0}), reads {:>5.1} s, {:>4} rows, {} lost, two primaries {:.1} s, green after {} s",
        outcome.name,
        outcome.write_gap,
        outcome.bar,
        outcome.read_gap,
        outcome.acknowledged,
        outcome.lost,
        outcome.two_primaries,
        outcome.green_text()
    );
}

fn render(outcomes: &[Outcome]) -> Result<String> {
    let mut text = String::from(
        "| What happens | Longest write gap (s) | Bar | Longest read gap (s) | Rows acknowledged | Lost | Two primaries (s) | All green after (s) |\n|---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for o in outcomes {
        writeln!(
            text,
            "| {} | {:.1} | {:.0} | {:.1} | {} | {} | {:.1} | {} |",
            o.name,
            o.write_gap,
            o.bar,
            o.read_gap,
            o.acknowledged,
            o.lost,
            o.two_primaries,
            o.green_text()
        )?;
    }
    Ok(text)
}
