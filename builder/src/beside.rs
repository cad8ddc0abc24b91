//! What lies beside images: bills of materials, `SHA256SUMS` of everything, its signature, and the key.
//!
//! One list serves a folder, for all images in it. It is withdrawn before an image of the folder is made anew.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use images::manifest::Manifest;
use offline_repo::digest::Sha256;
use offline_repo::openpgp::Keyring;
use offline_repo::repository::ClosurePackage;
use offline_repo::sbom::{self, Component, Kind, Subject};
use offline_repo::signer::KeyKind;

use crate::bake::Source;
use crate::commands::write_file;
use crate::diagnostic::{Diagnostic, Result};
use crate::session::Session;
use crate::stages;

/// The list, as `sha256sum -c` reads it.
const SUMS: &str = "SHA256SUMS";
/// Its detached signature, and the key that verifies it.
const SIGNATURE: &str = "SHA256SUMS.asc";
const KEY: &str = "signing-key.asc";
/// How the names of manifests end.
const MANIFEST: &str = ".manifest.json";
/// Bills of materials: kind of artefact, end of the name.
const BILLS: [(&str, &str); 2] = [("sbom-spdx", ".spdx.json"), ("sbom-cyclonedx", ".cdx.json")];
/// The longest list and signature that are read, in bytes.
const LIMIT: u64 = 1 << 20;

/// What a check of the list found.
pub struct Checked {
    /// Files that the list names and that are as listed.
    pub files: usize,
    /// The key that signed it; none when there is no signature.
    pub signer: Option<String>,
}

