//! What running machines tell: status documents and console lines, and what they mean.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use serde::Deserialize;

/// Lines of the console that are kept to be quoted.
const KEPT_LINES: usize = 25;

/// Longest line that is kept, in bytes; a guest may write without end.
const MAX_LINE: usize = 1 << 20;

/// Bytes read at once from a log.
const MAX_READ: u64 = 4 << 20;

/// Console lines after which no boot succeeds: the kernel's, that of the image's init, the firmware's (its entry of the disk
/// fails; without a system it starts its shell, if it has one, or tries the network for minutes), GRUB's with our
/// configuration, systemd's.
const FATAL: [&str; 8] = [
    "Kernel panic - not syncing",
    "] the machine restarts in",
    "BdsDxe: failed to load Boot0001",
    "BdsDxe: failed to start Boot0001",
    "BdsDxe: No bootable option or device was found",
    "\"EFI Internal Shell\" from Fv",
    "no version could be started; the machine restarts in",
    "You are in emergency mode",
];

/// One status document of a machine: the fields that matter here. The bootstrap owns the format, so others are ignored.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// `configuring`, `ready`, `failed` or `refused`.
    pub state: String,
    /// Whether everything is up.
    pub ready: bool,
    /// Who the machine is.
    pub node: Option<NodeIdentity>,
    /// Its services.
    pub services: Vec<ServiceStatus>,
    /// The results of the operator's checks.
    pub checks: Vec<CheckResult>,
    /// Why it failed or refuses.
    pub error: Option<NodeError>,
    /// Seconds since the kernel started.
    pub uptime_seconds: f64,
    /// The whole document.
    #[serde(skip)]
    pub document: serde_json::Value,
}

/// The identity part of a status document.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeIdentity {
    /// Host name.
    pub name: String,
    /// `meta` or `database`.
    pub role: String,
    /// Address on the private network.
    pub address: String,
}

/// One service of a status document.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ServiceStatus {
    /// Name in the catalogue.
    pub name: String,
    /// `waiting`, `starting`, `healthy` or `failed`.
    pub state: String,
    /// Why it is in that state.
    pub message: Option<String>,
}

/// The result of one check.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct CheckResult {
    /// Name given by the operator.
    pub name: String,
    /// Exit code; `None` when there is none (time limit, signal).
    pub exit: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// The error of a status document.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeError {
    /// Stable code.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// The field or file it is about.
    #[serde(rename = "where")]
    pub place: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

impl NodeStatus {
    /// Reads one line of the status port; `None` for a line that is no document (a guest can write anything).
    pub fn parse(line: &str) -> Option<NodeStatus> {
        let document: serde_json::Value = serde_json::from_str(line).ok()?;
        if !document.is_object() {
            return None;
        }
        let mut status = NodeStatus::deserialize(&document).ok()?;
        status.document = document;
        Some(status)
    }

    /// What the machine still waits for, in one line.
    pub fn waiting_for(&self) -> String {
        let open = self.services.iter().filter(|s| s.state != "healthy");
        let names: Vec<_> = open.map(|s| format!("{} {}", s.name, s.state)).collect();
        if names.is_empty() {
            return self.state.clone();
        }
        format!("{} ({})", self.state, names.join(", "))
    }
}

/// Follows a file that grows by lines.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    offset: u64,
    partial: Vec<u8>,
}

impl Tail {
    /// Follows `path` from its present end; it need not exist yet.
    pub fn from_end(path: PathBuf) -> Tail {
        let offset = path.metadata().map(|m| m.len()).unwrap_or(0);
        Tail {
            path,
            offset,
            partial: Vec::new(),
        }
    }

    /// The complete lines that were written since the last call. A file that cannot be read has none.
    pub fn lines(&mut self) -> Vec<String> {
        let mut new = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.offset))?;
            file.take(MAX_READ).read_to_end(&mut new)
        });
        self.offset += read.unwrap_or(0) as u64;
        self.partial.extend_from_slice(&new);
        let mut lines = Vec::new();
        while let Some(end) = self.partial.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        if self.partial.len() > MAX_LINE {
            self.partial.clear();
        }
        lines
    }
}

/// The console of one machine.
#[derive(Debug)]
pub struct Console {
    tail: Tail,
    last: VecDeque<String>,
}

impl Console {
    /// Follows a serial log from its present end.
    pub fn from_end(path: PathBuf) -> Console {
        Console {
            tail: Tail::from_end(path),
            last: VecDeque::new(),
        }
    }

