//! Bills of materials, validated with the official JSON schemas (`tests/schemas`).

use std::fs;
use std::path::Path;

use jsonschema::{Registry, Validator};
use serde_json::{Value, json};

use crate::site::{FIRST, Site};

fn schema(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/schemas")
        .join(name);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The schemas name each other by these addresses, at which nobody is asked.
fn validator(name: &str) -> Validator {
    let base = "http://cyclonedx.org/schema/";
    let registry = Registry::new()
        .add(
            format!("{base}spdx.SNAPSHOT.schema.json"),
            schema("cyclonedx-licences.json"),
        )
        .unwrap()
        .add(
            format!("{base}jsf-0.82.SNAPSHOT.schema.json"),
            schema("cyclonedx-jsf.json"),
        )
        .unwrap()
        .prepare()
        .unwrap();
    let options = jsonschema::options().should_validate_formats(true);
    options
        .with_registry(&registry)
        .build(&schema(name))
        .unwrap()
}

/// The document is valid, and is not any more when one thing in it is wrong.
fn check(validator: &Validator, document: &Value, wrong: &[(&str, Value)]) {
    let errors: Vec<String> = validator
        .iter_errors(document)
        .map(|error| error.to_string())
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
    for (pointer, value) in wrong {
        let mut changed = document.clone();
        *changed
            .pointer_mut(pointer)
            .unwrap_or_else(|| panic!("{pointer}")) = value.clone();
        assert!(!validator.is_valid(&changed), "{pointer} may be {value}");
    }
}

#[test]
fn both_formats_are_valid_and_name_every_package() {
    let site = Site::with_shelf();
    // Characters that neither identifiers nor URLs may have as they are.
    let odd = [
        ("g++-odd", "1:2~rc+1", "amd64", ""),
        ("g--odd", "1:2~rc-1", "amd64", ""),
    ];
    site.publish("trixie", &[FIRST, &odd].concat());
    site.shelf("[packages]\nplatform = [\"database\", \"tools\", \"g++-odd\", \"g--odd\"]\n");
    site.json(&["repo", "build", "shelf.toml"]);
    for (format, ending, schema, list) in [
        ("spdx", "spdx.json", "spdx-2.3.json", "packages"),
        ("cyclonedx", "cdx.json", "cyclonedx-1.6.json", "components"),
    ] {
        let output = site.run(&["repo", "sbom", "out/repo/shelf", "--format", format]);
        assert!(output.status.success());
        let written = fs::read(site.path(&format!("out/shelf.{ending}"))).unwrap();
        assert_eq!(
            output.stdout, written,
            "{format}: printed and written differ"
        );
        let document: Value = serde_json::from_slice(&written).unwrap();
        let wrong: &[(&str, Value)] = match format {
            "spdx" => &[
                ("/packages/1/SPDXID", json!(7)),
                ("/relationships/0/relationshipType", json!("OWNS")),
                ("/packages/1/checksums/0/algorithm", json!("SHA257")),
                ("/creationInfo", json!(null)),
            ],
            _ => &[
                ("/components/1/type", json!("thing")),
                ("/components/1/hashes/0/content", json!("zz")),
                ("/serialNumber", json!("urn:uuid:x")),
                ("/specVersion", json!(1.6)),
            ],
        };
        check(&validator(schema), &document, wrong);
        let named = document[list].as_array().unwrap();
        for name in [
            "base-system",
            "libc",
            "database",
            "ssl",
            "tools",
            "g++-odd",
            "g--odd",
        ] {
            assert!(
                named.iter().any(|package| package["name"] == name),
                "{format} lacks {name}"
            );
        }
    }
}
