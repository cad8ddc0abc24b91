//! A real archive in memory, signed and served over HTTP by a small server that can misbehave on order.

#![allow(dead_code)]

pub mod repository;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use offline_repo::archive::Upstream;
use offline_repo::compression;
use offline_repo::date;
use offline_repo::digest::Sha256;
use offline_repo::http::Client;
use offline_repo::locking::LockRequest;
use offline_repo::mirror::Mirrors;
use offline_repo::signer::Signer;

/// The time at which everything in these tests happens: 2026-11-18.
pub const NOW: u64 = 1_795_000_000;

/// What the server does wrong, once per entry, for a path.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Answers with this status.
    Status(u16),
    /// Announces the whole length, sends half, closes.
    Cut,
    /// Flips a bit in the middle.
    Flip,
    /// Ignores the Range header.
    Whole,
    /// Sends more than there is.
    TooMuch,
}

/// State shared with the server's thread.
#[derive(Default)]
pub struct Site {
    pub files: HashMap<String, Vec<u8>>,
    pub faults: HashMap<String, Vec<Fault>>,
    pub requests: Vec<String>,
}

/// A web server on a free port of the loopback interface; its thread ends with the test's process.
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
            .insert(path.to_string(), faults.iter().rev().copied().collect());
    }

    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.site.lock().unwrap().requests)
    }
}

fn serve(stream: TcpStream, site: &Mutex<Site>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    // apt asks for a flat repository's files below "./".
    let path = unescape(line.split(' ').nth(1)?).replace("/./", "/");
    let mut from = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let lower = header.trim().to_ascii_lowercase();
        if let Some(range) = lower.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().ok()?;
        }
        if lower.is_empty() {
            break;
        }
    }
    let (content, fault) = {
        let mut site = site.lock().unwrap();
        site.requests.push(if from > 0 {
            format!("{path} from {from}")
        } else {
            path.clone()
        });
        let fault = site.faults.get_mut(&path).and_then(Vec::pop);
        (site.files.get(&path).cloned(), fault)
    };
    let mut stream = stream;
    let mut answer = |status: &str, length: usize, body: &[u8]| {
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(body))
            .ok()
    };
    let Some(mut body) = content else {
        return answer("404 Not Found", 0, b"");
    };
    match fault {
        Some(Fault::Status(status)) => return answer(&format!("{status} Trouble"), 0, b""),
        Some(Fault::Cut) => {
            let half = body.len() / 2;
            return answer("200 OK", body.len(), &body[..half]);
        }
        Some(Fault::Flip) => {
            let middle = body.len() / 2;
            body[middle] ^= 1;
        }
        Some(Fault::TooMuch) => body.extend_from_slice(b"more"),
        Some(Fault::Whole) => from = 0,
        None => {}
    }
    match from {
        0 => answer("200 OK", body.len(), &body),
        _ => answer("206 Partial Content", body.len() - from, &body[from..]),
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

/// A `.deb` with these control fields and one file of content.
pub fn deb(control: &str) -> Vec<u8> {
    let tar = |name: &str, content: &[u8]| {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content).unwrap();
        builder.into_inner().unwrap()
    };
    let mut deb = ar::Builder::new(Vec::new());
    let content: Vec<u8> = (0..20_000u32)
        .flat_map(|i| Sha256::of(format!("{control}{i}").as_bytes()).as_bytes()[..2].to_vec())
        .collect();
    for (name, content) in [
        ("debian-binary", b"2.0\n".to_vec()),
        (
            "control.tar.xz",
            compression::xz(&tar("./control", control.as_bytes())),
        ),
        (
            "data.tar.xz",
            compression::xz(&tar("./usr/share/content", &content)),
        ),
    ] {
        deb.append(
            &ar::Header::new(name.as_bytes().to_vec(), content.len() as u64),
            &content[..],
        )
        .unwrap();
    }
    deb.into_inner().unwrap()
}

