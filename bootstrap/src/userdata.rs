//! Finds the deployment document and the node fragment in user-data, whichever of the three forms it has: MIME
//! multipart, bare TOML with a marker line, or cloud-config YAML with a `farrow` key.

use crate::error::{Error, Invalid, Result};
use crate::mime::{self, Part};
use crate::toml_text::MAX_DOCUMENT_BYTES;
use crate::tree::{Entry, Tree, Value};
use crate::yaml;

/// First line of user-data that is a deployment document itself.
pub const DEPLOYMENT_MARKER: &str = "#farrow-deployment";

/// MIME type of the deployment document.
pub const DEPLOYMENT_TYPE: &str = "text/x-farrow-deployment";

/// MIME type of the node fragment.
pub const NODE_TYPE: &str = "text/x-farrow-node";

/// The documents found.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct UserData {
    /// Deployment document.
    pub deployment: Option<Document>,
    /// Node fragment.
    pub node: Option<Document>,
}

/// A document in one of the two languages.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// Text in TOML.
    Toml(String),
    /// Part of a YAML document.
    Yaml(Tree),
}

/// Reads user-data.
///
/// # Errors
/// `FR-USERDATA-FORM`, `FR-USERDATA-TWICE`, `FR-MIME`, `FR-YAML`.
pub fn parse(text: &str) -> Result<UserData> {
    if text.len() > MAX_DOCUMENT_BYTES {
        let message = format!("{} bytes are too many", text.len());
        return Err(refuse("FR-USERDATA-FORM", "", message, "leave parts out"));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let first = text.lines().next().unwrap_or_default().trim_end();
    let mut found = UserData::default();
    if first == DEPLOYMENT_MARKER {
        found.deployment = Some(Document::Toml(text.to_owned()));
    } else if first == "#cloud-config" {
        take_cloud_config(text, &mut found)?;
    } else if mime::is_message(text) {
        for part in mime::parts(text).map_err(|message| refuse("FR-MIME", "", message, ""))? {
            take_part(part, &mut found)?;
        }
    } else {
        let message = "this is no form of user-data that holds a deployment";
        let hint = format!(
            "start it with a line \"{DEPLOYMENT_MARKER}\" or \"#cloud-config\", or make it with `farrow seed`"
        );
        return Err(refuse("FR-USERDATA-FORM", "", message, &hint));
    }
    Ok(found)
}

fn refuse(code: &'static str, field: &str, message: impl Into<String>, hint: &str) -> Error {
    Invalid::new(code, field, message, hint)
        .in_document("user-data")
        .into()
}

fn take_part(part: Part, found: &mut UserData) -> Result<()> {
    match part.content_type.as_str() {
        DEPLOYMENT_TYPE => put(
            &mut found.deployment,
            Document::Toml(part.body),
            "deployment documents",
        ),
        NODE_TYPE => put(&mut found.node, Document::Toml(part.body), "node fragments"),
        "text/cloud-config" => take_cloud_config(&part.body, found),
        _ => Ok(()),
    }
}

fn put(slot: &mut Option<Document>, document: Document, what: &str) -> Result<()> {
    if slot.replace(document).is_some() {
        let message = format!("there are two {what}");
        return Err(refuse("FR-USERDATA-TWICE", "", message, "leave one out"));
    }
    Ok(())
}

fn take_cloud_config(text: &str, found: &mut UserData) -> Result<()> {
    let config = yaml::parse("user-data", text)?;
    let Some(farrow) = config.as_ref().and_then(|config| config.get("farrow")) else {
        return Ok(());
    };
    let Value::Map(entries) = &farrow.value else {
        return Err(refuse(
            "FR-USERDATA-FORM",
            "farrow",
            "must be a mapping",
            "",
        ));
    };
    let parts = entries
        .iter()
        .all(|entry| entry.key == "deployment" || entry.key == "node");
    if !parts || entries.is_empty() {
        return put(
            &mut found.deployment,
            Document::Yaml(farrow.clone()),
            "deployment documents",
        );
    }
    for Entry { key, tree, .. } in entries {
        if !matches!(tree.value, Value::Map(_)) {
            let field = format!("farrow.{key}");
            return Err(refuse("FR-USERDATA-FORM", &field, "must be a mapping", ""));
        }
        let document = Document::Yaml(tree.clone());
        match key.as_str() {
            "deployment" => put(&mut found.deployment, document, "deployment documents")?,
            _ => put(&mut found.node, document, "node fragments")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_toml() {
        let text = "#farrow-deployment\nschema = 1\n";
        assert_eq!(
            parse(text).unwrap().deployment,
            Some(Document::Toml(text.to_owned()))
        );
    }

    #[test]
    fn cloud_config() {
        let keys = |document: &Option<Document>| match document {
            Some(Document::Yaml(tree)) => tree
                .entries()
                .iter()
                .map(|entry| entry.key.clone())
                .collect(),
            _ => Vec::new(),
        };
        let both = "#cloud-config\nfarrow:\n  deployment: {schema: 1}\n  node: {schema: 1, role: meta}\nruncmd: [ls]\n";
        let found = parse(both).unwrap();
        assert_eq!(keys(&found.deployment), ["schema"]);
        assert_eq!(keys(&found.node), ["schema", "role"]);
        let flat = "#cloud-config\nfarrow:\n  schema: 1\n  name: x\n";
        assert_eq!(keys(&parse(flat).unwrap().deployment), ["schema", "name"]);
        assert_eq!(
            parse("#cloud-config\nusers: []\n").unwrap(),
            UserData::default()
        );
    }

    #[test]
    fn refusals() {
        for (text, code) in [
            ("", "FR-USERDATA-FORM"),
            ("#!/bin/sh\n", "FR-USERDATA-FORM"),
            ("#cloud-config\nfarrow: 5\n", "FR-USERDATA-FORM"),
            ("#cloud-config\nfarrow: {node: x}\n", "FR-USERDATA-FORM"),
            ("#cloud-config\nx: [\n", "FR-YAML"),
            ("Content-Type: multipart/mixed\n\n--x\n", "FR-MIME"),
        ] {
            assert_eq!(parse(text).unwrap_err().code(), code, "{text}");
        }
    }
}
