//! Indexes and status files from short lines, `name version | Field: value | Field: value`.

use std::fmt::Write;

/// A Packages file; ` or ` in a line becomes `|`.
pub fn index(lines: &str) -> String {
    let file = |name: &str| {
        format!(
            "Filename: pool/{name}.deb\nSize: 1\nSHA256: {}\n",
            "0".repeat(64)
        )
    };
    stanzas(lines, file)
}

/// A dpkg status file in which all of them are installed.
pub fn status(lines: &str) -> String {
    stanzas(lines, |_| "Status: install ok installed\n".to_string())
}

fn stanzas(lines: &str, end: impl Fn(&str) -> String) -> String {
    let mut text = String::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut parts = line.split('|').map(str::trim);
        let (name, version) = parts.next().unwrap().split_once(' ').unwrap();
        let fields: Vec<String> = parts.map(|field| field.replace(" or ", " | ")).collect();
        let own_architecture = fields
            .iter()
            .any(|field| field.starts_with("Architecture:"));
        writeln!(text, "Package: {name}\nVersion: {version}").unwrap();
        if !own_architecture {
            text += "Architecture: amd64\n";
        }
        for field in fields {
            writeln!(text, "{field}").unwrap();
        }
        writeln!(text, "{}", end(name)).unwrap();
    }
    text
}
