//! Memory of a running command with all that it started.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs `work` and returns its result with the largest memory, in MB (10^6 bytes), that this process's children and
/// theirs had at once. Pages that several share count for each of them by their part (PSS, proc_pid_smaps(5)).
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut peak = 0;
            while !done.load(Ordering::Relaxed) {
                peak = peak.max(descendants().into_iter().map(share_kib).sum());
                std::thread::sleep(PAUSE);
            }
            peak
        });
        let value = work();
        done.store(true, Ordering::Relaxed);
        let peak = watcher.join().unwrap_or(0);
        (value, peak as f64 * 1024.0 / 1e6)
    })
}

/// Processes below this one.
fn descendants() -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name may hold spaces and brackets; what follows its last bracket does not (proc_pid_stat(5)).
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        if let Some(parent) = rest
            .split_whitespace()
            .nth(1)
            .and_then(|word| word.parse().ok())
        {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![std::process::id()];
    while let Some(pid) = open.pop() {
        let of_pid = children.remove(&pid).unwrap_or_default();
        found.extend(&of_pid);
        open.extend(of_pid);
    }
    found
}

/// Its part of the memory that it has mapped, in KiB.
fn share_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("Pss:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|word| word.parse().ok()).unwrap_or(0)
}
