//! Which servers failed lately, so that the others are asked first.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::error::Error;

/// How long a server is asked last after its first failure in a row; doubled for each further one.
const REST: Duration = Duration::from_secs(2);
/// At most this many doublings: a mirror that comes back is used again within minutes.
const DOUBLINGS: u32 = 7;

/// State of the servers of one run, by scheme, host and port.
#[derive(Debug, Default)]
pub(super) struct Health {
    servers: Mutex<BTreeMap<String, Trouble>>,
}

#[derive(Debug)]
struct Trouble {
    in_a_row: u32,
    until: Instant,
    reason: String,
}

/// Scheme, host and port of a URL: what fails, fails for all files there.
pub(super) fn server(url: &str) -> String {
    let shown = super::redact(url);
    let start = shown.find("://").map_or(0, |at| at + 3);
    let end = shown[start..]
        .find('/')
        .map_or(shown.len(), |at| start + at);
    shown[..end].to_string()
}

impl Health {
    /// Notes a failure that concerns the server rather than one of its files.
    pub(super) fn failed(&self, url: &str, error: &Error) {
        let mut servers = self.servers.lock().expect("no panic holds it");
        let trouble = servers.entry(server(url)).or_insert(Trouble {
            in_a_row: 0,
            until: Instant::now(),
            reason: String::new(),
        });
        trouble.until = Instant::now() + REST * 2u32.pow(trouble.in_a_row.min(DOUBLINGS));
        trouble.in_a_row += 1;
        trouble.reason = error.to_string();
    }

    /// Notes a success.
    pub(super) fn works(&self, url: &str) {
        let mut servers = self.servers.lock().expect("no panic holds it");
        if let Some(trouble) = servers.get_mut(&server(url)) {
            trouble.in_a_row = 0;
            trouble.until = Instant::now();
        }
    }

    /// Whether others should be asked before.
    pub(super) fn is_failing(&self, url: &str) -> bool {
        let servers = self.servers.lock().expect("no panic holds it");
        (servers.get(&server(url))).is_some_and(|trouble| trouble.until > Instant::now())
    }

    /// Servers that failed, each with the reason of the last time.
    pub(super) fn troubles(&self) -> Vec<(String, String)> {
        let servers = self.servers.lock().expect("no panic holds it");
        (servers.iter())
            .map(|(server, trouble)| (server.clone(), trouble.reason.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_told_apart_by_host_and_port() {
        let health = Health::default();
        health.failed("http://u:p@a:80/x/y", &Error::invalid("x", "broken"));
        for (url, failing) in [
            ("http://a:80/z", true),
            ("http://a:81/x/y", false),
            ("https://a:80/x/y", false),
            ("http://b/x/y", false),
        ] {
            assert_eq!(health.is_failing(url), failing, "{url}");
        }
        health.works("http://a:80/other");
        assert!(!health.is_failing("http://a:80/x/y"));
        assert_eq!(
            health.troubles(),
            [("http://a:80".into(), "x: broken".into())]
        );
    }
}