/// Packages of the archive: control fields after Package, Version, Architecture.
pub const PACKAGES: &[(&str, &str, &str)] = &[
    (
        "base-system",
        "12",
        "Essential: yes\nDepends: libc (>= 2)\nPriority: required\n",
    ),
    (
        "libc",
        "1:2.41-1+deb13u1",
        "Multi-Arch: same\nProvides: libc-dev\n",
    ),
    (
        "database",
        "17~rc1",
        "Depends: libc, ssl | ssl-legacy\nRecommends: tools\n",
    ),
    ("ssl", "3.5", "Breaks: ssl-legacy (<< 3)\n"),
    ("ssl-legacy", "1.1", ""),
    ("tools", "1", ""),
];

/// Files of an archive `debian` with the suite "trixie", signed at [`NOW`] less one day.
pub fn archive(signer: &Signer) -> HashMap<String, Vec<u8>> {
    let mut files = HashMap::new();
    let mut packages = String::new();
    for (name, version, fields) in PACKAGES {
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: nobody\n{fields}Description: {name}\n long text\n"
        );
        let deb = deb(&control);
        let path = format!(
            "pool/main/{name}_{}_amd64.deb",
            version.split(':').next_back().unwrap()
        );
        packages += &format!(
            "{control}Filename: {path}\nSize: {}\nSHA256: {}\n\n",
            deb.len(),
            Sha256::of(&deb)
        );
        files.insert(format!("/debian/{path}"), deb);
    }
    sign_index(&mut files, packages.as_bytes(), signer, NOW - 86400);
    files
}

/// Puts an index and a signed InRelease into the archive.
pub fn sign_index(
    files: &mut HashMap<String, Vec<u8>>,
    packages: &[u8],
    signer: &Signer,
    date: u64,
) {
    let packed = compression::xz(packages);
    let sha256 = Sha256::of(&packed);
    let release = format!(
        "Origin: Test\nSuite: stable\nCodename: trixie\nDate: {}\nValid-Until: {}\nAcquire-By-Hash: yes\nSHA256:\n {sha256} {} main/binary-amd64/Packages.xz\n",
        date::format(date),
        date::format(date + 7 * 86400),
        packed.len()
    );
    let in_release = signer.clearsign(&release, date).unwrap().into_bytes();
    files.insert("/debian/dists/trixie/InRelease".into(), in_release);
    files.insert(
        "/debian/dists/trixie/main/binary-amd64/Packages.xz".into(),
        packed.clone(),
    );
    files.insert(
        format!("/debian/dists/trixie/main/binary-amd64/by-hash/SHA256/{sha256}"),
        packed,
    );
}

/// The archive's key: the same in every test.
pub fn archive_signer() -> Signer {
    Signer::from_secret([7; 32], "archive").unwrap()
}

/// The repository's key.
pub fn repository_signer() -> Signer {
    Signer::from_secret([8; 32], "pigsty repository").unwrap()
}

/// A client for archives at these servers, in order of preference.
pub fn client(servers: &[&Server], offline: bool) -> Client {
    let urls = servers
        .iter()
        .map(|server| format!("{}/debian", server.url))
        .collect();
    let mirrors = Mirrors::new(
        BTreeMap::from([("debian".to_string(), urls)]),
        BTreeMap::new(),
        &[],
    );
    Client::new(mirrors, offline).unwrap()
}

/// A request for "database" with the essential packages.
pub fn request() -> LockRequest {
    LockRequest {
        name: "pigsty".into(),
        architecture: "amd64".into(),
        upstreams: vec![Upstream {
            name: "base".into(),
            archive: "debian".into(),
            url: None,
            suites: vec!["trixie".into()],
            components: vec!["main".into()],
            keys: vec![archive_signer().public_key().unwrap().armored.into_bytes()],
            priority: 0,
        }],
        groups: BTreeMap::from([("platform".to_string(), vec!["database".to_string()])]),
        include_essential: true,
        recommends: false,
        now: Some(NOW),
    }
}
