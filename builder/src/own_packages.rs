//! Packages that no archive has: `farrow`, `farrow-bootstrap`, and one for each group of a recipe that depends on the
//! group's packages. They make the repository enough for a machine that was not booted from an image.

use std::path::Path;

use images::architecture::Architecture;
use offline_repo::additions::{Additions, OwnPackage};
use offline_repo::deb_write::{NewDeb, NewFile};
use offline_repo::lock::Lock;

use crate::diagnostic::{Diagnostic, Result};
use crate::machine_files::{self, MachineFile, Origin};
use crate::machine_programs::MachinePrograms;
use crate::recipe::{File, Phase, Recipe};
use crate::session::Session;
use crate::stages;

/// Name of the package with the builder, and of its program.
pub const FARROW: &str = "farrow";
/// Name of the package with the bootstrap, and of its program.
pub const BOOTSTRAP: &str = "farrow-bootstrap";

/// Where presets are (systemd.preset(5)).
const PRESETS: &str = "/usr/lib/systemd/system-preset/";
/// The preset of an existing machine: about the platform's units only. First in order, so it decides.
const PRESET: &str = "00-farrow.preset";
/// This program, whatever has become of the file that it was started from.
const SELF: &str = "/proc/self/exe";
/// The field that makes a group of a package; apt shows it and does nothing with it.
pub const GROUP_FIELD: &str = "Farrow-Group";

/// What the repository of a recipe holds beside the archives' packages: nothing unless machines of it run services. For
/// another processor it holds no builder, since this program runs on its own only.
pub fn additions(session: &Session, recipe: &Recipe, lock: &Lock) -> Result<Additions> {
    if recipe.services.as_ref().is_some_and(Vec::is_empty) {
        return Ok(Additions::default());
    }
    let architecture = recipe.processor()?;
    let bootstrap_program = MachinePrograms::of(session, architecture)?.bootstrap;
    let mut debs = vec![bootstrap(recipe, lock, &bootstrap_program)?];
    let mut programs = vec![(BOOTSTRAP.into(), bootstrap_program.into_owned())];
    if Architecture::of_host() == Some(architecture) {
        let program =
            std::fs::read(SELF).map_err(|e| Diagnostic::io("read", Path::new(SELF), e))?;
        debs.insert(0, builder(recipe, lock, &program));
        programs.insert(0, (FARROW.into(), program));
    }
    debs.extend(recipe.packages.keys().map(|name| group(recipe, lock, name)));
    let packages = debs.iter().map(|deb| {
        Ok(OwnPackage {
            name: deb.name.clone(),
            version: deb.version.clone(),
            architecture: deb.architecture.clone(),
            content: deb.to_bytes()?,
        })
    });
    Ok(Additions {
        packages: packages.collect::<Result<_>>()?,
        programs,
    })
}

/// Name of the package of a group.
pub fn group_package(repository: &str, group: &str) -> String {
    format!("{repository}-{group}")
}

/// A lock of a later day makes later packages: they hold its digest.
fn version(lock: &Lock) -> String {
    format!("{}+{}", env!("CARGO_PKG_VERSION"), stages::epoch(lock))
}

fn package(lock: &Lock, name: &str, architecture: &str, description: &str) -> NewDeb {
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    NewDeb {
        name: name.into(),
        version: version(lock),
        architecture: architecture.into(),
        fields: vec![
            field("Maintainer", "The Farrow project <farrow@localhost>"),
            field("Section", "admin"),
            field("Priority", "optional"),
            field("Description", description),
        ],
        files: Vec::new(),
        epoch: stages::epoch(lock),
    }
}

fn builder(recipe: &Recipe, lock: &Lock, program: &[u8]) -> NewDeb {
    let description = "offline package repositories and machine images";
    let mut deb = package(lock, FARROW, &recipe.architecture, description);
    if let Some(version) = needed_libc(program) {
        let depends = format!("libc6 (>= {version}), libgcc-s1");
        deb.fields.push(("Depends".into(), depends));
    }
    deb.files.push(NewFile {
        path: "usr/bin/farrow".into(),
        mode: 0o755,
        content: program.to_vec(),
        is_configuration: false,
    });
    deb
}

