//! A tree of the cache, with what is known about it, as a tar archive: for another builder's cache.
//!
//! Packed and unpacked by the tools tree's tar in a sandbox with mapped ids, so that owners, modes, times to the
//! nanosecond, extended attributes and hard links come back as they were. An archive comes from outside: it is
//! [checked](check) before anything is written, and tar sees nothing but the folder it writes to.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Component, Path};
use std::process::Stdio;

use tar::{Archive, EntryType};

use crate::error::{Error, Result};
use crate::process::describe;
use crate::root;
use crate::tools::ToolsTree;

/// Where the folder is visible to tar.
const INSIDE: &str = "/run/entry";
/// Equal trees give equal bytes: sorted names, numbers for owners, and no times but those of the last change.
const PACK: [&str; 9] = [
    "tar",
    "--create",
    "--sort=name",
    "--numeric-owner",
    "--format=posix",
    "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
    "--xattrs",
    "--xattrs-include=*",
    "--file=-",
];
const UNPACK: [&str; 9] = [
    "tar",
    "--extract",
    "--numeric-owner",
    "--same-owner",
    "--preserve-permissions",
    "--delay-directory-restore",
    "--xattrs",
    "--xattrs-include=*",
    "--file=-",
];
/// More entries than any tree has: Debian's largest desktops have half a million.
const ENTRIES: usize = 4_000_000;

/// Packs a finished entry of the cache, `CACHE/bases/DIGEST`, into `output`.
///
/// # Errors
/// The entry is not one that lasts, the tools' tar fails, or `output` cannot be written.
pub fn pack(entry: &Path, tools: &ToolsTree, output: &mut dyn Write) -> Result<()> {
    if root::kernel_of(entry).is_none() {
        return Err(Error::Tree {
            reason: format!("{} is no finished tree", entry.display()),
        });
    }
    let argv: Vec<&str> = PACK.into_iter().chain([root::FACTS, root::TREE]).collect();
    let sandbox = tools.sandbox().bind_ro(entry, INSIDE).workdir(INSIDE);
    let mut child = sandbox.spawn(&argv, Stdio::null(), Stdio::piped(), Stdio::inherit())?;
    let copied = match child.take_stdout() {
        Some(mut pipe) => io::copy(&mut pipe, output).map(drop),
        None => Ok(()),
    };
    if copied.is_err() {
        child.kill();
    }
    copied.map_err(Error::io("pack", entry))?;
    succeeded(child.wait()?)
}

/// Unpacks an archive that [`check`] has accepted into an empty folder.
///
/// # Errors
/// The tools' tar fails, `input` cannot be read, or there is no tree in it.
pub fn unpack(input: &mut dyn Read, tools: &ToolsTree, folder: &Path) -> Result<()> {
    let sandbox = tools.sandbox().bind(folder, INSIDE).workdir(INSIDE);
    let mut child = sandbox.spawn(&UNPACK, Stdio::piped(), Stdio::null(), Stdio::inherit())?;
    let copied = match child.take_stdin() {
        Some(mut pipe) => io::copy(input, &mut pipe).map(drop),
        None => Ok(()),
    };
    // When tar has ended early, its own status says more than the broken pipe.
    succeeded(child.wait()?)?;
    copied.map_err(Error::io("unpack to", folder))?;
    let is_tree = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    match is_tree(&folder.join(root::TREE)) && root::kernel_of(folder).is_some() {
        true => Ok(()),
        false => Err(refused("no finished tree is in it")),
    }
}

fn succeeded(status: std::process::ExitStatus) -> Result<()> {
    match status.success() {
        true => Ok(()),
        false => Err(Error::Program {
            program: "tar".to_owned(),
            status: describe(status),
            stderr: String::new(),
        }),
    }
}

fn refused(reason: impl Into<String>) -> Error {
    Error::Tree {
        reason: reason.into(),
    }
}

