//! What dpkg's database holds of a package that is unpacked for the first time: what dpkg itself would write.
//!
//! Only of [plain](is_plain) packages, about which dpkg has nothing to decide; the others it unpacks itself. Formats: deb(5), deb-control(5),
//! deb-conffiles(5), and the files below `/var/lib/dpkg` as dpkg 1.21 and 1.22 write them, with which the tests compare.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::input::Package;
use super::order;
use crate::deb::{ControlMember, relative};

/// Name of the file beside a conffile in which its content waits to be configured.
pub(super) const WAITING: &str = ".dpkg-new";

type Members = BTreeMap<String, ControlMember>;

/// Files of the database about a package, and its paragraph of the status file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// What the names of its files below `info` begin with.
    pub(super) stem: String,
    /// Members of the control archive that are kept, by what their names end with.
    pub(super) members: Members,
    /// The paragraph.
    pub(super) status: String,
}

/// Whether a package has nothing that must happen before its files are there, or that dpkg notes of them: no script that is
/// run first, no triggers that it waits for, no conffiles with flags, no hashes to be made.
pub(super) fn is_plain(package: &Package, members: &Members) -> bool {
    let text = |name: &str| {
        members
            .get(name)
            .map(|m| String::from_utf8_lossy(&m.content))
    };
    let Some(control) = text("control") else {
        return false;
    };
    let fields = order::fields(&control);
    let field = |wanted: &str| {
        let mut values = fields
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        values.next().map(|(_, value)| value.trim())
    };
    let as_said = field("Package") == Some(&package.name)
        && field("Architecture") == Some(&package.architecture)
        && ["Status", "Conffiles"]
            .iter()
            .all(|name| field(name).is_none());
    let triggers = text("triggers").unwrap_or_default();
    let waits = triggers
        .lines()
        .any(|line| line.trim_start().starts_with("interest"));
    let conffiles = text("conffiles").unwrap_or_default();
    let plain_conffiles = conffiles
        .lines()
        .all(|line| line.starts_with('/') && !line.contains(char::is_whitespace));
    let plain_names = (members.keys()).all(|name| {
        name.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    });
    // As Debian policy 5.6.1 has them: they become names of files.
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let named = [&package.name, &package.architecture];
    as_said
        && named.iter().all(|name| name.bytes().all(of_name))
        && !waits
        && plain_conffiles
        && plain_names
        && members.contains_key("md5sums")
        && !members.contains_key("preinst")
        // Made by dpkg, and of no package.
        && !members.contains_key("list")
}

/// The record of a plain package.
pub(super) fn of(package: &Package, mut members: Members) -> Record {
    let control = members.remove("control").unwrap_or_else(|| ControlMember {
        content: Vec::new(),
        mode: 0,
        modified: 0,
    });
    let text = String::from_utf8_lossy(&control.content);
    let fields = order::fields(&text);
    let same = (fields.iter())
        .any(|(name, value)| name.eq_ignore_ascii_case("Multi-Arch") && value.trim() == "same");
    let mut status = String::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        status.push_str(line);
        status.push('\n');
        if line
            .get(..8)
            .is_some_and(|name| name.eq_ignore_ascii_case("package:"))
        {
            status.push_str("Status: install ok unpacked\n");
        }
    }
    let conffiles = members
        .get("conffiles")
        .map(|m| String::from_utf8_lossy(&m.content));
    let conffiles = conffiles.unwrap_or_default();
    if !conffiles.is_empty() {
        status.push_str("Conffiles:\n");
        for path in conffiles.lines() {
            // No hash yet: that of what was installed, which is nothing.
            status.push_str(&format!(" {path} newconffile\n"));
        }
    }
    status.push('\n');
    let stem = match same {
        true => format!("{}:{}", package.name, package.architecture),
        false => package.name.clone(),
    };
    Record {
        stem,
        members,
        status,
    }
}

/// Paths below the root of a package's conffiles.
pub(super) fn conffiles(members: &Members) -> BTreeSet<PathBuf> {
    let content = members.get("conffiles").map(|member| &*member.content);
    let lines = content.unwrap_or_default().split(|byte| *byte == b'\n');
    let lines = lines.filter_map(|line| line.strip_prefix(b"/"));
    lines.filter_map(|line| relative(line).ok()).collect()
}

/// The list of a package's paths below the root, in the order of its archive.
pub(super) fn list<'a>(paths: impl Iterator<Item = &'a Path>) -> Vec<u8> {
    let mut list = Vec::new();
    for path in paths {
        let path: &OsStr = if path.as_os_str().is_empty() {
            OsStr::new(".")
        } else {
            path.as_os_str()
        };
        list.push(b'/');
        list.extend_from_slice(path.as_bytes());
        list.push(b'\n');
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package() -> Package {
        Package {
            name: "x".into(),
            version: "1".into(),
            architecture: "amd64".into(),
            path: "x.deb".into(),
            sha256: String::new(),
        }
    }

    fn members(files: &[(&str, &str)]) -> Members {
        let member = |content: &str| ControlMember {
            content: content.into(),
            mode: 0o644,
            modified: 7,
        };
        let files = files.iter();
        files
            .map(|(name, content)| ((*name).to_owned(), member(content)))
            .collect()
    }

    const CONTROL: &str =
        "Package: x\nVersion: 1\nArchitecture: amd64\nMulti-Arch: same\nDescription: a\n b\n";

    #[test]
    fn what_dpkg_decides_is_not_plain() {
        let plain = [
            ("control", CONTROL),
            ("md5sums", ""),
            ("postinst", "#!/bin/sh\n"),
        ];
        assert!(is_plain(&package(), &members(&plain)));
        let added = [
            ("preinst", "#!/bin/sh\n"),
            ("triggers", "activate-noawait a\ninterest /usr/lib/x\n"),
            ("conffiles", "/etc/a\nremove-on-upgrade /etc/b\n"),
            ("list", "/.\n"),
            ("../x", ""),
        ];
        for file in added {
            let files = members(&[&plain[..], &[file]].concat());
            assert!(!is_plain(&package(), &files), "{}", file.0);
        }
        let activates = ("triggers", "activate-noawait ldconfig\n");
        assert!(is_plain(
            &package(),
            &members(&[&plain[..], &[activates]].concat())
        ));
        for control in [
            "Package: y\nArchitecture: amd64\n",
            "Package: x\nArchitecture: amd64\nStatus: x\n",
        ] {
            assert!(!is_plain(
                &package(),
                &members(&[("control", control), ("md5sums", "")])
            ));
        }
        assert!(!is_plain(&package(), &members(&[("control", CONTROL)])));
    }

    #[test]
    fn a_record_is_what_dpkg_writes() {
        let files = members(&[
            ("control", CONTROL),
            ("md5sums", "m"),
            ("conffiles", "/etc/a\n/etc/b\n"),
        ]);
        assert_eq!(
            conffiles(&files),
            ["etc/a", "etc/b"].map(PathBuf::from).into()
        );
        let record = of(&package(), files);
        assert_eq!(record.stem, "x:amd64");
        assert_eq!(
            record.status,
            "Package: x\nStatus: install ok unpacked\nVersion: 1\nArchitecture: amd64\nMulti-Arch: same\nDescription: a\n b\n\
             Conffiles:\n /etc/a newconffile\n /etc/b newconffile\n\n"
        );
        let kept: Vec<&String> = record.members.keys().collect();
        assert_eq!(kept, ["conffiles", "md5sums"]);
        let paths = ["", "usr", "usr/bin"].map(Path::new);
        assert_eq!(list(paths.into_iter()), b"/.\n/usr\n/usr/bin\n");
    }
}
