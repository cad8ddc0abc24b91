//! The JSON Schema of recipes: all shipped recipes fit, mistakes do not, and it knows exactly the keys that farrow reads.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes")
}

fn schema() -> Value {
    let text = std::fs::read_to_string(recipes().join("recipe.schema.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn read(text: &str) -> Value {
    serde_json::to_value(toml::from_str::<toml::Value>(text).unwrap()).unwrap()
}

#[test]
fn all_shipped_recipes_fit_and_name_it() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let mut seen = 0;
    for entry in std::fs::read_dir(recipes()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("#:schema recipe.schema.json\n"),
            "{path:?}"
        );
        let errors: Vec<String> = validator
            .iter_errors(&read(&text))
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{path:?}: {errors:?}");
        seen += 1;
    }
    assert!(seen >= 8, "{seen} recipes");
}

#[test]
fn mistakes_do_not_fit() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let good = "schema = 1\nname = \"x\"\n";
    assert!(validator.is_valid(&read(good)));
    for more in [
        "pakages = {}",
        "[image]\nformat = [\"raw\"]",
        "[image]\nformats = [\"floppy\"]",
        "[packages]\nbase = \"hello\"",
        "[[user]]\nname = \"x\"\nuid = 0\nhome = \"/\"",
        "[[file]]\npath = \"etc/motd\"",
        "[[script]]\nname = \"x\"",
        "[services]\ncatalogue = \"some\"",
    ] {
        assert!(
            !validator.is_valid(&read(&format!("{good}{more}\n"))),
            "{more}"
        );
    }
    assert!(!validator.is_valid(&read("schema = 2\nname = \"x\"\n")));
}

/// The keys that farrow names when it refuses one, for each table of a recipe.
#[test]
fn the_keys_are_those_that_farrow_reads() {
    let work = tempfile::tempdir().unwrap();
    let schema = schema();
    for (table, pointer) in [
        ("", ""),
        ("[distribution]", "/properties/distribution"),
        ("[[upstream]]", "/properties/upstream/items"),
        ("[repository]", "/properties/repository"),
        ("[[user]]", "/properties/user/items"),
        ("[[file]]", "/properties/file/items"),
        ("[[script]]", "/properties/script/items"),
        ("[services]", "/properties/services"),
        ("[image]", "/properties/image"),
        ("[[base]]", "/properties/base/items"),
        ("[[target]]", "/properties/target/items"),
    ] {
        let path = work.path().join("recipe.toml");
        let text = format!("schema = 1\nname = \"x\"\n{table}\nzzz = 1\n");
        std::fs::write(&path, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_farrow"))
            .args(["lock", path.to_str().unwrap(), "--json"])
            .output()
            .unwrap();
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let message = document["error"]["message"].as_str().unwrap();
        assert!(
            message.starts_with("unknown field `zzz`"),
            "{table}: {message}"
        );
        let known: BTreeSet<&str> = message.split('`').skip(3).step_by(2).collect();
        let described = schema.pointer(pointer).unwrap()["properties"].as_object();
        let described: BTreeSet<&str> = described.unwrap().keys().map(String::as_str).collect();
        assert_eq!(known, described, "{table}");
    }
}
