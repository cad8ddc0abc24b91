//! How a shared cache is named: a path, or a URL.

use std::path::PathBuf;

use crate::diagnostic::{Diagnostic, Result};

/// A store's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A folder, which may be one of a network file system.
    Folder(PathBuf),
    /// The base URL of files that a server shows.
    Http(String),
    /// A part of a bucket.
    S3 {
        /// The bucket.
        bucket: String,
        /// What all names begin with; may be empty.
        prefix: String,
    },
}

impl Address {
    /// Reads a path, `file:///DIR`, `http(s)://HOST/PATH` or `s3://BUCKET/PREFIX`. Credentials have no place in it: it is in
    /// argument lists and messages.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |reason: &str| {
            Err(Diagnostic::invalid(
                "FR-CACHE-STORE",
                format!("{}: {reason}", offline_repo::http::redact(text)),
            )
            .with_hint(
                "name a shared cache as DIR, file:///DIR, https://HOST/PATH or s3://BUCKET/PREFIX",
            ))
        };
        let Some((scheme, rest)) = text.split_once("://") else {
            return match std::path::absolute(text) {
                Ok(path) if !text.is_empty() => Ok(Address::Folder(path)),
                _ => refuse("it is no path"),
            };
        };
        if scheme == "file" {
            return match rest.starts_with('/') {
                true => Ok(Address::Folder(rest.into())),
                false => refuse("a file URL has three slashes: file:///DIR"),
            };
        }
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if host.contains('@') {
            return refuse(
                "credentials do not belong into an address; those of S3 come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            );
        }
        if host.is_empty() || rest.contains(['?', '#']) {
            return refuse("it names no place");
        }
        match scheme {
            "http" | "https" => Ok(Address::Http(text.trim_end_matches('/').to_owned())),
            "s3" => Ok(Address::S3 {
                bucket: host.to_owned(),
                prefix: path.trim_matches('/').to_owned(),
            }),
            _ => refuse("there is no store of this kind"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let s3 = |bucket: &str, prefix: &str| {
            let (bucket, prefix) = (bucket.into(), prefix.into());
            Some(Address::S3 { bucket, prefix })
        };
        for (text, expected) in [
            ("/srv/cache", Some(Address::Folder("/srv/cache".into()))),
            ("file:///srv/c", Some(Address::Folder("/srv/c".into()))),
            ("file://srv/c", None),
            ("", None),
            (
                "https://cache.example/farrow/",
                Some(Address::Http("https://cache.example/farrow".into())),
            ),
            ("https://user:word@cache.example/", None),
            ("https://cache.example/?token=x", None),
            ("s3://bucket", s3("bucket", "")),
            ("s3://bucket/a/b/", s3("bucket", "a/b")),
            ("s3://key:secret@bucket/a", None),
            ("s3:///a", None),
            ("ftp://cache.example/", None),
        ] {
            assert_eq!(Address::parse(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn credentials_are_not_repeated() {
        let error = Address::parse("https://user:word@cache.example/").unwrap_err();
        assert!(!error.message.contains("word"), "{}", error.message);
    }
}
