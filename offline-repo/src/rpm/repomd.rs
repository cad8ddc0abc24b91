//! `repomd.xml`: which metadata files a yum repository has, with their digests.

use super::reader::{self, Item};
use crate::digest::Sha256;
use crate::error::{Error, Result};
use crate::files::is_confined;

/// A metadata file as `repomd.xml` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// `primary`, `filelists`, `modules`, …
    pub kind: String,
    /// Path below the repository.
    pub path: String,
    /// Digest as fetched.
    pub sha256: Sha256,
    /// Size as fetched, in bytes.
    pub size: u64,
    /// Digest when unpacked; `None` for a file that is not compressed.
    pub open_sha256: Option<Sha256>,
    /// Size when unpacked, in bytes.
    pub open_size: Option<u64>,
    /// When it was made, seconds since 1970.
    pub timestamp: u64,
}

/// A parsed `repomd.xml`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repomd {
    /// Its files; those with other digests than SHA-256 are left out.
    pub files: Vec<DataFile>,
}

/// A `data` element while it is read.
#[derive(Default)]
struct Entry {
    kind: String,
    path: String,
    sha256: Option<Sha256>,
    size: Option<u64>,
    open_sha256: Option<Sha256>,
    open_size: Option<u64>,
    timestamp: u64,
}

impl Repomd {
    /// Reads the text of a `repomd.xml` from `origin`.
    pub fn parse(origin: &str, text: &[u8]) -> Result<Self> {
        let mut repomd = Repomd::default();
        let mut entry: Option<Entry> = None;
        let mut digest_is_sha256 = false;
        let handle = |item: Item| -> std::result::Result<(), String> {
            match item {
                Item::Start(name, attributes) if name == "data" => {
                    let kind = attributes.get("type").unwrap_or_default().to_string();
                    entry = Some(Entry {
                        kind,
                        ..Entry::default()
                    });
                }
                Item::Start(name, attributes) => match (name.as_str(), &mut entry) {
                    ("location", Some(entry)) => {
                        entry.path = attributes.get("href").unwrap_or_default().to_string();
                    }
                    ("checksum" | "open-checksum", _) => {
                        digest_is_sha256 = attributes.get("type") == Some("sha256");
                    }
                    _ => {}
                },
                Item::End(name, _) if name == "data" => {
                    let done = entry.take().unwrap_or_default();
                    repomd.files.extend(done.finish()?);
                }
                Item::End(name, text) => {
                    if let Some(entry) = &mut entry {
                        entry.set(&name, text.trim(), digest_is_sha256)?;
                    }
                }
            }
            Ok(())
        };
        reader::read(text, handle).map_err(|message| Error::invalid(origin, message))?;
        Ok(repomd)
    }

    /// The file of a kind.
    pub fn file(&self, kind: &str) -> Option<&DataFile> {
        self.files.iter().find(|file| file.kind == kind)
    }

    /// When the newest of its files was made, seconds since 1970.
    pub fn date(&self) -> u64 {
        let dates = self.files.iter().map(|file| file.timestamp);
        dates.max().unwrap_or(0)
    }
}

impl Entry {
    fn set(&mut self, name: &str, text: &str, sha256: bool) -> std::result::Result<(), String> {
        let digest = |text: &str| match sha256 {
            true => text.parse().map(Some),
            false => Ok(None),
        };
        let number = |text: &str| {
            text.parse::<u64>()
                .map_err(|_| format!("'{}' is not a size", text.escape_debug()))
        };
        match name {
            "checksum" => self.sha256 = digest(text)?,
            "open-checksum" => self.open_sha256 = digest(text)?,
            "size" => self.size = Some(number(text)?),
            "open-size" => self.open_size = Some(number(text)?),
            // createrepo wrote fractions once.
            "timestamp" => {
                let whole = text.split('.').next().unwrap_or_default();
                self.timestamp = whole.parse().unwrap_or(0);
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> std::result::Result<Option<DataFile>, String> {
        let (Some(sha256), Some(size)) = (self.sha256, self.size) else {
            return Ok(None);
        };
        if !is_confined(&self.path) {
            return Err(format!(
                "'{}' leads out of the repository",
                self.path.escape_debug()
            ));
        }
        Ok(Some(DataFile {
            kind: self.kind,
            path: self.path,
            sha256,
            size,
            open_sha256: self.open_sha256,
            open_size: self.open_size,
            timestamp: self.timestamp,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"<?xml version="1.0"?><repomd xmlns="http://linux.duke.edu/metadata/repo"><revision>5</revision>
        <data type="primary"><checksum type="sha256">e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855</checksum>
        <location href="repodata/a-primary.xml.gz"/><timestamp>17.5</timestamp><size>12</size></data>
        <data type="old"><checksum type="sha">ab</checksum><location href="x"/><size>1</size></data></repomd>"#;

    #[test]
    fn files_are_read() {
        let repomd = Repomd::parse("u", TEXT.as_bytes()).unwrap();
        assert_eq!(repomd.files.len(), 1);
        let file = repomd.file("primary").unwrap();
        assert_eq!(
            (file.path.as_str(), file.size),
            ("repodata/a-primary.xml.gz", 12)
        );
        assert_eq!((file.open_size, repomd.date()), (None, 17));
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, message) in [
            (
                "repodata/a",
                "../a",
                "u: '../a-primary.xml.gz' leads out of the repository",
            ),
            ("<size>12", "<size>1x", "u: '1x' is not a size"),
            ("</repomd>", "", "u: is cut off"),
            (
                "<revision>",
                "<!DOCTYPE a><revision>",
                "u: has a document type",
            ),
            ("17.5", "&a;", "u: has an entity that XML does not define"),
            (
                "sha256\">e3",
                "sha256\">x3",
                "u: 'x3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855' is not a SHA-256 digest",
            ),
        ] {
            let text = TEXT.replacen(from, to, 1);
            assert_eq!(
                Repomd::parse("u", text.as_bytes()).unwrap_err().to_string(),
                message
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_panic(at in 0usize..600, text in "[<>/a&;\"= -]{0,12}") {
            let at = at % TEXT.len();
            let changed = format!("{}{text}{}", &TEXT[..at], &TEXT[at..]);
            let _ = Repomd::parse("u", changed.as_bytes());
        }
    }
}
