//! A package's elements in `primary.xml`, `filelists.xml` and `other.xml`, as `createrepo_c` writes them.

use std::fmt::Write;

use super::evr::Evr;
use super::package::{FileKind, Package, RELATIONS, Relation, is_primary};
use super::xml::{attribute, element, escape};
use crate::digest::Sha256;

/// Where a package's file is, and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Path below the repository.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Its digest, by which the files of metadata refer to it.
    pub sha256: Sha256,
    /// Its time, seconds since 1970.
    pub time: u64,
}

/// A package's part of each metadata file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elements {
    /// For `primary.xml`.
    pub primary: String,
    /// For `filelists.xml`.
    pub filelists: String,
    /// For `other.xml`.
    pub other: String,
}

/// Everything that the metadata says about a package.
pub fn elements(package: &Package, place: &Place) -> Elements {
    Elements {
        primary: primary(package, place),
        filelists: filelists(package, place),
        other: other(package, place),
    }
}

fn version(package: &Package) -> String {
    format!(
        "  <version epoch=\"{}\" ver=\"{}\" rel=\"{}\"/>\n",
        package.epoch,
        attribute(&package.version),
        attribute(&package.release)
    )
}

fn primary(package: &Package, place: &Place) -> String {
    let mut text = String::from("<package type=\"rpm\">\n");
    let into = &mut text;
    element(into, "  ", "name", &package.name);
    element(into, "  ", "arch", &package.architecture);
    into.push_str(&version(package));
    let _ = writeln!(
        into,
        "  <checksum type=\"sha256\" pkgid=\"YES\">{}</checksum>",
        place.sha256
    );
    element(into, "  ", "summary", &package.summary);
    element(into, "  ", "description", &package.description);
    element(into, "  ", "packager", &package.packager);
    element(into, "  ", "url", &package.url);
    let _ = writeln!(
        into,
        "  <time file=\"{}\" build=\"{}\"/>",
        place.time, package.build_time
    );
    let _ = writeln!(
        into,
        "  <size package=\"{}\" installed=\"{}\" archive=\"{}\"/>",
        place.size, package.installed_size, package.archive_size
    );
    let _ = writeln!(
        into,
        "  <location href=\"{}\"/>\n  <format>",
        attribute(&place.path)
    );
    for (name, value) in [
        ("rpm:license", &package.license),
        ("rpm:vendor", &package.vendor),
        ("rpm:group", &package.group),
        ("rpm:buildhost", &package.build_host),
        ("rpm:sourcerpm", &package.source_rpm),
    ] {
        element(into, "    ", name, value);
    }
    let (start, end) = package.header_range;
    let _ = writeln!(
        into,
        "    <rpm:header-range start=\"{start}\" end=\"{end}\"/>"
    );
    for (kind, relations) in RELATIONS.iter().zip(&package.relations) {
        write_relations(into, kind.element, relations);
    }
    write_files(into, "    ", package, is_primary);
    into.push_str("  </format>\n</package>\n");
    text
}

fn write_relations(into: &mut String, name: &str, relations: &[Relation]) {
    if relations.is_empty() {
        return;
    }
    let _ = writeln!(into, "    <rpm:{name}>");
    for relation in relations {
        let _ = write!(
            into,
            "      <rpm:entry name=\"{}\"",
            attribute(&relation.name)
        );
        if let Some(flags) = relation.flags {
            let evr = Evr::parse(&relation.evr);
            let _ = write!(
                into,
                " flags=\"{flags}\" epoch=\"{}\" ver=\"{}\"",
                evr.epoch,
                attribute(evr.version)
            );
            if let Some(release) = evr.release {
                let _ = write!(into, " rel=\"{}\"", attribute(release));
            }
        }
        into.push_str(if relation.pre {
            " pre=\"1\"/>\n"
        } else {
            "/>\n"
        });
    }
    let _ = writeln!(into, "    </rpm:{name}>");
}

fn write_files(into: &mut String, indent: &str, package: &Package, wanted: fn(&str) -> bool) {
    for file in package.files.iter().filter(|file| wanted(&file.path)) {
        let kind = match file.kind {
            FileKind::File => "",
            FileKind::Dir => " type=\"dir\"",
            FileKind::Ghost => " type=\"ghost\"",
        };
        let _ = writeln!(into, "{indent}<file{kind}>{}</file>", escape(&file.path));
    }
}

/// How `filelists.xml` and `other.xml` begin a package.
fn head(package: &Package, place: &Place) -> String {
    format!(
        "<package pkgid=\"{}\" name=\"{}\" arch=\"{}\">\n{}",
        place.sha256,
        attribute(&package.name),
        attribute(&package.architecture),
        version(package)
    )
}

fn filelists(package: &Package, place: &Place) -> String {
    let mut text = head(package, place);
    write_files(&mut text, "  ", package, |_| true);
    text.push_str("</package>\n");
    text
}

fn other(package: &Package, place: &Place) -> String {
    let mut text = head(package, place);
    for change in &package.changelog {
        let _ = writeln!(
            text,
            "  <changelog author=\"{}\" date=\"{}\">{}</changelog>",
            attribute(&change.author),
            change.date,
            escape(&change.text)
        );
    }
    text.push_str("</package>\n");
    text
}
