//! A signed archive that can be changed, a recipe for it, and `farrow` with folders of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use offline_repo::digest::Sha256;
use offline_repo::{compression, date};
use serde_json::Value;

use crate::support::{Fault, Server, archive_signer, deb};

/// A package of an archive: name, version, architecture, other fields.
pub type Listed<'a> = (&'a str, &'a str, &'a str, &'a str);

/// What most tests need: an essential package, and a database whose dependencies have versions.
pub const FIRST: &[Listed<'_>] = &[
    ("base-system", "1", "all", "Essential: yes\nDepends: libc\n"),
    ("libc", "1", "amd64", ""),
    ("database", "1", "amd64", "Depends: libc, ssl\n"),
    ("ssl", "1", "amd64", ""),
    ("tools", "1", "all", ""),
];

/// Newer versions of all but the essential one; the new database needs the new ssl.
pub const SECOND: &[Listed<'_>] = &[
    ("libc", "2", "amd64", ""),
    ("database", "2", "amd64", "Depends: libc, ssl (>= 2)\n"),
    ("ssl", "2", "amd64", ""),
    ("tools", "2", "all", ""),
];

/// The recipe `shelf`; MORE stands for what a test adds.
const RECIPE: &str = r#"
schema = 1
name = "shelf"

[distribution]
id = "debian"
suite = "trixie"
code = "d13"

[[upstream]]
name = "shelf"
kind = "deb"
archive = "shelf"
url = "URL/debian"
suites = ["trixie"]
components = ["main"]
keys = ["archive.asc"]
"#;

/// The archive and a folder with the recipe, in which `farrow` runs.
pub struct Site {
    folder: tempfile::TempDir,
    server: Server,
}

impl Site {
    /// An archive with [`FIRST`] in its suite trixie, and no recipe yet.
    pub fn new() -> Self {
        let site = Site {
            folder: tempfile::tempdir().unwrap(),
            server: Server::start(Default::default()),
        };
        fs::create_dir(site.path("keys")).unwrap();
        let key = archive_signer().public_key().unwrap();
        fs::write(site.path("keys/archive.asc"), key.armored).unwrap();
        site.publish("trixie", FIRST);
        site
    }

    /// The same with the recipe `shelf` of two packages.
    pub fn with_shelf() -> Self {
        let site = Site::new();
        site.shelf("[packages]\nplatform = [\"database\", \"tools\"]\n");
        site
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The archive's base URL.
    pub fn url(&self) -> &str {
        &self.server.url
    }

    /// Writes the recipe `shelf`, with this at its end.
    pub fn shelf(&self, more: &str) {
        self.write("shelf.toml", &format!("{RECIPE}\n{more}"));
    }

    /// Writes a file; `URL` in it becomes the archive's.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text.replace("URL", self.url())).unwrap();
    }

    /// Makes a suite of the archive hold these packages and no others. One that is named `broken` is no package.
    pub fn publish(&self, suite: &str, packages: &[Listed<'_>]) {
        let mut indexes = BTreeMap::from([("amd64", String::new()), ("arm64", String::new())]);
        for (name, version, architecture, fields) in packages {
            let control = format!(
                "Package: {name}\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: nobody\n{fields}Description: {name}\n long\n"
            );
            let deb = match *name {
                "broken" => b"no package".to_vec(),
                _ => deb(&control),
            };
            let path = format!("pool/{name}_{version}_{architecture}.deb");
            let stanza = format!(
                "{control}Filename: {path}\nSize: {}\nSHA256: {}\n\n",
                deb.len(),
                Sha256::of(&deb)
            );
            for (index, text) in &mut indexes {
                if ["all", index].contains(architecture) {
                    *text += &stanza;
                }
            }
            self.serve(&path, deb);
        }
        let mut sums = String::new();
        for (architecture, text) in indexes {
            let packed = compression::xz(text.as_bytes());
            let path = format!("main/binary-{architecture}/Packages.xz");
            sums += &format!(" {} {} {path}\n", Sha256::of(&packed), packed.len());
            self.serve(&format!("dists/{suite}/{path}"), packed);
        }
        // The program has the machine's clock.
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let (from, until) = (date::format(now - 3600), date::format(now + 86400));
        let release = format!(
            "Origin: Test\nSuite: {suite}\nCodename: {suite}\nDate: {from}\nValid-Until: {until}\nSHA256:\n{sums}"
        );
        let signed = archive_signer().clearsign(&release, now - 3600).unwrap();
        self.serve(&format!("dists/{suite}/InRelease"), signed.into_bytes());
    }

    /// Makes the archive have a file.
    pub fn serve(&self, path: &str, bytes: Vec<u8>) {
        let mut site = self.server.site.lock().unwrap();
        site.files.insert(format!("/debian/{path}"), bytes);
    }

    /// Makes the server answer the next request for a path of the archive wrongly.
    pub fn fault(&self, path: &str, fault: Fault) {
        self.server.fault(&format!("/debian/{path}"), &[fault]);
    }

    /// `Authorization` headers of all requests since the last question.
    pub fn authorizations(&self) -> Vec<String> {
        std::mem::take(&mut self.server.site.lock().unwrap().authorizations)
    }

    /// Makes the archive have no files whose path begins so.
    pub fn forget(&self, prefix: &str) {
        let prefix = format!("/debian/{prefix}");
        let mut site = self.server.site.lock().unwrap();
        site.files.retain(|path, _| !path.starts_with(&prefix));
    }

    /// `farrow ARGS…` in the folder, with cache, tools and state in it.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farrow"));
        command
            .args(args)
            .current_dir(self.folder.path())
            .env("FARROW_CACHE", self.path("cache"))
            .env("FARROW_TOOLS", self.path("tools"))
            .env("FARROW_STATE", self.path("state"))
            .env_remove("SOURCE_DATE_EPOCH")
            .env_remove("FARROW_SIGNING_KEY")
            .env_remove("FARROW_CACHE_FROM")
            .env_remove("FARROW_CACHE_KEY")
            .env_remove("FARROW_BOOTSTRAP_ARM64");
        command
    }

    /// Runs `farrow ARGS…`.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs it; the document that it prints with `--json`.
    pub fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--json"]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What it prints when it is refused with this exit code; paths and addresses of this run are replaced.
    pub fn refusal(&self, args: &[&str], code: i32) -> String {
        self.said(&self.run(args), code)
    }

    /// The same of a run that was made otherwise.
    pub fn said(&self, output: &Output, code: i32) -> String {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        let folder = self.folder.path().to_string_lossy().into_owned();
        // The stages before it, with their times, are not of interest.
        let error = &said[said.find("error[").unwrap_or(0)..];
        error.replace(&folder, "DIR").replace(self.url(), "URL")
    }
}

/// Contents below a folder by path.
pub fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => {
                    let bytes = fs::read(&path).unwrap();
                    found.insert(path.strip_prefix(root).unwrap().to_owned(), bytes);
                }
            }
        }
    }
    found
}

/// The only file of the folder whose name ends so.
pub fn only(folder: &Path, ending: &str) -> PathBuf {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}
