//! Fetching an archive's signed indexes: InRelease first, its signature, its dates; then the Packages files it lists.

use crate::cache::Cache;
use crate::compression::{self, Codec};
use crate::digest::Sha256;
use crate::error::{Error, Result};
use crate::http::{Client, Expected};
use crate::openpgp::Keyring;
use crate::percent;
use crate::release::{ListedFile, Release};

/// Debian's largest InRelease has 140 kB.
const RELEASE_LIMIT: u64 = 16 << 20;
/// Debian's largest Packages file has 10 MB compressed and 60 MB unpacked.
const PACKED_LIMIT: u64 = 128 << 20;
const UNPACKED_LIMIT: u64 = 512 << 20;
/// Debian's indexes unpack to six times their size. What unpacks to more than this many times is not an index.
const RATIO_LIMIT: u64 = 100;
/// Small indexes may unpack to more, to this size.
const RATIO_ALLOWANCE: u64 = 16 << 20;

/// How often a suite is read again that does not fit together.
const REPLACED_LIMIT: u32 = 2;

/// An upstream: one archive with the suites and components taken from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Name in the recipe.
    pub name: String,
    /// Name of the archive, which decides its mirror.
    pub archive: String,
    /// URL of a vendor's archive; `None`: from the host's mirrors.
    pub url: Option<String>,
    /// Suites, for example "trixie" and "trixie-updates".
    pub suites: Vec<String>,
    /// Components, for example "main".
    pub components: Vec<String>,
    /// Key files (armoured or binary); a signature by one of these keys is required.
    pub keys: Vec<Vec<u8>>,
    /// Packages of an upstream with a higher priority win over newer versions elsewhere; usually 0.
    pub priority: i32,
}

/// A verified InRelease.
#[derive(Debug, Clone)]
pub struct SignedRelease {
    /// Its content.
    pub release: Release,
    /// Where it was fetched from.
    pub url: String,
    /// Digest of the whole signed file.
    pub sha256: Sha256,
    /// Fingerprint of the key whose signature was accepted.
    pub signed_by: String,
    /// URLs of the suite's folder at every mirror.
    folders: Vec<String>,
}

impl SignedRelease {
    /// URL of the folder that the file lies in, with the slash at the end.
    fn folder(&self) -> &str {
        self.url.trim_end_matches("InRelease")
    }
}

/// A verified Packages file.
#[derive(Debug, Clone)]
pub struct PackagesFile {
    /// URL it is listed at, for messages.
    pub url: String,
    /// Digest as fetched.
    pub sha256: Sha256,
    /// Text.
    pub text: String,
}

/// A Packages file as a Release lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Path below the suite's folder.
    path: String,
    /// URL it is listed at, for messages.
    pub(crate) url: String,
    /// Digest and size as fetched.
    pub(crate) file: ListedFile,
    /// Name and those of the unpacked form.
    name: String,
    plain: Option<ListedFile>,
}

/// Fetches and verifies the InRelease of a suite, for use at the time `now`.
pub fn fetch_release(
    client: &Client,
    upstream: &Upstream,
    keyring: &Keyring,
    suite: &str,
    now: u64,
) -> Result<SignedRelease> {
    let bases = client.archive_urls(&upstream.archive, upstream.url.as_deref())?;
    let folders: Vec<String> = (bases.iter())
        .map(|base| format!("{base}/dists/{suite}/"))
        .collect();
    let urls: Vec<String> = (folders.iter())
        .map(|folder| format!("{folder}InRelease"))
        .collect();
    // A mirror that is out of date, or has something else there, is passed over like one that does not answer.
    client.get_accepted(&urls, RELEASE_LIMIT, |bytes, url| {
        let shown = crate::http::redact(url);
        let (text, verified) = keyring.verify_clearsigned(&shown, &bytes, now)?;
        let release = Release::parse(&shown, &text)?;
        release.check(&shown, suite, now)?;
        Ok(SignedRelease {
            release,
            url: url.to_string(),
            sha256: Sha256::of(&bytes),
            signed_by: verified.fingerprint,
            folders: folders.clone(),
        })
    })
}

/// Fetches a suite: its InRelease, and with `load` what is wanted of the index of each component.
///
/// A mirror that replaces its indexes in between has other Packages files than the InRelease says, and no copy of
/// the old ones by their digest: then everything is read again, until it fits together.
pub(crate) fn fetch_suite<T>(
    client: &Client,
    upstream: &Upstream,
    suite: &str,
    now: u64,
    load: impl Fn(&SignedRelease, &str) -> Result<T>,
) -> Result<(SignedRelease, Vec<T>)> {
    let keyring = Keyring::from_files(&upstream.keys).map_err(|error| match error {
        Error::Key { origin, message } => Error::Key {
            origin: format!("{origin} of the upstream '{}'", upstream.name),
            message,
        },
        other => other,
    })?;
    let mut rounds = 0..REPLACED_LIMIT;
    loop {
        let signed = fetch_release(client, upstream, &keyring, suite, now)?;
        let components = upstream.components.iter();
        let loaded: Result<Vec<T>> = components.map(|name| load(&signed, name)).collect();
        match loaded {
            Ok(loaded) => return Ok((signed, loaded)),
            Err(error) if error.concerns_one_file() && rounds.next().is_some() => {
                std::thread::sleep(client.pause());
            }
            Err(error) => return Err(error),
        }
    }
}

