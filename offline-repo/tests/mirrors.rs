//! Fetching over bad lines and from several mirrors: resumed, retried, passed on to the next, never twice.

mod support;

use std::cell::Cell;
use std::collections::HashMap;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use offline_repo::cache::Cache;
use offline_repo::digest::Sha256;
use offline_repo::fetch::fetch;
use offline_repo::http::{Expected, Options};
use offline_repo::locking::lock;
use offline_repo::progress::{Progress, silent};
use offline_repo::{Error, Result};
use support::{Fault, Server, archive, archive_signer, client, client_of, quick, request};

const FILE: &str = "/debian/pool/a.deb";

/// Bytes that do not repeat.
fn content(size: usize) -> Vec<u8> {
    (0u32..)
        .flat_map(|i| *Sha256::of(&i.to_be_bytes()).as_bytes())
        .take(size)
        .collect()
}

fn expected(content: &[u8]) -> Expected {
    Expected {
        name: "a 1".into(),
        size: content.len() as u64,
        sha256: Sha256::of(content),
    }
}

fn server(content: &[u8]) -> Server {
    Server::start(HashMap::from([(FILE.to_string(), content.to_vec())]))
}

/// Fetches the file from servers into a cache.
fn get(servers: &[&Server], content: &[u8], cache: &Cache, options: Options) -> Result<PathBuf> {
    let bases: Vec<String> = servers
        .iter()
        .map(|s| format!("{}/debian", s.url))
        .collect();
    let urls: Vec<String> = servers.iter().map(|s| format!("{}{FILE}", s.url)).collect();
    client_cache(&bases, &urls, content, cache, options)
}

fn client_cache(
    bases: &[String],
    urls: &[String],
    content: &[u8],
    cache: &Cache,
    options: Options,
) -> Result<PathBuf> {
    cache.fetch(
        &client_of(bases, options),
        urls,
        &expected(content),
        &|_| {},
    )
}

#[test]
fn a_line_that_breaks_again_and_again_is_used_to_the_end() {
    let content = content(3_000_000);
    let server = server(&content);
    let dir = tempfile::tempdir().unwrap();
    // Far more breaks than a request that brings nothing new may have.
    server.fault(FILE, &vec![Fault::CutAfter(300_000); 12]);
    let path = get(&[&server], &content, &Cache::new(dir.path()), quick()).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), content);
    let requests = server.requests();
    assert_eq!(requests.len(), 10, "{requests:?}");
    assert!(
        requests[1..].iter().all(|r| r.contains(" from ")),
        "{requests:?}"
    );
    // Every byte came once, but for what a broken connection had in its buffers.
    assert!(server.sent() < 3_200_000);
}

#[test]
fn a_part_of_an_earlier_run_is_continued_at_another_mirror() {
    let content = content(1_000_000);
    let (first, second) = (server(&content), server(&content));
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    first.fault(FILE, &vec![Fault::CutAfter(100_000); 4]);
    let error = get(&[&first], &content, &cache, quick()).unwrap_err();
    assert_eq!(error.code(), "FR-FETCH-HTTP");
    let part = cache.path(&Sha256::of(&content)).with_extension("part");
    let present = part.metadata().unwrap().len();
    assert!((100_000..=400_000).contains(&present), "{present}");
    let least = Cell::new(u64::MAX);
    let client = client_of(&[format!("{}/debian", second.url)], quick());
    let urls = [format!("{}{FILE}", second.url)];
    let seen = |bytes: u64| least.set(least.get().min(bytes));
    cache
        .fetch(&client, &urls, &expected(&content), &seen)
        .unwrap();
    assert_eq!(second.requests(), [format!("{FILE} from {present}")]);
    assert_eq!((second.sent(), least.get()), (1_000_000 - present, present));
    assert!(!part.exists());
}

#[test]
fn a_file_that_is_replaced_between_two_attempts_is_read_anew() {
    let (old, new) = (content(500_000), content(500_001)[1..].to_vec());
    let server = server(&old);
    server.fault(FILE, &[Fault::CutAfter(200_000)]);
    let replacement = new.clone();
    let mut asked = 0;
    server.site.lock().unwrap().hook = Some(Box::new(move |files, path| {
        asked += 1;
        if asked == 2 {
            files.insert(path.to_string(), replacement.clone());
        }
    }));
    let dir = tempfile::tempdir().unwrap();
    let path = get(&[&server], &new, &Cache::new(dir.path()), quick()).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), new);
    // If-Range told that the beginning belongs to another file: no third request.
    assert_eq!(
        server.requests(),
        [FILE.to_string(), format!("{FILE} from 200000")]
    );
}

