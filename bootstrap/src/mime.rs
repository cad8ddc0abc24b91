//! MIME multipart messages (RFC 2045, 2046), as far as user-data needs them: what cloud-init's tools write.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// Deepest nesting of multiparts: cloud-init wraps what it merges once or twice.
const MAX_DEPTH: usize = 4;

/// Most parts accepted.
const MAX_PARTS: usize = 64;

/// A leaf of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// `type/subtype`, lower case.
    pub content_type: String,
    /// The decoded text.
    pub body: String,
}

/// Whether a text looks like a MIME message.
pub fn is_message(text: &str) -> bool {
    let first = text
        .trim_start()
        .lines()
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    first.starts_with("content-type:") || first.starts_with("mime-version:")
}

/// All leaves, in order. Parts that are not text in an encoding known here are left out, since other programs may use them.
///
/// # Errors
/// What is wrong with the message.
pub fn parts(text: &str) -> Result<Vec<Part>, String> {
    let text = text.trim_start().replace("\r\n", "\n");
    let mut found = Vec::new();
    collect(&text, 0, &mut found)?;
    Ok(found)
}

fn collect(message: &str, depth: usize, found: &mut Vec<Part>) -> Result<(), String> {
    if depth > MAX_DEPTH || found.len() >= MAX_PARTS {
        return Err(format!("more than {MAX_DEPTH} levels or {MAX_PARTS} parts"));
    }
    let (head, body) = match message.strip_prefix('\n') {
        Some(body) => ("", body),
        None => message.split_once("\n\n").unwrap_or((message, "")),
    };
    let content_type = header(head, "content-type").unwrap_or_else(|| "text/plain".into());
    let kind = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if kind.starts_with("multipart/") {
        let boundary =
            parameter(&content_type, "boundary").ok_or("a multipart without boundary")?;
        for part in split(body, &boundary)? {
            collect(part, depth + 1, found)?;
        }
        return Ok(());
    }
    let encoding = header(head, "content-transfer-encoding").unwrap_or_default();
    if let Some(body) = decode(&encoding.trim().to_ascii_lowercase(), body, &kind)? {
        found.push(Part {
            content_type: kind,
            body,
        });
    }
    Ok(())
}

/// Value of a header, with folded lines joined.
fn header(head: &str, name: &str) -> Option<String> {
    let mut value: Option<String> = None;
    for line in head.lines() {
        let folded = line.starts_with([' ', '\t']);
        match (&mut value, folded) {
            (Some(value), true) => value.push_str(line),
            (Some(_), false) => break,
            (None, true) => {}
            (None, false) => {
                let (key, rest) = line.split_once(':').unwrap_or_default();
                value = key
                    .trim()
                    .eq_ignore_ascii_case(name)
                    .then(|| rest.trim().to_owned());
            }
        }
    }
    value
}

fn parameter(value: &str, name: &str) -> Option<String> {
    value.split(';').skip(1).find_map(|piece| {
        let (key, text) = piece.split_once('=')?;
        let text = text.trim().trim_matches('"');
        (key.trim().eq_ignore_ascii_case(name) && !text.is_empty()).then(|| text.to_owned())
    })
}

fn split<'a>(body: &'a str, boundary: &str) -> Result<Vec<&'a str>, String> {
    let open = format!("--{boundary}");
    let close = format!("--{boundary}--");
    let mut parts = Vec::new();
    let (mut start, mut at) = (None, 0);
    for line in body.split_inclusive('\n') {
        let text = line.trim_end();
        if text == open || text == close {
            if let Some(start) = start {
                // The line break before a boundary belongs to the boundary.
                let part: &str = &body[start..at];
                parts.push(part.strip_suffix('\n').unwrap_or(part));
            }
            start = (text == open).then_some(at + line.len());
            if text == close {
                return Ok(parts);
            }
        }
        at += line.len();
    }
    Err("the closing boundary is missing: was the user-data cut off?".into())
}

/// The text; `None` for what is no text or in an unknown encoding.
fn decode(encoding: &str, body: &str, kind: &str) -> Result<Option<String>, String> {
    match encoding {
        "" | "7bit" | "8bit" | "binary" => Ok(Some(body.to_owned())),
        "base64" => {
            let packed: String = body.split_ascii_whitespace().collect();
            let bytes = STANDARD
                .decode(packed)
                .map_err(|_| format!("the part {kind} is not base64"))?;
            Ok(String::from_utf8(bytes).ok())
        }
        "quoted-printable" => Ok(unquote(body)),
        _ => Ok(None),
    }
}

fn unquote(body: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(body.len());
    let mut rest = body.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = match (first, tail) {
            (b'=', [b'\n', tail @ ..]) => tail,
            (b'=', [high, low, tail @ ..]) => {
                let digit = |b: u8| char::from(b).to_digit(16);
                bytes.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?);
                tail
            }
            (b'=', _) => return None,
            (byte, tail) => {
                bytes.push(byte);
                tail
            }
        };
    }
    String::from_utf8(bytes).ok()
}

/// Writes a multipart message; the same parts give the same bytes.
pub fn write(parts: &[Part]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.body.as_bytes());
    }
    let boundary = format!("farrow-{}", &hex::encode(hash.finalize())[..24]);
    let mut text =
        format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\nMIME-Version: 1.0\n\n");
    for Part { content_type, body } in parts {
        let plain = body.is_ascii() && body.lines().all(|line| line.len() < 998);
        let encoding = if plain { "7bit" } else { "base64" };
        text += &format!("--{boundary}\nContent-Type: {content_type}; charset=\"utf-8\"\n");
        text += &format!("MIME-Version: 1.0\nContent-Transfer-Encoding: {encoding}\n\n");
        if plain {
            text += body;
        } else {
            let packed = STANDARD.encode(body);
            // RFC 2045: at most 76 characters in a line.
            for line in packed.as_bytes().chunks(76) {
                text.extend(line.iter().map(|b| char::from(*b)));
                text.push('\n');
            }
        }
        text.push('\n');
    }
    text + &format!("--{boundary}--\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(body: &str) -> Part {
        Part {
            content_type: "text/x-test".into(),
            body: body.into(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let long = "ü".repeat(200);
        let sent = [
            part("a = 1\n"),
            part(""),
            part("no end of line"),
            part(&long),
        ];
        assert_eq!(parts(&write(&sent)).unwrap(), sent);
        assert_eq!(parts(&write(&sent).replace('\n', "\r\n")).unwrap(), sent);
    }

    #[test]
    fn nested_and_quoted() {
        let text = "MIME-Version: 1.0\nContent-Type: multipart/mixed;\n boundary=a\n\npreamble\n--a\n\
            Content-Type: multipart/x; boundary=b\n\n--b\n\nplain\n--b--\n--a\n\
            Content-Type: Text/X-Y; charset=utf-8\nContent-Transfer-Encoding: Quoted-Printable\n\na=3D=C3=BC=\n\n--a--\n";
        let found = parts(text).unwrap();
        assert_eq!(found[0].content_type, "text/plain");
        assert_eq!(found[0].body, "plain");
        assert_eq!(found[1].content_type, "text/x-y");
        assert_eq!(found[1].body, "a=ü");
    }

    #[test]
    fn cut_off_messages_are_refused() {
        let text = write(&[part("x = 1\n")]);
        assert!(parts(&text[..text.len() - 5]).is_err());
    }
}
