//! A small HTTP/1.1 client for health checks on this machine: plain HTTP, no redirects, every size and time bounded.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Largest head of a response in bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// Largest body in bytes: what a health check looks at is short, and metrics pages stay below.
const MAX_BODY_BYTES: usize = 1 << 20;

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Body; bytes that are no UTF-8 are replaced.
    pub body: String,
}

/// Asks for `http://HOST[:PORT]/PATH`, where HOST is an IPv4 address or `localhost`. The limit is for the whole exchange.
///
/// # Errors
/// `FR-HTTP`.
pub fn get(url: &str, limit: Duration) -> Result<Response> {
    let refuse = |message: String| Error::Http {
        url: url.to_owned(),
        message,
    };
    let (address, host, path) = parse_url(url).map_err(refuse)?;
    let deadline = Instant::now() + limit;
    let stream =
        TcpStream::connect_timeout(&address, limit).map_err(|error| refuse(error.to_string()))?;
    let mut exchange = Exchange {
        stream,
        deadline,
        buffer: Vec::new(),
    };
    exchange
        .ask(&host, &path)
        .and_then(|()| exchange.answer())
        .map_err(refuse)
}

fn parse_url(url: &str) -> std::result::Result<(SocketAddr, String, String), String> {
    let rest = url.strip_prefix("http://").ok_or("only http:// is known")?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    if path.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return Err("the path has spaces or control characters".into());
    }
    let (name, port) = host.split_once(':').unwrap_or((host, "80"));
    let ip = if name == "localhost" {
        Ok(Ipv4Addr::LOCALHOST)
    } else {
        name.parse()
    };
    let ip = ip.map_err(|_| format!("{name:?} is neither an IPv4 address nor localhost"))?;
    let port = port.parse().map_err(|_| format!("{port:?} is no port"))?;
    Ok((
        SocketAddr::new(IpAddr::V4(ip), port),
        host.to_owned(),
        path.to_owned(),
    ))
}

struct Exchange {
    stream: TcpStream,
    deadline: Instant,
    /// What was read and not used yet.
    buffer: Vec<u8>,
}

type Step<T> = std::result::Result<T, String>;

impl Exchange {
    fn ask(&mut self, host: &str, path: &str) -> Step<()> {
        let text = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: farrow\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        let limit = self.remaining()?;
        self.stream
            .set_write_timeout(Some(limit))
            .map_err(|error| error.to_string())?;
        self.stream
            .write_all(text.as_bytes())
            .map_err(|error| error.to_string())
    }

    fn answer(&mut self) -> Step<Response> {
        let mut budget = MAX_HEAD_BYTES;
        let first = self.line(&mut budget)?;
        let mut words = first.split(' ');
        let version = words.next().unwrap_or_default();
        let status: Option<u16> = words.next().and_then(|word| word.parse().ok());
        let status = status
            .filter(|_| version.starts_with("HTTP/1."))
            .ok_or("the answer is no HTTP/1")?;
        let (mut length, mut chunked) = (None, false);
        loop {
            let line = self.line(&mut budget)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or("a header without colon")?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(
                    value
                        .parse::<usize>()
                        .map_err(|_| "a wrong content-length")?,
                );
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = value.eq_ignore_ascii_case("chunked");
            }
        }
        let body = match (chunked, length) {
            _ if status == 204 || status == 304 => Vec::new(),
            (true, _) => self.chunks()?,
            (false, Some(length)) => self.exact(length, MAX_BODY_BYTES)?,
            (false, None) => self.rest()?,
        };
        Ok(Response {
            status,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }

    fn chunks(&mut self) -> Step<Vec<u8>> {
        let mut body = Vec::new();
        let mut budget = MAX_BODY_BYTES;
        loop {
            let line = self.line(&mut budget)?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| "a wrong chunk size")?;
            if size == 0 {
                return Ok(body);
            }
            body.extend(self.exact(size, MAX_BODY_BYTES - body.len())?);
            self.line(&mut budget)?;
        }
    }

    fn exact(&mut self, length: usize, limit: usize) -> Step<Vec<u8>> {
        if length > limit {
            return Err(format!("the body is larger than {MAX_BODY_BYTES} bytes"));
        }
        while self.buffer.len() < length {
            if !self.fill()? {
                return Err("the body is cut off".into());
            }
        }
        let rest = self.buffer.split_off(length);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    fn rest(&mut self) -> Step<Vec<u8>> {
        while self.fill()? {
            if self.buffer.len() > MAX_BODY_BYTES {
                return Err(format!("the body is larger than {MAX_BODY_BYTES} bytes"));
            }
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    fn line(&mut self, budget: &mut usize) -> Step<String> {
        let end = loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                break end;
            }
            if self.buffer.len() > *budget {
                return Err("the head is too long".into());
            }
            if !self.fill()? {
                return Err("the answer is cut off".into());
            }
        };
        *budget = budget.checked_sub(end + 1).ok_or("the head is too long")?;
        let rest = self.buffer.split_off(end + 1);
        let line = std::mem::replace(&mut self.buffer, rest);
        String::from_utf8(line)
            .map(|line| line.trim_end().to_owned())
            .map_err(|_| "the head is no text".into())
    }

    /// Reads some more; false at the end.
    fn fill(&mut self) -> Step<bool> {
        let limit = self.remaining()?;
        self.stream
            .set_read_timeout(Some(limit))
            .map_err(|error| error.to_string())?;
        let mut chunk = [0; 4096];
        let count = self
            .stream
            .read(&mut chunk)
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::WouldBlock => "no answer in time".to_owned(),
                _ => error.to_string(),
            })?;
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(count > 0)
    }

    fn remaining(&self) -> Step<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err("no answer in time".into())
        } else {
            Ok(left)
        }
    }
}
