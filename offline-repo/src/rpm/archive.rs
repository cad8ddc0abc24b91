//! Fetching a yum repository's metadata: `repomd.xml` and its signature first, then the files it lists.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use super::modules::{self, LockedModules};
use super::repomd::{DataFile, Repomd};
use super::universe::Universe;
use crate::archive::Upstream;
use crate::cache::Cache;
use crate::compression::{self, Codec};
use crate::digest::{Hasher, Sha256};
use crate::error::{Error, Result};
use crate::files;
use crate::http::{self, Client, Expected};
use crate::openpgp::Keyring;
use crate::percent;

/// No repository's `repomd.xml` comes near this size, in bytes.
const REPOMD_LIMIT: u64 = 4 << 20;
/// The largest metadata known, Fedora's filelists, has 60 MB packed and 800 MB unpacked.
const PACKED_LIMIT: u64 = 512 << 20;
const UNPACKED_LIMIT: u64 = 4 << 30;

/// A verified `repomd.xml`.
#[derive(Debug, Clone)]
pub struct SignedRepomd {
    /// Its content.
    pub repomd: Repomd,
    /// The repository's URL, without a slash at the end.
    pub url: String,
    /// Its digest.
    pub sha256: Sha256,
    /// Fingerprint of the key whose signature was accepted.
    pub signed_by: String,
}

/// Fetches and verifies the `repomd.xml` of a folder of an archive, for use at the time `now`. The folder "." is the
/// archive itself.
pub fn fetch_repomd(
    client: &Client,
    upstream: &Upstream,
    keyring: &Keyring,
    folder: &str,
    now: u64,
) -> Result<SignedRepomd> {
    let bases = client.archive_urls(&upstream.archive, upstream.url.as_deref())?;
    let urls: Vec<String> = bases
        .iter()
        .map(|base| match folder {
            "." => format!("{base}/repodata/repomd.xml"),
            _ => format!("{base}/{}/repodata/repomd.xml", percent::path(folder)),
        })
        .collect();
    client.get_accepted(&urls, REPOMD_LIMIT, |bytes, url| {
        let shown = http::redact(url);
        let (signature, _) = client.get(&[format!("{url}.asc")], REPOMD_LIMIT)?;
        let verified = keyring.verify_detached(&shown, &bytes, &signature, Some(now))?;
        Ok(SignedRepomd {
            repomd: Repomd::parse(&shown, &bytes)?,
            url: url.trim_end_matches("/repodata/repomd.xml").to_string(),
            sha256: Sha256::of(&bytes),
            signed_by: verified.fingerprint,
        })
    })
}

/// The file of a kind that a repository must have.
pub fn listed<'a>(signed: &'a SignedRepomd, kind: &str) -> Result<&'a DataFile> {
    signed.repomd.file(kind).ok_or_else(|| Error::MissingIndex {
        url: format!("{}/repodata/repomd.xml", http::redact(&signed.url)),
        wanted: format!("{kind} with a SHA-256 digest"),
    })
}

/// The text of a file of modular metadata in the cache, with a newline at its end.
pub(crate) fn modules_text(locked: &LockedModules, path: &Path) -> Result<String> {
    let packed = files::read_bounded(path, modules::LIMIT)?;
    if Sha256::of(&packed) != locked.sha256 {
        return Err(Error::invalid(&locked.path, "is not as listed in the lock"));
    }
    let codec = Codec::of_name(&locked.path);
    let text = compression::decompress(&locked.path, codec, &packed, modules::LIMIT)?;
    let mut text =
        String::from_utf8(text).map_err(|_| Error::invalid(&locked.path, "is not UTF-8 text"))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Fetches a metadata file through the cache.
pub fn fetch_file(
    client: &Client,
    cache: &Cache,
    signed: &SignedRepomd,
    file: &DataFile,
) -> Result<()> {
    let url = format!("{}/{}", signed.url, percent::path(&file.path));
    if file.size > PACKED_LIMIT {
        return Err(Error::TooLarge {
            origin: http::redact(&url),
            limit: PACKED_LIMIT,
        });
    }
    let expected = Expected {
        name: file.path.clone(),
        size: file.size,
        sha256: file.sha256,
    };
    if !cache.verify(&file.sha256, file.size)? {
        cache.fetch(client, &[url], &expected, &|_| {})?;
    }
    Ok(())
}

/// Reads a fetched `primary.xml` into the universe.
pub fn read_primary(
    cache: &Cache,
    file: &DataFile,
    universe: &mut Universe,
    priority: i32,
) -> Result<()> {
    read(cache, file, |input| {
        universe.read_primary(BufReader::new(input), priority)
    })
}

/// Reads the owners of paths from a fetched `filelists.xml` into the universe.
pub fn read_filelists(
    cache: &Cache,
    file: &DataFile,
    universe: &mut Universe,
    wanted: &HashSet<String>,
) -> Result<()> {
    read(cache, file, |input| {
        universe.read_filelists(BufReader::new(input), wanted)
    })
}

/// Unpacks a file of the cache into `consume`, within its listed size, and compares what was unpacked with its listed
/// digest.
fn read(
    cache: &Cache,
    file: &DataFile,
    consume: impl FnOnce(&mut dyn Read) -> std::result::Result<(), String>,
) -> Result<()> {
    let path = cache.path(&file.sha256);
    let packed = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
    let invalid = |message: String| Error::invalid(&file.path, message);
    let unpacked = Codec::of_name(&file.path)
        .reader(BufReader::new(packed))
        .map_err(|e| invalid(format!("cannot be decompressed: {e}")))?;
    let limit = file.open_size.unwrap_or(UNPACKED_LIMIT).min(UNPACKED_LIMIT);
    let mut input = Hashed {
        input: unpacked.take(limit + 1),
        hasher: Hasher::default(),
    };
    let consumed = consume(&mut input);
    // What the consumer did not read counts, too.
    let rest = std::io::copy(&mut input, &mut std::io::sink());
    let (sha256, size) = input.hasher.finish();
    if size > limit {
        return Err(Error::TooLarge {
            origin: file.path.clone(),
            limit,
        });
    }
    consumed.map_err(invalid)?;
    rest.map_err(|e| invalid(format!("cannot be decompressed: {e}")))?;
    match file.open_sha256 {
        Some(expected) if expected != sha256 => Err(Error::Hash {
            name: file.path.clone(),
            origin: "its unpacked form".into(),
            expected: expected.to_string(),
            actual: sha256.to_string(),
            expected_size: file.open_size.unwrap_or(size),
            actual_size: size,
        }),
        _ => Ok(()),
    }
}

struct Hashed<R> {
    input: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
