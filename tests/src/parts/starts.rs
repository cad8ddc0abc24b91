//! The sandbox's machines are switched on in any order, with any delay.

use anyhow::{Result, ensure};
use e2e::fleet::Fleet;
use e2e::world::World;

/// Seeds of the orders; the first is that of the machines in QEMU.
const SEEDS: [u64; 5] = [1, 2, 3, 4, 5];
/// Longest delay, in seconds.
const LATEST: u32 = 15;
/// Bar from the last power-on to all ready, in seconds: whoever came first has tried in vain meanwhile, and tries again
/// after a pause.
const READY: f64 = 20.0;

const NODES: [&str; 4] = ["meta", "node-1", "node-2", "node-3"];

/// Each seed's machines become ready.
pub fn in_any_order(world: &World) -> Result<()> {
    for seed in SEEDS {
        let (delays, last) = delays(seed, LATEST);
        let options = ["--start-delays", &delays];
        let fleet = Fleet::start_apart(world, "starts", "sandbox", &options)?;
        let after = fleet.boot_seconds - f64::from(last);
        println!(
            "    {delays}: ready after {:.1} s, {after:.1} s after the last power-on (bar {READY:.0} s)",
            fleet.boot_seconds
        );
        ensure!(after <= READY, "{delays}: {after:.1} s after the last");
        fleet.stop()?;
    }
    Ok(())
}

/// `--start-delays` of an order by chance, and the longest of them in seconds; one machine starts at once.
pub fn delays(seed: u64, latest: u32) -> (String, u32) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut delays: Vec<(&str, u32)> = NODES.map(|node| (node, random.u32(1..=latest))).into();
    random.shuffle(&mut delays);
    delays[0].1 = 0;
    let last = delays.iter().map(|(_, delay)| *delay).max().unwrap_or(0);
    let words: Vec<String> = delays
        .iter()
        .map(|(node, delay)| format!("{node}={delay}"))
        .collect();
    (words.join(","), last)
}
