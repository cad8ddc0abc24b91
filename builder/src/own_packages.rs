//! Packages that no archive has: `farrow`, `farrow-bootstrap`, and one for each group of a recipe that depends on the
//! group's packages. They make the repository enough for a machine that was not booted from an image.

use std::path::Path;

use images::architecture::Architecture;
use offline_repo::additions::{Additions, OwnPackage};
use offline_repo::deb_write::{NewDeb, NewFile};
use offline_repo::lock::{Format, Lock};
use offline_repo::rpm::resolve::is_nevra;
use offline_repo::rpm::write::NewRpm;
use offline_repo::signer::Signer;

use crate::diagnostic::{Diagnostic, Result};
use crate::machine_files::{self, MachineFile, Origin};
use crate::machine_programs::MachinePrograms;
use crate::recipe::{File, Phase, Recipe, UpstreamKind};
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

/// A package of ours, whatever kind of file it will be.
struct Own {
    name: String,
    /// Whether it is for the recipe's architecture only.
    native: bool,
    description: String,
    /// Requirements as the control file or the spec file has them.
    needs: Vec<String>,
    files: Vec<NewFile>,
    /// The group that it brings.
    group: Option<String>,
}

/// What the repository of a recipe holds beside the archives' packages: nothing unless machines of it run services. For
/// another processor it holds no builder, since this program runs on its own only, and for one that no machine of the
/// platform has no bootstrap either.
pub fn additions(
    session: &Session,
    recipe: &Recipe,
    lock: &Lock,
    signer: &Signer,
) -> Result<Additions> {
    if recipe.services.as_ref().is_some_and(Vec::is_empty) {
        return Ok(Additions::default());
    }
    let (mut all, mut programs) = (Vec::new(), Vec::new());
    let is_host = |architecture: &Architecture| Architecture::of_host() == Some(*architecture);
    // Images are made of Debian packages only: a yum repository gets programs that are at hand.
    let processor = processor(&recipe.architecture)
        .filter(|processor| recipe.kind == UpstreamKind::Deb || is_host(processor));
    if let Some(architecture) = processor {
        if is_host(&architecture) {
            let program =
                std::fs::read(SELF).map_err(|e| Diagnostic::io("read", Path::new(SELF), e))?;
            all.push(builder(recipe, &program));
            programs.push((FARROW.into(), program));
        }
        let program = MachinePrograms::of(session, architecture)?.bootstrap;
        all.push(bootstrap(recipe, lock, &program)?);
        programs.push((BOOTSTRAP.into(), program.into_owned()));
    }
    all.extend(recipe.packages.keys().map(|name| group(recipe, lock, name)));
    let packages = all.into_iter().map(|own| match recipe.kind {
        UpstreamKind::Deb => deb(recipe, lock, own),
        UpstreamKind::Rpm => rpm(recipe, lock, own, signer),
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

fn deb(recipe: &Recipe, lock: &Lock, own: Own) -> Result<OwnPackage> {
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut fields = vec![
        field("Maintainer", "The Farrow project <farrow@localhost>"),
        field("Section", "admin"),
        field("Priority", "optional"),
        field("Description", &own.description),
    ];
    if !own.needs.is_empty() {
        fields.push(field("Depends", &own.needs.join(", ")));
    }
    fields.extend(own.group.iter().map(|name| field(GROUP_FIELD, name)));
    let deb = NewDeb {
        name: own.name,
        version: version(lock),
        architecture: match own.native {
            true => recipe.architecture.clone(),
            false => "all".into(),
        },
        fields,
        files: own.files,
        epoch: stages::epoch(lock),
    };
    Ok(OwnPackage {
        content: deb.to_bytes()?,
        name: deb.name,
        version: deb.version,
        architecture: deb.architecture,
        format: Format::Deb,
    })
}

/// Signed with the repository's key, so that a client with `gpgcheck=1` takes it.
fn rpm(recipe: &Recipe, lock: &Lock, own: Own, signer: &Signer) -> Result<OwnPackage> {
    let is_ours = |folder: &&str| folder.split('/').any(|part| part == "farrow");
    let parents = |path: &str| -> Vec<String> {
        let ends = path.match_indices('/').map(|(end, _)| &path[..end]);
        ends.filter(is_ours).map(String::from).collect()
    };
    let mut folders: Vec<String> = (own.files.iter())
        .flat_map(|file| parents(&file.path))
        .collect();
    folders.sort();
    folders.dedup();
    let rpm = NewRpm {
        name: own.name,
        version: version(lock),
        release: "1".into(),
        architecture: match own.native {
            true => recipe.architecture.clone(),
            false => "noarch".into(),
        },
        summary: own.description,
        license: env!("CARGO_PKG_LICENSE").into(),
        vendor: "The Farrow project".into(),
        requires: own.needs,
        files: own.files,
        folders,
        epoch: stages::epoch(lock),
    };
    Ok(OwnPackage {
        content: rpm.to_bytes(signer)?,
        version: rpm.evr(),
        name: rpm.name,
        architecture: rpm.architecture,
        format: Format::Rpm,
    })
}

/// The processor of an architecture, by Debian's name or by RPM's.
fn processor(architecture: &str) -> Option<Architecture> {
    let mut known = Architecture::ALL.into_iter();
    known.find(|known| [known.debian(), known.machine()].contains(&architecture))
}

fn builder(recipe: &Recipe, program: &[u8]) -> Own {
    let needs = match (needed_libc(program), recipe.kind) {
        (None, _) => Vec::new(),
        (Some(version), UpstreamKind::Deb) => {
            vec![format!("libc6 (>= {version})"), "libgcc-s1".into()]
        }
        (Some(version), UpstreamKind::Rpm) => vec![
            format!("libc.so.6(GLIBC_{version})(64bit)"),
            "libgcc_s.so.1()(64bit)".into(),
        ],
    };
    Own {
        name: FARROW.into(),
        native: true,
        description: "offline package repositories and machine images".into(),
        needs,
        files: vec![NewFile {
            path: "usr/bin/farrow".into(),
            mode: 0o755,
            content: program.to_vec(),
            is_configuration: false,
        }],
        group: None,
    }
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
fn bootstrap(recipe: &Recipe, lock: &Lock, program: &[u8]) -> Result<Own> {
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
    let files = files.into_iter().map(|file| NewFile {
        is_configuration: file.path.starts_with("/etc/"),
        path: file.path.trim_start_matches('/').to_owned(),
        mode: file.mode,
        content: file.content,
    });
    Ok(Own {
        name: BOOTSTRAP.into(),
        native: true,
        description: "configures a machine of the platform from its metadata".into(),
        needs: Vec::new(),
        files: files.collect(),
        group: None,
    })
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
fn group(recipe: &Recipe, lock: &Lock, name: &str) -> Own {
    let requests = recipe.packages[name].iter();
    let mut needs: Vec<String> = match recipe.kind {
        UpstreamKind::Deb => requests.cloned().collect(),
        UpstreamKind::Rpm => requests.map(|text| requirement(lock, text)).collect(),
    };
    needs.sort_unstable();
    needs.dedup();
    Own {
        name: group_package(&recipe.repository, name),
        native: false,
        description: format!("packages of the group {name} of {}", recipe.name),
        needs,
        files: Vec::new(),
        group: Some(name.into()),
    }
}

/// A request for RPM packages as a requirement: `name-version` and `name.arch` are none.
fn requirement(lock: &Lock, request: &str) -> String {
    let mut packages = lock.packages.iter();
    let meant = packages.find(|p| is_nevra(request, &p.name, &p.version, &p.architecture));
    match (lock.package(request), meant) {
        (None, Some(package)) => format!("{} = {}", package.name, package.version),
        _ => request.to_string(),
    }
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

    #[test]
    fn processors_have_names_of_debian_and_of_rpm() {
        for (name, expected) in [
            ("amd64", Some(Architecture::Amd64)),
            ("x86_64", Some(Architecture::Amd64)),
            ("aarch64", Some(Architecture::Arm64)),
            ("i386", None),
        ] {
            assert_eq!(processor(name), expected, "{name}");
        }
    }
}
