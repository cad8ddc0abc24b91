//! Names of boot loader entries, with the counter of tries of systemd's "Automatic Boot Assessment":
//! `NAME_VERSION.efi` is good, `NAME_VERSION+LEFT[-DONE].efi` is on trial. The boot loader counts down at each try; an
//! entry without tries left is sorted behind all others.

use std::fmt;

/// How an image's kernel file begins and ends.
const ENDING: &str = ".efi";

/// Tries that are left, and tries that were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    /// Tries left.
    pub left: u32,
    /// Tries made.
    pub done: u32,
}

/// An entry of one image's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `NAME_VERSION`.
    pub id: String,
    /// Version.
    pub version: String,
    /// None: it is good.
    pub counter: Option<Counter>,
}

/// `NAME_VERSION`, as files and GRUB's variables call a version.
pub fn id(name: &str, version: &str) -> String {
    format!("{name}_{version}")
}

impl Entry {
    /// An entry with a counter, or a good one.
    pub fn new(name: &str, version: &str, counter: Option<Counter>) -> Self {
        Entry {
            id: id(name, version),
            version: version.to_owned(),
            counter,
        }
    }

    /// Reads a file name of an image's entry; none when it is another file.
    pub fn parse(file: &str, name: &str) -> Option<Self> {
        let id = file.strip_suffix(ENDING)?;
        let rest = id.strip_prefix(name)?.strip_prefix('_')?;
        let (version, counter) = match rest.rsplit_once('+') {
            None => (rest, None),
            Some((version, counter)) => (version, Some(Counter::parse(counter)?)),
        };
        super::version::is_plain(version).then(|| Entry::new(name, version, counter))
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        if let Some(Counter { left, done }) = self.counter {
            write!(f, "+{left}")?;
            if done > 0 {
                write!(f, "-{done}")?;
            }
        }
        f.write_str(ENDING)
    }
}

impl Counter {
    fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
        };
        let (left, done) = text.split_once('-').unwrap_or((text, "0"));
        Some(Counter {
            left: number(left)?,
            done: number(done)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        let counter = |left, done| Some(Counter { left, done });
        for (file, version, expected) in [
            ("base_0.1.0.efi", "0.1.0", None),
            ("base_2+3.efi", "2", counter(3, 0)),
            ("base_2+2-1.efi", "2", counter(2, 1)),
            ("base_2~rc1+0-3.efi", "2~rc1", counter(0, 3)),
        ] {
            let entry = Entry::parse(file, "base").unwrap();
            assert_eq!(
                (entry.version.as_str(), entry.counter),
                (version, expected),
                "{file}"
            );
            assert_eq!(entry.to_string(), file);
        }
        assert_eq!(
            Entry::parse("base_2+03-00.efi", "base").unwrap().counter,
            counter(3, 0)
        );
    }

    #[test]
    fn other_files_are_no_entries() {
        for file in [
            "base_1.conf",
            "base.efi",
            "other_1.efi",
            "base_.efi",
            "base_1+.efi",
            "base_1+x.efi",
            "base_1+1-.efi",
            "base_1+1-2-3.efi",
            "base_1+99999999999.efi",
            "base_1+-1.efi",
            "base_../x.efi",
            ".efi",
            "",
            "BASE~1.EFI",
        ] {
            assert_eq!(Entry::parse(file, "base"), None, "{file}");
        }
    }
}
