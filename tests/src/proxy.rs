//! A mirror on loopback that passes requests on to the real one and falsifies what a test asks for.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::Result;

/// What happens to a body whose path contains a needle.
#[derive(Debug, Clone)]
pub struct Falsify {
    /// Part of the request's path.
    pub needle: String,
    /// Changes the body.
    pub change: fn(Vec<u8>) -> Vec<u8>,
}

/// A running proxy; it ends with the process.
pub struct Proxy {
    /// Base URL that stands for the mirror's.
    pub url: String,
    /// How many requests it has answered.
    pub requests: Arc<AtomicU32>,
}

impl Proxy {
    /// Starts one in front of `upstream`, a base URL without a trailing slash.
    pub fn start(upstream: &str, falsify: Option<Falsify>) -> Result<Self> {
        // reqwest asks for one even where every URL is plain HTTP; a second start finds it installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}/debian", listener.local_addr()?);
        let requests = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&requests);
        let upstream = upstream.trim_end_matches('/').to_owned();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counter.fetch_add(1, Ordering::SeqCst);
                let (upstream, falsify) = (upstream.clone(), falsify.clone());
                thread::spawn(move || serve(stream, &upstream, falsify.as_ref()));
            }
        });
        Ok(Self { url, requests })
    }
}

/// Answers one request; an error closes the connection, which the client sees.
fn serve(mut stream: TcpStream, upstream: &str, falsify: Option<&Falsify>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut request = String::new();
    reader.read_line(&mut request).ok()?;
    let mut header = String::new();
    while reader.read_line(&mut header).ok()? > 2 {
        header.clear();
    }
    let path = request.split(' ').nth(1)?.strip_prefix("/debian")?;
    let response = reqwest::blocking::get(format!("{upstream}{path}")).ok()?;
    let status = response.status().as_u16();
    let mut body = response.bytes().ok()?.to_vec();
    if let Some(falsify) = falsify.filter(|falsify| path.contains(&falsify.needle)) {
        body = (falsify.change)(body);
    }
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&body).ok()
}
