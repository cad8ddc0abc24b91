//! Writing XML: elements and attributes with everything escaped.

use std::fmt::Write;

/// The declaration at the beginning of each file.
pub const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

/// Text as XML may hold it. Control characters, which XML 1.0 cannot express, are left out.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\r' => escaped.push_str("&#13;"),
            '\n' | '\t' => escaped.push(c),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => {}
            _ => escaped.push(c),
        }
    }
    escaped
}

/// A value between quotes: line ends and tabs would be read as spaces there.
pub fn attribute(text: &str) -> String {
    escape(text).replace('\n', "&#10;").replace('\t', "&#9;")
}

/// `<name>text</name>` on a line of its own, after `indent`.
pub fn element(into: &mut String, indent: &str, name: &str, text: &str) {
    let _ = match text.is_empty() {
        true => writeln!(into, "{indent}<{name}/>"),
        false => writeln!(into, "{indent}<{name}>{}</{name}>", escape(text)),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_escaped() {
        assert_eq!(
            escape("a<b>&\"c\"\u{1}\r\n"),
            "a&lt;b&gt;&amp;&quot;c&quot;&#13;\n"
        );
        assert_eq!(attribute("a\n\tb"), "a&#10;&#9;b");
        let mut text = String::new();
        element(&mut text, " ", "rpm:vendor", "");
        element(&mut text, " ", "url", "x&y");
        assert_eq!(text, " <rpm:vendor/>\n <url>x&amp;y</url>\n");
    }
}
