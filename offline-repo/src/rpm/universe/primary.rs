//! A package of `primary.xml` while it is read.

use super::{Record, Stored, Universe};
use crate::files::is_confined;
use crate::rpm::dependency::Comparison;
use crate::rpm::package::RELATIONS;
use crate::rpm::reader::{Attributes, Item};
use crate::rpm::strings::TextId;
use crate::rpm::{self, evr};

/// The package that is being read.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) record: Record,
    section: Option<usize>,
    sha256_follows: bool,
    pub(super) relations: Vec<(usize, Stored)>,
    pub(super) files: Vec<TextId>,
}

impl Reading {
    pub(super) fn take(
        &mut self,
        item: Item,
        universe: &mut Universe,
        index: u16,
    ) -> Result<(), String> {
        match item {
            Item::Start(name, _) if name == "package" => *self = Reading::default(),
            Item::Start(name, attributes) => self.start(&name, &attributes, universe)?,
            Item::End(name, text) => self.end(&name, &text, universe, index)?,
        }
        Ok(())
    }

    fn start(
        &mut self,
        name: &str,
        attributes: &Attributes,
        universe: &mut Universe,
    ) -> Result<(), String> {
        let value = |name: &str| attributes.get(name).unwrap_or_default();
        match name {
            "version" => {
                self.record.evr = universe.strings.intern(&evr_of(attributes));
            }
            "checksum" => self.sha256_follows = value("type") == "sha256",
            "location" => self.record.path = universe.strings.intern(value("href")),
            "size" => self.record.size = value("package").parse().unwrap_or(0),
            "rpm:entry" => {
                let Some(section) = self.section else {
                    return Ok(());
                };
                let comparison = Comparison::of_flags(value("flags"));
                let evr = comparison.map(|_| evr_of(attributes)).unwrap_or_default();
                let stored = Stored {
                    name: universe.strings.intern(value("name")),
                    evr: universe.strings.intern(&evr),
                    comparison: comparison.unwrap_or_default(),
                };
                self.relations.push((section, stored));
            }
            _ => {
                let kind = name.strip_prefix("rpm:");
                let section = RELATIONS.iter().position(|r| Some(r.element) == kind);
                self.section = section.or(self.section);
            }
        }
        Ok(())
    }

    fn end(
        &mut self,
        name: &str,
        text: &str,
        universe: &mut Universe,
        index: u16,
    ) -> Result<(), String> {
        match name {
            "name" => self.record.name = universe.strings.intern(text),
            "arch" => self.record.architecture = universe.strings.intern(text),
            "checksum" if self.sha256_follows => self.record.sha256 = text.trim().parse().ok(),
            "file" => self.files.push(universe.strings.intern(text)),
            "package" => {
                let done = std::mem::take(self);
                done.finish(universe, index)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Checks what must not become part of a path or a URL, and keeps packages of the machine's architectures.
    fn finish(self, universe: &mut Universe, index: u16) -> Result<(), String> {
        let record = &self.record;
        let text = |id: TextId| universe.strings.text(id);
        let (name, evr) = (text(record.name), text(record.evr));
        let architecture = text(record.architecture);
        let path = text(record.path);
        let valid = rpm::is_package_name(name)
            && evr::is_valid(evr)
            && rpm::is_architecture(architecture)
            && path.ends_with(".rpm")
            && is_confined(path.strip_prefix("./").unwrap_or(path))
            && record.size > 0
            && record.sha256.is_some();
        if !valid {
            return Err(format!(
                "package '{}' has no valid name, version, architecture, location, size or SHA-256",
                name.escape_debug()
            ));
        }
        let known = &universe.architectures;
        let is_ours = known.is_empty()
            || architecture == "noarch"
            || known.iter().any(|known| known == architecture);
        if is_ours {
            self.store(universe, index);
        }
        Ok(())
    }

    /// Makes it the universe's last package.
    pub(super) fn store(mut self, universe: &mut Universe, index: u16) {
        let record = &mut self.record;
        record.index = index;
        for (section, range) in record.relations.iter_mut().enumerate() {
            let start = universe.relations.len() as u32;
            let own = self.relations.iter().filter(|(of, _)| *of == section);
            universe.relations.extend(own.map(|(_, stored)| *stored));
            *range = start..universe.relations.len() as u32;
        }
        let start = universe.files.len() as u32;
        universe.files.append(&mut self.files);
        record.files = start..universe.files.len() as u32;
        universe.records.push(self.record);
    }
}

/// Attributes `epoch`, `ver`, `rel` as `[epoch:]version[-release]`.
fn evr_of(attributes: &Attributes) -> String {
    let value = |name: &str| attributes.get(name).filter(|value| !value.is_empty());
    let mut evr = String::new();
    if let Some(epoch) = value("epoch").filter(|epoch| *epoch != "0") {
        evr.push_str(epoch);
        evr.push(':');
    }
    evr.push_str(value("ver").unwrap_or_default());
    if let Some(release) = value("rel") {
        evr.push('-');
        evr.push_str(release);
    }
    evr
}
