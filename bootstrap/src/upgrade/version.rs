//! Which of two versions is newer: the order of the UAPI group's "Version Format Specification", by which systemd-boot
//! sorts its entries. An upgrade that the boot loader sorts behind the running version would never be tried.

use std::cmp::Ordering;

/// Longest version.
const MAX_BYTES: usize = 64;

/// Whether a version may be part of the file names on the EFI system partition. A plus begins the counter of tries there, an
/// underscore ends the image's name.
pub fn is_plain(version: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b".-~".contains(&b);
    (1..=MAX_BYTES).contains(&version.len())
        && version.bytes().all(allowed)
        && version.as_bytes()[0].is_ascii_alphanumeric()
}

/// Compares two versions; characters that [`is_plain`] refuses only separate.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        (a, b) = (without_others(a), without_others(b));
        // What follows a tilde comes before the end of the text: 1.0~rc1 is older than 1.0.
        match (a.first(), b.first()) {
            (Some(b'~'), Some(b'~')) => {}
            (Some(b'~'), _) => return Ordering::Less,
            (_, Some(b'~')) => return Ordering::Greater,
            (None, _) | (_, None) => return a.len().min(1).cmp(&b.len().min(1)),
            _ => {}
        }
        for separator in [b'~', b'-', b'.'] {
            match (a.first() == Some(&separator), b.first() == Some(&separator)) {
                (true, true) => (a, b) = (&a[1..], &b[1..]),
                (true, false) => return Ordering::Less,
                (false, true) => return Ordering::Greater,
                (false, false) => {}
            }
        }
        let digits = [a, b]
            .iter()
            .any(|text| text.first().is_some_and(u8::is_ascii_digit));
        let kind = if digits {
            u8::is_ascii_digit
        } else {
            u8::is_ascii_alphabetic
        };
        let length = |text: &[u8]| text.iter().take_while(|b| kind(b)).count();
        let ((x, rest_a), (y, rest_b)) = (a.split_at(length(a)), b.split_at(length(b)));
        let order = if digits { numbers(x, y) } else { x.cmp(y) };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
}

fn without_others(text: &[u8]) -> &[u8] {
    let other = |b: &&u8| !b.is_ascii_alphanumeric() && !b"~-.".contains(b);
    &text[text.iter().take_while(other).count()..]
}

/// Numbers of any length; none is less than any.
fn numbers(a: &[u8], b: &[u8]) -> Ordering {
    fn significant(text: &[u8]) -> &[u8] {
        let zeros = text.iter().take_while(|b| **b == b'0').count();
        &text[zeros..]
    }
    let (x, y) = (significant(a), significant(b));
    let present = a.is_empty().cmp(&b.is_empty()).reverse();
    present.then(x.len().cmp(&y.len())).then(x.cmp(y))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_the_boot_loader_does() {
        // Ascending, from the specification's examples and systemd's own test of strverscmp_improved.
        let ascending = [
            "~1",
            "0",
            "0.1.0",
            "0.1.1",
            "0.2",
            "0.10",
            "1~rc1",
            "1~rc2",
            "1",
            "1-1",
            "1-2",
            "1.0",
            "1.0.1",
            "1.1",
            "1.10",
            "2",
            "11",
            "11a",
            "11b",
            "122.1",
            "123~rc1-1",
            "123",
            "123-a",
            "123-a.1",
            "123-1",
            "123-1.1",
            "123.a-1",
            "123.1-1",
            "123a-1",
            "124-1",
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} {b}");
            }
        }
        for (a, b) in [("1.01", "1.1"), ("007", "7"), ("1", "1"), ("1+2", "1_2")] {
            assert_eq!(compare(a, b), Ordering::Equal, "{a} {b}");
        }
    }

    #[test]
    fn names_stay_names() {
        for good in ["1", "0.1.0", "2026.11-3", "1.0~rc1"] {
            assert!(is_plain(good), "{good}");
        }
        for bad in [
            "",
            "1+3",
            "1_2",
            "../1",
            "-1",
            ".1",
            "1 ",
            "a/b",
            "1\n",
            &"1".repeat(65),
        ] {
            assert!(!is_plain(bad), "{bad}");
        }
    }
}
