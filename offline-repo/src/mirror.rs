//! Where an archive is fetched from. A recipe names the archive ("debian"); the URL comes from the command
//! line, the environment or this host's apt configuration, so that no recipe holds a mirror's name.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::deb822;
use crate::error::{Error, Result};

/// Beginning of the environment variables that name mirrors.
const PREFIX: &str = "FARROW_MIRROR_";

/// The environment variable for an archive: `debian-security` → `FARROW_MIRROR_DEBIAN_SECURITY`.
pub fn variable(archive: &str) -> String {
    format!("{PREFIX}{}", archive.to_uppercase().replace('-', "_"))
}

/// Known mirrors, by archive. Each list is in order of preference.
#[derive(Debug, Clone, Default)]
pub struct Mirrors {
    overrides: BTreeMap<String, Vec<String>>,
    environment: BTreeMap<String, String>,
    configured: BTreeMap<String, Vec<String>>,
}

impl Mirrors {
    /// Mirrors from given values: overrides (archive → URLs), environment variables, and the URLs that an
    /// apt configuration uses.
    pub fn new(
        overrides: BTreeMap<String, Vec<String>>,
        environment: BTreeMap<String, String>,
        apt_urls: &[String],
    ) -> Self {
        Mirrors {
            overrides,
            environment,
            configured: by_archive(apt_urls),
        }
    }

    /// Mirrors of this host: overrides from the command line, the process's environment, `/etc/apt`.
    pub fn from_host(overrides: BTreeMap<String, Vec<String>>) -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(key, value)| key.starts_with(PREFIX) && !value.trim().is_empty())
            .collect();
        Mirrors::new(overrides, environment, &read_apt(Path::new("/etc/apt")))
    }

    /// Base URLs of an archive, without a slash at the end, best first. `own` is the URL that the
    /// recipe itself gives for a vendor's archive. Wherever one URL is given, several may be, see [`split`].
    pub fn urls(&self, archive: &str, own: Option<&str>) -> Result<Vec<String>> {
        let overrides = self.overrides.get(archive);
        let urls = overrides
            .map(|urls| urls.iter().flat_map(|url| split(url)).collect())
            .or_else(|| {
                self.environment
                    .get(&variable(archive))
                    .map(|urls| split(urls))
            })
            .or_else(|| own.map(split))
            .or_else(|| self.configured.get(archive).cloned())
            .filter(|urls| !urls.is_empty())
            .ok_or_else(|| Error::Mirror {
                archive: archive.to_string(),
            })?;
        for url in &urls {
            if !is_http(url) {
                return Err(Error::invalid(
                    format!("mirror of '{archive}'"),
                    format!("'{}' is not an http or https URL", url.escape_debug()),
                ));
            }
        }
        Ok(urls
            .iter()
            .map(|url| url.trim_end_matches('/').to_string())
            .collect())
    }
}

/// URLs separated by spaces, as in apt's `URIs`, or by commas, as is usual on a command line.
pub fn split(urls: &str) -> Vec<String> {
    urls.split(|c: char| c == ',' || c.is_ascii_whitespace())
        .filter(|url| !url.is_empty())
        .map(String::from)
        .collect()
}

fn is_http(url: &str) -> bool {
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        !rest.is_empty() && !rest.starts_with('/') && url.bytes().all(|b| b.is_ascii_graphic())
    })
}

/// Sorts URLs by the last component of their path, which names the archive on every Debian mirror; when only
/// one of `debian` and `debian-security` is there, the other is taken to be beside it.
fn by_archive(urls: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut archives: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for url in urls.iter().filter(|url| is_http(url)) {
        let url = url.trim_end_matches('/');
        let Some((_, name)) = url.rsplit_once('/') else {
            continue;
        };
        let known = archives.entry(name.to_string()).or_default();
        if !known.iter().any(|other| other == url) {
            known.push(url.to_string());
        }
    }
    for (from, to) in [("debian", "debian-security"), ("debian-security", "debian")] {
        if archives.contains_key(to) {
            continue;
        }
        if let Some(urls) = archives.get(from) {
            let siblings = urls
                .iter()
                .map(|url| format!("{}{to}", &url[..url.len() - from.len()]))
                .collect();
            archives.insert(to.to_string(), siblings);
        }
    }
    archives
}