    /// New lines, without terminal control.
    pub fn lines(&mut self) -> Vec<String> {
        let lines: Vec<_> = self.tail.lines().iter().map(|l| plain(l)).collect();
        for line in lines.iter().filter(|line| !line.is_empty()) {
            if self.last.len() == KEPT_LINES {
                self.last.pop_front();
            }
            self.last.push_back(line.clone());
        }
        lines
    }

    /// The last lines, each on its own line and indented; empty when there are none.
    pub fn quote(&self) -> String {
        self.last
            .iter()
            .map(|line| format!("\n    {line}"))
            .collect()
    }
}

/// Whether a console line says that the boot cannot succeed.
pub fn is_fatal(line: &str) -> bool {
    FATAL.iter().any(|text| line.contains(text))
}

/// A line without escape sequences (ECMA-48: `ESC [ … letter`, other `ESC x`) and control characters.
pub fn plain(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                if chars.next() == Some('[') {
                    chars.by_ref().find(|c| ('\u{40}'..='\u{7e}').contains(c));
                }
            }
            '\t' => text.push(' '),
            c if c.is_control() => {}
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn escape_sequences_are_taken_out() {
        let cases = [
            ("plain text", "plain text"),
            ("[\u{1b}[0;32m  OK  \u{1b}[0m] Started", "[  OK  ] Started"),
            ("\u{1b}[2J\u{1b}[01;01H\u{1b}=\u{1b}[0mBdsDxe", "BdsDxe"),
            ("a\tb\u{7}\r", "a b"),
            ("cut \u{1b}[12;", "cut "),
            ("\u{1b}", ""),
        ];
        for (line, expected) in cases {
            assert_eq!(plain(line), expected, "{line:?}");
        }
    }

    #[test]
    fn lines_appear_once_and_whole() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"before\n").unwrap();
        let mut tail = Tail::from_end(file.path().to_owned());
        assert!(tail.lines().is_empty());
        file.write_all(b"one\r\ntwo\nthr").unwrap();
        assert_eq!(tail.lines(), ["one", "two"]);
        file.write_all(b"ee\n\xff\n").unwrap();
        assert_eq!(tail.lines(), ["three", "\u{fffd}"]);
        assert!(tail.lines().is_empty());
        file.write_all(&vec![b'x'; MAX_LINE + 1]).unwrap();
        assert!(tail.lines().is_empty());
        assert!(tail.partial.is_empty(), "an endless line is not kept");
    }

    #[test]
    fn the_console_keeps_its_last_lines() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut console = Console::from_end(file.path().to_owned());
        assert_eq!(console.quote(), "");
        for n in 0..40 {
            writeln!(file, "line {n}\n").unwrap();
        }
        assert_eq!(console.lines().len(), 80);
        assert!(console.quote().starts_with("\n    line 15\n"));
        assert!(console.quote().ends_with("\n    line 39"));
    }

    #[test]
    fn status_documents_are_read_whatever_else_they_hold() {
        let line = r#"{"schema":1,"state":"configuring","ready":false,"node":{"name":"meta","role":"meta","address":"10.0.0.1","cluster":"x"},
            "services":[{"name":"etcd","unit":"etcd.service","state":"healthy","seconds":1.5,"message":null},{"name":"patroni","state":"starting"}],
            "checks":[],"error":null,"uptime_seconds":12.5,"new":[1]}"#;
        let status = NodeStatus::parse(line).unwrap();
        assert_eq!(status.node.as_ref().unwrap().name, "meta");
        assert_eq!(status.waiting_for(), "configuring (patroni starting)");
        assert_eq!(status.document["new"][0], 1);
        let refused = r#"{"state":"refused","error":{"code":"FR-X","message":"m","where":"meta[0]","hint":null}}"#;
        let status = NodeStatus::parse(refused).unwrap();
        assert_eq!(status.error.unwrap().place.as_deref(), Some("meta[0]"));
        for line in ["", "x", "[]", r#"{"state":5}"#] {
            assert_eq!(NodeStatus::parse(line), None, "{line}");
        }
    }

    #[test]
    fn fatal_lines_are_recognised() {
        let fatal =
            "[    3.141] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100";
        assert!(is_fatal(fatal));
        assert!(is_fatal(
            "[   12.9] farrow-init: [12.9 s] the machine restarts in 10 s"
        ));
        assert!(!is_fatal(
            "[    9.1] farrow-init: [9.1 s] FR-INIT-GROW: cannot grow /var"
        ));
        assert!(!is_fatal("Linux version 6.12 panic=10"));
    }
}