/// Removes list and signature: what they say is about to change.
pub fn withdraw(folder: &Path) -> Result<()> {
    for name in [SIGNATURE, SUMS] {
        let path = folder.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Diagnostic::io("remove", &path, e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Writes the bills of materials of a manifest's image, then list, signature and key of the folder.
pub fn write(
    session: &Session,
    manifest: &Path,
    source: &Source,
    closure: &[ClosurePackage],
) -> Result<()> {
    let epoch = stages::epoch(&source.lock);
    let folder = manifest.parent().unwrap_or(Path::new("."));
    for (kind, text) in bills(manifest, epoch, closure)? {
        let ending = BILLS.iter().find(|(known, _)| *known == kind);
        let path = beside(manifest, ending.map_or("", |(_, ending)| ending));
        write_when_changed(&path, text.as_bytes())?;
        session.add_file(kind, &path)?;
    }
    let text = list(folder)?;
    let signer = stages::signer(session, KeyKind::default())?;
    let signature = signer.detach_armored(text.as_bytes(), epoch)?;
    write_when_changed(&folder.join(KEY), signer.public_key()?.armored.as_bytes())?;
    write_when_changed(&folder.join(SUMS), text.as_bytes())?;
    write_when_changed(&folder.join(SIGNATURE), signature.as_bytes())?;
    session.add_file("checksums", &folder.join(SUMS))?;
    session.add_file("signature", &folder.join(SIGNATURE))
}

/// `NAME.manifest.json` with another ending.
fn beside(manifest: &Path, ending: &str) -> PathBuf {
    let name = manifest.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(MANIFEST).unwrap_or(&name);
    manifest.with_file_name(format!("{stem}{ending}"))
}

fn bills(
    manifest: &Path,
    epoch: u64,
    closure: &[ClosurePackage],
) -> Result<[(&'static str, String); 2]> {
    let manifest = Manifest::read(manifest)?;
    let digest = manifest
        .root_hash
        .parse::<Sha256>()
        .map_err(|_| Diagnostic::failed("FR-IMAGE-MANIFEST", "the root hash is not a SHA-256"))?;
    let subject = Subject {
        name: manifest.name,
        version: manifest.version,
        digest,
        epoch,
        tool: ("farrow".into(), env!("CARGO_PKG_VERSION").into()),
        kind: Kind::Image,
    };
    let packages = closure.iter().map(|chosen| Component::of(&chosen.package));
    let packages: Vec<Component> = packages.collect();
    Ok([
        ("sbom-spdx", sbom::spdx(&subject, &packages)),
        ("sbom-cyclonedx", sbom::cyclonedx(&subject, &packages)),
    ])
}

fn write_when_changed(path: &Path, content: &[u8]) -> Result<()> {
    match std::fs::read(path).is_ok_and(|there| there == content) {
        true => Ok(()),
        false => write_file(path, content, 0o644),
    }
}

/// The lines for all manifests of a folder: their images, as the manifests say, and the small files, which are read.
fn list(folder: &Path) -> Result<String> {
    let mut lines = BTreeMap::new();
    let entries = std::fs::read_dir(folder).map_err(|e| Diagnostic::io("list", folder, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| Diagnostic::io("list", folder, e))?;
        let path = entry.path();
        if !entry.file_name().to_string_lossy().ends_with(MANIFEST) {
            continue;
        }
        // One that another version wrote is not this list's business.
        let Ok(manifest) = Manifest::read(&path) else {
            continue;
        };
        for artifact in manifest.artifacts {
            lines.insert(artifact.path.display().to_string(), artifact.sha256);
        }
        let bills = BILLS.iter().map(|(_, ending)| beside(&path, ending));
        for small in bills.chain([path.clone()]).filter(|path| path.exists()) {
            let name = small.file_name().unwrap_or_default().to_string_lossy();
            lines.insert(name.into_owned(), Sha256::of_file(&small)?.0.to_string());
        }
    }
    let lines = lines.into_iter();
    Ok(lines
        .map(|(name, sha256)| format!("{sha256}  {name}\n"))
        .collect())
}

/// Checks the list beside a manifest: its signature, then that it says the same as the manifest and the small files.
/// The images themselves are compared with the manifest. `None` when there is no list and no key was named.
///
/// With keys, one of them must have signed it; without, the key beside it, which finds damage but not forgery.
pub fn check(manifest: &Path, keyring: Option<&Keyring>) -> Result<Option<Checked>> {
    let folder = manifest.parent().unwrap_or(Path::new("."));
    let (sums, signature) = (folder.join(SUMS), folder.join(SIGNATURE));
    if !sums.exists() && keyring.is_none() {
        return Ok(None);
    }
    let text = read_bounded(&sums, LIMIT)?;
    let signer = match (keyring, signature.exists()) {
        (None, false) => None,
        (Some(keyring), _) => Some(verify(keyring, &sums, &text, &signature)?),
        (None, true) => {
            let key = read_bounded(&folder.join(KEY), LIMIT)?;
            let keyring = Keyring::from_files(&[key])?;
            Some(verify(&keyring, &sums, &text, &signature)?)
        }
    };
    let listed = parse(&text).ok_or_else(|| differs(&sums, "it is not a list of digests"))?;
    let read = Manifest::read(manifest)?;
    let images = read
        .artifacts
        .iter()
        .map(|artifact| (folder.join(&artifact.path), artifact.sha256.clone()));
    let mut expected: Vec<(PathBuf, String)> = images.collect();
    let bills = BILLS.iter().map(|(_, ending)| beside(manifest, ending));
    for small in bills.chain([manifest.to_owned()]) {
        if small.exists() {
            let sha256 = Sha256::of_file(&small)?.0.to_string();
            expected.push((small, sha256));
        }
    }
    for (path, sha256) in &expected {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if listed.get(&*name) != Some(sha256) {
            return Err(differs(path, "it is not as SHA256SUMS lists it"));
        }
    }
    Ok(Some(Checked {
        files: expected.len(),
        signer,
    }))
}

fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(|e| Diagnostic::io("read", path, e))?;
    Ok(bytes)
}

fn verify(keyring: &Keyring, sums: &Path, text: &[u8], signature: &Path) -> Result<String> {
    let bytes = read_bounded(signature, LIMIT)?;
    let origin = sums.display().to_string();
    // The time is the one that the signature states: keys grow old behind an air gap.
    let verified = keyring.verify_detached(&origin, text, &bytes, None)?;
    Ok(verified.fingerprint)
}

fn differs(path: &Path, reason: &str) -> Diagnostic {
    Diagnostic::failed("FR-IMAGE-VERIFY", format!("{}: {reason}", path.display()))
        .with_hint("the file is damaged or was changed: build or download it again")
}

/// Names and digests of a list; `None` when a line is none of one.
fn parse(text: &[u8]) -> Option<BTreeMap<String, String>> {
    let text = std::str::from_utf8(text).ok()?;
    let line = |line: &str| {
        let (sha256, name) = line.split_once("  ")?;
        (sha256.len() == 64).then(|| (name.to_owned(), sha256.to_owned()))
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_parsed() {
        let digest = "a".repeat(64);
        let good = format!("{digest}  one\n{digest}  two words\n");
        let found = parse(good.as_bytes()).unwrap();
        assert_eq!(found["two words"], digest);
        for bad in ["abc  one\n", "x\n", "\u{fffd}"] {
            assert!(parse(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(parse(b"\xff").is_none());
    }

    #[test]
    fn names_beside_a_manifest() {
        let path = beside(Path::new("out/a.manifest.json"), ".cdx.json");
        assert_eq!(path, Path::new("out/a.cdx.json"));
    }
}