#[test]
fn what_servers_answer_to_ranges_is_not_believed() {
    let content = content(400_000);
    let (asked, rest) = (FILE.to_string(), format!("{FILE} from 200000"));
    let cases = [
        (Fault::OtherRange, vec![&asked, &rest, &asked]),
        (Fault::NamelessRange, vec![&asked, &rest, &asked]),
        (Fault::FalseRange, vec![&asked, &rest, &asked]),
        (Fault::NoRange(400_000), vec![&asked, &rest, &asked]),
        (Fault::Whole, vec![&asked, &rest]),
    ];
    for (fault, requests) in cases {
        let server = server(&content);
        let dir = tempfile::tempdir().unwrap();
        server.fault(FILE, &[Fault::Cut, fault.clone()]);
        let path = get(&[&server], &content, &Cache::new(dir.path()), quick()).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), content, "{fault:?}");
        assert_eq!(
            server.requests().iter().collect::<Vec<_>>(),
            requests,
            "{fault:?}"
        );
    }
}

#[test]
fn a_mirror_that_fails_is_asked_last_from_then_on() {
    let good = Server::start(archive(&archive_signer()));
    let bad = Server::start(archive(&archive_signer()));
    bad.site.lock().unwrap().always = Some(Fault::Status(503));
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    let client = client(&[&bad, &good], false);
    let locked = lock(&request(), &client, &cache, &silent).unwrap();
    assert_eq!(bad.requests(), ["/debian/dists/trixie/InRelease"]);
    let said = Mutex::new(Vec::new());
    let progress = |report: Progress<'_>| {
        if let Progress::Trouble { server, reason } = report {
            said.lock().unwrap().push(format!("{server}: {reason}"));
        }
    };
    fetch(&locked, &client, &cache, &progress).unwrap();
    assert_eq!(bad.requests(), [""; 0]);
    assert_eq!(good.requests().len(), 6);
    let expected = format!(
        "{0}: failed to fetch {0}/debian/dists/trixie/InRelease: the server answered 503 Service Unavailable",
        bad.url
    );
    assert_eq!(said.into_inner().unwrap(), [expected]);
}

#[test]
fn all_reasons_are_named_when_no_mirror_helps() {
    let content = content(1000);
    let (gone, other, busy) = (server(&content), server(&content), server(&content));
    gone.fault(FILE, &[Fault::Status(404)]);
    other.fault(FILE, &[Fault::Flip]);
    busy.site.lock().unwrap().always = Some(Fault::Status(502));
    let dir = tempfile::tempdir().unwrap();
    let servers = [&gone, &other, &busy];
    let error = get(&servers, &content, &Cache::new(dir.path()), quick()).unwrap_err();
    let mut text = error.to_string();
    for (server, name) in servers.iter().zip(["gone", "other", "busy"]) {
        text = text.replace(&server.url, name);
    }
    let mut wrong = content.clone();
    wrong[500] ^= 1;
    let (right, wrong) = (Sha256::of(&content), Sha256::of(&wrong));
    assert_eq!(
        text,
        format!(
            "none of 3 mirrors could serve a file:\n  \
             failed to fetch gone{FILE}: the server answered 404 Not Found\n  \
             a 1 from other{FILE} has sha256 {wrong} and 1000 bytes, expected {right} and 1000\n  \
             failed to fetch busy{FILE}: the server answered 502 Bad Gateway"
        )
    );
    assert!(
        error.hint().unwrap().contains("lock again"),
        "{:?}",
        error.hint()
    );
    assert_eq!(
        (
            gone.requests().len(),
            other.requests().len(),
            busy.requests().len()
        ),
        (1, 1, 4)
    );
}

#[test]
fn one_file_that_is_gone_does_not_keep_the_others_away() {
    let place = Server::start(archive(&archive_signer()));
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    let client = client(&[&place], false);
    let locked = lock(&request(), &client, &cache, &silent).unwrap();
    let gone = [
        "/debian/pool/main/ssl_3.5_amd64.deb",
        "/debian/pool/main/database_17~rc1_amd64.deb",
    ];
    for path in gone {
        place.fault(path, &[Fault::Status(404)]);
    }
    let error = fetch(&locked, &client, &cache, &silent).unwrap_err();
    let text = error.to_string().replace(&place.url, "m");
    assert_eq!(
        text,
        "2 of 4 packages could not be fetched:\n  \
         failed to fetch m/debian/pool/main/database_17~rc1_amd64.deb: the server answered 404 Not Found\n  \
         failed to fetch m/debian/pool/main/ssl_3.5_amd64.deb: the server answered 404 Not Found"
    );
    place.requests();
    fetch(&locked, &client, &cache, &silent).unwrap();
    // What was verified is not fetched again.
    let mut requests = place.requests();
    requests.sort();
    assert_eq!(requests, [gone[1], gone[0]]);
}

