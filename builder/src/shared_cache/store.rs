//! The place that builders share: a folder, an HTTP server's files, or a bucket of an S3-compatible service.
//!
//! Nothing here trusts what it reads: a size is compared before the first byte is taken, a digest before a file counts.

use std::env;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{
    ClientOptions, GetResultPayload, ObjectStore, ObjectStoreExt, RetryConfig, WriteMultipart,
};
use offline_repo::digest::Hasher;
use tokio::runtime::Runtime;

use super::address::Address;
use crate::diagnostic::{Diagnostic, Result};

/// A builder makes by itself what it cannot have soon.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a store may say nothing while something is read from it.
const READ_PATIENCE: Duration = Duration::from_secs(15);
/// The same while something is written: the answer comes when all of a piece has been sent.
const WRITE_PATIENCE: Duration = Duration::from_secs(300);
/// After this time no request is tried again.
const RETRY_TIMEOUT: Duration = Duration::from_secs(5);
const RETRIES: usize = 2;
/// What is slower, in bytes a second after [`READ_PATIENCE`], is given up.
const SLOWEST: u64 = 16 << 10;
/// Larger blobs are sent in pieces of this size. S3 takes pieces of 5 MiB and more, 10 000 of them.
const PIECE: usize = 16 << 20;
/// Pieces that are on the way at a time.
const PIECES: usize = 4;

/// What the store is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Taking things from it; it need not be there.
    Read,
    /// Adding things to it; a folder is made.
    Write,
}

/// Why something was not had from a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The store cannot be asked: nothing else will be had from it either.
    Unreachable(String),
    /// The store does not show this. S3 says so of what is not there, too, to those who may not list.
    Denied,
    /// This entry is not what it should be.
    Refused(String),
}

/// An opened store.
pub struct Store {
    name: String,
    objects: std::result::Result<Arc<dyn ObjectStore>, String>,
    prefix: String,
    runtime: Runtime,
}

