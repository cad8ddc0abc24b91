//! What a builder says about a result that it shares.
//!
//! Parts and trees are named by what they were made from, so their content proves nothing about itself. A statement binds
//! such a name to the digest and the sizes of a blob: one line of JSON, clearsigned with the builder's OpenPGP key. It is
//! worth as much as the trust in that key.

use images::elsewhere::{Kind, Wanted};
use offline_repo::openpgp::Keyring;
use offline_repo::signer::Signer;
use serde::{Deserialize, Serialize};

/// No statement is larger, in bytes.
pub const LIMIT: u64 = 16 << 10;
/// The largest blob, packed or unpacked, in bytes; ours have a few GiB.
const BLOB_LIMIT: u64 = 64 << 30;
const SCHEMA: u32 = 1;

/// A result that a builder shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    schema: u32,
    /// [`Kind::name`].
    kind: String,
    /// Digest of what it was made from.
    input: String,
    /// SHA-256 of the blob.
    pub blob: String,
    /// Size of the blob.
    pub size: u64,
    /// Size of what the blob, packed by zstd, unpacks to.
    pub unpacked: u64,
}

/// Where the statement of the key with this fingerprint is. Each key has its own, so builders with different keys share a
/// store without replacing anything of each other.
pub fn name(wanted: Wanted<'_>, fingerprint: &str) -> String {
    let Wanted { kind, digest } = wanted;
    format!("entries/{}/{digest}/{fingerprint}.asc", kind.name())
}

impl Statement {
    /// The statement that a result has this blob.
    pub fn new(wanted: Wanted<'_>, blob: String, size: u64, unpacked: u64) -> Self {
        Statement {
            schema: SCHEMA,
            kind: wanted.kind.name().to_owned(),
            input: wanted.digest.to_owned(),
            blob,
            size,
            unpacked,
        }
    }

    /// Its signed form, dated `now`.
    pub fn sign(&self, signer: &Signer, now: u64) -> offline_repo::Result<String> {
        let text = serde_json::to_string(self).unwrap_or_default();
        signer.clearsign(&format!("{text}\n"), now)
    }

    /// Reads a signed statement about a result: the signature first, then what it says.
    pub fn read(
        message: &[u8],
        keyring: &Keyring,
        wanted: Wanted<'_>,
        now: u64,
    ) -> Result<Self, String> {
        let signed = keyring.verify_clearsigned("its statement", message, now);
        let (text, _) = signed.map_err(|e| e.to_string())?;
        let statement: Statement = serde_json::from_str(&text)
            .map_err(|e| format!("its statement cannot be read: {e}"))?;
        statement.check(wanted).map(|()| statement)
    }

    fn check(&self, wanted: Wanted<'_>) -> Result<(), String> {
        let Wanted { kind, digest } = wanted;
        if self.schema != SCHEMA {
            return Err(format!("its statement has the schema {}", self.schema));
        }
        if (self.kind.as_str(), self.input.as_str()) != (kind.name(), digest) {
            return Err(format!(
                "its statement is about {} {}",
                self.kind, self.input
            ));
        }
        if self.size > BLOB_LIMIT || self.unpacked > BLOB_LIMIT {
            let largest = self.size.max(self.unpacked);
            return Err(format!("it has {largest} bytes, more than {BLOB_LIMIT}"));
        }
        let digest = self.blob.len() == 64
            && self
                .blob
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match digest {
            true => Ok(()),
            false => Err("its statement names no digest".to_owned()),
        }
    }
}

/// The kinds by their names in the local cache.
pub fn kind_of(name: &str) -> Option<Kind> {
    [Kind::Part, Kind::Base]
        .into_iter()
        .find(|kind| kind.name() == name)
}
