//! `farrow image verify`, `inspect` and `diff`: looking at images that are there.

use std::path::{Path, PathBuf};

use images::contents::{self, Contents};
use images::differences::{self, Differences};
use serde_json::json;

use crate::beside;
use crate::commands::repo;
use crate::diagnostic::{Diagnostic, Result};
use crate::interrupt;
use crate::session::{Done, Session};
use crate::stages::{self, ToolsSource};

/// Files that a comparison prints of each kind; `--json` has all.
const SHOWN: usize = 100;

/// Checks list and signature first, then the images.
pub fn verify(session: &Session, manifest: &Path, keys: &[PathBuf]) -> Result<()> {
    let keyring = repo::keyring(keys)?;
    let (listed, found) = session.stage("verify", |_| {
        let listed = beside::check(manifest, keyring.as_ref())?;
        Ok(Done::made((listed, images::inspect::verify(manifest)?)))
    })?;
    let signer = listed.as_ref().and_then(|listed| listed.signer.clone());
    let signed = match (&listed, &signer) {
        (_, Some(signer)) => format!(", listed and signed by {signer}"),
        (Some(_), None) => ", listed, not signed".to_owned(),
        (None, None) => String::new(),
    };
    session.say(&format!(
        "{}: intact, root hash {}{signed}",
        manifest.display(),
        found.root_hash
    ));
    let files = listed.map(|listed| listed.files);
    session.finish(
        json!({"root_hash": found.root_hash, "intact": true, "listed": files, "signer": signer}),
    )
}

/// Prints what is in an image.
pub fn inspect(session: &Session, image: &Path, packages: bool) -> Result<()> {
    let image = absolute(image)?;
    let tools = stages::tools(session, ToolsSource::Present)?;
    let cache = &session.paths.cache;
    interrupt::clean_on_interrupt(cache);
    let found = session.stage("inspect", |_| {
        Ok(Done::made(contents::read(&image, &tools, cache)?))
    })?;
    for line in describe(&found, packages) {
        session.say(&line);
    }
    session.finish(json!({"contents": found}))
}

/// Prints what differs between two images.
pub fn diff(session: &Session, old: &Path, new: &Path) -> Result<()> {
    let (old, new) = (absolute(old)?, absolute(new)?);
    let tools = stages::tools(session, ToolsSource::Present)?;
    let cache = &session.paths.cache;
    interrupt::clean_on_interrupt(cache);
    let found = session.stage("diff", |_| {
        Ok(Done::made(differences::compare(&old, &new, &tools, cache)?))
    })?;
    for line in describe_differences(&found) {
        session.say(&line);
    }
    session.finish(json!({"same": found.is_empty(), "difference": found}))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    if !path.is_file() {
        let message = format!("no image at {}", path.display());
        return Err(Diagnostic::invalid("FR-IMAGE-NOTFOUND", message)
            .with_hint("name the file of an image, such as out/image/NAME-VERSION.raw"));
    }
    std::path::absolute(path).map_err(|e| Diagnostic::io("find", path, e))
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn describe(found: &Contents, packages: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut say = |what: &str, value: &str| lines.push(format!("{what:<14} {value}"));
    if let Some(serde_json::Value::Object(identity)) = &found.identity {
        for (key, value) in identity {
            say(key, value.as_str().unwrap_or_default());
        }
    }
    say(
        "file",
        &format!("{}, {}", found.format, mib(found.file_size)),
    );
    say(
        "disk",
        &format!("{}, id {}", mib(found.disk_size), found.disk_id),
    );
    for partition in &found.partitions {
        let line = format!(
            "{:<9} {:>11}  {}  {}",
            partition.name,
            mib(partition.size),
            partition.uuid,
            partition.kind
        );
        say("partition", &line);
    }
    let fits = match found.root_hash_fits {
        true => "the one that the kernel image asks for",
        false => "NOT the one that a kernel image asks for",
    };
    say("root hash", &format!("{} ({fits})", found.root_hash));
    for kernel in &found.kernels {
        say("kernel image", &kernel.file);
        say("  release", &kernel.release);
        let title = kernel.os_release.get("PRETTY_NAME");
        say("  system", title.map_or("", String::as_str));
        say(
            "  size",
            &format!("{}, initrd {}", mib(kernel.size), mib(kernel.initrd_size)),
        );
        say("  arguments", &kernel.command_line);
    }
    let kib: u64 = found.packages.iter().map(|p| p.installed_kib).sum();
    let count = found.packages.len();
    say(
        "packages",
        &format!("{count}, {} installed", mib(kib << 10)),
    );
    for package in found.packages.iter().filter(|_| packages) {
        lines.push(format!(
            "  {} {} {}",
            package.name, package.version, package.architecture
        ));
    }
    lines
}

fn describe_differences(found: &Differences) -> Vec<String> {
    if found.is_empty() {
        return vec!["the same".to_owned()];
    }
    let mut lines = Vec::new();
    for fact in &found.facts {
        lines.push(format!("{}: {} -> {}", fact.name, fact.from, fact.to));
    }
    for partition in &found.partitions {
        let size = |size: Option<u64>| size.map_or("none".to_owned(), mib);
        lines.push(format!(
            "partition {}: {} -> {}",
            partition.name,
            size(partition.size_from),
            size(partition.size_to)
        ));
    }
    let packages = &found.packages;
    for (sign, list) in [("+", &packages.added), ("-", &packages.removed)] {
        let line = |p: &contents::Installed| format!("{sign} package {} {}", p.name, p.version);
        lines.extend(list.iter().map(line));
    }
    for package in &packages.changed {
        let (name, from, to) = (&package.name, &package.from, &package.to);
        lines.push(format!("~ package {name} {from} -> {to}"));
    }
    let files = &found.files;
    for (sign, list) in [("+", &files.added), ("-", &files.removed)] {
        let all = list.iter();
        let all = all.map(|file| format!("{sign} /{} {} bytes", file.path, file.size));
        shorten(&mut lines, all, list.len());
    }
    let changed = files.changed.iter().map(|file| {
        let what = file.what.join(", ");
        let (path, from, to) = (&file.path, file.size_from, file.size_to);
        format!("~ /{path} ({what}) {from} -> {to} bytes")
    });
    shorten(&mut lines, changed, files.changed.len());
    lines
}

fn shorten(lines: &mut Vec<String>, all: impl Iterator<Item = String>, count: usize) {
    lines.extend(all.take(SHOWN));
    if count > SHOWN {
        lines.push(format!("  and {} more, which --json lists", count - SHOWN));
    }
}
