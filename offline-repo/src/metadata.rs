//! Texts of a repository: Packages stanzas, Release, and the source entries for clients. Values in, text out.

use std::fmt::Write;

use crate::date;
use crate::deb822;
use crate::digest::Sha256;
use crate::layout::COMPONENT;
use crate::lock::LockedPackage;

/// Fields that describe a file in a repository or an installed package: they are ours to write, never a `.deb`'s.
const REPOSITORY_FIELDS: [&str; 8] = [
    "Filename",
    "Size",
    "SHA256",
    "SHA512",
    "SHA1",
    "MD5sum",
    "Status",
    "Config-Version",
];

/// The stanza of a package: its control file, which must be the locked package's, and where its file is.
pub fn package_stanza(
    control: &str,
    package: &LockedPackage,
    path: &str,
) -> Result<String, String> {
    let stanza = deb822::parse_one(control).map_err(|e| format!("its control file: {e}"))?;
    for (field, expected) in [
        ("Package", &package.name),
        ("Version", &package.version),
        ("Architecture", &package.architecture),
    ] {
        let found = stanza.get(field).unwrap_or_default();
        if found != expected {
            return Err(format!(
                "its {field} is '{}', the lock says '{expected}'",
                found.escape_debug()
            ));
        }
    }
    let mut text = String::with_capacity(control.len() + 200);
    for (name, value) in stanza.fields() {
        if REPOSITORY_FIELDS
            .iter()
            .any(|field| field.eq_ignore_ascii_case(name))
        {
            continue;
        }
        // A value may begin on the line after its name.
        let space = if value.is_empty() || value.starts_with('\n') {
            ""
        } else {
            " "
        };
        let _ = writeln!(text, "{name}:{space}{value}");
    }
    let _ = write!(
        text,
        "Filename: {path}\nSize: {}\nSHA256: {}\n",
        package.size, package.sha256
    );
    Ok(text)
}

/// What a Release file says.
#[derive(Debug, Clone)]
pub struct ReleaseInput<'a> {
    /// Origin and label.
    pub name: &'a str,
    /// Suite and codename, for example "trixie".
    pub codename: &'a str,
    /// Component of a repository with `dists`; a flat one has none.
    pub components: Option<&'a str>,
    /// Architectures, sorted.
    pub architectures: &'a [String],
    /// Date, seconds since 1970.
    pub epoch: u64,
    /// Index files: name, digest, size.
    pub files: &'a [(String, Sha256, u64)],
}

/// A Release file. It has no Valid-Until: offline, it must stay usable for years.
pub fn release(input: &ReleaseInput<'_>) -> String {
    let mut text = format!(
        "Origin: {name}\nLabel: {name}\nSuite: {codename}\nCodename: {codename}\nDate: {date}\nAcquire-By-Hash: yes\n\
         Architectures: {architectures}\n{components}Description: {name} offline repository\nSHA256:\n",
        name = input.name,
        codename = input.codename,
        date = date::format(input.epoch),
        architectures = input.architectures.join(" "),
        components = input
            .components
            .map_or(String::new(), |name| format!("Components: {name}\n")),
    );
    for (name, sha256, size) in input.files {
        let _ = writeln!(text, " {sha256} {size} {name}");
    }
    text
}

/// A deb822 source entry with the key embedded, for apt 2.4 and later. A repository with `dists` has a suite.
pub fn sources(url: &str, suite: Option<&str>, armored_key: &str) -> String {
    let place = match suite {
        None => "Suites: ./".to_string(),
        Some(suite) => format!("Suites: {suite}\nComponents: {COMPONENT}"),
    };
    let mut text = format!(
        "Types: deb\nURIs: {}\n{place}\nSigned-By:\n",
        with_slash(url)
    );
    for line in armored_key.lines() {
        let line = if line.is_empty() { "." } else { line };
        let _ = writeln!(text, " {line}");
    }
    text
}

/// A one-line source entry for older apt; the key file has to be installed at `key_path`.
pub fn list(url: &str, suite: Option<&str>, key_path: &str) -> String {
    let place = suite.map_or("./".to_string(), |suite| format!("{suite} {COMPONENT}"));
    format!("deb [signed-by={key_path}] {} {place}\n", with_slash(url))
}

fn with_slash(url: &str) -> String {
    format!("{}/", url.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package() -> LockedPackage {
        LockedPackage {
            name: "aa".into(),
            version: "1:2-3".into(),
            architecture: "all".into(),
            archive: "debian".into(),
            suite: "trixie".into(),
            path: "pool/aa.deb".into(),
            size: 12,
            sha256: Sha256::of(b""),
            essential: false,
            groups: vec![],
            why: "group x".into(),
        }
    }

    #[test]
    fn stanza_is_the_control_file_and_its_place() {
        let control = "Package: aa\nVersion: 1:2-3\nArchitecture: all\nfilename: ../../etc/passwd\nConffiles:\n /etc/a 1\nDescription: x\n y\n .\n";
        let expected = "Package: aa\nVersion: 1:2-3\nArchitecture: all\nConffiles:\n /etc/a 1\nDescription: x\n y\n .\n\
            Filename: aa_1%3a2-3_all.deb\nSize: 12\nSHA256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n";
        let path = package().file_name();
        assert_eq!(
            package_stanza(control, &package(), &path).unwrap(),
            expected
        );
        for (control, message) in [
            (
                "Package: bb\nVersion: 1:2-3\nArchitecture: all\n",
                "its Package is 'bb', the lock says 'aa'",
            ),
            (
                "Package: aa\nVersion: 2-3\nArchitecture: all\n",
                "its Version is '2-3', the lock says '1:2-3'",
            ),
            (
                "Package: aa\nVersion: 1:2-3\n",
                "its Architecture is '', the lock says 'all'",
            ),
            (
                "Package aa",
                "its control file: line 1: expected 'Field: value'",
            ),
        ] {
            assert_eq!(
                package_stanza(control, &package(), &path).unwrap_err(),
                message
            );
        }
    }

    #[test]
    fn source_entries() {
        assert_eq!(
            sources(
                "http://h.pigsty/pigsty",
                None,
                "-----BEGIN\n\nabc\n-----END\n"
            ),
            "Types: deb\nURIs: http://h.pigsty/pigsty/\nSuites: ./\nSigned-By:\n -----BEGIN\n .\n abc\n -----END\n"
        );
        assert_eq!(
            sources("http://h/x/", Some("trixie"), "k\n"),
            "Types: deb\nURIs: http://h/x/\nSuites: trixie\nComponents: main\nSigned-By:\n k\n"
        );
        for (suite, place) in [(None, "./"), (Some("trixie"), "trixie main")] {
            assert_eq!(
                list("file:/www/pigsty/", suite, "/k.asc"),
                format!("deb [signed-by=/k.asc] file:/www/pigsty/ {place}\n")
            );
        }
    }
}
