//! What the switch decides, without any socket: who is behind which port, and which rules a frame meets.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// A hardware address.
pub type Mac = [u8; 6];

/// The number of a port, in order of their creation.
pub type PortIndex = usize;

/// Addresses the table remembers at most; a guest that invents addresses cannot make it grow.
const MAX_ADDRESSES: usize = 1024;

/// How long an address is remembered after its last frame: 300 s, as IEEE 802.1D recommends.
const MAX_AGE: Duration = Duration::from_secs(300);

/// Destination, source and type: the smallest thing that can be called a frame.
const HEADER_BYTES: usize = 14;

/// A set of ports, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Ports {
    /// Every port.
    #[default]
    Any,
    /// The named ports.
    These(BTreeSet<String>),
}

impl Ports {
    /// The set of the given names.
    pub fn these<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Ports {
        Ports::These(names.into_iter().map(|n| n.as_ref().to_owned()).collect())
    }

    /// Whether `name` is in the set.
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Ports::Any => true,
            Ports::These(names) => names.contains(name),
        }
    }
}

/// What a rule does to the frames it matches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// No frame passes.
    Cut,
    /// Each frame is lost with this probability, 0.0 to 1.0.
    Lose(f64),
    /// Each frame arrives later by this much.
    Delay(Duration),
}

/// One rule, for one direction.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Where the frame comes from.
    pub from: Ports,
    /// Where it goes to.
    pub to: Ports,
    /// What happens to it.
    pub action: Action,
}

/// All rules that are in force. Every matching rule applies: delays add up.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rules(pub Vec<Rule>);

impl Rules {
    /// Splits the network: no frame passes between a port of one group and a port of another.
    /// Ports that are in no group still reach everybody.
    pub fn partition(groups: &[&[&str]]) -> Rules {
        let mut rules = Vec::new();
        for (a, from) in groups.iter().enumerate() {
            for (b, to) in groups.iter().enumerate() {
                if a != b {
                    rules.push(Rule {
                        from: Ports::these(*from),
                        to: Ports::these(*to),
                        action: Action::Cut,
                    });
                }
            }
        }
        Rules(rules)
    }

    /// The same action for every frame of the network.
    pub fn everywhere(action: Action) -> Rules {
        Rules(vec![Rule {
            from: Ports::Any,
            to: Ports::Any,
            action,
        }])
    }

    /// What happens to a frame from port `from` to port `to`; `random` gives numbers in 0.0..1.0.
    pub fn verdict(&self, from: &str, to: &str, mut random: impl FnMut() -> f64) -> Verdict {
        let mut delay = Duration::ZERO;
        for rule in &self.0 {
            if !rule.from.contains(from) || !rule.to.contains(to) {
                continue;
            }
            match rule.action {
                Action::Cut => return Verdict::Drop,
                Action::Lose(probability) if random() < probability => return Verdict::Drop,
                Action::Lose(_) => {}
                Action::Delay(more) => delay += more,
            }
        }
        Verdict::Pass(delay)
    }
}

/// What the rules say about one frame on its way to one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Deliver it after this time.
    Pass(Duration),
    /// It is lost.
    Drop,
}

/// Which address was last seen behind which port.
#[derive(Debug, Default)]
pub struct Table {
    seen: HashMap<Mac, (PortIndex, Instant)>,
}

/// Where a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// To one port.
    One(PortIndex),
    /// To every port but the one it came from.
    Flood,
    /// Nowhere: its receiver is behind the port it came from.
    Stay,
    /// Nowhere: it is too short to be a frame.
    Malformed,
}

impl Table {
    /// Learns the sender's place and looks up the receiver's.
    pub fn route(&mut self, port: PortIndex, frame: &[u8], now: Instant) -> Route {
        if frame.len() < HEADER_BYTES {
            return Route::Malformed;
        }
        let (destination, source) = (mac_at(frame, 0), mac_at(frame, 6));
        if !is_group(&source) {
            self.learn(source, port, now);
        }
        if is_group(&destination) {
            return Route::Flood;
        }
        match self.seen.get(&destination) {
            Some((_, seen)) if now.duration_since(*seen) > MAX_AGE => {
                self.seen.remove(&destination);
                Route::Flood
            }
            Some((to, _)) if *to == port => Route::Stay,
            Some((to, _)) => Route::One(*to),
            None => Route::Flood,
        }
    }

    /// Forgets everything that was learned behind a port.
    pub fn forget(&mut self, port: PortIndex) {
        self.seen.retain(|_, (p, _)| *p != port);
    }

    fn learn(&mut self, source: Mac, port: PortIndex, now: Instant) {
        if self.seen.len() >= MAX_ADDRESSES && !self.seen.contains_key(&source) {
            self.seen
                .retain(|_, (_, seen)| now.duration_since(*seen) <= MAX_AGE);
            let oldest = self.seen.iter().min_by_key(|(_, (_, seen))| *seen);
            if let (true, Some((&mac, _))) = (self.seen.len() >= MAX_ADDRESSES, oldest) {
                self.seen.remove(&mac);
            }
        }
        self.seen.insert(source, (port, now));
    }
}

