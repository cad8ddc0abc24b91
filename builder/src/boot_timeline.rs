//! Where the time of a boot went, from what a machine said and when it was seen.
//!
//! The kernel's own time stamps are used where a line has one: what is read from a file a moment later is dated too late.

use images::qemu_watch::NodeStatus;
use serde::Serialize;

/// What was seen of one machine, with the seconds since it was switched on.
#[derive(Debug, Default)]
pub struct Seen {
    /// When the kernel's clock began, seconds since power-on.
    kernel: Option<f64>,
    /// First line of the initrd's process, and of systemd.
    init: Option<Line>,
    systemd: Option<Line>,
    /// First report, and the one that said ready: seconds since power-on.
    first_report: Option<f64>,
    ready: Option<f64>,
    /// When all checks had run.
    checked: Option<f64>,
    services: Vec<Moment>,
}

/// When a line was seen, seconds since power-on, and the kernel's time stamp in it.
#[derive(Debug, Clone, Copy)]
struct Line {
    at: f64,
    stamp: Option<f64>,
}

/// Something that was reached.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Moment {
    /// What.
    pub name: String,
    /// Seconds since the machine was switched on.
    pub at: f64,
}

/// A part of a boot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Phase {
    /// `firmware`, `kernel`, `initrd`, `systemd`, `bootstrap`, `checks`.
    pub name: &'static str,
    /// Seconds since the machine was switched on.
    pub start: f64,
    /// How long it took.
    pub seconds: f64,
}

/// A machine's boot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Timeline {
    /// Its parts that ended, in order.
    pub phases: Vec<Phase>,
    /// When each service was healthy.
    pub services: Vec<Moment>,
}

impl Seen {
    /// Notes a line of the console that was seen `at` seconds after power-on.
    pub fn console(&mut self, at: f64, line: &str) {
        let stamp = time_stamp(line);
        if let Some(stamp) = stamp {
            let began = (at - stamp).max(0.0);
            self.kernel = Some(self.kernel.map_or(began, |known| known.min(began)));
        }
        if line.contains("farrow-init: ") {
            self.init.get_or_insert(Line { at, stamp });
        }
        if line.contains("systemd[1]: ") {
            self.systemd.get_or_insert(Line { at, stamp });
        }
    }

    /// Notes a report.
    pub fn status(&mut self, at: f64, status: &NodeStatus) {
        self.first_report.get_or_insert(at);
        for service in status.services.iter().filter(|s| s.state == "healthy") {
            if !self.services.iter().any(|known| known.name == service.name) {
                let name = service.name.clone();
                self.services.push(Moment { name, at });
            }
        }
        if status.ready {
            self.ready.get_or_insert(at);
            if status.checks.iter().all(|check| check.exit.is_some()) {
                self.checked.get_or_insert(at);
            }
        }
    }

    /// The parts of the boot, as far as it came.
    pub fn timeline(&self) -> Timeline {
        let when = |line: Line| match (line.stamp, self.kernel) {
            (Some(stamp), Some(kernel)) => kernel + stamp,
            _ => line.at,
        };
        let ends = [
            ("firmware", self.kernel),
            ("kernel", self.init.map(when)),
            ("initrd", self.systemd.map(when)),
            ("systemd", self.first_report),
            ("bootstrap", self.ready),
            ("checks", self.checked),
        ];
        let mut phases = Vec::new();
        let mut start = 0.0;
        for (name, end) in ends {
            // A machine without a console line of one part has it in the next.
            let Some(end) = end.map(|end| end.max(start)) else {
                continue;
            };
            phases.push(Phase {
                name,
                start: rounded(start),
                seconds: rounded(end - start),
            });
            start = end;
        }
        let services = self.services.iter().map(|moment| Moment {
            at: rounded(moment.at),
            ..moment.clone()
        });
        Timeline {
            phases,
            services: services.collect(),
        }
    }
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// The kernel's time stamp at the beginning of a line, `[    1.234567] text`.
fn time_stamp(line: &str) -> Option<f64> {
    let (stamp, _) = line.trim_start().strip_prefix('[')?.split_once("] ")?;
    let stamp = stamp.trim();
    let plain = |b: u8| b.is_ascii_digit() || b == b'.';
    if !stamp.bytes().all(plain) || !stamp.contains('.') {
        return None;
    }
    stamp.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(text: &str) -> NodeStatus {
        NodeStatus::parse(text).unwrap()
    }

    #[test]
    fn phases_follow_the_kernel_s_clock() {
        let mut seen = Seen::default();
        for (at, line) in [
            (3.0, "BdsDxe: starting Boot0001"),
            (6.5, "[    0.000000] Linux version 6.12"),
            (6.6, "[    1.500000] late"),
            (8.0, "[    2.500000] farrow-init: [2.5 s] start"),
            (9.0, "[    3.000000] systemd[1]: systemd 257 running"),
            (9.1, "[  OK  ] Started something"),
        ] {
            seen.console(at, line);
        }
        let healthy = r#"{"state":"configuring","services":[{"name":"chrony","state":"healthy"},{"name":"x","state":"waiting"}]}"#;
        seen.status(12.0, &status(r#"{"state":"configuring"}"#));
        seen.status(13.0, &status(healthy));
        seen.status(
            14.0,
            &status(r#"{"state":"ready","ready":true,"checks":[{"name":"a","exit":null}]}"#),
        );
        seen.status(
            15.0,
            &status(r#"{"state":"ready","ready":true,"checks":[{"name":"a","exit":0}]}"#),
        );
        let found = seen.timeline();
        let phases: Vec<_> = found
            .phases
            .iter()
            .map(|p| (p.name, p.start, p.seconds))
            .collect();
        assert_eq!(
            phases,
            [
                ("firmware", 0.0, 5.1),
                ("kernel", 5.1, 2.5),
                ("initrd", 7.6, 0.5),
                ("systemd", 8.1, 3.9),
                ("bootstrap", 12.0, 2.0),
                ("checks", 14.0, 1.0),
            ]
        );
        assert_eq!(
            found.services,
            [Moment {
                name: "chrony".into(),
                at: 13.0
            }]
        );
    }

    #[test]
    fn what_was_not_reached_is_left_out() {
        let mut seen = Seen::default();
        assert!(seen.timeline().phases.is_empty());
        seen.console(2.0, "[    0.100000] Linux version");
        let names: Vec<_> = seen.timeline().phases.iter().map(|p| p.name).collect();
        assert_eq!(names, ["firmware"]);
    }

    #[test]
    fn time_stamps() {
        assert_eq!(time_stamp("[   12.345678] x"), Some(12.345678));
        for line in ["[  OK  ] Started", "[12] x", "x [ 1.0] y", "[-1.0] x", ""] {
            assert_eq!(time_stamp(line), None, "{line}");
        }
    }
}
