//! What an upgrade says of itself: `upgrade.json`, the first member of its archive, signed by the second.

use serde::{Deserialize, Serialize};

use super::version;
use crate::error::{Error, Result};
use crate::tree::read_json;

/// First member: the document.
pub const DOCUMENT: &str = "upgrade.json";
/// Second member: its detached signature.
pub const SIGNATURE: &str = "upgrade.json.sig";
/// Longest document in bytes.
pub const DOCUMENT_LIMIT: u64 = 64 << 10;
/// The other members in their order, each with its largest size in bytes. What goes into the slot comes first, so that it
/// is whole and right before the boot loader's files arrive.
pub const MEMBERS: [(&str, u64); 4] = [
    ("root", (8 << 30) - 4096),
    ("verity", 256 << 20),
    ("linux.efi", 512 << 20),
    ("entry.cfg", 16 << 10),
];
/// Version of the format.
const SCHEMA: u32 = 2;
/// Blocks of file systems and hash trees.
const BLOCK: u64 = 4096;

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Version of the format, 2.
    pub schema: u32,
    /// Name of the image.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Architecture as Debian names it.
    pub architecture: String,
    /// dm-verity root hash, hex.
    pub root_hash: String,
    /// The members behind document and signature.
    pub members: Vec<Member>,
}

/// A member of the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Name.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256, hex.
    pub sha256: String,
}

impl Release {
    /// The version that members make.
    pub fn new(
        name: &str,
        version: &str,
        architecture: &str,
        root_hash: &str,
        members: Vec<Member>,
    ) -> Self {
        Release {
            schema: SCHEMA,
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: architecture.to_owned(),
            root_hash: root_hash.to_owned(),
            members,
        }
    }

    /// Reads a document whose signature is right.
    ///
    /// # Errors
    /// `FR-UPGRADE-FORMAT`.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let refuse = |reason: String| {
            let hint = "get the upgrade again, or upgrade to the last version that this one knows the format of first";
            Error::upgrade("FR-UPGRADE-FORMAT", format!("{DOCUMENT}: {reason}"), hint)
        };
        let text = std::str::from_utf8(bytes).map_err(|_| refuse("it is no text".into()))?;
        let release: Release = read_json(text).map_err(|error| {
            let place = if error.field.is_empty() {
                String::new()
            } else {
                format!("{}: ", error.field)
            };
            refuse(format!("{place}{}", error.message))
        })?;
        release.check().map_err(refuse)?;
        Ok(release)
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.schema != SCHEMA {
            return Err(format!(
                "schema {} is not known, only {SCHEMA}",
                self.schema
            ));
        }
        let plain = |text: &str| {
            let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            (1..=64).contains(&text.len()) && text.bytes().all(allowed)
        };
        if !plain(&self.name) || !plain(&self.architecture) || !version::is_plain(&self.version) {
            return Err("name, version or architecture has characters that are not allowed".into());
        }
        if bytes_of(&self.root_hash).is_none() {
            return Err("the root hash is no SHA-256".into());
        }
        if self.members.len() != MEMBERS.len() {
            return Err(format!(
                "{} members, not {}",
                self.members.len(),
                MEMBERS.len()
            ));
        }
        for (member, (name, limit)) in self.members.iter().zip(MEMBERS) {
            if member.name != name {
                return Err(format!("member {:?} where {name:?} belongs", member.name));
            }
            if member.size == 0 || member.size > limit {
                return Err(format!("member {name} has an impossible size"));
            }
            if bytes_of(&member.sha256).is_none() {
                return Err(format!("the digest of {name} is no SHA-256"));
            }
        }
        if [0, 1]
            .iter()
            .any(|&i| !self.members[i].size.is_multiple_of(BLOCK))
        {
            return Err("root and verity do not consist of whole blocks".into());
        }
        Ok(())
    }

    /// The root hash's bytes.
    pub fn root_hash_bytes(&self) -> [u8; 32] {
        // It was checked when the document was read.
        bytes_of(&self.root_hash).unwrap_or_default()
    }

    /// The ids of root and hash tree: the two halves of the root hash.
    pub fn partition_ids(&self) -> [[u8; 16]; 2] {
        let hash = self.root_hash_bytes();
        let half = |at: usize| std::array::from_fn(|i| hash[at + i]);
        [half(0), half(16)]
    }

    /// Bytes of the members that go to the EFI system partition.
    pub fn boot_bytes(&self) -> u64 {
        self.members[2..].iter().map(|member| member.size).sum()
    }
}

/// 32 bytes in lower-case hex.
fn bytes_of(text: &str) -> Option<[u8; 32]> {
    let lower = text
        .bytes()
        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let mut bytes = [0; 32];
    (lower && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}

/// A release for tests.
#[cfg(test)]
pub(crate) fn sample() -> Release {
    let member = |(name, _): (&str, u64)| Member {
        name: name.to_owned(),
        size: 4096,
        sha256: "ab".repeat(32),
    };
    Release::new(
        "base",
        "2",
        "amd64",
        &"cd".repeat(32),
        MEMBERS.map(member).to_vec(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_read() {
        let text = serde_json::to_string(&sample()).unwrap();
        assert_eq!(Release::parse(text.as_bytes()).unwrap(), sample());
        assert_eq!(sample().partition_ids(), [[0xcd; 16]; 2]);
        assert_eq!(sample().boot_bytes(), 2 * 4096);
    }

    #[test]
    fn other_documents_are_refused() {
        let text = serde_json::to_string(&sample()).unwrap();
        for (from, to) in [
            ("\"schema\":2", "\"schema\":1"),
            ("\"schema\":2", "\"schema\":2,\"more\":1"),
            ("\"base\"", "\"../base\""),
            ("\"base\"", "\"\""),
            ("\"version\":\"2\"", "\"version\":\"2+3\""),
            ("\"version\":\"2\"", "\"version\":2"),
            ("cdcd", "CDcd"),
            ("cdcd", "cd"),
            ("abab", "gbab"),
            ("\"root\"", "\"boot\""),
            ("\"size\":4096", "\"size\":4097"),
            ("\"size\":4096", "\"size\":0"),
            ("\"size\":4096", "\"size\":-1"),
            ("\"size\":4096", "\"size\":99999999999999"),
            (
                "{\"name\":\"entry.cfg\"",
                "{\"name\":\"entry.cfg\"},{\"name\":\"x\"",
            ),
            ("{", "["),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from}");
            let error = Release::parse(changed.as_bytes()).unwrap_err();
            assert_eq!(error.code(), "FR-UPGRADE-FORMAT", "{to}: {error}");
        }
        assert!(Release::parse(&[0xff]).is_err());
        assert!(Release::parse("[".repeat(60_000).as_bytes()).is_err());
    }
}