fn mac_at(frame: &[u8], at: usize) -> Mac {
    let mut mac = Mac::default();
    mac.copy_from_slice(&frame[at..at + 6]);
    mac
}

/// Broadcast and multicast addresses have the lowest bit of their first byte set (IEEE 802).
fn is_group(mac: &Mac) -> bool {
    mac[0] & 1 == 1
}

/// A small deterministic generator (xorshift64*), so that a lossy network can be replayed from its seed.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator; equal seeds give equal sequences.
    pub fn new(seed: u64) -> Random {
        // The state must not be zero; any odd constant serves.
        Random(seed ^ 0x9e37_79b9_7f4a_7c15 | 1)
    }

    /// The next number, 0.0 (included) to 1.0 (not included).
    pub fn next_unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        bits as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BROADCAST: Mac = [0xff; 6];

    fn mac(n: u16) -> Mac {
        let [high, low] = n.to_be_bytes();
        [0x52, 0x54, 0, 0, high, low]
    }

    fn frame(to: Mac, from: Mac) -> Vec<u8> {
        [&to[..], &from[..], &[8, 0], b"payload"].concat()
    }

    #[test]
    fn a_frame_goes_where_its_receiver_was_last_seen() {
        let now = Instant::now();
        let late = now + MAX_AGE + Duration::from_secs(1);
        let mut table = Table::default();
        let cases = [
            ("unknown", 0, mac(2), mac(1), now, Route::Flood),
            ("answer", 1, mac(1), mac(2), now, Route::One(0)),
            ("known", 0, mac(2), mac(1), now, Route::One(1)),
            ("broadcast", 0, BROADCAST, mac(1), now, Route::Flood),
            ("same port", 0, mac(1), mac(9), now, Route::Stay),
            ("moved", 2, mac(1), mac(2), now, Route::One(0)),
            ("to moved", 0, mac(2), mac(1), now, Route::One(2)),
            ("aged", 0, mac(2), mac(1), late, Route::Flood),
        ];
        for (name, port, to, from, at, expected) in cases {
            let route = table.route(port, &frame(to, from), at);
            assert_eq!(route, expected, "failed case: {name}");
        }
        assert_eq!(table.route(0, &[0; 13], now), Route::Malformed);
        table.forget(0);
        assert_eq!(
            table.route(2, &frame(mac(1), mac(2)), now),
            Route::Flood,
            "forgotten"
        );
    }

    #[test]
    fn group_senders_are_not_learned_and_the_table_is_bounded() {
        let now = Instant::now();
        let mut table = Table::default();
        table.route(0, &frame(mac(1), BROADCAST), now);
        assert!(table.seen.is_empty());
        for n in 0..3000 {
            let at = now + Duration::from_millis(n.into());
            table.route(0, &frame(BROADCAST, mac(n)), at);
        }
        assert_eq!(table.seen.len(), MAX_ADDRESSES);
        assert!(table.seen.contains_key(&mac(2999)));
        assert!(!table.seen.contains_key(&mac(0)), "the oldest goes first");
    }

    #[test]
    fn rules_are_directed_and_add_up() {
        let rule = |from: &str, to: &str, action| Rule {
            from: Ports::these([from]),
            to: Ports::these([to]),
            action,
        };
        let ms = Duration::from_millis;
        let mut rules = Rules::everywhere(Action::Delay(ms(1)));
        rules.0.push(rule("a", "b", Action::Delay(ms(4))));
        rules.0.push(rule("b", "a", Action::Cut));
        rules.0.push(rule("a", "c", Action::Lose(0.5)));
        let cases = [
            ("a", "b", 0.0, Verdict::Pass(ms(5))),
            ("b", "a", 0.9, Verdict::Drop),
            ("a", "c", 0.4, Verdict::Drop),
            ("a", "c", 0.6, Verdict::Pass(ms(1))),
            ("c", "b", 0.0, Verdict::Pass(ms(1))),
        ];
        for (from, to, random, expected) in cases {
            assert_eq!(
                rules.verdict(from, to, || random),
                expected,
                "{from} to {to}"
            );
        }
    }

    #[test]
    fn a_partition_cuts_between_groups_only() {
        let rules = Rules::partition(&[&["a", "b"], &["c"]]);
        for (from, to, passes) in [
            ("a", "b", true),
            ("a", "c", false),
            ("c", "b", false),
            ("d", "c", true),
        ] {
            let verdict = rules.verdict(from, to, || 0.5);
            assert_eq!(verdict != Verdict::Drop, passes, "{from} to {to}");
        }
    }

    #[test]
    fn random_numbers_repeat_and_are_spread_evenly() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..4000).map(|_| random.next_unit()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        let below = draw(7).iter().filter(|n| **n < 0.25).count();
        assert!((900..1100).contains(&below), "{below} of 4000");
    }
}
