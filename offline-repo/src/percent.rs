//! Percent-encoding (RFC 3986, 2.1): unreserved characters stay as they are.

/// The text with everything encoded but unreserved characters and those that are to be `kept` besides.
pub(crate) fn encode(text: &str, kept: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        match unreserved || kept.contains(&byte) {
            true => out.push(byte as char),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A path in a URL. A `+`, too, is encoded: it would be read as a space by some servers.
pub(crate) fn path(path: &str) -> String {
    encode(path, b"/")
}

#[cfg(test)]
mod tests {
    #[test]
    fn paths_are_escaped() {
        assert_eq!(
            super::path("pool/g++_4%3a1~2.deb"),
            "pool/g%2B%2B_4%253a1~2.deb"
        );
    }
}
