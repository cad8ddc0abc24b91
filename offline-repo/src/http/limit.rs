//! How fast bytes may come, and how slow.

use std::num::NonZeroU64;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Bytes per second below which a transfer counts as stalled; dnf's default (`minrate` of dnf.conf(5)).
const SLOWEST: u64 = 1000;

/// Bytes per second, from text such as `10M`: K, M and G are powers of 1024, as for curl's `--limit-rate`.
pub fn parse_rate(text: &str) -> std::result::Result<NonZeroU64, String> {
    let wrong = || format!("'{text}' is not a rate in bytes per second, such as 500K or 10M");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number
        .checked_mul(1 << shift)
        .and_then(NonZeroU64::new)
        .ok_or_else(wrong)
}

/// Keeps all connections together below a rate.
#[derive(Debug)]
pub(super) struct Limiter {
    rate: NonZeroU64,
    /// When what was let through so far is paid for.
    paid: Mutex<Instant>,
}

impl Limiter {
    pub(super) fn new(rate: NonZeroU64) -> Self {
        Limiter {
            rate,
            paid: Mutex::new(Instant::now()),
        }
    }

    /// How much to read at a time: about a sixteenth of a second, so that connections take turns.
    pub(super) fn chunk(&self) -> usize {
        usize::try_from(self.rate.get() / 16)
            .unwrap_or(usize::MAX)
            .clamp(1 << 10, 128 << 10)
    }

    /// Returns when these bytes are paid for.
    pub(super) fn wait(&self, bytes: u64) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate.get() as f64);
        let until = {
            let mut paid = self.paid.lock().expect("no panic holds it");
            *paid = (*paid).max(Instant::now()) + cost;
            *paid
        };
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}

/// Notices a server that sends just enough not to be silent.
pub(super) struct Pace {
    patience: Duration,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    pub(super) fn new(patience: Duration) -> Self {
        Pace {
            patience,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// Adds bytes and the time spent waiting for them; time that this side takes does not count.
    pub(super) fn add(&mut self, bytes: u64, waited: Duration) -> std::result::Result<(), String> {
        self.bytes += bytes;
        self.waited += waited;
        if self.waited < self.patience {
            return Ok(());
        }
        if (self.bytes as f64) < SLOWEST as f64 * self.waited.as_secs_f64() {
            return Err(format!(
                "it sent only {} bytes in {:.0} seconds",
                self.bytes,
                self.waited.as_secs_f64()
            ));
        }
        *self = Pace::new(self.patience);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        for (text, rate) in [
            ("1", 1),
            ("500K", 512_000),
            ("10M", 10 << 20),
            ("2g", 2 << 30),
        ] {
            assert_eq!(parse_rate(text).unwrap().get(), rate, "{text}");
        }
        for text in [
            "",
            "0",
            "-1",
            "10X",
            "M",
            "1.5M",
            "99999999999G",
            "10 M",
            "10MB",
        ] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn all_takers_share_the_rate() {
        let limiter = Limiter::new(NonZeroU64::new(1 << 20).unwrap());
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..4).for_each(|_| limiter.wait(16 << 10)));
            }
        });
        // 16 times 16 KiB at 1 MiB a second.
        let took = begin.elapsed().as_secs_f64();
        assert!((0.25..0.5).contains(&took), "{took}");
    }

    #[test]
    fn a_trickle_is_a_stall() {
        let mut pace = Pace::new(Duration::from_secs(30));
        for _ in 0..10 {
            pace.add(100_000, Duration::from_secs(10)).unwrap();
        }
        let mut pace = Pace::new(Duration::from_secs(30));
        let stalled = (0..30).find_map(|_| pace.add(1, Duration::from_secs(1)).err());
        assert_eq!(stalled.unwrap(), "it sent only 30 bytes in 30 seconds");
    }
}
