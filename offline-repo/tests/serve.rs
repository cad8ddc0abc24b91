//! `repo serve` as clients see it: Range, HEAD, conditions, and nothing outside of the repository.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use support::repository::{built, served};

/// Sends one request as it is; returns status, headers in lower case, and body.
fn ask(url: &str, request: &str) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
    write!(stream, "{request}\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .expect("the header ends");
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head[9..12].parse().unwrap();
    (status, head.to_lowercase(), answer[end + 4..].to_vec())
}

#[test]
fn static_files_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let published = built(dir.path());
    fs::write(dir.path().join("secret"), "no").unwrap();
    let url = served(&published.path);
    let deb = fs::read(published.path.join("libc_1%3a2.41-1+deb13u1_amd64.deb")).unwrap();
    let path = "/pigsty/libc_1%253a2.41-1%2Bdeb13u1_amd64.deb";

    let (status, head, body) = ask(&url, &format!("GET {path} HTTP/1.1"));
    assert_eq!((status, &body), (200, &deb));
    assert!(head.contains("accept-ranges: bytes"), "{head}");
    let date = head
        .lines()
        .find_map(|line| line.strip_prefix("last-modified: "))
        .unwrap()
        .to_string();

    let (status, head, body) = ask(&url, &format!("HEAD {path} HTTP/1.1"));
    assert_eq!((status, body.len()), (200, 0));
    assert!(
        head.contains(&format!("content-length: {}", deb.len())),
        "{head}"
    );

    for (range, expected) in [
        ("bytes=100-", &deb[100..]),
        ("bytes=0-9", &deb[..10]),
        ("bytes=-7", &deb[deb.len() - 7..]),
    ] {
        let (status, _, body) = ask(&url, &format!("GET {path} HTTP/1.1\r\nRange: {range}"));
        assert_eq!((status, &body[..]), (206, expected), "{range}");
    }
    let beyond = format!("GET {path} HTTP/1.1\r\nRange: bytes={}-", deb.len());
    assert_eq!(ask(&url, &beyond).0, 416);

    // What was begun with another version of the file starts anew.
    let original = date.replace("gmt", "GMT");
    let original: String = original
        .split(' ')
        .map(|word| match word.as_bytes() {
            [first, rest @ ..] if first.is_ascii_lowercase() => {
                let rest = String::from_utf8_lossy(rest);
                format!("{}{rest} ", first.to_ascii_uppercase() as char)
            }
            _ => format!("{word} "),
        })
        .collect();
    for (date, expected) in [
        (original.trim(), 206),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 200),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nRange: bytes=9-\r\nIf-Range: {date}");
        assert_eq!(ask(&url, &request).0, expected, "{date}");
    }
    let unchanged = format!(
        "GET {path} HTTP/1.1\r\nIf-Modified-Since: {}",
        original.trim()
    );
    assert_eq!(ask(&url, &unchanged).0, 304);

    assert_eq!(ask(&url, "GET /pigsty.asc HTTP/1.1").0, 200);
    for bad in [
        "/",
        "/pigsty/",
        "/secret",
        "/../secret",
        "/pigsty/../secret",
        "/pigsty/%2e%2e/secret",
        "/cache",
    ] {
        assert_eq!(ask(&url, &format!("GET {bad} HTTP/1.1")).0, 404, "{bad}");
    }
    assert_eq!(ask(&url, &format!("DELETE {path} HTTP/1.1")).0, 405);
    assert!(published.path.join("repo_complete").exists());
}
