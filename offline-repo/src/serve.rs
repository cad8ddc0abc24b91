//! A repository over HTTP: static files only, for a laboratory or for machines that have no other web server.
//!
//! Requests are read and answered by `hyper` and `tower-http` (Range, HEAD, If-Modified-Since). What is added here: only
//! the repositories asked for and the files beside them are there, links are not followed, and `If-Range` is heeded.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Incoming};
use hyper::header::{IF_RANGE, RANGE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tower_http::services::ServeDir;

use crate::error::{Error, Result};
use crate::files;
use crate::marker;
use crate::publish::{beside_names, check_name};

/// Connections at a time; more wait.
const CONNECTIONS: usize = 256;
/// How long a client may take to say what it wants, and how long an idle connection is kept.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes read from a file at a time.
const CHUNK: usize = 256 << 10;
/// How often the caller is asked whether to stop.
const STOP_INTERVAL: Duration = Duration::from_millis(200);
/// Threads: a repository is read from the page cache, and the machine has other work.
const THREADS: usize = 2;

/// What is served: some entries of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    root: PathBuf,
    /// Names directly below the root that exist for clients; `None`: all.
    names: Option<BTreeSet<String>>,
    /// Names of the repositories in it.
    repositories: Vec<String>,
}

impl Site {
    /// The repository `path` as `/NAME/`, or all that are directly in `path`; keys and source entries beside them.
    pub fn of_repositories(path: &Path) -> Result<Self> {
        let path = path
            .canonicalize()
            .map_err(|e| Error::io("find", path, e))?;
        let (root, repositories) = match path.join(marker::NAME).is_file() {
            true => (files::parent(&path).to_path_buf(), vec![file_name(&path)]),
            false => {
                let found = repositories_in(&path)?;
                (path, found)
            }
        };
        if repositories.is_empty() {
            return Err(Error::Incomplete {
                path: root,
                message: format!("neither it nor a folder in it has a {}", marker::NAME),
            });
        }
        let beside = repositories.iter().flat_map(|name| beside_names(name));
        let names = repositories.iter().cloned().chain(beside).collect();
        Ok(Site {
            root,
            names: Some(names),
            repositories,
        })
    }

    /// Everything below a folder.
    pub fn of_folder(path: &Path) -> Result<Self> {
        let root = path
            .canonicalize()
            .map_err(|e| Error::io("find", path, e))?;
        Ok(Site {
            root,
            names: None,
            repositories: Vec::new(),
        })
    }

    /// Names of the repositories in it, sorted.
    pub fn repositories(&self) -> &[String] {
        &self.repositories
    }

    /// The file that a request's path means; `None`: nothing that clients may see.
    fn find(&self, uri_path: &str) -> Option<PathBuf> {
        let decoded = percent_decode(uri_path)?;
        // apt asks for the files of a flat repository below "./".
        let parts: Vec<&str> = decoded
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
            .collect();
        let first = parts.first()?;
        let is_visible = self.names.as_ref().is_none_or(|n| n.contains(*first));
        if !is_visible || !files::is_confined(&parts.join("/")) {
            return None;
        }
        let mut path = self.root.clone();
        for part in parts {
            path.push(part);
            // A published tree has no links; one that was put there must not lead elsewhere.
            if path.symlink_metadata().ok()?.is_symlink() {
                return None;
            }
        }
        path.is_file().then_some(path)
    }
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn repositories_in(path: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(path).map_err(|e| Error::io("read", path, e))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().join(marker::NAME).is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| check_name(name).is_ok())
        .collect();
    names.sort();
    Ok(names)
}

