//! Tarballs in volumes and as deltas: what they install equals what the whole one installs, byte for byte.

use std::fs;

use crate::site::{FIRST, SECOND, Site, files, only};

#[test]
fn volumes_are_the_whole_tarball() {
    let site = Site::with_shelf();
    site.json(&["repo", "build", "shelf.toml", "--out", "whole"]);
    let document = site.json(&[
        "repo",
        "build",
        "shelf.toml",
        "--out",
        "parts",
        "--split",
        "64K",
    ]);
    let artifacts = document["artifacts"].as_array().unwrap();
    let paths = |kind: &str| -> Vec<String> {
        let found = artifacts.iter().filter(|artifact| artifact["kind"] == kind);
        found
            .map(|artifact| artifact["path"].as_str().unwrap().to_owned())
            .collect()
    };
    let (volumes, list) = (paths("bundle-volume"), paths("bundle-volumes"));
    assert!(volumes.len() > 2 && list.len() == 1, "{document:#}");
    let read = |path: &String| fs::read(path).unwrap();
    assert!(volumes.iter().all(|path| read(path).len() <= 64 << 10));
    let whole = only(&site.path("whole"), ".tar.gz");
    let joined: Vec<u8> = volumes.iter().flat_map(read).collect();
    assert!(
        joined == fs::read(&whole).unwrap(),
        "the volumes are not the tarball"
    );
    let whole = whole.to_string_lossy().into_owned();
    for (bundle, target) in [
        (&whole, "of-whole"),
        (&list[0], "of-list"),
        (&volumes[1], "of-volume"),
    ] {
        site.json(&["repo", "verify", bundle]);
        site.json(&["repo", "install", bundle, "--target", target]);
        assert!(
            files(&site.path("of-whole")) == files(&site.path(target)),
            "{target}"
        );
    }
    let difference = site.json(&["repo", "diff", &whole, &list[0]]);
    assert_eq!(difference["growth"], 0);
    fs::remove_file(&volumes[1]).unwrap();
    let said = site.refusal(&["repo", "install", &list[0], "--target", "none"], 1);
    assert!(
        said.contains(volumes[1].rsplit('/').next().unwrap()),
        "{said}"
    );
    assert!(!site.path("none/shelf").exists());
}

/// Builds what `since` lacks, in volumes or not; the path of the tarball or of the list of its volumes.
fn delta(site: &Site, out: &str, since: &str, split: Option<&str>) -> String {
    let mut words = vec![
        "repo",
        "build",
        "shelf.toml",
        "--out",
        out,
        "--since",
        since,
    ];
    words.extend(split.iter().flat_map(|size| ["--split", *size]));
    let document = site.json(&words);
    let artifacts = document["artifacts"].as_array().unwrap();
    let kinds = ["bundle", "bundle-volumes"];
    let made = artifacts
        .iter()
        .find(|artifact| kinds.contains(&artifact["kind"].as_str().unwrap()));
    made.unwrap()["path"].as_str().unwrap().to_owned()
}

#[test]
fn a_delta_applied_is_the_whole() {
    let site = Site::with_shelf();
    site.json(&["repo", "build", "shelf.toml", "--out", "old"]);
    let old = only(&site.path("old"), ".tar.gz")
        .to_string_lossy()
        .into_owned();
    site.publish("trixie", &[FIRST, SECOND].concat());
    site.json(&["lock", "shelf.toml", "--upgrade", "database"]);
    site.json(&["repo", "build", "shelf.toml", "--out", "new"]);
    let whole = only(&site.path("new"), ".tar.gz")
        .to_string_lossy()
        .into_owned();
    site.json(&["repo", "install", &whole, "--target", "expected"]);
    let expected = files(&site.path("expected"));
    // Since the older tarball, and since its folder; in one file, and in volumes.
    for (number, (since, split)) in [
        (old.as_str(), None),
        ("old/repo/shelf", None),
        (old.as_str(), Some("32K")),
    ]
    .into_iter()
    .enumerate()
    {
        let delta = &delta(&site, &format!("delta{number}"), since, split);
        if split.is_none() {
            let size = |path: &str| fs::metadata(path).unwrap().len();
            assert!(
                size(delta) < size(&whole) * 2 / 3,
                "{} of {}",
                size(delta),
                size(&whole)
            );
        }
        // On what is named, and over what is installed.
        let (named, over) = (format!("named{number}"), format!("over{number}"));
        site.json(&[
            "repo", "install", delta, "--since", &old, "--target", &named,
        ]);
        site.json(&["repo", "install", &old, "--target", &over]);
        site.json(&["repo", "install", delta, "--target", &over]);
        for target in [named, over] {
            let found = files(&site.path(&target));
            let names = |files: &std::collections::BTreeMap<_, _>| {
                files.keys().cloned().collect::<Vec<std::path::PathBuf>>()
            };
            assert_eq!(names(&found), names(&expected), "{target}");
            assert!(found == expected, "{target} has other bytes");
        }
    }
}
