//! From a lock file's text to a lock in which nothing leads outside of where it should.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Format, Lock, LockedPackage, SCHEMA};
use crate::dependency;
use crate::error::{Error, Result};
use crate::files::{self, is_confined};
use crate::rpm;
use crate::version;

/// No lock file is larger, in bytes.
const LOCK_LIMIT: u64 = 64 << 20;

impl Lock {
    /// Reads a lock file's text and checks that nothing in it leads outside of where it should.
    pub fn parse(origin: &str, text: &str) -> Result<Self> {
        let mut lock: Lock = toml::from_str(text).map_err(|e| Error::Syntax {
            origin: origin.to_string(),
            line: e
                .span()
                .map_or(1, |span| text[..span.start].matches('\n').count() + 1),
            message: e.message().to_string(),
        })?;
        if lock.schema != SCHEMA {
            return Err(Error::invalid(
                origin,
                format!("has schema {}, this version reads {SCHEMA}", lock.schema),
            ));
        }
        lock.check(origin)?;
        // Packages are looked up by halving; a person who edits the file need not know that.
        lock.packages.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(lock)
    }

    fn check(&self, origin: &str) -> Result<()> {
        if !dependency::is_architecture(&self.architecture)
            && !rpm::is_architecture(&self.architecture)
        {
            return Err(Error::invalid(origin, "has no valid architecture"));
        }
        let mut modules = self.modules.iter();
        if let Some(one) = modules.find(|one| !is_confined(&one.path)) {
            let message = format!("the path '{}' leads elsewhere", one.path.escape_debug());
            return Err(Error::invalid(origin, message));
        }
        let mut names = BTreeSet::new();
        for package in &self.packages {
            if !package.is_valid(&self.architecture) {
                let message = format!(
                    "package '{}' has an invalid name, version, architecture or path",
                    package.name.escape_debug()
                );
                return Err(Error::invalid(origin, message));
            }
            if !names.insert((&package.name, package.format(), rpm_architecture(package))) {
                return Err(Error::invalid(
                    origin,
                    format!("package '{}' occurs twice", package.name),
                ));
            }
            if !self
                .indexes
                .iter()
                .any(|index| index.archive == package.archive)
            {
                let message = format!(
                    "package '{}' is from the archive '{}', which has no index",
                    package.name, package.archive
                );
                return Err(Error::invalid(origin, message));
            }
        }
        Ok(())
    }

    /// Reads a lock file.
    pub fn load(path: &Path) -> Result<Self> {
        let origin = path.display().to_string();
        let text = String::from_utf8(files::read_bounded(path, LOCK_LIMIT)?)
            .map_err(|_| Error::invalid(&origin, "is not UTF-8 text"))?;
        Lock::parse(&origin, &text)
    }
}

impl LockedPackage {
    /// Whether nothing in it can lead out of a folder or a URL.
    fn is_valid(&self, lock_architecture: &str) -> bool {
        let named = match self.format() {
            Format::Deb => {
                dependency::is_package_name(&self.name)
                    && version::is_valid(&self.version)
                    && (self.architecture == "all" || self.architecture == lock_architecture)
            }
            Format::Rpm => {
                rpm::is_package_name(&self.name)
                    && rpm::evr::is_valid(&self.version)
                    && rpm::is_architecture(&self.architecture)
            }
        };
        named && is_confined(self.path.strip_prefix("./").unwrap_or(&self.path))
    }
}

/// RPM packages of one name may stand beside each other for different architectures, as 32-bit libraries do.
fn rpm_architecture(package: &LockedPackage) -> Option<&str> {
    (package.format() == Format::Rpm).then_some(package.architecture.as_str())
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn mistakes_are_named() {
        let text = sample().to_text();
        for (from, to, message) in [
            (
                "schema = 1",
                "schema = 2",
                "x.lock: has schema 2, this version reads 1",
            ),
            (
                "schema = 1",
                "schema = 1\ncolour = 1",
                "x.lock:3: unknown field `colour`, expected one of `schema`, `name`, `architecture`, `requests`, `index`, `package`, `modules`, `base`",
            ),
            (
                "pool/main/libc6.deb",
                "../libc6.deb",
                "x.lock: package 'libc6' has an invalid name, version, architecture or path",
            ),
            (
                "name = \"libc6\"",
                "name = \"etcd-server\"",
                "x.lock: package 'etcd-server' occurs twice",
            ),
            (
                "version = \"1:2.3-4\"",
                "version = \"/\"",
                "x.lock: package 'etcd-server' has an invalid name, version, architecture or path",
            ),
            (
                "archive = \"debian\"\nsuite = \"trixie\"\npath",
                "archive = \"x\"\nsuite = \"trixie\"\npath",
                "x.lock: package 'etcd-server' is from the archive 'x', which has no index",
            ),
        ] {
            let wrong = text.replacen(from, to, 1);
            assert_ne!(wrong, text);
            assert_eq!(
                Lock::parse("x.lock", &wrong).unwrap_err().to_string(),
                message
            );
        }
    }
}
