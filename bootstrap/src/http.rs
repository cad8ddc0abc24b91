//! A small HTTP/1.1 client: plain HTTP over TCP or a unix socket, behind which the node's own HAProxy adds TLS. No
//! redirects, every size and time bounded; only what is downloaded in pieces has no limit as a whole.

mod download;

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::error::{Error, Result};

pub use download::{Download, download};

/// Largest head of a response in bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// Largest body in bytes: what a health check looks at is short, metrics pages stay below, and so does the store's content
/// for a hundred clusters.
const MAX_BODY_BYTES: usize = 1 << 20;

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Body; bytes that are no UTF-8 are replaced.
    pub body: String,
}

/// A request.
#[derive(Debug, Clone, Default)]
pub struct Request<'a> {
    /// `http://HOST[:PORT]/PATH`, where HOST is an IPv4 address or `localhost`, or `unix:/SOCKET:/PATH`.
    pub url: &'a str,
    /// Headers besides the usual ones; neither names nor values are checked.
    pub headers: Vec<(&'a str, String)>,
    /// A document in JSON: the request is a POST then.
    pub body: Option<String>,
}

/// Value of the header `Authorization` for a user and password (RFC 7617).
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Gets a page. The limit is for the whole exchange.
///
/// # Errors
/// `FR-HTTP`.
pub fn get(url: &str, limit: Duration) -> Result<Response> {
    let request = Request {
        url,
        ..Request::default()
    };
    send(&request, limit)
}

/// Sends a request. The limit is for the whole exchange.
///
/// # Errors
/// `FR-HTTP`.
pub fn send(request: &Request<'_>, limit: Duration) -> Result<Response> {
    let refuse = |message: String| Error::Http {
        url: request.url.to_owned(),
        message,
    };
    Exchange::start(request, limit)?.answer().map_err(refuse)
}

/// Where a request goes.
struct Target<'a> {
    address: Address<'a>,
    host: &'a str,
    path: &'a str,
}

enum Address<'a> {
    Tcp(SocketAddr),
    Unix(&'a str),
}

fn parse_url(url: &str) -> std::result::Result<Target<'_>, String> {
    let target = if let Some(rest) = url.strip_prefix("unix:") {
        let (socket, path) = rest.split_once(':').ok_or("no path after the socket")?;
        Target {
            address: Address::Unix(socket),
            host: "localhost",
            path,
        }
    } else {
        let rest = url
            .strip_prefix("http://")
            .ok_or("only http:// and unix: are known")?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (name, port) = host.split_once(':').unwrap_or((host, "80"));
        let ip = if name == "localhost" {
            Ok(Ipv4Addr::LOCALHOST)
        } else {
            name.parse()
        };
        let ip = ip.map_err(|_| format!("{name:?} is neither an IPv4 address nor localhost"))?;
        let port = port.parse().map_err(|_| format!("{port:?} is no port"))?;
        Target {
            address: Address::Tcp(SocketAddr::new(IpAddr::V4(ip), port)),
            host,
            path: if path.is_empty() { "/" } else { path },
        }
    };
    if !target.path.starts_with('/') || target.path.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return Err("the path has spaces or control characters".into());
    }
    Ok(target)
}

impl Target<'_> {
    fn connect(&self, limit: Duration) -> io::Result<Stream> {
        match self.address {
            Address::Tcp(address) => TcpStream::connect_timeout(&address, limit).map(Stream::Tcp),
            Address::Unix(path) => connect_unix(path, limit).map(Stream::Unix),
        }
    }
}

/// A connection to a socket waits when the listener's queue is full, unless it was given a limit before (unix(7)).
fn connect_unix(path: &str, limit: Duration) -> io::Result<UnixStream> {
    let socket = socket::socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let limit = TimeVal::milliseconds(i64::try_from(limit.as_millis()).unwrap_or(i64::MAX));
    socket::setsockopt(&socket, sockopt::SendTimeout, &limit)?;
    socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket.into())
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn write_all(&mut self, bytes: &[u8], limit: Duration) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => {
                stream.set_write_timeout(Some(limit))?;
                stream.write_all(bytes)
            }
            Stream::Unix(stream) => {
                stream.set_write_timeout(Some(limit))?;
                stream.write_all(bytes)
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8], limit: Duration) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => {
                stream.set_read_timeout(Some(limit))?;
                stream.read(buffer)
            }
            Stream::Unix(stream) => {
                stream.set_read_timeout(Some(limit))?;
                stream.read(buffer)
            }
        }
    }
}

struct Exchange {
    stream: Stream,
    deadline: Instant,
    /// What was read and not used yet.
    buffer: Vec<u8>,
}

type Step<T> = std::result::Result<T, String>;

/// The first lines of an answer.
struct Head {
    status: u16,
    length: Option<usize>,
    chunked: bool,
}

impl Exchange {
    fn start(request: &Request<'_>, limit: Duration) -> Result<Self> {
        let refuse = |message: String| Error::Http {
            url: request.url.to_owned(),
            message,
        };
        let target = parse_url(request.url).map_err(refuse)?;
        let deadline = Instant::now() + limit;
        let stream = target
            .connect(limit)
            .map_err(|error| refuse(error.to_string()))?;
        let mut exchange = Exchange {
            stream,
            deadline,
            buffer: Vec::new(),
        };
        exchange.ask(&target, request).map_err(refuse)?;
        Ok(exchange)
    }

    fn ask(&mut self, target: &Target<'_>, request: &Request<'_>) -> Step<()> {
        let Target { host, path, .. } = target;
        let method = if request.body.is_some() {
            "POST"
        } else {
            "GET"
        };
        let mut text = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: farrow\r\nAccept: */*\r\nConnection: close\r\n"
        );
        for (name, value) in &request.headers {
            text += &format!("{name}: {value}\r\n");
        }
        if let Some(body) = &request.body {
            text += &format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                body.len()
            );
        }
        text += "\r\n";
        text += request.body.as_deref().unwrap_or_default();
        let limit = self.remaining()?;
        self.stream
            .write_all(text.as_bytes(), limit)
            .map_err(|error| error.to_string())
    }

    fn head(&mut self) -> Step<Head> {
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
        Ok(Head {
            status,
            length,
            chunked,
        })
    }

    fn answer(&mut self) -> Step<Response> {
        let Head {
            status,
            length,
            chunked,
        } = self.head()?;
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
        let mut chunk = [0; 4096];
        let count = self
            .stream
            .read(&mut chunk, limit)
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
