//! A dpkg status file: which packages a system has (`/var/lib/dpkg/status`, dpkg(1) "Package states and actions").

use std::collections::HashSet;

use crate::deb822::{Item, Reader};
use crate::error::{Error, Result};
use crate::record::{Record, slice};

/// What may become of an installed package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Installed {
    /// A newer version may replace it.
    Replaceable,
    /// It is on hold, or installed for another architecture as well, whose copy must keep the same version.
    Fixed,
}

/// The installed packages of `architecture`, each a record of the index `number`.
///
/// # Errors
/// [`Error::Syntax`] for what is not a status file, [`Error::Invalid`] for a package that dpkg left half installed.
pub(crate) fn read(
    origin: &str,
    text: &str,
    number: u16,
    architecture: &str,
) -> Result<Vec<(Record, Installed)>> {
    if u32::try_from(text.len()).is_err() {
        return Err(Error::TooLarge {
            origin: origin.to_string(),
            limit: u64::from(u32::MAX),
        });
    }
    let mut found = Vec::new();
    let mut foreign: HashSet<&str> = HashSet::new();
    let mut record = Record::default();
    let mut reader = Reader::new(text);
    while let Some(item) = reader.next() {
        match item.map_err(|e| e.at(origin))? {
            Item::Field(name, value) => record.set(name, value, text),
            Item::End => {
                let mut done = std::mem::take(&mut record);
                done.index = number;
                let Some(installed) = state(origin, &done, text)? else {
                    continue;
                };
                done.check_identity(text).map_err(|message| Error::Syntax {
                    origin: origin.to_string(),
                    line: reader.line(),
                    message: message.to_string(),
                })?;
                match ["all", architecture].contains(&slice(text, done.architecture)) {
                    true => found.push((done, installed)),
                    false => {
                        foreign.insert(slice(text, done.name));
                    }
                }
            }
        }
    }
    for (record, installed) in &mut found {
        if foreign.contains(slice(text, record.name)) {
            *installed = Installed::Fixed;
        }
    }
    Ok(found)
}

/// Whether a package is installed, from its Status field: what is wanted, a flag, what is.
fn state(origin: &str, record: &Record, text: &str) -> Result<Option<Installed>> {
    let words: Vec<&str> = slice(text, record.status)
        .split_ascii_whitespace()
        .collect();
    let name = slice(text, record.name).escape_debug();
    match words[..] {
        [_, _, "not-installed" | "config-files"] => Ok(None),
        [
            "hold",
            "ok",
            "installed" | "triggers-pending" | "triggers-awaited",
        ] => Ok(Some(Installed::Fixed)),
        [
            _,
            "ok",
            "installed" | "triggers-pending" | "triggers-awaited",
        ] => Ok(Some(Installed::Replaceable)),
        [_, _, state] => Err(Error::invalid(
            origin,
            format!(
                "package '{name}' is {}; run dpkg --configure -a first",
                state.escape_debug()
            ),
        )),
        _ => Err(Error::invalid(
            origin,
            format!("package '{name}' has no valid Status field"),
        )),
    }
}
