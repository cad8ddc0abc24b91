//! Writes a `.rpm` (rpm's docs/manual/format_v4.md): lead, signature header, main header, a cpio archive compressed with
//! gzip, which every rpm unpacks. The same input gives the same bytes.
//!
//! The crate `rpm` writes such files, too; it would bring forty crates and a second version of the OpenPGP library.

mod encode;
mod payload;

use super::dependency::{self, Comparison, Rich};
use super::{evr, is_architecture, is_package_name, tag};
use crate::compression;
pub use crate::deb_write::NewFile;
use crate::digest::Sha256;
use crate::error::{Error, Result};
use crate::files::is_confined;
use crate::signer::Signer;
use encode::{Value, header};

/// A package to be written. Everything in it belongs to root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewRpm {
    /// Package name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Release.
    pub release: String,
    /// Architecture, or "noarch".
    pub architecture: String,
    /// One line that says what it is.
    pub summary: String,
    /// Its licence.
    pub license: String,
    /// Who made it.
    pub vendor: String,
    /// What it needs, as a spec file writes it: names, `name >= version`, paths, rich dependencies.
    pub requires: Vec<String>,
    /// What it installs, in any order.
    pub files: Vec<NewFile>,
    /// Folders that are its own, without leading slash; all others are another package's.
    pub folders: Vec<String>,
    /// Time of everything in it, seconds since 1970.
    pub epoch: u64,
}

/// `RPMSENSE_LESS`, `RPMSENSE_GREATER`, `RPMSENSE_EQUAL` and `RPMSENSE_RPMLIB` of rpm's include/rpm/rpmds.h.
const LESS: u32 = 1 << 1;
const GREATER: u32 = 1 << 2;
const EQUAL: u32 = 1 << 3;
const RPMLIB: u32 = 1 << 24;
/// `PGPHASHALGO_SHA256` of RFC 9580, 9.5, as rpm numbers digests.
const SHA256: u32 = 8;
/// `RPMFILE_CONFIG` and `RPMFILE_NOREPLACE` of rpm's include/rpm/rpmfiles.h: an administrator's changes stay.
const CONFIGURATION: u32 = 1 | 1 << 4;

/// What rpm itself must be able to do, with the version since which it is.
const FEATURES: [(&str, &str); 3] = [
    ("rpmlib(CompressedFileNames)", "3.0.4-1"),
    ("rpmlib(FileDigests)", "4.6.0-1"),
    ("rpmlib(PayloadFilesHavePrefix)", "4.0-1"),
];
const RICH: (&str, &str) = ("rpmlib(RichDependencies)", "4.12.0-1");

impl NewRpm {
    /// `version-release`.
    pub fn evr(&self) -> String {
        format!("{}-{}", self.version, self.release)
    }

    /// The file, signed.
    ///
    /// # Errors
    /// [`Error::Rpm`] when a name, version, relation or path is not valid.
    pub fn to_bytes(&self, signer: &Signer) -> Result<Vec<u8>> {
        let fail = |message: String| Error::Rpm {
            path: format!("{}.rpm", self.name).into(),
            message,
        };
        self.check().map_err(fail)?;
        let entries = payload::entries(self);
        let open = payload::archive(&entries, self.epoch);
        let packed = compression::gzip_fast(&open);
        let mut tags = self.description(&open, &packed).map_err(fail)?;
        tags.extend(payload::tags(&entries, self.epoch));
        let main = header(tag::REGION_IMMUTABLE, tags);
        let mut signature = header(
            tag::REGION_SIGNATURES,
            signatures(&main, open.len(), packed.len(), self.epoch, signer)?,
        );
        signature.resize(signature.len().next_multiple_of(8), 0);
        Ok([self.lead(), signature, main, packed].concat())
    }

    fn check(&self) -> std::result::Result<(), String> {
        let named = is_package_name(&self.name)
            && evr::is_valid(&self.evr())
            && is_architecture(&self.architecture);
        if !named {
            return Err("its name, version or architecture is not valid".into());
        }
        let files = self.files.iter().map(|file| &file.path);
        match files.chain(&self.folders).find(|path| !is_confined(path)) {
            Some(path) => Err(format!(
                "its path '{}' leads elsewhere",
                path.escape_debug()
            )),
            None => Ok(()),
        }
    }

