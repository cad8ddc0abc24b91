//! Every code of an error that this program or `offline-repo` prints has a text that a test compares.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::golden;

/// Codes that no golden file shows, and why.
const NOT_SHOWN: &[(&str, &str)] = &[
    (
        "FR-CONTAINER-ADDRESS",
        "needs containers; for a subnet without a free address",
    ),
    (
        "FR-IMAGE-FIRMWARE",
        "needs an image for arm64; tests/src/parts/arm64.rs looks for the code",
    ),
    ("FR-IMAGE-CHECK", "needs a machine that boots"),
    (
        "FR-IMAGE-MANIFEST",
        "for a manifest that was written by hand after the bake",
    ),
    (
        "FR-IMAGE-UPGRADE",
        "needs a bake; tests/src/parts/upgrade.rs looks for the code",
    ),
    (
        "FR-IMAGE-VERIFY",
        "needs an image; tests/src/parts/formats.rs changes its files",
    ),
    (
        "FR-LOCK-BASE",
        "a lock without a base is made anew; for one that was written by hand",
    ),
    (
        "FR-MACHINE-OFF",
        "needs machines that run; tests/src/parts/containers.rs looks for the code",
    ),
    (
        "FR-MACHINE-TAKEN",
        "needs machines that run; tests/src/parts/scaling.rs looks for the code",
    ),
    (
        "FR-MACHINE-UNKNOWN",
        "needs machines that run; tests/src/parts/containers.rs looks for the code",
    ),
    ("FR-MACHINE-VERB", "needs machines that run"),
    ("FR-QEMU-ENDED", "needs a machine that boots"),
    (
        "FR-REPO-RPM",
        "offline-repo/tests/yum.rs looks for the code",
    ),
    (
        "FR-REPO-SBOM",
        "a document of our own that is no JSON: a fault of this program",
    ),
    ("FR-TOOLS-PROGRAM", "quotes a program's own status"),
    ("FR-UP-RUNNING", "needs machines that run"),
    (
        "FR-USAGE",
        "the parser of the command line refuses it first",
    ),
];

/// Codes in the texts of a folder's files, with one file each.
fn codes(folder: &Path, ending: &str, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            codes(&path, ending, found);
        } else if path.to_string_lossy().ends_with(ending) {
            for code in codes_of(&fs::read_to_string(&path).unwrap()) {
                found.insert(code, path.display().to_string());
            }
        }
    }
}

/// `FR-PART-WORD`, where something that is no letter is on both sides.
fn codes_of(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_uppercase() || c == '-';
    let words = text.split(|c: char| !word(c));
    let whole = words.filter(|word| word.len() > 4 && !word.ends_with('-'));
    whole
        .filter(|word| word.starts_with("FR-"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_code_has_a_text() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (mut used, mut shown) = (BTreeMap::new(), BTreeMap::new());
    codes(&project.join("builder/src"), ".rs", &mut used);
    codes(&project.join("offline-repo/src"), ".rs", &mut used);
    codes(&golden::folder(), ".txt", &mut shown);
    codes(&project.join("tests/golden"), ".txt", &mut shown);
    codes(&project.join("docs"), "faults.md", &mut shown);
    codes(
        &project.join("bootstrap/tests/data/upgrades"),
        ".txt",
        &mut shown,
    );
    let excused: BTreeMap<&str, &str> = NOT_SHOWN.iter().copied().collect();
    for (code, file) in &used {
        assert!(
            shown.contains_key(code) || excused.contains_key(code.as_str()),
            "{code} of {file} has no golden file: add a case to tests/archives/errors.rs"
        );
    }
    for (code, reason) in excused {
        assert!(used.contains_key(code), "{code} does not exist any more");
        assert!(!shown.contains_key(code), "{code} is shown, but: {reason}");
    }
}

#[test]
fn codes_are_found_in_text() {
    let found: Vec<String> = codes_of("error[FR-A-B]: `FR-LOCK-X` FR-D- xFR FR-")
        .into_iter()
        .collect();
    assert_eq!(found, ["FR-A-B", "FR-LOCK-X"]);
}
