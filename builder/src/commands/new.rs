//! `farrow new`: a recipe and a deployment to start from.

use std::path::Path;

use crate::commands::write_file;
use crate::diagnostic::{Diagnostic, Result};
use crate::embedded;
use crate::session::Session;

/// The schema by which editors know the keys of recipes; the first line of a recipe names it.
const SCHEMA: &str = "recipe.schema.json";

/// Writes the files into a folder that does not exist or is empty.
pub fn run(session: &Session, dir: &Path) -> Result<()> {
    if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Diagnostic::invalid(
            "FR-NEW-EXISTS",
            format!("{} is not empty", dir.display()),
        )
        .with_hint("name a new folder"));
    }
    let name = dir
        .file_name()
        .map(|name| name.to_string_lossy().to_lowercase())
        .unwrap_or_default();
    let name: String = name
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .take(32)
        .collect();
    let name = if name.trim_matches('-').is_empty() {
        "platform"
    } else {
        name.trim_matches('-')
    };
    write_file(
        &dir.join(format!("{name}.toml")),
        recipe(name).as_bytes(),
        0o644,
    )?;
    write_file(&dir.join(SCHEMA), embedded::RECIPE_SCHEMA.as_bytes(), 0o644)?;
    let deployment = embedded::deployment("two-node").expect("shipped");
    write_file(&dir.join("deployment.toml"), deployment.as_bytes(), 0o644)?;
    session.say(&format!("wrote {0}/{name}.toml and {0}/deployment.toml\nnext: farrow up {0}/deployment.toml --recipe {0}/{name}.toml", dir.display()));
    session.finish(serde_json::json!({"recipe": name}))
}

fn recipe(name: &str) -> String {
    format!(
        r#"#:schema {SCHEMA}
# A recipe of your own: everything of `pigsty`, and what you add.
extends = "pigsty"
schema = 1
name = "{name}"
description = "The platform, with our additions"

[packages]
# Names of Debian packages; `farrow lock` chooses their versions and what they need.
extra = []

[repository]
name = "{name}"
embed = true

[image]
formats = ["raw", "qcow2"]

# [[file]]
# path = "/etc/motd"
# content = "built with farrow\n"
"#
    )
}