    /// 96 bytes that rpm has ignored, but for the magic, since its version 4.
    fn lead(&self) -> Vec<u8> {
        let mut lead = vec![0xed, 0xab, 0xee, 0xdb, 3, 0, 0, 0, 0, 1];
        let name = format!("{}-{}", self.name, self.evr());
        lead.extend(name.bytes().take(65));
        lead.resize(76, 0);
        // Operating system Linux, a signature in a header.
        lead.extend([0, 1, 0, 5]);
        lead.resize(96, 0);
        lead
    }

    /// Everything but the files.
    fn description(
        &self,
        open: &[u8],
        packed: &[u8],
    ) -> std::result::Result<Vec<(u32, Value)>, String> {
        let text = |value: &str| Value::Text(value.into());
        let numbers = |value: u32| Value::Numbers(vec![value]);
        let size: usize = self.files.iter().map(|file| file.content.len()).sum();
        let source = format!("{}-{}.src.rpm", self.name, self.evr());
        let mut tags = vec![
            (tag::I18N_TABLE, Value::Texts(vec!["C".into()])),
            (tag::NAME, text(&self.name)),
            (tag::VERSION, text(&self.version)),
            (tag::RELEASE, text(&self.release)),
            (tag::SUMMARY, Value::Translated(self.summary.clone())),
            (tag::DESCRIPTION, Value::Translated(self.summary.clone())),
            (tag::BUILD_TIME, numbers(self.epoch as u32)),
            (tag::BUILD_HOST, text("localhost")),
            (tag::SIZE, numbers(size as u32)),
            (tag::VENDOR, text(&self.vendor)),
            (tag::LICENSE, text(&self.license)),
            (tag::GROUP, Value::Translated("Unspecified".into())),
            (tag::OS, text("linux")),
            (tag::ARCH, text(&self.architecture)),
            (tag::SOURCE_RPM, text(&source)),
            (tag::PROVIDE_NAME, Value::Texts(vec![self.name.clone()])),
            (tag::PROVIDE_FLAGS, numbers(EQUAL)),
            (tag::PROVIDE_VERSION, Value::Texts(vec![self.evr()])),
            (tag::PAYLOAD_FORMAT, text("cpio")),
            (tag::PAYLOAD_COMPRESSOR, text("gzip")),
            (tag::PAYLOAD_FLAGS, text("1")),
            (tag::ENCODING, text("utf-8")),
            (tag::PAYLOAD_DIGEST, digest(packed)),
            (tag::PAYLOAD_DIGEST_ALGORITHM, numbers(SHA256)),
            (tag::PAYLOAD_DIGEST_OPEN, digest(open)),
        ];
        tags.extend(self.requirements()?);
        Ok(tags)
    }

    fn requirements(&self) -> std::result::Result<[(u32, Value); 3], String> {
        let feature = |(name, evr): (&str, &str)| {
            let flags = LESS | EQUAL | RPMLIB;
            (name.to_string(), flags, evr.to_string())
        };
        let mut all: Vec<(String, u32, String)> = FEATURES.into_iter().map(feature).collect();
        for text in &self.requires {
            match dependency::parse(text) {
                Err(message) if text.starts_with('(') => return Err(message),
                Ok(Rich::Simple(relation)) if !text.starts_with('(') => {
                    let flags = sense(relation.comparison);
                    all.push((relation.name.into(), flags, relation.evr.into()));
                }
                // A word that does not parse may still be provided as it is.
                _ => all.push((text.clone(), 0, String::new())),
            }
        }
        if self.requires.iter().any(|text| text.starts_with('(')) {
            all.push(feature(RICH));
        }
        all.sort();
        all.dedup();
        let (mut names, mut flags, mut versions) = (Vec::new(), Vec::new(), Vec::new());
        for (name, sense, evr) in all {
            names.push(name);
            flags.push(sense);
            versions.push(evr);
        }
        Ok([
            (tag::REQUIRE_NAME, Value::Texts(names)),
            (tag::REQUIRE_FLAGS, Value::Numbers(flags)),
            (tag::REQUIRE_VERSION, Value::Texts(versions)),
        ])
    }
}

fn digest(bytes: &[u8]) -> Value {
    Value::Texts(vec![Sha256::of(bytes).to_string()])
}

fn sense(comparison: Comparison) -> u32 {
    let bit = |set: bool, bit: u32| if set { bit } else { 0 };
    bit(comparison.less, LESS) | bit(comparison.equal, EQUAL) | bit(comparison.greater, GREATER)
}

