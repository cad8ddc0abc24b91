//! HTTP, and nothing else here does HTTP: requests with time limits, retries, several mirrors, resumption.
//!
//! A request is tried at each mirror in turn, those that failed lately last, then after a pause again. What one mirror
//! has begun another may finish, since content is known by its digest.

mod answer;
mod download;
mod failure;
mod health;
mod limit;

use std::fs::File;
use std::io::Read;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Once;
use std::time::{Duration, Instant};

use reqwest::blocking::{Client as Http, Response};
use reqwest::redirect::Policy;

use crate::digest::Sha256;
use crate::error::{Error, Result};
use crate::mirror::Mirrors;

use answer::Range;
use failure::{Attempt, Failure, Next, all_failed};
use health::Health;
pub use limit::parse_rate;
use limit::{Limiter, Pace};

/// Rounds over the mirrors that bring nothing new before a request is given up.
const ROUNDS: u32 = 4;
/// The longest pause between two rounds, whatever a server asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Mirrors of Debian redirect once, to a content delivery network; twice leaves room for a move to https.
const REDIRECTS: usize = 5;

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Every request fails with [`Error::Offline`].
    pub offline: bool,
    /// Bytes per second, all connections together; `None`: no limit.
    pub limit_rate: Option<NonZeroU64>,
    /// How long a server may send nothing, or next to nothing. dnf's default (`timeout` of dnf.conf(5)).
    pub patience: Duration,
    /// Pause before the second round; it doubles each time, give or take a half.
    pub backoff: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            offline: false,
            limit_rate: None,
            patience: Duration::from_secs(30),
            backoff: Duration::from_millis(400),
        }
    }
}

/// Fetches from the mirrors it was given.
#[derive(Debug)]
pub struct Client {
    http: Http,
    mirrors: Mirrors,
    options: Options,
    health: Health,
    limiter: Option<Limiter>,
}

/// Content that is known before it is fetched.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Name for messages.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Digest.
    pub sha256: Sha256,
}

impl Client {
    /// A client with the usual behaviour.
    pub fn new(mirrors: Mirrors, offline: bool) -> Result<Self> {
        let options = Options {
            offline,
            ..Options::default()
        };
        Client::with_options(mirrors, options)
    }

