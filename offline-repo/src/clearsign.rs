//! The cleartext signature framework (RFC 9580, section 7), as `InRelease` files use it.
//!
//! Stricter than the standard where that closes doors: nothing may stand before or after the message,
//! and what is returned is exactly the text that was hashed.

const BEGIN_MESSAGE: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
const BEGIN_SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----";
const END_SIGNATURE: &str = "-----END PGP SIGNATURE-----";

/// A message taken apart; nothing is verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clearsigned {
    /// The text without dash escapes and without white space at line ends, each line ended by a line feed.
    pub text: String,
    /// The bytes that the signatures cover: the same lines joined by CR LF, none after the last line.
    pub signed: Vec<u8>,
    /// The armoured signatures.
    pub signature: String,
}

/// Takes a clearsigned message apart.
pub fn parse(message: &str) -> Result<Clearsigned, &'static str> {
    let mut lines = message
        .lines()
        .map(|line| line.trim_end_matches([' ', '\t', '\r']));
    if lines.next() != Some(BEGIN_MESSAGE) {
        return Err("it does not begin with a signed message");
    }
    loop {
        match lines.next() {
            Some("") => break,
            Some(header) if header.starts_with("Hash: ") => {}
            Some(_) => return Err("it has an armour header other than Hash"),
            None => return Err("it ends within its headers"),
        }
    }
    let mut text = String::with_capacity(message.len());
    loop {
        let line = lines.next().ok_or("it ends before its signature")?;
        if line == BEGIN_SIGNATURE {
            break;
        }
        let line = match line.strip_prefix("- ") {
            Some(escaped) => escaped,
            None if line.starts_with('-') => {
                return Err("it has a line that begins with an unescaped dash");
            }
            None => line,
        };
        text.push_str(line);
        text.push('\n');
    }
    let mut signature = format!("{BEGIN_SIGNATURE}\n");
    loop {
        let line = lines.next().ok_or("its signature is cut off")?;
        signature.push_str(line);
        signature.push('\n');
        if line == END_SIGNATURE {
            break;
        }
    }
    if lines.any(|line| !line.is_empty()) {
        return Err("something follows its signature");
    }
    let signed = text.strip_suffix('\n').unwrap_or("").replace('\n', "\r\n");
    Ok(Clearsigned {
        text,
        signed: signed.into_bytes(),
        signature,
    })
}

/// The bytes to sign for a text whose lines all end in a line feed and carry no white space at their ends.
pub fn signed_bytes(text: &str) -> Vec<u8> {
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.trim_end_matches([' ', '\t', '\r']))
        .collect();
    lines.join("\r\n").into_bytes()
}

/// Puts a message together from its text and an armoured signature over [`signed_bytes`].
pub fn assemble(text: &str, hash: &str, signature: &str) -> String {
    let mut message = format!("{BEGIN_MESSAGE}\nHash: {hash}\n\n");
    for line in text.lines() {
        if line.starts_with('-') {
            message.push_str("- ");
        }
        message.push_str(line.trim_end_matches([' ', '\t', '\r']));
        message.push('\n');
    }
    message.push_str(signature);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----\n\nabc\n-----END PGP SIGNATURE-----\n";

    #[test]
    fn apart_and_together() {
        for text in ["Suite: x\n", "- a\n--b\n\n\nc\n", ""] {
            let message = assemble(text, "SHA512", SIGNATURE);
            let parsed = parse(&message).unwrap();
            assert_eq!(parsed.text, text);
            assert_eq!(parsed.signed, signed_bytes(text));
            assert_eq!(parsed.signature, SIGNATURE);
        }
        assert_eq!(signed_bytes("a \t\nb\n\n"), b"a\r\nb\r\n");
        let parsed = parse(&assemble("a\nb\n\n", "SHA256", SIGNATURE)).unwrap();
        assert_eq!(parsed.signed, b"a\r\nb\r\n");
    }

    #[test]
    fn what_is_not_a_message() {
        let good = assemble("a\n", "SHA256", SIGNATURE);
        for (message, reason) in [
            (
                "Suite: x\n".to_string(),
                "it does not begin with a signed message",
            ),
            (
                format!("x\n{good}"),
                "it does not begin with a signed message",
            ),
            (format!("{good}x\n"), "something follows its signature"),
            (
                good.replace("Hash: SHA256", "Version: 1"),
                "it has an armour header other than Hash",
            ),
            (
                good.replace("\na\n", "\n-a\n"),
                "it has a line that begins with an unescaped dash",
            ),
            (
                good[..good.len() - 9].to_string(),
                "its signature is cut off",
            ),
            (good[..51].to_string(), "it ends before its signature"),
            (
                good[..40].to_string(),
                "it has an armour header other than Hash",
            ),
        ] {
            assert_eq!(parse(&message), Err(reason), "{message}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "[-a \nHash:]{0,80}") {
            let _ = parse(&text);
            let _ = parse(&format!("{BEGIN_MESSAGE}\n\n{text}\n{SIGNATURE}"));
        }
    }
}
