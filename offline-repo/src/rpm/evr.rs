//! Epoch, version and release, and rpm's order of them (`rpmvercmp` in rpm's rpmio/rpmvercmp.c, `rpmVersionCompare`).

use std::cmp::Ordering;
use std::fmt;

/// A version as a relation or a package states it. Without a release it stands for every release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Evr<'a> {
    /// 0 when none is stated.
    pub epoch: u64,
    /// Upstream's version.
    pub version: &'a str,
    /// The package's release.
    pub release: Option<&'a str>,
}

impl<'a> Evr<'a> {
    /// Reads `[epoch:]version[-release]`. What stands before a colon counts as an epoch only if it is a number.
    pub fn parse(text: &'a str) -> Self {
        let (epoch, rest) = match text.split_once(':') {
            Some((digits, rest)) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                (digits.parse().unwrap_or(0), rest)
            }
            _ => (0, text),
        };
        let (version, release) = match rest.split_once('-') {
            Some((version, release)) => (version, Some(release)),
            None => (rest, None),
        };
        Evr {
            epoch,
            version,
            release,
        }
    }

    /// Orders two versions; releases count only where both have one, as in dependencies.
    pub fn compare(&self, other: &Evr<'_>) -> Ordering {
        (self.epoch.cmp(&other.epoch))
            .then_with(|| compare(self.version, other.version))
            .then_with(|| match (self.release, other.release) {
                (Some(a), Some(b)) => compare(a, b),
                _ => Ordering::Equal,
            })
    }
}

impl fmt::Display for Evr<'_> {
    /// The epoch only where there is one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.epoch != 0 {
            write!(f, "{}:", self.epoch)?;
        }
        f.write_str(self.version)?;
        match self.release {
            Some(release) => write!(f, "-{release}"),
            None => Ok(()),
        }
    }
}

/// Whether a text can be a package's `[epoch:]version-release`, and part of a path.
pub fn is_valid(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._+~^".contains(&b))
    };
    let bare = match text.split_once(':') {
        Some((epoch, rest)) if epoch.parse::<u32>().is_ok() => rest,
        Some(_) => return false,
        None => text,
    };
    text.len() <= 256
        && bare
            .split_once('-')
            .is_some_and(|(version, release)| part(version) && part(release))
}

/// Orders two versions (or releases): runs of digits and of letters are compared in turn, separators only divide;
/// a tilde sorts before everything, a caret after the end and before everything else.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        a = skip_separators(a);
        b = skip_separators(b);
        match (a.first(), b.first()) {
            (Some(b'~'), Some(b'~')) | (Some(b'^'), Some(b'^')) => {
                (a, b) = (&a[1..], &b[1..]);
                continue;
            }
            (Some(b'~'), _) => return Ordering::Less,
            (_, Some(b'~')) => return Ordering::Greater,
            (Some(b'^'), None) => return Ordering::Greater,
            (None, Some(b'^')) => return Ordering::Less,
            (Some(b'^'), _) => return Ordering::Less,
            (_, Some(b'^')) => return Ordering::Greater,
            (None, None) => return Ordering::Equal,
            (None, _) => return Ordering::Less,
            (_, None) => return Ordering::Greater,
            (Some(first), Some(_)) => {
                let is_number = first.is_ascii_digit();
                let (left, rest_a) = run(a, is_number);
                let (right, rest_b) = run(b, is_number);
                // Runs of different kinds: the number is newer.
                let order = match (right.is_empty(), is_number) {
                    (true, true) => Ordering::Greater,
                    (true, false) => Ordering::Less,
                    (false, true) => compare_numbers(left, right),
                    (false, false) => left.cmp(right),
                };
                if order != Ordering::Equal {
                    return order;
                }
                (a, b) = (rest_a, rest_b);
            }
        }
    }
}

fn skip_separators(text: &[u8]) -> &[u8] {
    let is_separator = |b: &u8| !b.is_ascii_alphanumeric() && *b != b'~' && *b != b'^';
    let end = text.iter().position(|b| !is_separator(b));
    &text[end.unwrap_or(text.len())..]
}

/// The leading run of digits or of letters, and the rest.
fn run(text: &[u8], digits: bool) -> (&[u8], &[u8]) {
    let belongs = |b: &u8| match digits {
        true => b.is_ascii_digit(),
        false => b.is_ascii_alphabetic(),
    };
    text.split_at(text.iter().position(|b| !belongs(b)).unwrap_or(text.len()))
}

/// Numbers of any length.
fn compare_numbers(a: &[u8], b: &[u8]) -> Ordering {
    let strip = |n: &'_ [u8]| n.iter().position(|d| *d != b'0').unwrap_or(n.len());
    let (a, b) = (&a[strip(a)..], &b[strip(b)..]);
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_versions() {
        use Ordering::{Equal, Greater, Less};
        for (a, b, expected) in [
            ("1.0", "1.0", Equal),
            ("1.0", "1_0", Equal),
            ("1.010", "1.10", Equal),
            ("2.0.1a", "2.0.1", Greater),
            ("5.5p10", "5.5p2", Greater),
            ("10xyz", "10.1xyz", Less),
            ("xyz.4", "8", Less),
            ("1.0~rc1", "1.0", Less),
            ("1.0^", "1.0", Greater),
            ("1.0^git1", "1.0.1", Less),
            ("1.0~rc1^git1", "1.0~rc1", Greater),
            ("1.0^git1~pre", "1.0^git1", Less),
            ("99999999999999999999", "100000000000000000000", Less),
            ("", "", Equal),
            ("a", "", Greater),
        ] {
            assert_eq!(compare(a, b), expected, "{a} {b}");
            assert_eq!(compare(b, a), expected.reverse(), "{b} {a}");
        }
    }

    #[test]
    fn parts() {
        let evr = Evr::parse("2:1.0-3.el9");
        assert_eq!(
            (evr.epoch, evr.version, evr.release),
            (2, "1.0", Some("3.el9"))
        );
        assert_eq!(evr.to_string(), "2:1.0-3.el9");
        assert_eq!(
            Evr::parse("1.0").compare(&Evr::parse("1.0-7")),
            Ordering::Equal
        );
        assert_eq!(
            Evr::parse("1:1").compare(&Evr::parse("2-7")),
            Ordering::Greater
        );
        for (text, valid) in [
            ("1-1", true),
            ("0:1~a^b+c_d-1.el9", true),
            ("1", false),
            ("x:1-1", false),
            ("1-1/..", false),
            ("1-1-1", false),
            ("-", false),
        ] {
            assert_eq!(is_valid(text), valid, "{text}");
        }
    }
}
