//! How fast the host's time stamp counter counts.
//!
//! An emulated guest reads the host's counter as its own (QEMU, `cpu_get_host_ticks`), and finds out its rate by comparing
//! it with an emulated timer. On a busy host that goes wrong: a guest was seen whose clock ran eight times too fast, so
//! that every time limit in it was over early. The kernel takes the rate as an argument instead (`tsc_early_khz`).

/// Counts per millisecond; none where the host's counter is not what a guest sees.
#[cfg(target_arch = "x86_64")]
pub(crate) fn khz() -> Option<u64> {
    use std::time::Duration;
    const SPAN: Duration = Duration::from_millis(20);
    let start = sample();
    std::thread::sleep(SPAN);
    let end = sample();
    let nanoseconds = end.time.duration_since(start.time).as_nanos();
    let counts = u128::from(end.count.checked_sub(start.count)?);
    u64::try_from(counts * 1_000_000 / nanoseconds).ok()
}

/// The guest then has a counter of its own making.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn khz() -> Option<u64> {
    None
}

/// Counter and clock at the same moment.
#[cfg(target_arch = "x86_64")]
struct Sample {
    count: u64,
    time: std::time::Instant,
}

/// The best of a few: whoever is interrupted between the two readings took longer.
#[cfg(target_arch = "x86_64")]
fn sample() -> Sample {
    const TRIES: u32 = 20;
    let once = |_| {
        let before = count();
        let time = std::time::Instant::now();
        let after = count();
        let middle = before + (after.saturating_sub(before)) / 2;
        (
            after.saturating_sub(before),
            Sample {
                count: middle,
                time,
            },
        )
    };
    let first = once(0);
    let best = (1..TRIES).map(once).fold(
        first,
        |best, other| {
            if other.0 < best.0 { other } else { best }
        },
    );
    best.1
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn count() -> u64 {
    // SAFETY: reads a register that every x86-64 processor has; Linux lets programs read it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let (one, other) = (khz().unwrap(), khz().unwrap());
        assert!(one > 500_000, "{one} kHz");
        assert!(one.abs_diff(other) < one / 500, "{one} and {other} kHz");
    }
}