/// Undoes a URL's percent-encoding; `None` when it is not UTF-8 text.
fn percent_decode(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        match first {
            b'%' => {
                let mut byte = [0];
                hex::decode_to_slice(tail.get(..2)?, &mut byte).ok()?;
                bytes.push(byte[0]);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

/// A server whose port is open; it answers while [`Server::run`] runs.
pub struct Server {
    runtime: Runtime,
    listener: TcpListener,
    site: Arc<Site>,
}

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

impl Server {
    /// Opens the port; port 0 takes a free one.
    pub fn bind(site: Site, listen: SocketAddr) -> Result<Self> {
        let fail = |e| Error::invalid(listen, format!("cannot be listened on: {e}"));
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build()
            .map_err(fail)?;
        let listener = runtime.block_on(TcpListener::bind(listen)).map_err(fail)?;
        Ok(Server {
            runtime,
            listener,
            site: Arc::new(site),
        })
    }

    /// The address that is listened on.
    pub fn address(&self) -> Result<SocketAddr> {
        let found = self.listener.local_addr();
        found.map_err(|e| Error::invalid("the server", e))
    }

    /// Answers until `stop` says so; `log` gets one line for each answer.
    pub fn run(self, stop: &dyn Fn() -> bool, log: fn(&str)) {
        let Server {
            runtime,
            listener,
            site,
        } = self;
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let accepting = runtime.spawn(async move {
            loop {
                let permit = Arc::clone(&permits).acquire_owned().await;
                // Out of file descriptors, or a client that is gone already: both pass.
                let Ok((stream, peer)) = listener.accept().await else {
                    tokio::time::sleep(STOP_INTERVAL).await;
                    continue;
                };
                let site = Arc::clone(&site);
                tokio::spawn(async move {
                    serve_connection(stream, peer, site, log).await;
                    drop(permit);
                });
            }
        });
        while !stop() {
            std::thread::sleep(STOP_INTERVAL);
        }
        accepting.abort();
        runtime.shutdown_background();
    }
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, site: Arc<Site>, log: fn(&str)) {
    let service = service_fn(move |request: Request<Incoming>| {
        let site = Arc::clone(&site);
        async move {
            let line = format!("{peer} {} {}", request.method(), request.uri().path());
            let response = answer(&site, request).await;
            log(&format!("{line} {}", response.status().as_u16()));
            Ok::<_, Infallible>(response)
        }
    });
    let _ = stream.set_nodelay(true);
    // The only errors left are connections that end early.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(site: &Site, mut request: Request<Incoming>) -> Response<Body> {
    let Some(path) = site.find(request.uri().path()) else {
        return empty(StatusCode::NOT_FOUND);
    };
    if request
        .headers()
        .get(IF_RANGE)
        .is_some_and(|date| date.to_str().ok() != last_modified(&path).as_deref())
    {
        request.headers_mut().remove(RANGE);
    }
    let mut folder = ServeDir::new(&site.root)
        .append_index_html_on_directories(false)
        .with_buf_chunk_size(CHUNK);
    match folder.try_call(request).await {
        Ok(response) => response.map(|body| body.boxed_unsync()),
        Err(_) => empty(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// The file's time as the header `Last-Modified` has it.
fn last_modified(path: &Path) -> Option<String> {
    let time = path.symlink_metadata().ok()?.modified().ok()?;
    Some(httpdate::fmt_http_date(time))
}

fn empty(status: StatusCode) -> Response<Body> {
    let body = Empty::new().map_err(|never: Infallible| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_repository_and_what_lies_beside_it_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for (path, content) in [
            ("www/pigsty/repo_complete", "x"),
            ("www/pigsty/a_1%3a2.deb", "deb"),
            ("www/pigsty.asc", "key"),
            ("www/other.asc", "not ours"),
            ("secret", "no"),
        ] {
            files::write_atomic(&root.join(path), content.as_bytes(), 0o644).unwrap();
        }
        std::os::unix::fs::symlink(root.join("secret"), root.join("www/pigsty/link")).unwrap();
        std::os::unix::fs::symlink(root, root.join("www/pigsty/folder")).unwrap();
        for path in ["www", "www/pigsty"] {
            let site = Site::of_repositories(&root.join(path)).unwrap();
            assert_eq!(site.repositories(), ["pigsty"]);
            for good in [
                "/pigsty/repo_complete",
                "/pigsty/./repo_complete",
                "/pigsty/a_1%253a2.deb",
                "/pigsty.asc",
            ] {
                assert!(site.find(good).is_some(), "{good}");
            }
            for bad in [
                "/",
                "/pigsty/",
                "/pigsty",
                "/other.asc",
                "/secret",
                "/../secret",
                "/pigsty/../../secret",
                "/pigsty/%2e%2e/%2e%2e/secret",
                "/pigsty/..%2f..%2fsecret",
                "/pigsty/link",
                "/pigsty/folder/secret",
                "/pigsty/a_1%3a2.deb",
                "/pigsty/%zz",
                "/pigsty/%",
                "/pigsty/%ff",
            ] {
                assert_eq!(site.find(bad), None, "{bad}");
            }
        }
        assert!(Site::of_repositories(root).is_err());
    }
}
