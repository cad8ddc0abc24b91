//! What a user reads after a mistake in the deployment document: one golden text for each mistake.

mod support;

use std::fs;

use bootstrap::Deployment;
use bootstrap::data_disk::{Record, decide};

#[test]
fn every_mistake_has_its_text() {
    let mut seen = 0;
    for entry in fs::read_dir(support::data("errors")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        seen += 1;
        let text = fs::read_to_string(&path).unwrap();
        let shown = match Deployment::parse(&text) {
            Ok(_) => "fine\n".to_owned(),
            Err(error) => {
                let marked = error
                    .position()
                    .map_or("", |position| &text[position.span.clone()]);
                let hint = error.hint().unwrap_or_default();
                format!("{}\n{error}\nat: {marked}\nhint: {hint}\n", error.code())
            }
        };
        support::golden(&path.with_extension("txt"), &shown);
    }
    assert!(seen > 20, "{seen} files");
}

/// A caret needs a place: every mistake but a missing meta node, which is nowhere, has one.
#[test]
fn every_mistake_has_a_place() {
    for entry in fs::read_dir(support::data("errors")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
            && name != "no-meta"
        {
            let text = fs::read_to_string(&path).unwrap();
            if let Err(error) = Deployment::parse(&text) {
                assert!(error.position().is_some(), "{name}: {error}");
            }
        }
    }
}

/// A machine whose data disk is not there.
#[test]
fn a_missing_data_disk_has_its_text() {
    let record = Record {
        schema: 1,
        uuid: "0fc63daf-8483-4772-8e79-3d69d8477de4".into(),
        device: "vdb".into(),
        bytes: 1 << 30,
        formatted: true,
    };
    let error = decide(Some(&record), &[], true, "").unwrap_err();
    let hint = error.hint().unwrap_or_default();
    let shown = format!("{}\n{error}\nhint: {hint}\n", error.code());
    support::golden(&support::data("data-disk.txt"), &shown);
}
