//! Kernel modules: which ones this machine needs, and loading them.
//!
//! `/modules.list` is written by the image builder. Each line is a condition and the files to load, dependencies first:
//!
//! ```text
//! always dm-mod.ko dm-bufio.ko dm-verity.ko
//! alias virtio:d00000002v* virtio_blk.ko
//! ```
//!
//! An `alias` line is loaded once a device (or the processor) reports a modalias that the pattern matches. The files
//! lie in `/modules` and are not compressed.

use super::failure::{Failure, Step};
use super::log::{self, Level};
use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

const HINT: &str = "the image does not fit this machine's hardware or is damaged";

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Pattern over modaliases; none: needed on every machine.
    pub alias: Option<String>,
    /// File names in `/modules`, in the order of loading.
    pub files: Vec<String>,
}

/// Parses the list; lines that are not understood are a failure, since a module would be missing later.
pub fn parse(text: &str) -> Step<Vec<Rule>> {
    text.lines().map(parse_line).collect()
}

fn parse_line(line: &str) -> Step<Rule> {
    let mut words = line.split_ascii_whitespace();
    let alias = match words.next() {
        Some("always") => Some(None),
        Some("alias") => words.next().map(|pattern| Some(pattern.to_owned())),
        _ => None,
    };
    let files: Vec<String> = words.map(str::to_owned).collect();
    match alias {
        Some(alias) if !files.is_empty() && files.iter().all(|f| !f.contains('/')) => {
            Ok(Rule { alias, files })
        }
        _ => Err(Failure::new(
            "FR-INIT-MODULES",
            format!("cannot read the line {line:?} of /modules.list"),
            HINT,
        )),
    }
}

/// The modules of this machine.
#[derive(Debug)]
pub struct Modules {
    rules: Vec<Rule>,
    done: BTreeSet<String>,
}

impl Modules {
    /// Reads the list.
    pub fn read() -> Step<Self> {
        let text = std::fs::read_to_string("/modules.list").map_err(|e| {
            let message = format!("cannot read /modules.list: {e}");
            Failure::new("FR-INIT-MODULES", message, HINT)
        })?;
        Ok(Self {
            rules: parse(&text)?,
            done: BTreeSet::new(),
        })
    }

    /// Loads what every machine needs; a failure stops the boot.
    pub fn load_always(&mut self) -> Step<()> {
        for rule in self.rules.clone().iter().filter(|r| r.alias.is_none()) {
            for file in &rule.files {
                self.load(file)?;
            }
        }
        Ok(())
    }

    /// Loads the first driver of the list that a device asks for and that was not tried yet; false: there is none.
    pub fn load_next_for_devices(&mut self) -> bool {
        let present = present_aliases();
        let wanted = self.rules.iter().find(|rule| {
            let asked = |alias: &String| present.iter().any(|device| matches(alias, device));
            rule.alias.as_ref().is_some_and(asked)
                && rule.files.iter().any(|f| !self.done.contains(f))
        });
        wanted
            .map(|rule| rule.files.clone())
            .is_some_and(|files| self.load_all(files))
    }

    /// Loads every driver of the image, for hardware that announces itself in no way we know.
    pub fn load_everything(&mut self) {
        let files = self.rules.iter().flat_map(|r| r.files.clone()).collect();
        self.load_all(files);
    }

    /// Loads the files not yet tried; says whether there was any. A driver that fails is reported and left.
    fn load_all(&mut self, files: Vec<String>) -> bool {
        let mut any = false;
        for file in files {
            if !self.done.contains(&file) {
                any = true;
                if let Err(failure) = self.load(&file) {
                    log::say(Level::Warning, &failure.to_string());
                }
            }
        }
        any
    }

    fn load(&mut self, file: &str) -> Step<()> {
        if !self.done.insert(file.to_owned()) {
            return Ok(());
        }
        let path = format!("/modules/{file}");
        let refuse = |e: &dyn std::fmt::Display| {
            let message = format!("cannot load kernel module {path}: {e}");
            Failure::new("FR-INIT-MODULES", message, HINT)
        };
        let module = File::open(&path).map_err(|e| refuse(&e))?;
        insert(&module).map_err(|e| refuse(&e))
    }
}

/// `finit_module(2)` without parameters; a module that is there already is fine.
#[allow(unsafe_code)]
fn insert(module: &File) -> nix::Result<()> {
    let parameters: &CStr = c"";
    // SAFETY: the descriptor is open during the call and the parameters are a NUL-terminated string that the kernel
    // copies; the call touches no other memory of this process.
    let result = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_finit_module,
            module.as_raw_fd(),
            parameters.as_ptr(),
            0,
        )
    };
    match nix::errno::Errno::result(result) {
        Ok(_) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        Err(e) => Err(e),
    }
}

/// The modaliases of the devices of all busses and of the processor.
fn present_aliases() -> BTreeSet<String> {
    let mut aliases = BTreeSet::new();
    let mut add = |path: &Path| {
        if let Ok(text) = std::fs::read_to_string(path) {
            aliases.insert(text.trim_end().to_owned());
        }
    };
    add(Path::new("/sys/devices/system/cpu/modalias"));
    for bus in entries("/sys/bus") {
        for device in entries(bus.join("devices")) {
            add(&device.join("modalias"));
        }
    }
    aliases
}

fn entries(path: impl AsRef<Path>) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(path)
        .map(|dir| dir.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}

/// Whether a shell pattern (`*`, `?`, `[a-z]`), as module aliases use it, matches the whole text.
pub fn matches(pattern: &str, text: &str) -> bool {
    glob(pattern.as_bytes(), text.as_bytes())
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // Where to go on after the last star: one byte of text more for it on each return. No recursion, so that the cost
    // is bounded by the product of the lengths.
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => class(&pattern[p..], text[t]),
            Some(&byte) => (byte == text[t]).then_some(1),
            None => None,
        };
        match (step, star) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((after, from))) => {
                star = Some((after, from + 1));
                p = after;
                t = from + 1;
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|&b| b == b'*')
}

/// The length of the bracket expression that `pattern` starts with, if `byte` is in it.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let end = pattern.iter().position(|&b| b == b']')?;
    let set = &pattern[1..end];
    let mut at = 0;
    let mut found = false;
    while at < set.len() {
        if at + 2 < set.len() && set[at + 1] == b'-' {
            found |= (set[at]..=set[at + 2]).contains(&byte);
            at += 3;
        } else {
            found |= set[at] == byte;
            at += 1;
        }
    }
    found.then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let cases = [
            ("virtio:d00000002v*", "virtio:d00000002v00001AF4", true),
            ("virtio:d00000002v*", "virtio:d00000008v00001AF4", false),
            (
                "pci:v*d*sv*sd*bc01sc06i01*",
                "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01",
                true,
            ),
            (
                "pci:v*d*sv*sd*bc01sc06i01*",
                "pci:v00008086d00002922sv00001AF4sd00001100bc01sc01i80",
                false,
            ),
            ("scsi:t-0x0[07e]*", "scsi:t-0x07", true),
            ("scsi:t-0x0[a-c]", "scsi:t-0x0d", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*", "", true),
            ("[", "[", false),
            ("", "", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn list_lines() {
        let rules = parse("always a.ko b.ko\nalias virtio:d2v* c.ko\n").unwrap();
        assert_eq!(rules[0].files, ["a.ko", "b.ko"]);
        assert_eq!(rules[1].alias.as_deref(), Some("virtio:d2v*"));
        for wrong in ["", "always", "alias x", "sometimes a.ko", "always ../a.ko"] {
            assert!(parse_line(wrong).is_err(), "{wrong}");
        }
    }
}
