//! The name that was probably meant, for error messages.

/// The known name with the smallest edit distance, if it is close enough to be meant.
pub(crate) fn closest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let limit = (wanted.len() / 3).clamp(1, 4);
    names
        .filter(|name| name.len().abs_diff(wanted.len()) <= limit)
        .map(|name| (distance(wanted.as_bytes(), name.as_bytes()), name))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, name)| name.to_string())
}

/// Edit distance: insertions, deletions, replacements, and two neighbours that swapped places.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut before = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_find_the_name() {
        let names = [
            "postgresql-17",
            "postgresql-16",
            "patroni",
            "etcd-server",
            "bash",
        ];
        for (wanted, expected) in [
            ("postgresql-71", Some("postgresql-17")),
            ("patrony", Some("patroni")),
            ("etcd-serve", Some("etcd-server")),
            ("bsah", Some("bash")),
            ("dash", Some("bash")),
            ("dsh", None),
            ("nothing-like-it", None),
        ] {
            let found = closest(wanted, names.into_iter());
            assert_eq!(found.as_deref(), expected, "{wanted}");
        }
        assert_eq!(distance(b"kitten", b"sitting"), 3);
    }
}
