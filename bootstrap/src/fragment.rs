//! The node fragment: what one machine is told besides the deployment document. It holds secrets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::document::SCHEMA;
use crate::error::{Invalid, Result};
use crate::secrets::{ClusterSecret, DeploymentSecret};
use crate::toml_text;
use crate::tree::Tree;
use crate::values::{Name, Role};

const DOCUMENT: &str = "node fragment";

/// The node fragment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFragment {
    /// Format version.
    pub schema: u32,
    /// Name of the machine (default: found by address).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Name>,
    /// Its role (default: follows from the deployment).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Its cluster (default: follows from the deployment).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Name>,
    /// Secrets.
    #[serde(default)]
    pub secret: SecretFile,
    /// Commands to run once everything is healthy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub check: Vec<Check>,
}

/// `[secret]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretFile {
    /// Counts rotations, from 1.
    #[serde(default = "first_generation")]
    pub generation: u32,
    /// The deployment secret; meta nodes only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentSecret>,
    /// Secrets of clusters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clusters: BTreeMap<Name, ClusterSecret>,
    /// The deployment's authority, PEM; meta nodes make it themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// The certificate by which the meta nodes' own servers are known, PEM; meta nodes make it themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta_ca: Option<String>,
    /// Intermediate certificates of clusters, PEM; their keys derive from the clusters' secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub intermediates: BTreeMap<Name, String>,
}

/// `[[check]]`: a shell command that root runs after the machine is ready; its result is part of the status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Name in the status.
    pub name: String,
    /// Command line for `sh -c`.
    pub command: String,
    /// Time limit (default: 60).
    #[serde(default = "default_check_seconds")]
    pub timeout_seconds: u64,
}

impl Default for SecretFile {
    fn default() -> Self {
        SecretFile {
            generation: first_generation(),
            deployment: None,
            clusters: BTreeMap::new(),
            ca: None,
            meta_ca: None,
            intermediates: BTreeMap::new(),
        }
    }
}

fn first_generation() -> u32 {
    1
}

fn default_check_seconds() -> u64 {
    60
}

impl NodeFragment {
    /// Reads a node fragment in TOML.
    ///
    /// # Errors
    /// `FR-NODE-FIELD`, `FR-NODE-SCHEMA`.
    pub fn parse(text: &str) -> Result<Self> {
        let tree = toml_text::parse(DOCUMENT, "FR-NODE-SYNTAX", text)?;
        Self::from_tree(&tree, text)
    }

    /// Checks a node fragment that was parsed; `text` is what its places refer to.
    ///
    /// # Errors
    /// As for [`NodeFragment::parse`].
    pub fn from_tree(tree: &Tree, text: &str) -> Result<Self> {
        let read = toml_text::read_tree(DOCUMENT, "FR-NODE-FIELD", tree, text);
        let fragment: NodeFragment = read.map_err(hide_values)?;
        if fragment.schema != SCHEMA {
            let message = format!("schema {} is not known", fragment.schema);
            let hint = format!("this version reads schema {SCHEMA}");
            let invalid = Invalid::new("FR-NODE-SCHEMA", "schema", message, hint);
            return Err(toml_text::locate(invalid.in_document(DOCUMENT), tree, text).into());
        }
        Ok(fragment)
    }

    /// What a machine has that was given no fragment.
    pub fn empty() -> Self {
        NodeFragment {
            schema: SCHEMA,
            ..NodeFragment::default()
        }
    }
}

/// Serde quotes a value of the wrong type ("invalid type: string \"…\""), which could be a secret.
fn hide_values(error: crate::Error) -> crate::Error {
    match error {
        crate::Error::Invalid(mut invalid) if invalid.field.starts_with("secret") => {
            if invalid.message.starts_with("invalid ") {
                "the value has the wrong type".clone_into(&mut invalid.message);
            }
            crate::Error::Invalid(invalid)
        }
        other => other,
    }
}
