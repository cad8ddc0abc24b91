//! Errors as the user sees them: code, what, where with a caret, and what to do.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// Exit code of a command that failed.
pub const EXIT_FAILED: u8 = 1;
/// Exit code of wrong usage or invalid input.
pub const EXIT_USAGE: u8 = 2;

/// One error, ready to be printed; stages turn theirs into this at the command's edge.
#[derive(Debug)]
pub struct Diagnostic {
    /// Stable code, such as `FR-RECIPE-KEY`.
    pub code: String,
    /// What failed and where: lower case, no full stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The place in a file that a person wrote.
    pub place: Option<Box<Place>>,
    /// Exit code of the process: [`EXIT_FAILED`] or [`EXIT_USAGE`].
    pub exit: u8,
    /// What the command found out all the same, for the document of `--json`.
    pub result: Option<Box<serde_json::Value>>,
}

/// A place in a text file.
#[derive(Debug)]
pub struct Place {
    /// The file's name as shown.
    pub file: String,
    /// The file's whole text.
    pub text: String,
    /// Byte range in `text`.
    pub span: Range<usize>,
}

/// Result of a command.
pub type Result<T> = std::result::Result<T, Diagnostic>;

impl Diagnostic {
    /// A failure with the exit code 1.
    pub fn failed(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            hint: None,
            place: None,
            exit: EXIT_FAILED,
            result: None,
        }
    }

    /// Invalid input or usage, with the exit code 2.
    pub fn invalid(code: &str, message: impl Into<String>) -> Self {
        Self {
            exit: EXIT_USAGE,
            ..Self::failed(code, message)
        }
    }

    /// An input or output error at a path.
    pub fn io(action: &str, path: &Path, error: std::io::Error) -> Self {
        let found = Self::failed(
            "FR-IO",
            format!("cannot {action} {}: {error}", path.display()),
        );
        match error.raw_os_error() {
            Some(nix::libc::ENOSPC) => found.with_hint(
                "free some space there, or choose another place with --out or FARROW_CACHE",
            ),
            _ => found,
        }
    }

    /// Adds what to do.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds what the command found out all the same: an object whose keys stand beside `error`.
    pub fn with_result(mut self, result: serde_json::Value) -> Self {
        self.result = Some(Box::new(result));
        self
    }

    /// Adds where in a file.
    pub fn at(mut self, file: &str, text: &str, span: Option<Range<usize>>) -> Self {
        self.place = span.map(|span| {
            Box::new(Place {
                file: file.into(),
                text: text.into(),
                span,
            })
        });
        self
    }

    /// The printed form, with colours when `color` is set.
    pub fn render(&self, color: bool) -> String {
        let renderer = match color {
            true => Renderer::styled(),
            false => Renderer::plain(),
        };
        let mut group = Level::ERROR
            .primary_title(self.message.as_str())
            .id(self.code.as_str())
            .elements(self.place.iter().map(|place| {
                Snippet::source(place.text.as_str())
                    .path(place.file.as_str())
                    .annotation(AnnotationKind::Primary.span(place.span.clone()))
            }));
        if let Some(hint) = &self.hint {
            group = group.element(Level::HELP.message(hint.as_str()));
        }
        renderer.render(&[group]).to_string()
    }

    /// The document that `--json` prints.
    pub fn document(&self) -> serde_json::Value {
        let mut document = serde_json::json!({"schema": 1, "error": self.to_json()});
        if let (Some(document), Some(serde_json::Value::Object(own))) =
            (document.as_object_mut(), self.result.as_deref())
        {
            document.extend(own.clone());
        }
        document
    }

    fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "file": self.place.as_ref().map(|place| place.file.as_str()),
            "line": self.place.as_ref().map(|place| place.line()),
        })
    }
}

impl Place {
    fn line(&self) -> usize {
        self.text[..self.span.start.min(self.text.len())]
            .matches('\n')
            .count()
            + 1
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Diagnostic {}

impl From<offline_repo::Error> for Diagnostic {
    fn from(error: offline_repo::Error) -> Self {
        let mut found = Self::failed(error.code(), error.to_string());
        found.hint = error.hint();
        found
    }
}

impl From<images::error::Error> for Diagnostic {
    fn from(error: images::error::Error) -> Self {
        let mut found = Self::failed(error.code(), error.to_string());
        found.hint = error.hint();
        found
    }
}

/// Turns a TOML error into a diagnostic with a caret and, for an unknown key or value, the nearest known one.
pub fn from_toml(kind: &str, file: &str, text: &str, error: &toml::de::Error) -> Diagnostic {
    let message = error.message().lines().next().unwrap_or_default();
    let code = match message {
        m if m.starts_with("unknown field") => "KEY",
        m if m.starts_with("missing field") => "MISSING",
        _ => "SYNTAX",
    };
    let found =
        Diagnostic::invalid(&format!("FR-{kind}-{code}"), message).at(file, text, error.span());
    match suggestion(message) {
        Some(hint) => found.with_hint(hint),
        None => found,
    }
}

/// From serde's "unknown field `x`, expected one of `a`, `b`": which of them was meant.
fn suggestion(message: &str) -> Option<String> {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let (wrong, known) = quoted.split_first()?;
    let nearest = nearest(wrong, known.iter().copied())?;
    Some(format!("did you mean `{nearest}`?"))
}

/// The candidate that is most like `wrong`, if one is like enough to be a slip of the fingers.
pub fn nearest<'a>(wrong: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|name| (distance(wrong, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 3)
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = change.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_name_is_suggested_only_for_a_slip() {
        let names = ["packages", "repository", "image"];
        for (wrong, expected) in [
            ("pakages", Some("packages")),
            ("repositry", Some("repository")),
            ("wholly-different", None),
        ] {
            assert_eq!(nearest(wrong, names.into_iter()), expected, "{wrong}");
        }
    }

    #[test]
    fn distance_counts_single_changes() {
        for (a, b, expected) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
