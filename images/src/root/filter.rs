//! Paths of packages that are left out of a tree: the patterns of dpkg's `--path-exclude` and `--path-include` (dpkg(1)).

/// Documentation, manual pages and translations; licences stay.
pub(super) const DOCUMENTATION: [&str; 8] = [
    "--path-exclude=/usr/share/doc/*",
    "--path-include=/usr/share/doc/*/copyright",
    "--path-exclude=/usr/share/man/*",
    "--path-exclude=/usr/share/info/*",
    "--path-exclude=/usr/share/lintian/*",
    "--path-exclude=/usr/share/locale/*",
    "--path-include=/usr/share/locale/locale.alias",
    "--path-exclude=/usr/share/help/*",
];

/// Whether dpkg leaves a path out when it is told `options`: the last pattern that matches decides. A folder, or a link,
/// which may lead to one, stays if a file below it could be included.
pub(super) fn skips(options: &[&str], path: &str, folder_or_link: bool) -> bool {
    let mut skipped = false;
    for option in options {
        if let Some(pattern) = option.strip_prefix("--path-exclude=") {
            skipped |= matches(pattern, path);
        } else if let Some(pattern) = option.strip_prefix("--path-include=") {
            skipped &= !matches(pattern, path);
        }
    }
    let includes = (options.iter()).filter_map(|option| option.strip_prefix("--path-include="));
    let may_hold = |pattern: &str| {
        let plain = pattern.split(['*', '?', '[', '\\']).next();
        path.starts_with(plain.unwrap_or(pattern).trim_end_matches('/'))
    };
    skipped && !(folder_or_link && includes.into_iter().any(may_hold))
}

/// Of a pattern's signs only `*`, which also stands for slashes.
fn matches(pattern: &str, path: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(rest) = pieces.next().and_then(|begin| path.strip_prefix(begin)) else {
        return false;
    };
    let pieces: Vec<&str> = pieces.collect();
    let Some((end, middle)) = pieces.split_last() else {
        return rest.is_empty();
    };
    let mut rest = rest;
    for piece in middle {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documentation_is_left_out_but_for_licences() {
        let cases = [
            ("/usr/share/doc", true, false),
            ("/usr/share/doc/bash", true, false),
            ("/usr/share/doc/bash/README", false, true),
            ("/usr/share/doc/bash/copyright", false, false),
            ("/usr/share/doc/libx/copyright", true, false),
            ("/usr/share/man/man1", true, true),
            ("/usr/share/man/man1/ls.1.gz", false, true),
            ("/usr/share/manual", false, false),
            ("/usr/share/locale", true, false),
            ("/usr/share/locale/de", true, true),
            ("/usr/share/locale/locale.alias", false, false),
            ("/usr/bin/ls", false, false),
        ];
        for (path, folder, skipped) in cases {
            assert_eq!(skips(&DOCUMENTATION, path, folder), skipped, "{path}");
        }
        assert!(!skips(&[], "/usr/share/doc/bash/README", false));
    }

    #[test]
    fn an_asterisk_stands_for_anything() {
        assert!(matches("/a/*/c", "/a/b/b/c"));
        assert!(matches("/a*", "/a"));
        assert!(!matches("/a/*/c", "/a/c"));
        assert!(!matches("/a", "/a/b"));
    }
}
