//! One stanza of a Packages file or a dpkg status file, in compact form: offsets into the file's text.

use crate::dependency;
use crate::digest::Sha256;
use crate::files::is_confined;
use crate::version;

/// Offsets of a value in its index's text.
pub(crate) type Span = (u32, u32);

/// What is known of a package in an index, or of an installed one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) index: u16,
    pub(crate) name: Span,
    pub(crate) version: Span,
    pub(crate) architecture: Span,
    pub(crate) depends: Span,
    pub(crate) pre_depends: Span,
    pub(crate) recommends: Span,
    pub(crate) suggests: Span,
    pub(crate) provides: Span,
    pub(crate) conflicts: Span,
    pub(crate) breaks: Span,
    pub(crate) replaces: Span,
    pub(crate) enhances: Span,
    pub(crate) path: Span,
    /// An installed package has none.
    pub(crate) sha256: Option<Sha256>,
    pub(crate) size: u64,
    pub(crate) essential: bool,
    pub(crate) important: bool,
    pub(crate) any_architecture: bool,
    pub(crate) rank: u8,
    /// The Status field of a dpkg status file.
    pub(crate) status: Span,
}

pub(crate) fn slice(text: &str, (start, end): Span) -> &str {
    &text[start as usize..end as usize]
}

impl Record {
    pub(crate) fn set(&mut self, name: &str, value: &str, text: &str) {
        let start = (value.as_ptr() as usize - text.as_ptr() as usize) as u32;
        let span = (start, start + value.len() as u32);
        match name {
            "Package" => self.name = span,
            "Version" => self.version = span,
            "Architecture" => self.architecture = span,
            "Depends" => self.depends = span,
            "Pre-Depends" => self.pre_depends = span,
            "Recommends" => self.recommends = span,
            "Suggests" => self.suggests = span,
            "Replaces" => self.replaces = span,
            "Enhances" => self.enhances = span,
            "Provides" => self.provides = span,
            "Conflicts" => self.conflicts = span,
            "Breaks" => self.breaks = span,
            "Filename" => self.path = span,
            "SHA256" => self.sha256 = value.parse().ok(),
            "Size" => self.size = value.parse().unwrap_or(0),
            "Essential" => self.essential = value.eq_ignore_ascii_case("yes"),
            "Important" | "Protected" => self.important |= value.eq_ignore_ascii_case("yes"),
            "Multi-Arch" => self.any_architecture = value == "allowed",
            "Priority" => self.rank = 1 + rank(value),
            "Status" => self.status = span,
            _ => {}
        }
    }

    /// Refuses what must not become part of a path, a URL or a comparison.
    pub(crate) fn check(&mut self, text: &str) -> std::result::Result<(), &'static str> {
        self.check_identity(text)?;
        let path = slice(text, self.path);
        if !is_confined(path.strip_prefix("./").unwrap_or(path)) {
            return Err("a package without a valid Filename field ends here");
        }
        if self.size == 0 || self.sha256.is_none() {
            return Err("a package without valid Size and SHA256 fields ends here");
        }
        Ok(())
    }

    /// The checks that hold for an installed package, too, which has no file.
    pub(crate) fn check_identity(&mut self, text: &str) -> std::result::Result<(), &'static str> {
        // 0 means that there was no Priority field.
        self.rank = self.rank.checked_sub(1).unwrap_or(4);
        if !dependency::is_package_name(slice(text, self.name)) {
            return Err("a package without a valid Package field ends here");
        }
        if !version::is_valid(slice(text, self.version)) {
            return Err("a package without a valid Version field ends here");
        }
        if !dependency::is_architecture(slice(text, self.architecture)) {
            return Err("a package without a valid Architecture field ends here");
        }
        Ok(())
    }
}

fn rank(priority: &str) -> u8 {
    match priority {
        "required" => 0,
        "important" => 1,
        "standard" => 2,
        "optional" => 3,
        _ => 4,
    }
}
