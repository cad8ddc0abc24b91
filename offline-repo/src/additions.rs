//! What a repository holds that comes from no archive: packages of our own, and programs as plain files.

use std::path::Path;

use crate::deb;
use crate::digest::Sha256;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::lock::{Format, LockedPackage};
use crate::rpm::metadata::Elements;
use crate::{metadata, publish};

/// What a repository holds beside fetched packages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Additions {
    /// Packages of our own, listed in the index like all others.
    pub packages: Vec<OwnPackage>,
    /// Programs as plain files at the top of the folder: name, content.
    pub programs: Vec<(String, Vec<u8>)>,
}

/// A package that was written here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPackage {
    /// Package name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Architecture, or "all", of RPM packages "noarch".
    pub architecture: String,
    /// Its kind.
    pub format: Format,
    /// The file.
    pub content: Vec<u8>,
}

impl OwnPackage {
    /// The package as a lock would describe it, which no lock does.
    fn described(&self) -> LockedPackage {
        LockedPackage {
            name: self.name.clone(),
            version: self.version.clone(),
            architecture: self.architecture.clone(),
            archive: String::new(),
            suite: String::new(),
            // The kind of a locked package is told by the end of its path.
            path: match self.format {
                Format::Deb => "own.deb".into(),
                Format::Rpm => "own.rpm".into(),
            },
            size: self.content.len() as u64,
            sha256: Sha256::of(&self.content),
            essential: false,
            groups: Vec::new(),
            why: String::new(),
        }
    }
}

/// What was written.
pub(crate) struct Written {
    /// Stanzas of the Debian packages.
    pub stanzas: Vec<String>,
    /// Elements of the RPM packages.
    pub elements: Vec<Elements>,
    /// Paths and digests of all files.
    pub listed: Vec<(String, Sha256)>,
}

/// Writes them below `into`, dated `epoch`. A name that the archives have too would hide their package.
pub(crate) fn write(
    additions: &Additions,
    layout: Layout,
    epoch: u64,
    into: &Path,
) -> Result<Written> {
    let mut written = Written {
        stanzas: Vec::new(),
        elements: Vec::new(),
        listed: Vec::new(),
    };
    for (name, content) in &additions.programs {
        publish::check_name(name)?;
        publish::write(into, name, content)?;
        written.listed.push((name.clone(), Sha256::of(content)));
    }
    for own in &additions.packages {
        let package = own.described();
        let place = layout.path_of(&package);
        let path = into.join(&place);
        if path.exists() {
            let message = "is of our own making, and an archive has it, too".to_string();
            return Err(Error::Deb { path, message });
        }
        publish::write(into, &place, &own.content)?;
        match own.format {
            Format::Deb => {
                let control = deb::control(&path)?;
                let stanza = metadata::package_stanza(&control, &package, &place);
                let stanza = stanza.map_err(|message| Error::Deb { path, message })?;
                written.stanzas.push(stanza);
            }
            Format::Rpm => {
                let described = publish::describe_rpm(&package, &path, place.clone(), epoch)?;
                written.elements.push(described);
            }
        }
        written.listed.push((place, package.sha256));
    }
    Ok(written)
}
