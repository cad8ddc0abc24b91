//! Base states: what a repository says of them, and the pair of packages that is in the way.

use serde_json::{Value, json};

use crate::golden::golden;
use crate::site::Site;

/// A machine with a package that does not go together with what the database needs.
const GUARDED: &str = "Package: guard\nStatus: install ok installed\nVersion: 7\nArchitecture: all\nConflicts: ssl (<< 3)\n";
const PLAIN: &str = "Package: guard\nStatus: install ok installed\nVersion: 8\nArchitecture: all\n";

fn with_bases() -> Site {
    let site = Site::new();
    site.shelf(
        "[packages]\nplatform = [\"database\"]\nother = [\"tools\"]\n\n[[base]]\nname = \"nothing\"\nkind = \"empty\"\n\n\
         [[base]]\nname = \"a guarded machine\"\nkind = \"status\"\nstatus = \"guarded.status\"\n",
    );
    site
}

#[test]
fn verdicts_are_stored_in_the_repository() {
    let site = with_bases();
    site.write("guarded.status", PLAIN);
    site.json(&["repo", "build", "shelf.toml"]);
    let text = std::fs::read(site.path("out/repo/shelf/closure.json")).unwrap();
    let document: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(
        document["groups"],
        json!({"platform": ["database"], "other": ["tools"]})
    );
    let verdicts = document["verdicts"].as_array().unwrap();
    let mut found: Vec<(&str, &str)> = Vec::new();
    for verdict in verdicts {
        assert_eq!(verdict["installs"], json!(true), "{document:#}");
        found.push((
            verdict["base"].as_str().unwrap(),
            verdict["group"].as_str().unwrap(),
        ));
    }
    found.sort_unstable();
    let (guarded, nothing) = ("a guarded machine", "nothing");
    let pairs = [
        (guarded, "other"),
        (guarded, "platform"),
        (nothing, "other"),
        (nothing, "platform"),
    ];
    assert_eq!(found, pairs);
}

#[test]
fn a_base_on_which_a_group_does_not_install_stops_the_build() {
    let site = with_bases();
    site.write("guarded.status", GUARDED);
    let said = site.refusal(&["repo", "build", "shelf.toml"], 1);
    assert!(said.contains("guard 7") && said.contains("ssl 1"), "{said}");
    golden("FR-REPO-CLOSURE", &said);
    assert!(
        !site.path("out/repo/shelf").exists(),
        "a repository that is refuted was published"
    );
}
