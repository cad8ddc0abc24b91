//! The HTTP client against a real listener that answers well, badly, slowly and without end.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use bootstrap::http::{self, Response};

const LIMIT: Duration = Duration::from_millis(700);

/// Serves one connection, and asks it.
fn exchange(answer: impl FnOnce(&mut TcpStream) + Send + 'static) -> Result<Response, String> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            request.push(byte[0]);
        }
        answer(&mut stream);
        String::from_utf8(request).unwrap()
    });
    let start = Instant::now();
    let result = http::get(&format!("http://localhost:{port}/a?b=c"), LIMIT);
    assert!(
        start.elapsed() < LIMIT * 3,
        "{:?} for a limit of {LIMIT:?}",
        start.elapsed()
    );
    let request = server.join().unwrap();
    assert!(request.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{request}");
    assert!(
        request.contains(&format!("\r\nHost: localhost:{port}\r\n")),
        "{request}"
    );
    result.map_err(|error| error.to_string())
}

fn text(answer: &'static str) -> Result<Response, String> {
    exchange(move |stream| {
        let _ = stream.write_all(answer.as_bytes());
    })
}

#[test]
fn good_answers() {
    for (answer, status, body) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokmore",
            200,
            "ok",
        ),
        (
            "HTTP/1.0 503 Service Unavailable\r\n\r\nuntil the end",
            503,
            "until the end",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n",
            200,
            "abcd",
        ),
        (
            "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
            204,
            "",
        ),
        ("HTTP/1.1 200\ncontent-LENGTH:1\n\nx", 200, "x"),
    ] {
        assert_eq!(
            text(answer),
            Ok(Response {
                status,
                body: body.into()
            }),
            "{answer}"
        );
    }
}

#[test]
fn bad_answers() {
    for (answer, expected) in [
        ("", "cut off"),
        ("SSH-2.0-OpenSSH\r\n\r\n", "no HTTP/1"),
        ("HTTP/2 200\r\n\r\n", "no HTTP/1"),
        ("HTTP/1.1 abc\r\n\r\n", "no HTTP/1"),
        ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "without colon"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "wrong content-length",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            "larger than",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
            "cut off",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n",
            "larger than",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
            "wrong chunk size",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            "wrong chunk size",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
            "cut off",
        ),
    ] {
        let error = text(answer).unwrap_err();
        assert!(error.contains(expected), "{answer}: {error}");
    }
}

#[test]
fn answers_without_end() {
    let head = exchange(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream
            .write_all(b"X-Header: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n")
            .is_ok()
        {}
    });
    assert!(head.unwrap_err().contains("head is too long"));
    let line = exchange(|stream| while stream.write_all(&[b'a'; 4096]).is_ok() {});
    assert!(line.unwrap_err().contains("head is too long"));
    let body = exchange(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'a'; 4096]).is_ok() {}
    });
    assert!(body.unwrap_err().contains("larger than"));
    let chunks = exchange(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while stream.write_all(b"1\r\na\r\n").is_ok() {}
    });
    let chunks = chunks.unwrap_err();
    assert!(
        chunks.contains("too long") || chunks.contains("larger than") || chunks.contains("in time"),
        "{chunks}"
    );
}

/// A server that sends a byte now and then does not stretch the limit, which is for the whole exchange.
#[test]
fn slow_answers() {
    let silent = exchange(|stream| {
        let _ = stream.set_read_timeout(Some(LIMIT * 2));
        let _ = stream.read(&mut [0]);
    });
    assert!(silent.unwrap_err().contains("no answer in time"));
    let dripping = exchange(|stream| {
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
            .iter()
            .cycle()
        {
            thread::sleep(Duration::from_millis(20));
            if stream.write_all(&[*byte]).is_err() {
                break;
            }
        }
    });
    assert!(dripping.unwrap_err().contains("no answer in time"));
}

#[test]
fn addresses_that_are_not_asked() {
    for url in [
        "https://127.0.0.1/",
        "http://example.org/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1/a b",
        "127.0.0.1",
        "http://",
    ] {
        assert_eq!(
            http::get(url, LIMIT).unwrap_err().code(),
            "FR-HTTP",
            "{url}"
        );
    }
}

/// The node's own HAProxy listens on a socket and adds TLS.
#[test]
fn documents_are_posted_through_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = vec![0; 4096];
        let mut length = 0;
        while !request[..length].ends_with(b"{\"a\":1}") {
            length += stream.read(&mut request[length..]).unwrap();
        }
        stream
            .write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
            .unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    let url = format!("unix:{}:/v3/kv/range", path.display());
    let request = http::Request {
        url: &url,
        headers: vec![("Authorization", http::basic("patroni", "secret"))],
        body: Some("{\"a\":1}".into()),
    };
    let response = http::send(&request, LIMIT).unwrap();
    assert_eq!((response.status, response.body.as_str()), (401, "no"));
    let said = server.join().unwrap();
    assert!(
        said.starts_with("POST /v3/kv/range HTTP/1.1\r\nHost: localhost\r\n"),
        "{said}"
    );
    // RFC 7617's form of "patroni:secret".
    assert!(
        said.contains("\r\nAuthorization: Basic cGF0cm9uaTpzZWNyZXQ=\r\n"),
        "{said}"
    );
    assert!(said.contains("\r\nContent-Length: 7\r\n"), "{said}");
}

/// A listener that accepts nobody, its queue full, does not hold up whoever asks.
#[test]
fn a_socket_that_nobody_serves_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let waiting: Vec<UnixStream> = (0..5000)
        .map_while(|_| {
            let stream = UnixStream::connect(&path);
            stream.ok()
        })
        .take(64)
        .collect();
    let start = Instant::now();
    let url = format!("unix:{}:/", path.display());
    assert_eq!(http::get(&url, LIMIT).unwrap_err().code(), "FR-HTTP");
    assert!(start.elapsed() < LIMIT * 3 && !waiting.is_empty());
    assert_eq!(
        http::get("unix:/no/such.sock:/", LIMIT).unwrap_err().code(),
        "FR-HTTP"
    );
    assert_eq!(
        http::get("unix:/no/path", LIMIT).unwrap_err().code(),
        "FR-HTTP"
    );
}