/// What the signature header says: a signature and a digest of the main header, which holds the payload's digest.
fn signatures(
    main: &[u8],
    open: usize,
    packed: usize,
    epoch: u64,
    signer: &Signer,
) -> Result<Vec<(u32, Value)>> {
    // rpm keeps signatures by RSA in one tag and all others in the one that is named after DSA.
    let place = match signer.is_rsa() {
        true => tag::SIG_RSA,
        false => tag::SIG_DSA,
    };
    Ok(vec![
        (place, Value::Bytes(signer.detach(main, epoch)?)),
        (tag::SIG_SHA256, Value::Text(Sha256::of(main).to_string())),
        (
            tag::SIG_SIZE,
            Value::Numbers(vec![(main.len() + packed) as u32]),
        ),
        (tag::SIG_PAYLOAD_SIZE, Value::Numbers(vec![open as u32])),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpm::header::Headers;
    use crate::rpm::package::{FileKind, Package};

    fn sample() -> NewRpm {
        let file = |path: &str, is_configuration| NewFile {
            path: path.into(),
            mode: 0o644,
            content: path.as_bytes().to_vec(),
            is_configuration,
        };
        NewRpm {
            name: "own".into(),
            version: "1.0+7".into(),
            release: "1".into(),
            architecture: "x86_64".into(),
            summary: "A package".into(),
            license: "Apache-2.0".into(),
            vendor: "Somebody".into(),
            requires: vec!["b >= 2:1".into(), "(c or d)".into(), "/bin/e".into()],
            files: vec![file("usr/lib/own/b", false), file("etc/a", true)],
            folders: vec!["usr/lib/own".into()],
            epoch: 1_800_000_000,
        }
    }

    fn signer() -> Signer {
        Signer::from_secret([3; 32], "own").unwrap()
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let bytes = sample().to_bytes(&signer()).unwrap();
        assert_eq!(bytes, sample().to_bytes(&signer()).unwrap());
        let headers = Headers::read(&bytes[..]).unwrap();
        let package = Package::from_headers(&headers).unwrap();
        assert_eq!(
            (package.name.as_str(), package.evr().as_str()),
            ("own", "1.0+7-1")
        );
        let requires: Vec<(&str, Option<&str>, &str)> = (package.relations[1].iter())
            .map(|r| (r.name.as_str(), r.flags, r.evr.as_str()))
            .collect();
        let expected = [
            ("(c or d)", None, ""),
            ("/bin/e", None, ""),
            ("b", Some("GE"), "2:1"),
        ];
        assert_eq!(requires, expected);
        let files: Vec<(&str, FileKind)> = (package.files.iter())
            .map(|file| (file.path.as_str(), file.kind))
            .collect();
        let expected = [
            ("/etc/a", FileKind::File),
            ("/usr/lib/own", FileKind::Dir),
            ("/usr/lib/own/b", FileKind::File),
        ];
        assert_eq!(files, expected);
        assert_eq!(package.installed_size, 18);
        // What is signed is the main header, magic included, as it lies in the file.
        let (start, end) = headers.range;
        let main = &bytes[start as usize..end as usize];
        let entry = |tag: u32| {
            let index = (bytes[112..].chunks(16)).find(|entry| entry[..4] == tag.to_be_bytes());
            let number = |at: usize| {
                let field = &index.unwrap()[at..at + 4];
                u32::from_be_bytes(field.try_into().unwrap()) as usize
            };
            let entries = u32::from_be_bytes(bytes[104..108].try_into().unwrap()) as usize;
            let store = 112 + 16 * entries + number(8);
            &bytes[store..store + number(12)]
        };
        let keyring = signer().public_key().unwrap().keyring().unwrap();
        let signature = entry(tag::SIG_DSA);
        keyring
            .verify_detached("own.rpm", main, signature, None)
            .unwrap();
    }

    #[test]
    fn what_cannot_be_a_package() {
        type Change = fn(&mut NewRpm);
        let cases: [(Change, &str); 3] = [
            (|rpm| rpm.version = "1-2".into(), "is not valid"),
            (
                |rpm| rpm.folders[0] = "../a".into(),
                "its path '../a' leads elsewhere",
            ),
            (
                |rpm| rpm.requires[0] = "(a nor b)".into(),
                "'nor' is not an operator",
            ),
        ];
        for (change, message) in cases {
            let mut rpm = sample();
            change(&mut rpm);
            let error = rpm.to_bytes(&signer()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
