//! A web server on loopback that can misbehave on order.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use offline_repo::digest::Sha256;

/// What the server does wrong, once per entry, for a path.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Answers with this status.
    Status(u16),
    /// Answers with this status and asks to come back after so many seconds.
    Later(u16, u32),
    /// Announces the whole length, sends half, closes.
    Cut,
    /// The same, and the connection is cut after this many bytes.
    CutAfter(usize),
    /// Sends half, then nothing, and keeps the connection.
    Stall,
    /// Sends a few bytes every tenth of a second.
    Trickle,
    /// Never answers.
    Silence,
    /// Flips a bit in the middle.
    Flip,
    /// Ignores the Range header.
    Whole,
    /// Sends more than there is.
    TooMuch,
    /// Sends without announcing a length, and never ends.
    Endless,
    /// Sends everything, announcing this much more (or less).
    Length(i64),
    /// Sends another body, consistently.
    Other(Vec<u8>),
    /// Redirects there.
    Redirect(String),
    /// Answers a range with another one, which its header admits.
    OtherRange,
    /// Answers a range with the beginning of the file, under the header of the right one.
    FalseRange,
    /// Answers a range without saying which.
    NamelessRange,
    /// Refuses a range, and says that the file has this size.
    NoRange(usize),
    /// Answers a question for all with a part.
    UnaskedRange,
}

/// A handler of requests that happens before each answer; may change the site.
pub type Hook = Box<dyn FnMut(&mut HashMap<String, Vec<u8>>, &str) + Send>;

/// State shared with the server's thread.
#[derive(Default)]
pub struct Site {
    pub files: HashMap<String, Vec<u8>>,
    pub faults: HashMap<String, Vec<Fault>>,
    /// Faults that every request meets.
    pub always: Option<Fault>,
    pub requests: Vec<String>,
    /// `Authorization` headers, as they were sent.
    pub authorizations: Vec<String>,
    pub hook: Option<Hook>,
    /// Bytes of bodies sent.
    pub sent: u64,
    /// Rest after every 4 KiB of a body.
    pub pause: Duration,
}

/// The server, on a free port; its thread ends with the test's process.
pub struct Server {
    pub url: String,
    pub site: Arc<Mutex<Site>>,
}

impl Server {
    pub fn start(files: HashMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let site = Arc::new(Mutex::new(Site {
            files,
            ..Site::default()
        }));
        let shared = site.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Server { url, site }
    }

    pub fn fault(&self, path: &str, faults: &[Fault]) {
        let mut site = self.site.lock().unwrap();
        site.faults
            .insert(path.to_string(), faults.iter().rev().cloned().collect());
    }

    /// Requests since the last question: the path, and for a range " from N".
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.site.lock().unwrap().requests)
    }

    /// Bytes of bodies sent since the last question.
    pub fn sent(&self) -> u64 {
        std::mem::take(&mut self.site.lock().unwrap().sent)
    }
}

/// What is asked for.
struct Request {
    path: String,
    from: usize,
    if_range: Option<String>,
    authorization: Option<String>,
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut request = Request {
        // apt asks for a flat repository's files below "./".
        path: unescape(line.split(' ').nth(1)?).replace("/./", "/"),
        from: 0,
        if_range: None,
        authorization: None,
    };
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let lower = header.trim().to_ascii_lowercase();
        if let Some(range) = lower.strip_prefix("range: bytes=") {
            request.from = range.trim_end_matches('-').parse().ok()?;
        }
        if let Some(tag) = lower.strip_prefix("if-range: ") {
            request.if_range = Some(tag.to_string());
        }
        if lower.starts_with("authorization: ") {
            request.authorization = Some(header.trim()["authorization: ".len()..].to_string());
        }
        if lower.is_empty() {
            return Some(request);
        }
    }
}

fn serve(stream: TcpStream, site: &Mutex<Site>) -> Option<()> {
    let request = read_request(&stream)?;
    let path = &request.path;
    let (content, fault) = {
        let mut site = site.lock().unwrap();
        let line = match request.from {
            0 => path.clone(),
            from => format!("{path} from {from}"),
        };
        site.requests.push(line);
        site.authorizations.extend(request.authorization.clone());
        let mut hook = site.hook.take();
        if let Some(hook) = &mut hook {
            hook(&mut site.files, path);
        }
        site.hook = hook;
        let fault = (site.faults.get_mut(path).and_then(Vec::pop)).or_else(|| site.always.clone());
        (site.files.get(path).cloned(), fault)
    };
    let mut answer = Answer { stream, site };
    match content {
        None if fault.is_none() => answer.send("404 Not Found", "", 0, b""),
        content => answer.send_file(&request, content.unwrap_or_default(), fault),
    }
}

/// Writes answers.
struct Answer<'a> {
    stream: TcpStream,
    site: &'a Mutex<Site>,
}