    /// A client; proxies come from the environment.
    pub fn with_options(mirrors: Mirrors, options: Options) -> Result<Self> {
        choose_tls();
        let http = Http::builder()
            .user_agent(concat!("farrow/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT.min(options.patience))
            // Of the blocking client: for the answer to begin, and again for each read of its body.
            .timeout(options.patience)
            .redirect(redirects())
            .referer(false)
            .pool_max_idle_per_host(16)
            .build()
            .map_err(|e| Error::invalid("HTTP client", e))?;
        Ok(Client {
            http,
            mirrors,
            health: Health::default(),
            limiter: options.limit_rate.map(Limiter::new),
            options,
        })
    }

    /// Whether the network must not be used.
    pub fn is_offline(&self) -> bool {
        self.options.offline
    }

    /// How long to wait before something is asked again that a server may have in a moment.
    pub fn pause(&self) -> Duration {
        self.options.backoff * 2
    }

    /// Base URLs of an archive, see [`Mirrors::urls`].
    pub fn archive_urls(&self, archive: &str, own: Option<&str>) -> Result<Vec<String>> {
        self.mirrors.urls(archive, own)
    }

    /// Servers that failed and the last reason of each, for a note to the user.
    pub fn troubles(&self) -> Vec<(String, String)> {
        self.health.troubles()
    }

    /// Fetches a small file from the first URL that has it; returns the URL as well.
    pub fn get(&self, urls: &[String], limit: u64) -> Result<(Vec<u8>, String)> {
        self.get_accepted(urls, limit, |bytes, url| Ok((bytes, url.to_string())))
    }

    /// Fetches a small file from the first URL whose content `accept` can use.
    pub fn get_accepted<T>(
        &self,
        urls: &[String],
        limit: u64,
        accept: impl Fn(Vec<u8>, &str) -> Result<T>,
    ) -> Result<T> {
        self.try_all(urls, |url| {
            let fetch = || {
                let too_large = || {
                    Failure::other_mirror(Error::TooLarge {
                        origin: redact(url),
                        limit,
                    })
                };
                let response = self.send(url, None)?;
                answer::whole(url, &response)?;
                if response.content_length().is_some_and(|n| n > limit) {
                    return Err(too_large());
                }
                let mut bytes = Vec::new();
                self.read_body(response, url, |chunk| {
                    bytes.extend_from_slice(chunk);
                    match bytes.len() as u64 > limit {
                        true => Err(too_large()),
                        false => Ok(()),
                    }
                })?;
                accept(bytes, url).map_err(Failure::other_mirror)
            };
            Attempt {
                outcome: fetch(),
                grew: false,
            }
        })
    }

    /// Fetches into `file`, continuing after what it already holds, until it has the expected content.
    /// `on_bytes` gets the number of bytes present after each step.
    pub fn download(
        &self,
        urls: &[String],
        expected: &Expected,
        file: &mut File,
        path: &Path,
        on_bytes: &dyn Fn(u64),
    ) -> Result<()> {
        let mut download = download::Download::new(expected, file, path, on_bytes)?;
        if download.is_finished()? {
            return Ok(());
        }
        self.try_all(urls, |url| download.attempt(self, url))
    }

    /// Asks each URL, those whose server failed lately last; then, after a pause, again those that may still do better.
    fn try_all<T>(
        &self,
        urls: &[String],
        mut attempt: impl FnMut(&str) -> Attempt<T>,
    ) -> Result<T> {
        if self.options.offline {
            return Err(Error::Offline {
                missing: urls.first().map(|url| redact(url)).into_iter().collect(),
            });
        }
        let mut open: Vec<&String> = urls.iter().collect();
        let mut failed: Vec<(&String, Error)> = Vec::new();
        let mut idle = 0;
        while idle < ROUNDS && !open.is_empty() {
            open.sort_by_key(|url| self.health.is_failing(url));
            let (mut grew, mut pause) = (false, Duration::ZERO);
            for url in std::mem::take(&mut open) {
                let done = attempt(url);
                grew |= done.grew;
                let failure = match done.outcome {
                    Ok(value) => {
                        self.health.works(url);
                        return Ok(value);
                    }
                    Err(failure) => failure,
                };
                match failure.next {
                    Next::Stop => return Err(*failure.error),
                    Next::OtherMirror => {}
                    Next::Retry(after) => {
                        self.health.failed(url, &failure.error);
                        pause = pause.max(after);
                        open.push(url);
                    }
                }
                failed.retain(|(known, _)| *known != url);
                failed.push((url, *failure.error));
            }
            idle = if grew { 0 } else { idle + 1 };
            if idle < ROUNDS && !open.is_empty() {
                let backoff = self.options.backoff * 2u32.pow(idle);
                let jittered = backoff.mul_f64(0.5 + fastrand::f64());
                std::thread::sleep(jittered.max(pause).min(LONGEST_PAUSE));
            }
        }
        Err(all_failed(failed))
    }

    /// Sends a request; with a range, for what is missing.
    fn send(&self, url: &str, range: Option<&Range>) -> std::result::Result<Response, Failure> {
        let mut request = self.http.get(url);
        if let Some(range) = range {
            request = range.apply(request);
        }
        let response = request.send().map_err(|e| {
            let error = broken(url, &e);
            // A redirect that leads astray does so the next time as well.
            match e.is_redirect() || e.is_builder() {
                true => Failure::other_mirror(error),
                false => Failure::retry(error),
            }
        })?;
        Ok(response)
    }

    /// Reads a body to its end, at the pace that is allowed, and no slower than is bearable.
    fn read_body(
        &self,
        mut response: Response,
        url: &str,
        mut take: impl FnMut(&[u8]) -> std::result::Result<(), Failure>,
    ) -> std::result::Result<(), Failure> {
        let mut buffer = vec![0; self.limiter.as_ref().map_or(128 << 10, Limiter::chunk)];
        let mut pace = Pace::new(self.options.patience);
        loop {
            let begin = Instant::now();
            match response.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => {
                    take(&buffer[..n])?;
                    if let Err(message) = pace.add(n as u64, begin.elapsed()) {
                        return Err(Failure::retry(no_answer(url, message)));
                    }
                    if let Some(limiter) = &self.limiter {
                        limiter.wait(n as u64);
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Failure::retry(broken(url, &e))),
            }
        }
    }
}

/// Chooses what HTTPS clients of this process encrypt with; before the first of them is made.
pub fn choose_tls() {
    static PROVIDER: Once = Once::new();
    // Fails only if the program has chosen a provider itself, which is as good.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

/// Follows a few redirects, to http and https only, and never from https back to http.
fn redirects() -> Policy {
    Policy::custom(|attempt| {
        let to = attempt.url();
        let was_secure = attempt.previous().iter().any(|url| url.scheme() == "https");
        let refusal = match to.scheme() {
            _ if attempt.previous().len() > REDIRECTS => {
                format!("it redirects more than {REDIRECTS} times")
            }
            "https" => return attempt.follow(),
            "http" if !was_secure => return attempt.follow(),
            "http" => format!("it redirects from https to {}", redact(to.as_str())),
            _ => format!("it redirects to {}", redact(to.as_str())),
        };
        attempt.error(refusal)
    })
}

fn broken(url: &str, error: &dyn std::error::Error) -> Error {
    // reqwest puts the URL into its message, credentials included.
    let mut message = error.to_string();
    if let Some((start, _)) = message.split_once(" for url (") {
        message.truncate(start.len());
    }
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    no_answer(url, message)
}

fn no_answer(url: &str, message: String) -> Error {
    Error::Http {
        url: redact(url),
        message,
        status: None,
    }
}

/// A URL without user name and password, for messages.
pub fn redact(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_string();
    };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn credentials_are_not_shown() {
        for (url, shown) in [
            ("http://user:pass@host/a@b", "http://host/a@b"),
            ("https://host:8/a", "https://host:8/a"),
            ("http://a@b@host", "http://host"),
        ] {
            assert_eq!(super::redact(url), shown);
        }
    }
}