#[test]
fn a_server_may_ask_for_patience_but_not_for_ever() {
    let content = content(1000);
    let server = server(&content);
    let dir = tempfile::tempdir().unwrap();
    server.fault(FILE, &[Fault::Later(429, 1)]);
    let begin = Instant::now();
    get(&[&server], &content, &Cache::new(dir.path()), quick()).unwrap();
    let took = begin.elapsed();
    assert!((1.0..3.0).contains(&took.as_secs_f64()), "{took:?}");
}

#[test]
fn silence_and_trickles_are_stalls_and_slowness_is_not() {
    let content = content(200_000);
    for fault in [Fault::Stall, Fault::Silence, Fault::Trickle] {
        let (bad, good) = (server(&content), server(&content));
        bad.fault(FILE, std::slice::from_ref(&fault));
        let dir = tempfile::tempdir().unwrap();
        let begin = Instant::now();
        get(&[&bad, &good], &content, &Cache::new(dir.path()), quick()).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(3), "{fault:?}");
        assert_eq!(good.requests().len(), 1, "{fault:?}");
    }
    // At a rate of its own choosing a download takes longer than a server may be silent, and succeeds.
    let server = server(&content);
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        limit_rate: NonZeroU64::new(100_000),
        ..quick()
    };
    let begin = Instant::now();
    get(&[&server], &content, &Cache::new(dir.path()), options).unwrap();
    let took = begin.elapsed().as_secs_f64();
    assert!((1.8..3.0).contains(&took), "{took}");
}

#[test]
fn other_sizes_are_refused_before_they_are_read() {
    let content = content(100_000);
    for (fault, actual) in [
        (Fault::Other(vec![7; 99_999]), "99999"),
        (Fault::Other(vec![7; 100_001]), "100001"),
        (Fault::Length(-1), "99999"),
        (Fault::Length(1), "100001"),
        (Fault::Length(1 << 60), "1152921504606946976"),
        (Fault::Endless, "more than 100000"),
    ] {
        let server = server(&content);
        server.fault(FILE, &vec![fault.clone(); 4]);
        let dir = tempfile::tempdir().unwrap();
        let error = get(&[&server], &content, &Cache::new(dir.path()), quick()).unwrap_err();
        let shown = error.to_string().replace(&server.url, "m");
        assert_eq!(
            shown,
            format!("a 1 from m{FILE} has {actual} bytes, expected 100000")
        );
        assert_eq!(error.code(), "FR-FETCH-SIZE");
        assert!(error.hint().unwrap().contains("lock again"));
        // No other attempt, and nothing left that a later one could build on.
        assert_eq!(server.requests().len(), 1, "{fault:?}");
        let cache = Cache::new(dir.path());
        let part = cache.path(&Sha256::of(&content)).with_extension("part");
        assert_eq!(part.metadata().unwrap().len(), 0);
    }
    // The file there is shorter than what is here already.
    let server = server(&content);
    server.fault(FILE, &[Fault::Cut, Fault::NoRange(10)]);
    let dir = tempfile::tempdir().unwrap();
    let error = get(&[&server], &content, &Cache::new(dir.path()), quick()).unwrap_err();
    assert!(matches!(error, Error::Size { .. }), "{error}");
}

#[test]
fn a_part_that_was_not_asked_for_is_refused() {
    let content = content(1000);
    let server = server(&content);
    server.fault(FILE, &vec![Fault::UnaskedRange; 4]);
    let dir = tempfile::tempdir().unwrap();
    let error = get(&[&server], &content, &Cache::new(dir.path()), quick()).unwrap_err();
    assert_eq!(
        error.to_string().replace(&server.url, "m"),
        format!("failed to fetch m{FILE}: the server answered 206 Partial Content")
    );
}

#[test]
fn redirects_are_few_and_stay_on_the_web() {
    let content = content(1000);
    let target = server(&content);
    let cases = [
        (vec![format!("{}{FILE}", target.url)], None),
        (vec![FILE.to_string(); 5], None),
        (
            vec![FILE.to_string(); 6],
            Some("it redirects more than 5 times"),
        ),
        (
            vec!["file:///etc/passwd".into()],
            Some("302 Found, which leads to file:///etc/passwd"),
        ),
        (
            vec!["ftp://127.0.0.1/x".into()],
            Some("it redirects to ftp://127.0.0.1/x"),
        ),
        (
            vec!["http://[".into()],
            Some("302 Found, which leads to http://["),
        ),
    ];
    for (redirects, refused) in cases {
        let server = server(&content);
        let faults: Vec<Fault> = redirects.iter().cloned().map(Fault::Redirect).collect();
        server.fault(FILE, &faults);
        let dir = tempfile::tempdir().unwrap();
        let result = get(&[&server], &content, &Cache::new(dir.path()), quick());
        match refused {
            None => drop(result.unwrap()),
            Some(reason) => {
                let error = result.unwrap_err().to_string();
                assert!(error.contains(reason), "{redirects:?}: {error}");
                assert!(server.requests().len() <= 7);
            }
        }
    }
}