/// URLs in the apt configuration below `etc`; what cannot be read or parsed is left out, since apt's own
/// mistakes are not ours to report.
fn read_apt(etc: &Path) -> Vec<String> {
    let mut files = vec![etc.join("sources.list")];
    let entries = fs::read_dir(etc.join("sources.list.d"));
    files.extend(
        entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path()),
    );
    files[1..].sort();
    let mut urls = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|e| e.to_str()) {
            Some("sources") => urls.extend(parse_sources(&text)),
            Some("list") => urls.extend(parse_list(&text)),
            _ => {}
        }
    }
    urls
}

/// URLs of the enabled binary entries of a deb822 `.sources` file.
pub fn parse_sources(text: &str) -> Vec<String> {
    let stanzas = deb822::parse(text).unwrap_or_default();
    stanzas
        .iter()
        .filter(|stanza| {
            let enabled = stanza.get("Enabled").unwrap_or("yes").to_ascii_lowercase();
            let types = stanza.get("Types").unwrap_or_default();
            !matches!(enabled.as_str(), "no" | "false" | "0")
                && types.split_ascii_whitespace().any(|t| t == "deb")
        })
        .flat_map(|stanza| {
            stanza
                .get("URIs")
                .unwrap_or_default()
                .split_ascii_whitespace()
        })
        .map(String::from)
        .collect()
}

/// URLs of the `deb` lines of a one-line-style `.list` file.
pub fn parse_list(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.split('#').next()?.trim().strip_prefix("deb"))
        .filter(|rest| rest.starts_with([' ', '\t']))
        .filter_map(|rest| {
            let rest = rest.trim_start();
            let rest = match rest.strip_prefix('[') {
                Some(options) => options.split_once(']')?.1,
                None => rest,
            };
            rest.split_ascii_whitespace().next().map(String::from)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCES: &str = "Types: deb\n# a comment\nURIs: http://mirror.example/debian/ http://second.example/debian\nSuites: bookworm\n\n\
        Types: deb-src\nURIs: http://src.example/debian\n\nEnabled: no\nTypes: deb\nURIs: http://off.example/debian\n";

    #[test]
    fn apt_files() {
        assert_eq!(
            parse_sources(SOURCES),
            [
                "http://mirror.example/debian/",
                "http://second.example/debian"
            ]
        );
        let list = "# deb http://no.example/debian x main\ndeb [arch=amd64 signed-by=/k] https://a.example/pub/debian trixie main\n\
            deb-src http://b.example/debian trixie main\ndeb\thttp://c.example/debian-security t main # note\ndebian\n";
        assert_eq!(
            parse_list(list),
            [
                "https://a.example/pub/debian",
                "http://c.example/debian-security"
            ]
        );
    }

    #[test]
    fn order_of_sources_and_siblings() {
        let overrides = BTreeMap::from([("a1".into(), vec!["http://o.example/x/".into()])]);
        let environment = BTreeMap::from([
            ("FARROW_MIRROR_A1".into(), "http://e.example/x".into()),
            (
                "FARROW_MIRROR_B_2".into(),
                "http://e.example/b, http://f.example/b".into(),
            ),
        ]);
        let mirrors = Mirrors::new(overrides, environment, &parse_sources(SOURCES));
        for (archive, own, expected) in [
            ("a1", None, "http://o.example/x"),
            ("b-2", None, "http://e.example/b http://f.example/b"),
            (
                "b-2",
                Some("http://own.example"),
                "http://e.example/b http://f.example/b",
            ),
            ("pgdg", Some("http://own.example/"), "http://own.example"),
            (
                "pgdg",
                Some("http://own.example/ http://two.example"),
                "http://own.example http://two.example",
            ),
            (
                "debian",
                None,
                "http://mirror.example/debian http://second.example/debian",
            ),
            (
                "debian-security",
                None,
                "http://mirror.example/debian-security http://second.example/debian-security",
            ),
        ] {
            assert_eq!(
                mirrors.urls(archive, own).unwrap().join(" "),
                expected,
                "{archive}"
            );
        }
        let error = mirrors.urls("ubuntu", None).unwrap_err();
        assert_eq!(error.code(), "FR-LOCK-MIRROR");
        assert!(error.hint().unwrap().contains("FARROW_MIRROR_UBUNTU"));
        assert!(mirrors.urls("x", Some("file:///debian")).is_err());
        let security = Mirrors::new(
            BTreeMap::new(),
            BTreeMap::new(),
            &["http://m/debian-security".into()],
        );
        assert_eq!(security.urls("debian", None).unwrap(), ["http://m/debian"]);
    }
}
