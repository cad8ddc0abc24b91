//! Debian versions: their order as in deb-version(7), and which strings are versions at all.

use std::cmp::Ordering;

/// Compares two versions. Strings that are not versions compare too, in some fixed order.
pub fn compare(a: &str, b: &str) -> Ordering {
    if a == b {
        return Ordering::Equal;
    }
    let (a_epoch, a_upstream, a_revision) = split(a);
    let (b_epoch, b_upstream, b_revision) = split(b);
    compare_part(a_epoch, b_epoch)
        .then_with(|| compare_part(a_upstream, b_upstream))
        .then_with(|| compare_part(a_revision, b_revision))
}

/// Epoch, upstream version, revision; a missing epoch or revision counts as "0".
fn split(version: &str) -> (&str, &str, &str) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, "0"));
    (epoch, upstream, revision)
}

/// Alternates between runs of non-digits, compared by [`weight`], and runs of digits, compared as numbers.
fn compare_part(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        loop {
            let (x, y) = (non_digit(a), non_digit(b));
            if x.is_none() && y.is_none() {
                break;
            }
            let order = weight(x).cmp(&weight(y));
            if order != Ordering::Equal {
                return order;
            }
            (a, b) = (&a[1..], &b[1..]);
        }
        let (x, y) = (take_number(&mut a), take_number(&mut b));
        let order = x.len().cmp(&y.len()).then_with(|| x.cmp(y));
        if order != Ordering::Equal || (a.is_empty() && b.is_empty()) {
            return order;
        }
    }
}

fn non_digit(text: &[u8]) -> Option<u8> {
    text.first().copied().filter(|b| !b.is_ascii_digit())
}

/// `~` sorts before the end of the part, letters before everything else.
fn weight(byte: Option<u8>) -> i32 {
    match byte {
        Some(b'~') => -1,
        None => 0,
        Some(b) if b.is_ascii_alphabetic() => i32::from(b),
        Some(b) => i32::from(b) + 256,
    }
}

/// Takes the digits at the front, without leading zeros.
fn take_number<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let end = text
        .iter()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    *text = rest;
    let zeros = digits
        .iter()
        .position(|b| *b != b'0')
        .unwrap_or(digits.len());
    &digits[zeros..]
}

/// Whether a string is a version: a numeric epoch if any, an upstream part that begins with a letter or a
/// digit, and only the characters that policy allows. Nothing else may become part of a file name.
pub fn is_valid(version: &str) -> bool {
    let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
    let (upstream, _) = rest.rsplit_once('-').unwrap_or((rest, "0"));
    version.len() <= 256
        && !epoch.is_empty()
        && epoch.len() <= 10
        && epoch.bytes().all(|b| b.is_ascii_digit())
        && upstream
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric())
        && rest
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b".+-~:".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    #[test]
    fn order() {
        // Each is smaller than the next.
        let sorted = [
            "1.0~~", "1.0~~a", "1.0~", "1.0-0~1", "1.0", "1.0-1", "1.0-1+b1", "1.0-1.1", "1.0-2",
            "1.0a-1", "1.0+a", "1.0.1", "1.2", "1.10", "1:0.1", "2:0",
        ];
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} {b}");
            }
        }
        assert_eq!(compare("1.0-0", "1.0"), Ordering::Equal);
        assert_eq!(compare("0:01.00", "1.0"), Ordering::Equal);
    }

    #[test]
    fn validity() {
        for good in ["1", "1:2.3-4", "1.0~rc1+dfsg-1+b2", "20240101", "1:1:1"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", "-1", ":1", "a:1", "1/2", "1 2", "../1", "1_2", "1%3a2"] {
            assert!(!is_valid(bad), "{bad}");
        }
    }

    fn dpkg(a: &str, b: &str) -> Option<Ordering> {
        let holds = |operator: &str| {
            let status = Command::new("dpkg")
                .args(["--compare-versions", a, operator, b])
                .status()
                .ok()?;
            Some(status.success())
        };
        Some(match (holds("lt")?, holds("gt")?) {
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            _ => Ordering::Equal,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn same_order_as_dpkg(a in "([0-2]:)?[0-9]{1,2}([.+~a-c0-2]{0,6})(-[0-9a.+~]{1,4})?", b in "([0-2]:)?[0-9]{1,2}([.+~a-c0-2]{0,6})(-[0-9a.+~]{1,4})?") {
            match dpkg(&a, &b) {
                Some(expected) => prop_assert_eq!(compare(&a, &b), expected, "{} {}", a, b),
                None => {
                    static ONCE: std::sync::Once = std::sync::Once::new();
                    ONCE.call_once(|| eprintln!("SKIPPED same_order_as_dpkg: no dpkg on this host"));
                }
            }
        }

        #[test]
        fn a_total_order(a in "[0-9a~+.:-]{0,8}", b in "[0-9a~+.:-]{0,8}", c in "[0-9a~+.:-]{0,8}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
        }
    }
}