impl Answer<'_> {
    fn send(&mut self, status: &str, headers: &str, length: usize, body: &[u8]) -> Option<()> {
        let length = format!("Content-Length: {length}\r\n");
        self.send_raw(status, &(length + headers), body)
    }

    fn send_raw(&mut self, status: &str, headers: &str, body: &[u8]) -> Option<()> {
        let head = format!("HTTP/1.1 {status}\r\n{headers}Connection: close\r\n\r\n");
        self.stream.write_all(head.as_bytes()).ok()?;
        let pause = self.site.lock().unwrap().pause;
        for chunk in body.chunks(if pause.is_zero() { usize::MAX } else { 4096 }) {
            self.stream.write_all(chunk).ok()?;
            self.site.lock().unwrap().sent += chunk.len() as u64;
            std::thread::sleep(pause);
        }
        Some(())
    }

    fn send_file(
        &mut self,
        request: &Request,
        mut body: Vec<u8>,
        fault: Option<Fault>,
    ) -> Option<()> {
        let tag = format!("\"{}\"", Sha256::of(&body));
        let mut from = request.from;
        if from > 0
            && request
                .if_range
                .as_ref()
                .is_some_and(|wanted| *wanted != tag)
        {
            from = 0;
        }
        let etag = format!("ETag: {tag}\r\n");
        let size = body.len();
        let range = |from: usize, size: usize| {
            format!(
                "{etag}Content-Range: bytes {from}-{}/{size}\r\n",
                size.saturating_sub(1)
            )
        };
        let half = size / 2;
        match fault {
            Some(Fault::Status(status)) => {
                return self.send(&format!("{status} Trouble"), "", 0, b"");
            }
            Some(Fault::Later(status, seconds)) => {
                let header = format!("Retry-After: {seconds}\r\n");
                return self.send(&format!("{status} Trouble"), &header, 0, b"");
            }
            Some(Fault::Cut) => return self.send("200 OK", &etag, size, &body[..half]),
            Some(Fault::CutAfter(at)) if from > 0 => {
                let end = (from + at).min(size);
                return self.send(
                    "206 Partial Content",
                    &range(from, size),
                    size - from,
                    &body[from..end],
                );
            }
            Some(Fault::CutAfter(at)) => {
                return self.send("200 OK", &etag, size, &body[..at.min(size)]);
            }
            Some(Fault::Stall) => {
                self.send("200 OK", &etag, size, &body[..half])?;
                std::thread::sleep(Duration::from_secs(3600));
                return None;
            }
            Some(Fault::Trickle) => {
                self.send("200 OK", &etag, size, b"")?;
                for chunk in body.chunks(4) {
                    self.stream.write_all(chunk).ok()?;
                    std::thread::sleep(Duration::from_millis(100));
                }
                return None;
            }
            Some(Fault::Silence) => {
                std::thread::sleep(Duration::from_secs(3600));
                return None;
            }
            Some(Fault::Endless) => {
                self.send_raw("200 OK", "", &body)?;
                while self.stream.write_all(&[b'x'; 4096]).is_ok() {}
                return None;
            }
            Some(Fault::Length(more)) => {
                let length = usize::try_from(size as i64 + more).unwrap();
                return self.send("200 OK", &etag, length, &body);
            }
            Some(Fault::Redirect(to)) => {
                return self.send("302 Found", &format!("Location: {to}\r\n"), 0, b"");
            }
            Some(Fault::OtherRange) => {
                return self.send("206 Partial Content", &range(0, size), size, &body);
            }
            Some(Fault::FalseRange) => {
                return self.send(
                    "206 Partial Content",
                    &range(from, size),
                    size - from,
                    &body[..size - from],
                );
            }
            Some(Fault::NamelessRange) => {
                return self.send("206 Partial Content", "", size - from, &body[from..]);
            }
            Some(Fault::NoRange(size)) => {
                let header = format!("Content-Range: bytes */{size}\r\n");
                return self.send("416 Range Not Satisfiable", &header, 0, b"");
            }
            Some(Fault::UnaskedRange) => {
                return self.send(
                    "206 Partial Content",
                    &range(half, size),
                    size - half,
                    &body[half..],
                );
            }
            Some(Fault::Flip) => body[half] ^= 1,
            Some(Fault::TooMuch) => body.extend_from_slice(b"more"),
            Some(Fault::Other(other)) => {
                return self.send("200 OK", "", other.len(), &other);
            }
            Some(Fault::Whole) => from = 0,
            None => {}
        }
        match from {
            0 => self.send("200 OK", &etag, body.len(), &body),
            _ if from >= size => {
                let header = format!("Content-Range: bytes */{size}\r\n");
                self.send("416 Range Not Satisfiable", &header, 0, b"")
            }
            _ => self.send(
                "206 Partial Content",
                &range(from, size),
                size - from,
                &body[from..],
            ),
        }
    }
}

fn unescape(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            bytes.extend(hex::decode(&tail[..2]).unwrap());
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).unwrap()
}
