//! Which maintainer script failed, and what it said, from what dpkg says.

use std::path::Path;

use crate::error::Error;

/// How many of a script's last lines an error shows.
const TAIL: usize = 10;
/// How dpkg begins to work on a package; what follows is said by that package's scripts.
const BEGINNINGS: [&str; 4] = [
    "Preparing to unpack ",
    "Unpacking ",
    "Setting up ",
    "Processing triggers for ",
];
/// Before the package's name or archive (dpkg's src/main/errors.c).
const ERROR: &str = "dpkg: error processing ";
/// What dpkg calls the scripts, and what the packages do (dpkg's src/main/script.c, deb-postinst(5) and its kin).
const SCRIPTS: [(&str, &str); 4] = [
    (" pre-installation script ", "preinst"),
    (" post-installation script ", "postinst"),
    (" pre-removal script ", "prerm"),
    (" post-removal script ", "postrm"),
];

/// The first failure, as far as it is known. dpkg goes on with other packages, so it is not at the end.
#[derive(Debug, Default)]
pub(super) struct Failure {
    /// Lines since the last package was begun, until a failure.
    said: Vec<String>,
    failed: bool,
    /// Package, script, status.
    script: Option<(String, &'static str, String)>,
}

impl Failure {
    /// Takes in the next line.
    pub(super) fn hear(&mut self, line: &str) {
        if self.script.is_some() {
            return;
        }
        if self.failed {
            self.script = script(line);
            // Another kind of failure: it is for the whole of what dpkg says to tell.
            self.failed = self.script.is_some();
        } else if line.starts_with(ERROR) {
            self.failed = true;
        } else if BEGINNINGS.iter().any(|begin| line.starts_with(begin)) {
            self.said.clear();
        } else {
            self.said.push(line.to_owned());
        }
    }

    /// The error, if it was a script that failed.
    pub(super) fn into_error(self, log: &Path) -> Option<Error> {
        let (package, script, status) = self.script?;
        let first = self.said.len().saturating_sub(TAIL);
        Some(Error::Script {
            package,
            script,
            status,
            said: self.said[first..].join("\n"),
            log: log.to_owned(),
        })
    }
}

/// ` installed NAME package post-installation script subprocess returned error exit status 3`, or `new NAME package …`.
fn script(line: &str) -> Option<(String, &'static str, String)> {
    let (called, name) = SCRIPTS
        .into_iter()
        .find(|(called, _)| line.contains(called))?;
    let (before, after) = line.split_once(called)?;
    let package = before.split_whitespace().nth(1)?.to_owned();
    let status = after
        .strip_prefix("subprocess returned error ")
        .or_else(|| after.strip_prefix("subprocess was "))
        .unwrap_or(after);
    Some((package, name, status.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str) -> Option<String> {
        let mut failure = Failure::default();
        text.lines().for_each(|line| failure.hear(line));
        let error = failure.into_error(Path::new("/cache/dpkg.log"));
        error.map(|error| format!("{error} / {}", error.hint().unwrap_or_default()))
    }

    #[test]
    fn the_first_script_that_fails_is_named_with_its_last_words() {
        let text = "Setting up first (1) ...\nfine\nSetting up net-tool (2.10-3) ...\nno room\n\
            dpkg: error processing package net-tool (--configure):\n \
            installed net-tool package post-installation script subprocess returned error exit status 3\n\
            dpkg: dependency problems prevent configuration of other:\n other depends on net-tool; however:\n\
            dpkg: error processing package other (--configure):\n dependency problems - leaving unconfigured\n\
            Errors were encountered while processing:\n net-tool\n other\n";
        assert_eq!(
            heard(text).unwrap(),
            "postinst of package net-tool failed with exit status 3:\nno room / all that dpkg said is in /cache/dpkg.log until the next bake"
        );
    }

    #[test]
    fn scripts_before_unpacking_and_signals() {
        let text = "Preparing to unpack .../x.deb ...\n\
            dpkg: error processing archive /run/farrow/packages/x_amd64.deb (--unpack):\n \
            new x package pre-installation script subprocess was killed by signal (Killed)\n";
        let said = heard(text).unwrap();
        assert!(
            said.starts_with("preinst of package x failed with killed by signal (Killed) /"),
            "{said}"
        );
    }

    #[test]
    fn other_failures_are_not_a_scripts() {
        let text = "dpkg: error processing archive /x.deb (--unpack):\n trying to overwrite '/usr/bin/x'\n";
        assert_eq!(heard(text), None);
        assert_eq!(heard("Setting up x (1) ...\n"), None);
    }
}