/// The version of glibc that a program's symbols ask for; `None` for a static program.
fn needed_libc(program: &[u8]) -> Option<String> {
    const INTERPRETER: &[u8] = b"/ld-linux";
    const PREFIX: &[u8] = b"GLIBC_2.";
    let head = &program[..program.len().min(4096)];
    if !head.windows(INTERPRETER.len()).any(|w| w == INTERPRETER) {
        return None;
    }
    // Names of symbol versions end with a zero byte. The static programs inside name none that is newer: they were
    // linked with the same library.
    let starts = program.windows(PREFIX.len()).enumerate();
    let minor = starts.filter(|(_, w)| *w == PREFIX).filter_map(|(at, _)| {
        let rest = &program[at + PREFIX.len()..];
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        std::str::from_utf8(&rest[..digits])
            .ok()?
            .parse::<u32>()
            .ok()
    });
    Some(format!("2.{}", minor.max().unwrap_or(0)))
}

/// The bootstrap with everything that an image has beside packages, as far as an existing machine may have it.
fn bootstrap(recipe: &Recipe, lock: &Lock, program: &[u8]) -> Result<NewDeb> {
    let description = "configures a machine of the platform from its metadata";
    let mut deb = package(lock, BOOTSTRAP, &recipe.architecture, description);
    let mut files = machine_files::of_every_machine(recipe, lock, Origin::Packages, program)?;
    // What packages find when they are configured. Files that an image gets afterwards replace those of packages, which a
    // package must not.
    let before = |file: &&File| {
        file.phase == Phase::BeforePackages
            && file.link.is_none()
            && !file.path.starts_with(PRESETS)
    };
    files.extend(recipe.files.iter().filter(before).map(|file| MachineFile {
        path: file.path.clone(),
        mode: file.mode(),
        content: file.bytes().to_vec(),
    }));
    files.push(MachineFile {
        path: format!("{PRESETS}{PRESET}"),
        mode: 0o644,
        content: preset(recipe)?.into_bytes(),
    });
    deb.files = files
        .into_iter()
        .map(|file| NewFile {
            is_configuration: file.path.starts_with("/etc/"),
            path: file.path.trim_start_matches('/').to_owned(),
            mode: file.mode,
            content: file.content,
        })
        .collect();
    Ok(deb)
}

/// Nothing of the platform is enabled by its package: the bootstrap starts it when it is configured.
fn preset(recipe: &Recipe) -> Result<String> {
    let catalogue = stages::catalogue()?;
    let services = catalogue.services.iter();
    let units = services
        .filter(|(name, _)| machine_files::carries(recipe, name.as_str()))
        .filter_map(|(_, service)| service.file.unit.as_deref());
    let lines: String = units.map(|unit| format!("disable {unit}\n")).collect();
    Ok(format!(
        "# Services of the platform are started by farrow-bootstrap.\n{lines}"
    ))
}

/// A package without files that brings the group's packages.
fn group(recipe: &Recipe, lock: &Lock, name: &str) -> NewDeb {
    let description = format!("packages of the group {name} of {}", recipe.name);
    let package_name = group_package(&recipe.repository, name);
    let mut deb = package(lock, &package_name, "all", &description);
    let mut names: Vec<&str> = recipe.packages[name].iter().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    if !names.is_empty() {
        deb.fields.push(("Depends".into(), names.join(", ")));
    }
    deb.fields.push((GROUP_FIELD.into(), name.into()));
    deb
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libc_that_a_program_needs() {
        let dynamic = b"\x7fELF /lib64/ld-linux-x86-64.so.2\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.4\0";
        assert_eq!(needed_libc(dynamic).as_deref(), Some("2.34"));
        assert_eq!(needed_libc(b"\x7fELF GLIBC_2.34\0"), None);
    }
}
