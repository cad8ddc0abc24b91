//! Secure Boot with keys of one's own: signed boot programs, keys, and firmware that knows them.
//!
//! Everything here is a function of its input: PKCS#1 signatures have no random part, and no signing time is stated.

pub mod keys;
pub mod pe;
pub mod signer;
pub mod variables;

use x509_cert::der;

/// A reason why keys or programs cannot be used.
pub type Result<T> = std::result::Result<T, String>;

/// Closure for `map_err` on what encodes or parses ASN.1.
fn encoding(error: der::Error) -> String {
    error.to_string()
}

/// A GUID's bytes as UEFI stores it: the first three groups are little-endian (UEFI specification 2.10, appendix A).
const fn guid(first: u32, second: u16, third: u16, rest: [u8; 8]) -> [u8; 16] {
    let (a, b, c, d) = (
        first.to_le_bytes(),
        second.to_le_bytes(),
        third.to_le_bytes(),
        rest,
    );
    [
        a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6],
        d[7],
    ]
}
