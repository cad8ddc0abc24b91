//! Recipes for another processor than this one: what their repositories hold, and what is refused.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::golden::golden;
use crate::site::{FIRST, Site, files, only};

const FOR_ARM64: &str = "architecture = \"arm64\"\n\n[services]\ncatalogue = [\"chrony\"]\n";
const PLATFORM: &str = "[packages]\nplatform = [\"database\", \"image-{architecture}\"]\n";

/// An archive with packages for arm64, and the recipe `shelf` for it.
fn site() -> Site {
    let site = Site::new();
    let arm64 = [
        ("libc", "1", "arm64", ""),
        ("ssl", "1", "arm64", ""),
        ("database", "1", "arm64", "Depends: libc, ssl\n"),
        ("image-arm64", "1", "arm64", ""),
        ("image-amd64", "1", "amd64", ""),
    ];
    site.publish("trixie", &[FIRST, &arm64].concat());
    recipe(&site, FOR_ARM64);
    site
}

/// The recipe `shelf` with this before its tables.
fn recipe(site: &Site, more: &str) {
    site.shelf(PLATFORM);
    let text = fs::read_to_string(site.path("shelf.toml")).unwrap();
    let (keys, services) = more.split_once("\n\n").unwrap_or((more, ""));
    let text = text.replacen(
        "name = \"shelf\"\n",
        &format!("name = \"shelf\"\n{keys}\n"),
        1,
    );
    fs::write(site.path("shelf.toml"), format!("{text}\n{services}")).unwrap();
}

/// A static ELF program of 64 bits with one segment.
fn program(machine: u8) -> Vec<u8> {
    let mut bytes = vec![0; 120];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    (bytes[18], bytes[32], bytes[54], bytes[56], bytes[64]) = (machine, 64, 56, 1, 1);
    bytes
}

fn write_programs(folder: &Path, machine: u8) {
    fs::create_dir_all(folder).unwrap();
    for name in ["farrow-bootstrap", "farrow-init"] {
        fs::write(folder.join(name), program(machine)).unwrap();
    }
}

/// `repo build` with the folder `programs` named by the environment.
fn build(site: &Site) -> Output {
    site.command(&["repo", "build", "shelf.toml"])
        .env("FARROW_BOOTSTRAP_ARM64", site.path("programs"))
        .output()
        .unwrap()
}

#[test]
fn a_repository_for_arm64_holds_its_programs_and_no_builder() {
    let site = site();
    write_programs(&site.path("programs"), 183);
    let output = build(&site);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    only(&site.path("out"), ".d13.aarch64.tar.gz");
    let folder = site.path("out/repo/shelf");
    let found = files(&folder);
    let names: Vec<String> = found
        .keys()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert!(
        names.contains(&"image-arm64_1_arm64.deb".to_owned()),
        "{names:?}"
    );
    assert!(!names.contains(&"farrow".to_owned()), "{names:?}");
    let own = names.iter().filter(|name| name.starts_with("farrow"));
    let own: Vec<&String> = own.collect();
    assert_eq!(own.len(), 2, "{own:?}");
    assert!(own[1].ends_with("_arm64.deb"), "{own:?}");
    assert_eq!(found[Path::new("farrow-bootstrap")], program(183));
    // The folder that is named on the command line counts first.
    write_programs(&site.path("wrong"), 62);
    let words = ["repo", "build", "shelf.toml", "--bootstrap-dir", "wrong"];
    golden("FR-BOOTSTRAP-PROGRAM", &site.refusal(&words, 1));
}

#[test]
fn what_another_processor_needs_is_named() {
    let site = site();
    #[cfg(not(carries_arm64))]
    golden(
        "FR-BOOTSTRAP-MISSING",
        &site.refusal(&["repo", "build", "shelf.toml"], 1),
    );
    let tar = ["image", "build", "shelf.toml", "--format", "ova"];
    golden("FR-IMAGE-FORMAT.ova", &site.refusal(&tar, 2));
    let up = ["up", "--containers", "--recipe", "shelf.toml"];
    golden("FR-CONTAINER-PROCESSOR", &site.refusal(&up, 2));
    write_programs(&site.path("programs"), 183);
    assert!(build(&site).status.success());
    golden(
        "FR-TOOLS-MISSING.arm64",
        &site.refusal(&["image", "build", "shelf.toml"], 1),
    );
    recipe(&site, "architecture = \"riscv64\"\n\n");
    golden(
        "FR-RECIPE-ARCHITECTURE",
        &site.refusal(&["image", "build", "shelf.toml"], 2),
    );
}
