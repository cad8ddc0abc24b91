//! What the machine says of itself: whether packages can be installed on it, and which are.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::diagnostic::{Diagnostic, Result};

/// Where dpkg notes what it has not finished (its `updates` folder).
const UNFINISHED: &str = "/var/lib/dpkg/updates";
/// What dpkg knows.
const STATUS: &str = "/var/lib/dpkg/status";
/// What has to be there.
const PROGRAMS: [&str; 3] = ["/usr/bin/apt-get", "/usr/bin/dpkg", "/usr/bin/flock"];

/// Refuses a machine that is not Debian's, and a user who is not root.
pub fn check() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        let message = "packages can only be installed by root";
        return Err(Diagnostic::invalid("FR-INSTALL-ROOT", message)
            .with_hint("run it with sudo, or without --group to unpack the repository only"));
    }
    for program in PROGRAMS {
        if !Path::new(program).exists() {
            return Err(lacks(program));
        }
    }
    Ok(())
}

fn lacks(program: &str) -> Diagnostic {
    let message = format!("this machine has no {program}");
    Diagnostic::invalid("FR-INSTALL-SYSTEM", message)
        .with_hint("packages of a group can be installed on Debian and what derives from it")
}

/// Installed packages with their versions. Of several architectures of a package, as Multi-Arch allows, the last counts.
pub fn packages() -> Result<BTreeMap<String, String>> {
    let format = "${db:Status-Abbrev} ${Package} ${Version}\n";
    let text = ask(&["dpkg-query", "--show", "--showformat", format])?;
    Ok(parse(&text))
}

/// Lines of status, name and version; "ii" stands for installed and wanted.
fn parse(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (status, name, version) = (words.next()?, words.next()?, words.next()?);
        (status.get(1..2) == Some("i")).then(|| (name.to_owned(), version.to_owned()))
    });
    lines.collect()
}

/// dpkg's status file.
pub fn status() -> Result<String> {
    std::fs::read_to_string(STATUS).map_err(|e| Diagnostic::io("read", Path::new(STATUS), e))
}

/// Whether dpkg has finished what it began.
pub fn is_consistent() -> Result<bool> {
    let entries = std::fs::read_dir(UNFINISHED)
        .into_iter()
        .flatten()
        .flatten();
    if entries.count() > 0 {
        return Ok(false);
    }
    Ok(ask(&["dpkg", "--audit"])?.trim().is_empty())
}

/// Runs a program that only answers.
fn ask(words: &[&str]) -> Result<String> {
    let output = Command::new(words[0])
        .args(&words[1..])
        .env("LC_ALL", "C.UTF-8")
        .output()
        .map_err(|e| Diagnostic::io("execute", Path::new(words[0]), e))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_system_is_named() {
        let printed = lacks(PROGRAMS[0]).render(false);
        crate::golden::golden("FR-INSTALL-SYSTEM", &printed);
    }

    #[test]
    fn packages_that_are_installed() {
        let text = "ii  aa 1.0-1\nrc  bb 2\niU  cc 3\nhi  dd 4\nii  \n";
        let found: Vec<_> = parse(text).into_iter().collect();
        let expected = [("aa", "1.0-1"), ("dd", "4")];
        let expected: Vec<_> = expected.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
        assert_eq!(found, expected);
    }
}