impl Store {
    /// Opens the store of an address. Connects to nothing yet.
    pub fn open(url: &str, access: Access) -> Result<Self> {
        let address = Address::parse(url)?;
        if access == Access::Write && matches!(address, Address::Http(_)) {
            return Err(Diagnostic::invalid(
                "FR-CACHE-READONLY",
                format!("{url} can only be read: HTTP has no way to write that servers agree on"),
            )
            .with_hint("push to the folder that the server shows, or to s3://BUCKET/PREFIX"));
        }
        offline_repo::http::choose_tls();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|e| {
                Diagnostic::failed("FR-CACHE-STORE", format!("cannot start threads: {e}"))
            })?;
        let unusable =
            |e: object_store::Error| Diagnostic::invalid("FR-CACHE-STORE", format!("{url}: {e}"));
        let (objects, prefix) = match address {
            Address::Folder(path) => (folder(&path, access)?, String::new()),
            Address::Http(url) => (Ok(http(&url).map_err(unusable)?), String::new()),
            Address::S3 { bucket, prefix } => (Ok(s3(&bucket, access).map_err(unusable)?), prefix),
        };
        Ok(Store {
            name: url.to_owned(),
            objects,
            prefix,
            runtime,
        })
    }

    /// The address as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is a folder that is not there (yet).
    pub fn is_missing(&self) -> bool {
        self.objects.is_err()
    }

    /// A small file, if it is there.
    pub fn small(&self, name: &str, limit: u64) -> std::result::Result<Option<Vec<u8>>, Failure> {
        let mut bytes = Vec::new();
        let sized = |size: u64| match size <= limit {
            true => Ok(()),
            false => Err(Failure::Refused(format!(
                "it has {size} bytes, more than {limit}"
            ))),
        };
        let found = self.read(name, sized, |chunk| {
            bytes.extend_from_slice(chunk);
            // A server may send more than it announced.
            sized(bytes.len() as u64)
        })?;
        Ok(found.then_some(bytes))
    }

    /// Writes the blob of that digest and size into an empty file; false when it is not there.
    pub fn blob(
        &self,
        digest: &str,
        size: u64,
        mut file: &File,
        on_bytes: &dyn Fn(u64),
    ) -> std::result::Result<bool, Failure> {
        let mut hasher = Hasher::default();
        let sized = |found: u64| match found == size {
            true => Ok(()),
            false => Err(Failure::Refused(format!(
                "its blob has {found} bytes instead of {size}"
            ))),
        };
        let found = self.read(&blob_name(digest), sized, |chunk| {
            if hasher.size() + chunk.len() as u64 > size {
                return sized(hasher.size() + chunk.len() as u64);
            }
            hasher.update(chunk);
            on_bytes(hasher.size());
            file.write_all(chunk)
                .map_err(|e| Failure::Refused(format!("it cannot be written here: {e}")))
        })?;
        if !found {
            return Ok(false);
        }
        let (actual, length) = hasher.finish();
        sized(length)?;
        match actual.to_string() == digest {
            true => Ok(true),
            false => Err(Failure::Refused(format!(
                "its blob has the digest {actual} instead of {digest}"
            ))),
        }
    }

    /// Size of a file, if it is there.
    pub fn size(&self, name: &str) -> std::result::Result<Option<u64>, Failure> {
        let objects = self.objects()?;
        let found = self.runtime.block_on(objects.head(&self.key(name)));
        present(found).map(|found| found.map(|meta| meta.size))
    }

    /// Writes a small file; it appears whole.
    pub fn put(&self, name: &str, bytes: Vec<u8>) -> std::result::Result<(), Failure> {
        let objects = self.objects()?;
        let done = self
            .runtime
            .block_on(objects.put(&self.key(name), bytes.into()));
        done.map(drop).map_err(|e| failure(&e))
    }

    /// Writes a file's content; it appears when all of it is there.
    pub fn put_file(
        &self,
        name: &str,
        mut file: &File,
        on_bytes: &dyn Fn(u64),
    ) -> std::result::Result<(), Failure> {
        let local = |e: std::io::Error| Failure::Refused(format!("it cannot be read: {e}"));
        let size = file.metadata().map_err(local)?.len();
        file.rewind().map_err(local)?;
        if size <= PIECE as u64 {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(local)?;
            self.put(name, bytes)?;
            on_bytes(size);
            return Ok(());
        }
        let objects = self.objects()?;
        self.runtime.block_on(async {
            let upload = objects.put_multipart(&self.key(name)).await;
            let mut upload =
                WriteMultipart::new_with_chunk_size(upload.map_err(|e| failure(&e))?, PIECE);
            match send(&mut upload, file, on_bytes).await {
                Ok(()) => upload.finish().await.map(drop).map_err(|e| failure(&e)),
                Err(error) => {
                    // What was sent so far has no name; a store that is not told removes it by its own rules.
                    let _ = upload.abort().await;
                    Err(error)
                }
            }
        })
    }

    /// Reads a file: its size is judged first, then each piece of its content. False when it is not there.
    fn read(
        &self,
        name: &str,
        mut sized: impl FnMut(u64) -> std::result::Result<(), Failure>,
        mut take: impl FnMut(&[u8]) -> std::result::Result<(), Failure>,
    ) -> std::result::Result<bool, Failure> {
        let objects = self.objects()?;
        self.runtime.block_on(async {
            let Some(found) = present(objects.get(&self.key(name)).await)? else {
                return Ok(false);
            };
            sized(found.meta.size)?;
            if let GetResultPayload::File(file, _) = found.payload {
                return read_file(file, &mut take).map(|()| true);
            }
            let mut stream = found.into_stream();
            let (started, mut taken) = (Instant::now(), 0);
            while let Some(chunk) = stream.next().await {
                let chunk = chunk.map_err(|e| failure(&e))?;
                take(&chunk)?;
                taken += chunk.len() as u64;
                let seconds = started.elapsed().as_secs();
                if seconds > READ_PATIENCE.as_secs() && taken < seconds * SLOWEST {
                    let reason = format!("it sent {taken} bytes in {seconds} s");
                    return Err(Failure::Unreachable(reason));
                }
            }
            Ok(true)
        })
    }

    fn objects(&self) -> std::result::Result<&Arc<dyn ObjectStore>, Failure> {
        self.objects
            .as_ref()
            .map_err(|reason| Failure::Unreachable(reason.clone()))
    }

    fn key(&self, name: &str) -> Key {
        match self.prefix.is_empty() {
            true => Key::from(name),
            false => Key::from(format!("{}/{name}", self.prefix)),
        }
    }
}

