//! Machines as containers: the same platform in seconds, steered while it runs, and gone without a trace.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::fleet::Fleet;
use e2e::world::World;

/// How long a machine may take until it is ready again.
const READY: Duration = Duration::from_secs(60);
/// How long what a killed `up` leaves may live.
const TRACES: Duration = Duration::from_secs(5);

const NODE: &str = "pg-test-1";
const INSERT: &str = "runuser -u postgres -- psql -qAt -d postgres -c 'create table if not exists public.lasting(n int)' -c 'insert into public.lasting values (1)'";
const COUNT: &str = "runuser -u postgres -- psql -qAt -d postgres -c 'select count(*) from public.lasting'; cat /etc/machine-id";

/// Two machines become ready, obey, keep their data through a power cut, and leave nothing when `up` is killed.
pub fn steered_and_gone(world: &World) -> Result<()> {
    let fleet = Fleet::start(world, "containers", "two-node", &[])?;
    println!("    ready after {:.1} s", fleet.boot_seconds);
    let groups = groups_of(&fleet)?;
    runs_programs(&fleet)?;
    stays_what_it_is(&fleet)?;
    loses_packets(&fleet)?;
    keeps_its_data(&fleet)?;
    ensure!(
        traces(world, &groups)?.len() > 20,
        "what containers leave is not seen"
    );
    fleet.kill()?;
    let killed = Instant::now();
    while !traces(world, &groups)?.is_empty() {
        ensure!(
            killed.elapsed() < TRACES,
            "left behind: {:?}",
            traces(world, &groups)?
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("    no trace after {:.2} s", killed.elapsed().as_secs_f64());
    Ok(())
}

/// Exit code, input and output are the program's.
fn runs_programs(fleet: &Fleet) -> Result<()> {
    let outcome = fleet.script(NODE, "hostname; exit 7")?;
    ensure!(
        outcome.code == Some(7) && outcome.stdout.trim() == NODE,
        "{outcome:?}"
    );
    fleet
        .machine(&["exec", "nobody", "--", "true"])?
        .expect_refusal(2, &["FR-MACHINE-UNKNOWN", NODE])
}

/// What a machine in QEMU has, a container has too; and its neighbour's files it has not.
fn stays_what_it_is(fleet: &Fleet) -> Result<()> {
    let root = fleet.ask(NODE, "touch /usr/x 2>&1; systemctl --failed --no-legend")?;
    ensure!(
        root.ends_with("Read-only file system"),
        "the root can be written to, or units failed: {root}"
    );
    let memory = fleet.ask(NODE, "farrow-bootstrap facts")?;
    let facts: serde_json::Value = serde_json::from_str(&memory)?;
    let mib = facts["memory_mib"].as_u64().context("memory")?;
    ensure!(mib <= 2048, "it takes itself to have {mib} MiB");
    let meta = fleet.ask("meta", "head -c 1 /www/*/repo_complete | wc -c")?;
    ensure!(meta == "1", "the repository on the meta node: {meta}");
    Ok(())
}

fn loses_packets(fleet: &Fleet) -> Result<()> {
    let reached = || {
        let ping = fleet.script(NODE, "ping -c 1 -W 1 10.10.10.10")?;
        Ok::<bool, anyhow::Error>(ping.code == Some(0))
    };
    ensure!(reached()?, "the meta node does not answer");
    for words in [&["cut", NODE][..], &["cut", "meta", "--from", NODE]] {
        fleet.order(words)?;
        ensure!(!reached()?, "{words:?}: the meta node still answers");
        fleet.order(&["heal"])?;
        ensure!(reached()?, "{words:?}: healed, the meta node is silent");
    }
    fleet.order(&["cut", NODE, "--port", "80"])?;
    ensure!(reached()?, "a cut port stops pings");
    let fetch = fleet.script(NODE, "curl -s -m 1 -o /dev/null http://10.10.10.10/")?;
    ensure!(fetch.code == Some(28), "port 80 is not cut: {fetch:?}");
    fleet.order(&["heal", NODE])
}

/// A power cut loses nothing that was written; the machine comes back as the same one.
fn keeps_its_data(fleet: &Fleet) -> Result<()> {
    fleet.ask(NODE, INSERT)?;
    let known = fleet.ask(NODE, COUNT)?;
    fleet.order(&["power-cut", NODE])?;
    fleet
        .machine(&["exec", NODE, "--", "true"])?
        .expect_refusal(1, &["FR-MACHINE-OFF"])?;
    fleet.order(&["power-on", NODE])?;
    let start = Instant::now();
    loop {
        let status = fleet.machine(&["--json", "status", NODE])?;
        let document: serde_json::Value = serde_json::from_str(&status.stdout)?;
        if document["status"]["ready"] == true {
            break;
        }
        ensure!(start.elapsed() < READY, "not ready again: {document:#}");
        std::thread::sleep(Duration::from_millis(200));
    }
    println!(
        "    ready again after {:.1} s",
        start.elapsed().as_secs_f64()
    );
    let found = fleet.ask(NODE, COUNT)?;
    ensure!(found == known, "before: {known}; after: {found}");
    fleet.order(&["power-off", NODE])?;
    let list = fleet.machine(&["list"])?.stdout;
    let line = list.lines().find(|line| line.starts_with(NODE));
    ensure!(line.is_some_and(|line| line.contains(" off ")), "{list}");
    Ok(())
}

/// How the names of the control groups of a fleet begin: others may run beside it.
fn groups_of(fleet: &Fleet) -> Result<String> {
    let supervisor = fleet.process()?;
    let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children"))?;
    let up = children.split_whitespace().next().context("a process")?;
    Ok(format!("/farrow-{up}-"))
}

/// Processes in control groups of such names, those groups, and mounts of the folder in which machines run.
fn traces(world: &World, groups: &str) -> Result<BTreeSet<String>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let folders = mounts
        .lines()
        .filter(|line| line.split(' ').nth(2) == Some("cgroup2"))
        .filter_map(|line| line.split(' ').nth(1))
        .flat_map(|mount| names(Path::new(mount)))
        .filter(|path| path.to_string_lossy().contains(groups));
    let run = world.out().join("run").display().to_string();
    let mounted = mounts.lines().filter(|line| line.contains(&run));
    let processes = names(Path::new("/proc")).into_iter().filter(|process| {
        fs::read_to_string(process.join("cgroup")).is_ok_and(|text| text.contains(groups))
    });
    Ok(processes
        .chain(folders)
        .map(|path| path.display().to_string())
        .chain(mounted.map(str::to_owned))
        .collect())
}

fn names(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
