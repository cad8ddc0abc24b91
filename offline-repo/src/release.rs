//! Release files: what an archive says about itself and which indexes it lists.

use std::collections::BTreeMap;

use crate::date;
use crate::deb822;
use crate::digest::Sha256;
use crate::error::{Error, Result};
use crate::files::is_confined;

/// How far a Release file may be dated in the future, in seconds; apt allows less, but hosts' clocks differ.
const CLOCK_TOLERANCE: u64 = 3600;

/// A file that a Release lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedFile {
    /// Its SHA-256.
    pub sha256: Sha256,
    /// Its size in bytes.
    pub size: u64,
}

/// A parsed Release file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// For example "stable".
    pub suite: Option<String>,
    /// For example "trixie".
    pub codename: Option<String>,
    /// When it was made, seconds since 1970.
    pub date: u64,
    /// Until when it may be used, seconds since 1970.
    pub valid_until: Option<u64>,
    /// Whether indexes are also found by their digest.
    pub by_hash: bool,
    /// Listed files by path below the suite's folder.
    pub files: BTreeMap<String, ListedFile>,
}

impl Release {
    /// Reads the text of a Release file (of an InRelease file: without its signature) from `origin`.
    pub fn parse(origin: &str, text: &str) -> Result<Self> {
        let stanza = deb822::parse_one(text).map_err(|e| e.at(origin))?;
        let date_of = |field: &str| match stanza.get(field) {
            None => Ok(None),
            Some(value) => match date::parse(value) {
                Some(epoch) => Ok(Some(epoch)),
                None => Err(Error::invalid(
                    origin,
                    format!("its {field} is not a date: '{}'", value.escape_debug()),
                )),
            },
        };
        let list = stanza
            .get("SHA256")
            .ok_or_else(|| Error::invalid(origin, "it has no SHA256 list"))?;
        Ok(Release {
            suite: stanza.get("Suite").map(String::from),
            codename: stanza.get("Codename").map(String::from),
            date: date_of("Date")?.ok_or_else(|| Error::invalid(origin, "it has no Date"))?,
            valid_until: date_of("Valid-Until")?,
            by_hash: stanza.get("Acquire-By-Hash") == Some("yes"),
            files: parse_list(origin, list)?,
        })
    }

    /// Checks that this is the suite that was asked for and that it may be used at the time `now`.
    pub fn check(&self, url: &str, suite: &str, now: u64) -> Result<()> {
        let is_named = |name: &Option<String>| name.as_deref() == Some(suite);
        if !is_named(&self.suite) && !is_named(&self.codename) {
            let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "none".into());
            return Err(Error::invalid(
                url,
                format!(
                    "it is signed for the suite '{}', codename '{}', not for '{suite}'",
                    name(&self.suite),
                    name(&self.codename)
                ),
            ));
        }
        let expired = |message| Error::Expired {
            url: url.to_string(),
            message,
        };
        if self.date > now + CLOCK_TOLERANCE {
            return Err(expired(format!(
                "is dated {}, this machine's clock says {}",
                date::format(self.date),
                date::format(now)
            )));
        }
        match self.valid_until {
            Some(end) if end < now => Err(expired(format!(
                "was valid until {}, now it is {}",
                date::format(end),
                date::format(now)
            ))),
            _ => Ok(()),
        }
    }

    /// The best compressed form of an index: its path (with the ending) and what is listed for it.
    pub fn index(&self, path: &str) -> Option<(String, ListedFile)> {
        [".xz", ".zst", ".gz", ""].iter().find_map(|ending| {
            let name = format!("{path}{ending}");
            self.files.get(&name).map(|file| (name.clone(), *file))
        })
    }
}

/// Lines of "digest size path".
fn parse_list(origin: &str, list: &str) -> Result<BTreeMap<String, ListedFile>> {
    let mut files = BTreeMap::new();
    for line in list.lines().filter(|line| !line.trim().is_empty()) {
        let mut words = line.split_ascii_whitespace();
        let entry = (|| {
            let sha256 = words.next()?.parse().ok()?;
            let size = words.next()?.parse().ok()?;
            let path = words.next()?.to_string();
            (words.next().is_none() && is_confined(&path))
                .then_some((path, ListedFile { sha256, size }))
        })();
        let (path, file) = entry.ok_or_else(|| {
            Error::invalid(
                origin,
                format!("not a line of a file list: '{}'", line.escape_debug()),
            )
        })?;
        files.insert(path, file);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Suite: stable-security\nCodename: trixie-security\nDate: Fri, 20 Nov 2026 00:12:42 UTC\n\
        Valid-Until: Fri, 27 Nov 2026 00:12:42 UTC\nAcquire-By-Hash: yes\nSHA256:\n \
        e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855        0 main/binary-amd64/Packages\n \
        f61f27bd17de546264aa58f40f3aafaac7021e0ef69c17f6b1b4cd7664a037ec       20 main/binary-amd64/Packages.gz\n";

    #[test]
    fn release_is_read_and_checked() {
        let release = Release::parse("u", TEXT).unwrap();
        let (path, file) = release.index("main/binary-amd64/Packages").unwrap();
        assert_eq!(
            (path.as_str(), file.size, release.by_hash),
            ("main/binary-amd64/Packages.gz", 20, true)
        );
        assert_eq!(release.index("main/binary-arm64/Packages"), None);
        let now = release.date + 10;
        release.check("u", "trixie-security", now).unwrap();
        release.check("u", "stable-security", now).unwrap();
        for (suite, now, message) in [
            (
                "trixie",
                now,
                "u: it is signed for the suite 'stable-security', codename 'trixie-security', not for 'trixie'",
            ),
            (
                "trixie-security",
                now + 8 * 86400,
                "u was valid until Fri, 27 Nov 2026 00:12:42 UTC, now it is Sat, 28 Nov 2026 00:12:52 UTC",
            ),
            (
                "trixie-security",
                now - 86400,
                "u is dated Fri, 20 Nov 2026 00:12:42 UTC, this machine's clock says Thu, 19 Nov 2026 00:12:52 UTC",
            ),
        ] {
            assert_eq!(
                release.check("u", suite, now).unwrap_err().to_string(),
                message
            );
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, message) in [
            (
                "Date: Fri, 20 Nov",
                "Date: Fri, 20 Dec.",
                "u: its Date is not a date: 'Fri, 20 Dec. 2026 00:12:42 UTC'",
            ),
            ("Date:", "Datum:", "u: it has no Date"),
            ("SHA256:", "SHA1:", "u: it has no SHA256 list"),
            (
                "main/binary-amd64/Packages.gz",
                "../Packages.gz",
                "u: not a line of a file list: ' f61f27bd17de546264aa58f40f3aafaac7021e0ef69c17f6b1b4cd7664a037ec       20 ../Packages.gz'",
            ),
        ] {
            let text = TEXT.replacen(from, to, 1);
            assert_eq!(Release::parse("u", &text).unwrap_err().to_string(), message);
        }
    }
}