/// Where an index may be had: at the mirror that the InRelease is from, then at the others, since the digest tells
/// whether they have the same. By its digest the file is there even while a mirror is being updated.
fn index_urls(signed: &SignedRelease, path: &str, sha256: &Sha256) -> Vec<String> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let by_hash = format!("{}/by-hash/SHA256/{sha256}", percent::path(folder));
    let names = match signed.release.by_hash {
        true => vec![by_hash, percent::path(path)],
        false => vec![percent::path(path)],
    };
    let others = signed
        .folders
        .iter()
        .filter(|base| *base != signed.folder());
    std::iter::once(signed.folder())
        .chain(others.map(String::as_str))
        .flat_map(|base| names.iter().map(move |name| format!("{base}{name}")))
        .collect()
}

/// What a release says about the Packages file of a component.
pub(crate) fn listed(
    signed: &SignedRelease,
    component: &str,
    architecture: &str,
) -> Result<Listed> {
    let name = format!("{component}/binary-{architecture}/Packages");
    let Some((path, file)) = signed.release.index(&name) else {
        return Err(Error::MissingIndex {
            url: crate::http::redact(&signed.url),
            wanted: name,
        });
    };
    let url = format!("{}{}", signed.folder(), percent::path(&path));
    Ok(Listed {
        url: crate::http::redact(&url),
        // Release files list the plain index as well, whether or not the mirror has it.
        plain: signed.release.files.get(&name).copied(),
        path,
        file,
        name,
    })
}

/// Fetches the Packages file of a component, through the cache, verified against the release.
pub fn fetch_packages(
    client: &Client,
    cache: &Cache,
    signed: &SignedRelease,
    component: &str,
    architecture: &str,
    on_bytes: &dyn Fn(u64),
) -> Result<PackagesFile> {
    let listed = listed(signed, component, architecture)?;
    fetch_listed(client, cache, signed, &listed, on_bytes)
}

/// The same for what [`listed`] found.
pub(crate) fn fetch_listed(
    client: &Client,
    cache: &Cache,
    signed: &SignedRelease,
    listed: &Listed,
    on_bytes: &dyn Fn(u64),
) -> Result<PackagesFile> {
    let Listed {
        path,
        url,
        file,
        name,
        plain,
    } = listed;
    let packed = fetch_index(client, cache, signed, listed, on_bytes)?;
    let (codec, limit) = (
        Codec::of_name(path),
        unpacked_limit(file.size, plain.as_ref()),
    );
    let bytes = compression::decompress(url, codec, &packed, limit)?;
    drop(packed);
    let plain = plain.filter(|_| codec != Codec::Plain);
    if let Some(plain) = plain {
        check(name, url, &bytes, &plain)?;
    }
    let text = String::from_utf8(bytes).map_err(|_| Error::invalid(url, "is not UTF-8 text"))?;
    Ok(PackagesFile {
        url: url.clone(),
        sha256: file.sha256,
        text,
    })
}

/// How much an index may unpack to: what the Release says of the unpacked form, if it lists that, else what is usual.
fn unpacked_limit(packed: u64, listed: Option<&ListedFile>) -> u64 {
    let usual = packed.saturating_mul(RATIO_LIMIT).max(RATIO_ALLOWANCE);
    listed.map_or(usual, |file| file.size).min(UNPACKED_LIMIT)
}

fn check(name: &str, origin: &str, bytes: &[u8], expected: &ListedFile) -> Result<()> {
    let actual = Sha256::of(bytes);
    if (actual, bytes.len() as u64) == (expected.sha256, expected.size) {
        return Ok(());
    }
    Err(Error::Hash {
        name: name.to_string(),
        origin: origin.to_string(),
        expected: expected.sha256.to_string(),
        actual: actual.to_string(),
        expected_size: expected.size,
        actual_size: bytes.len() as u64,
    })
}

/// An index as it is listed, through the cache.
fn fetch_index(
    client: &Client,
    cache: &Cache,
    signed: &SignedRelease,
    listed: &Listed,
    on_bytes: &dyn Fn(u64),
) -> Result<Vec<u8>> {
    let file = listed.file;
    if file.size > PACKED_LIMIT {
        return Err(Error::TooLarge {
            origin: listed.url.clone(),
            limit: PACKED_LIMIT,
        });
    }
    let expected = Expected {
        name: listed.name.clone(),
        size: file.size,
        sha256: file.sha256,
    };
    if !cache.verify(&file.sha256, file.size)? {
        let urls = index_urls(signed, &listed.path, &file.sha256);
        cache.fetch(client, &urls, &expected, on_bytes)?;
    }
    crate::files::read_bounded(&cache.path(&file.sha256), PACKED_LIMIT)
}