/// Where a blob is.
pub fn blob_name(digest: &str) -> String {
    format!("blobs/sha256/{}/{digest}", &digest[..2])
}

async fn send(
    upload: &mut WriteMultipart,
    mut file: &File,
    on_bytes: &dyn Fn(u64),
) -> std::result::Result<(), Failure> {
    let mut buffer = vec![0; 1 << 20];
    let mut sent = 0;
    loop {
        let read = file
            .read(&mut buffer)
            .map_err(|e| Failure::Refused(format!("it cannot be read: {e}")))?;
        if read == 0 {
            return Ok(());
        }
        upload
            .wait_for_capacity(PIECES)
            .await
            .map_err(|e| failure(&e))?;
        upload.write(&buffer[..read]);
        sent += read as u64;
        on_bytes(sent);
    }
}

fn read_file(
    mut file: File,
    take: &mut impl FnMut(&[u8]) -> std::result::Result<(), Failure>,
) -> std::result::Result<(), Failure> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = file
            .read(&mut buffer)
            .map_err(|e| Failure::Unreachable(e.to_string()))?;
        if read == 0 {
            return Ok(());
        }
        take(&buffer[..read])?;
    }
}

fn present<T>(answer: object_store::Result<T>) -> std::result::Result<Option<T>, Failure> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(failure(&error)),
    }
}

fn failure(error: &object_store::Error) -> Failure {
    use object_store::Error as E;
    match error {
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => Failure::Denied,
        other => Failure::Unreachable(other.to_string()),
    }
}

fn folder(
    path: &PathBuf,
    access: Access,
) -> Result<std::result::Result<Arc<dyn ObjectStore>, String>> {
    if access == Access::Write {
        fs::create_dir_all(path).map_err(|e| Diagnostic::io("create", path, e))?;
    }
    // One that is not there is like a server that does not answer.
    let opened = LocalFileSystem::new_with_prefix(path).map_err(|e| e.to_string());
    Ok(opened.map(|store| Arc::new(store.with_fsync(access == Access::Write)) as _))
}

fn http(url: &str) -> object_store::Result<Arc<dyn ObjectStore>> {
    let options = client(Access::Read).with_allow_http(url.starts_with("http://"));
    let store = HttpBuilder::new()
        .with_url(url)
        .with_client_options(options)
        .with_retry(retry())
        .build()?;
    Ok(Arc::new(store))
}

/// Endpoint, region and credentials are those that AWS's own programs take from the environment, `AWS_…`. Without any
/// credentials, requests are not signed: no service of the machine is asked for some.
fn s3(bucket: &str, access: Access) -> object_store::Result<Arc<dyn ObjectStore>> {
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let endpoints = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
    let plain = endpoints.iter().find_map(|name| set(name));
    let plain = plain.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let credentials = [
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ];
    let unsigned = !credentials.iter().any(|name| set(name).is_some());
    let store = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_skip_signature(unsigned)
        .with_client_options(client(access).with_allow_http(plain))
        .with_retry(retry())
        .build()?;
    Ok(Arc::new(store))
}

fn client(access: Access) -> ClientOptions {
    let patience = match access {
        Access::Read => READ_PATIENCE,
        Access::Write => WRITE_PATIENCE,
    };
    // The whole of a large blob may take long; what counts is that it goes on.
    ClientOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_read_timeout(patience)
        .with_timeout_disabled()
}

fn retry() -> RetryConfig {
    RetryConfig {
        max_retries: RETRIES,
        retry_timeout: RETRY_TIMEOUT,
        ..RetryConfig::default()
    }
}