/// Reads an archive to its end and refuses what no tree of packages has: names and hard links that lead out of it,
/// devices, sockets, more than the two entries at the top.
///
/// # Errors
/// What is refused, or that `input` is no archive.
pub fn check(input: &mut dyn Read) -> Result<()> {
    let mut archive = Archive::new(input);
    let entries = archive.entries();
    let broken = |error: io::Error| refused(format!("the archive cannot be read: {error}"));
    let mut count = 0;
    for entry in entries.map_err(broken)? {
        let entry = entry.map_err(broken)?;
        count += 1;
        let name = entry.path_bytes().into_owned();
        let link = entry.link_name_bytes().map(std::borrow::Cow::into_owned);
        let kind = entry.header().entry_type();
        let reason = match check_entry(&name, kind, link.as_deref()) {
            _ if count > ENTRIES => "it has too many entries",
            Some(reason) => reason,
            None => continue,
        };
        let name = String::from_utf8_lossy(&name).into_owned();
        return Err(refused(format!("refused: {name:?}: {reason}")));
    }
    Ok(())
}

/// Why an entry is refused.
fn check_entry(name: &[u8], kind: EntryType, link: Option<&[u8]>) -> Option<&'static str> {
    let (top, rest) = match parts(name) {
        Some(mut parts) if !parts.is_empty() => (parts.remove(0), parts),
        _ => return Some("not below the folder"),
    };
    let is_facts = top == root::FACTS.as_bytes() && rest.is_empty();
    match kind {
        EntryType::Regular | EntryType::Continuous if is_facts => return None,
        _ if top != root::TREE.as_bytes() => {
            return Some("neither the tree nor what is known of it");
        }
        EntryType::Directory => return None,
        _ if rest.is_empty() => return Some("the tree is no folder"),
        _ => {}
    }
    match kind {
        EntryType::Regular | EntryType::Continuous | EntryType::Symlink => None,
        EntryType::Link => match parts(link.unwrap_or_default()) {
            Some(parts) if parts.len() > 1 && parts[0] == root::TREE.as_bytes() => None,
            _ => Some("a hard link that leads out of the tree"),
        },
        _ => Some("neither a file, a folder nor a link"),
    }
}

/// The parts of a path that stays below the folder it begins in.
fn parts(name: &[u8]) -> Option<Vec<&[u8]>> {
    use std::os::unix::ffi::OsStrExt;
    let path = Path::new(std::ffi::OsStr::from_bytes(name));
    let normal = |part| match part {
        Component::Normal(part) => Some(part.as_bytes()),
        _ => None,
    };
    path.components().map(normal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_no_tree_has_are_refused() {
        use EntryType as T;
        let cases: [(&str, T, Option<&str>, bool); 15] = [
            ("root.json", T::Regular, None, true),
            ("tree", T::Directory, None, true),
            ("tree/usr/bin/sh", T::Regular, None, true),
            ("tree/bin", T::Symlink, Some("../../etc"), true),
            ("tree/b", T::Link, Some("tree/usr/a"), true),
            ("tree/b", T::Link, Some("tree/../../a"), false),
            ("tree/b", T::Link, Some("/etc/shadow"), false),
            ("tree/b", T::Link, Some("root.json"), false),
            ("tree", T::Symlink, Some("/etc"), false),
            ("root.json", T::Symlink, Some("/etc/shadow"), false),
            ("tree/../x", T::Regular, None, false),
            ("/etc/passwd", T::Regular, None, false),
            ("other", T::Regular, None, false),
            ("tree/dev/sda", T::Block, None, false),
            ("tree/run/initctl", T::Fifo, None, false),
        ];
        for (name, kind, link, accepted) in cases {
            let found = check_entry(name.as_bytes(), kind, link.map(str::as_bytes));
            assert_eq!(
                found.is_none(),
                accepted,
                "{name} {kind:?} {link:?}: {found:?}"
            );
        }
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        let text = vec![b'x'; 4096];
        assert!(check(&mut &text[..]).is_err());
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(3);
        archive
            .append_data(&mut header, "tree/a", &b"abc"[..])
            .unwrap();
        let bytes = archive.into_inner().unwrap();
        assert!(check(&mut &bytes[..]).is_ok());
        assert!(check(&mut &bytes[..600]).is_err(), "cut in the middle");
    }
}
