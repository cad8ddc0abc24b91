//! HTTP, and nothing else here does HTTP: requests with time limits, retries, several mirrors, resumption.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::blocking::{Client as Http, Response};
use reqwest::header::RANGE;

use crate::digest::{Hasher, Sha256};
use crate::error::{Error, Result};
use crate::mirror::Mirrors;

/// Attempts per URL before the next mirror is tried.
const ATTEMPTS: u32 = 4;
/// Pause before the first retry; it doubles each time.
const BACKOFF: Duration = Duration::from_millis(400);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a connection may be silent.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Fetches from the mirrors it was given.
#[derive(Debug)]
pub struct Client {
    http: Http,
    mirrors: Mirrors,
    offline: bool,
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

/// Why one attempt failed, and whether another makes sense.
struct Failure {
    error: Error,
    retry: bool,
}

impl Client {
    /// A client; with `offline` every request fails with [`Error::Offline`]. Proxies come from the environment.
    pub fn new(mirrors: Mirrors, offline: bool) -> Result<Self> {
        static PROVIDER: Once = Once::new();
        // Fails only if the program has chosen a provider itself, which is as good.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let http = Http::builder()
            .user_agent(concat!("farrow/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(READ_TIMEOUT)
            .pool_max_idle_per_host(16)
            .build()
            .map_err(|e| Error::invalid("HTTP client", e))?;
        Ok(Client {
            http,
            mirrors,
            offline,
        })
    }

    /// Whether the network must not be used.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// Base URLs of an archive, see [`Mirrors::urls`].
    pub fn archive_urls(&self, archive: &str, own: Option<&str>) -> Result<Vec<String>> {
        self.mirrors.urls(archive, own)
    }

    /// Fetches a small file from the first URL that has it; returns the URL as well.
    pub fn get(&self, urls: &[String], limit: u64) -> Result<(Vec<u8>, String)> {
        self.try_all(urls, |url| {
            let response = self.request(url, 0)?;
            let mut bytes = Vec::new();
            response
                .take(limit + 1)
                .read_to_end(&mut bytes)
                .map_err(|e| Failure {
                    error: broken(url, e),
                    retry: true,
                })?;
            match bytes.len() as u64 > limit {
                true => Err(give_up(Error::TooLarge {
                    origin: redact(url),
                    limit,
                })),
                false => Ok((bytes, url.to_string())),
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
        self.try_all(urls, |url| {
            self.continue_download(url, expected, file, path, on_bytes)
        })
    }

    fn continue_download(
        &self,
        url: &str,
        expected: &Expected,
        file: &mut File,
        path: &Path,
        on_bytes: &dyn Fn(u64),
    ) -> std::result::Result<(), Failure> {
        let io = |e| give_up(Error::io("write", path, e));
        let mut hasher = hash_present(file, expected.size).map_err(io)?;
        let resumed = hasher.size() > 0;
        if hasher.size() < expected.size {
            let response = self.request(url, hasher.size())?;
            if resumed && response.status() != StatusCode::PARTIAL_CONTENT {
                file.set_len(0).and_then(|()| file.rewind()).map_err(io)?;
                hasher = Hasher::default();
            }
            copy(response, url, expected, file, path, &mut hasher, on_bytes)?;
        }
        let (actual, actual_size) = hasher.finish();
        if (actual, actual_size) == (expected.sha256, expected.size) {
            return Ok(());
        }
        // Nothing of it can be used again. What was resumed may be at fault, so one full attempt follows.
        file.set_len(0).and_then(|()| file.rewind()).map_err(io)?;
        Err(Failure {
            retry: resumed,
            error: Error::Hash {
                name: expected.name.clone(),
                origin: redact(url),
                expected: expected.sha256.to_string(),
                actual: actual.to_string(),
                expected_size: expected.size,
                actual_size,
            },
        })
    }

    /// Tries each URL several times, and the next URL when one has failed for good.
    fn try_all<T>(
        &self,
        urls: &[String],
        mut attempt: impl FnMut(&str) -> std::result::Result<T, Failure>,
    ) -> Result<T> {
        if self.offline {
            return Err(Error::Offline {
                missing: urls.first().map(|url| redact(url)).into_iter().collect(),
            });
        }
        let mut last = Error::invalid("HTTP client", "no URL to fetch from");
        for url in urls {
            for number in 0..ATTEMPTS {
                match attempt(url) {
                    Ok(value) => return Ok(value),
                    Err(failure) => {
                        last = failure.error;
                        if !failure.retry {
                            break;
                        }
                        if number + 1 < ATTEMPTS {
                            std::thread::sleep(BACKOFF * 2u32.pow(number));
                        }
                    }
                }
            }
        }
        Err(last)
    }

    fn request(&self, url: &str, from: u64) -> std::result::Result<Response, Failure> {
        let mut request = self.http.get(url);
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let response = request.send().map_err(|e| Failure {
            error: broken(url, e.without_url()),
            retry: true,
        })?;
        let status = response.status();
        match status {
            StatusCode::OK => Ok(response),
            StatusCode::PARTIAL_CONTENT if from > 0 => Ok(response),
            _ => Err(Failure {
                retry: status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429),
                error: Error::Http {
                    url: redact(url),
                    message: format!("the server answered {status}"),
                    status: Some(status.as_u16()),
                },
            }),
        }
    }
}

fn give_up(error: Error) -> Failure {
    Failure {
        error,
        retry: false,
    }
}

fn broken(url: &str, error: impl std::error::Error) -> Error {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    Error::Http {
        url: redact(url),
        message,
        status: None,
    }
}

/// Hashes what a file holds and leaves its position at the end; what is longer than it should be is dropped.
fn hash_present(file: &mut File, limit: u64) -> std::io::Result<Hasher> {
    if file.metadata()?.len() > limit {
        file.set_len(0)?;
    }
    file.rewind()?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    file.seek(SeekFrom::End(0))?;
    Ok(hasher)
}

/// Copies a response's body, never more than is expected.
fn copy(
    mut response: Response,
    url: &str,
    expected: &Expected,
    file: &mut File,
    path: &Path,
    hasher: &mut Hasher,
    on_bytes: &dyn Fn(u64),
) -> std::result::Result<(), Failure> {
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let n = match response.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) => {
                return Err(Failure {
                    error: broken(url, e),
                    retry: true,
                });
            }
        };
        if hasher.size() + n as u64 > expected.size {
            let _ = file.set_len(0);
            return Err(give_up(Error::TooLarge {
                origin: format!("{} from {}", expected.name, redact(url)),
                limit: expected.size,
            }));
        }
        file.write_all(&buffer[..n])
            .map_err(|e| give_up(Error::io("write", path, e)))?;
        hasher.update(&buffer[..n]);
        on_bytes(hasher.size());
    }
    if hasher.size() < expected.size {
        return Err(Failure {
            error: broken(
                url,
                std::io::Error::other(format!(
                    "it ended after {} of {} bytes",
                    hasher.size(),
                    expected.size
                )),
            ),
            retry: true,
        });
    }
    Ok(())
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
