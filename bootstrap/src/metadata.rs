//! What a machine was told, merged from all that one source had: deployment, fragment, tags, names, network.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::deployment::Deployment;
use crate::error::{Invalid, Result};
use crate::fragment::NodeFragment;
use crate::netplan::{self, NetworkConfig};
use crate::tree::Tree;
use crate::userdata::{self, Document};
use crate::yaml;

/// What a source of metadata holds, as text. It may contain secrets.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// Where it was found.
    pub source: String,
    /// User-data.
    pub user_data: String,
    /// Instance id.
    pub instance_id: Option<String>,
    /// Host name the cloud gave.
    pub local_hostname: Option<String>,
    /// Tags of the instance.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Network configuration.
    pub network_config: Option<String>,
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.user_data.zeroize();
    }
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Raw({}, {} bytes of user-data)",
            self.source,
            self.user_data.len()
        )
    }
}

impl Raw {
    /// SHA-256 of all of it, in hex.
    pub fn digest(&self) -> String {
        let text = Zeroizing::new(serde_json::to_vec(self).unwrap_or_default());
        hex::encode(Sha256::digest(&text))
    }

    /// The three files of a NoCloud seed.
    ///
    /// # Errors
    /// `FR-YAML` when meta-data is no YAML.
    pub fn from_seed(
        source: &str,
        user_data: String,
        meta_data: &str,
        network_config: Option<String>,
    ) -> Result<Self> {
        let meta = yaml::parse("meta-data", meta_data)?;
        let text = |key: &str| meta.as_ref()?.get(key)?.scalar_text();
        let mut tags = BTreeMap::new();
        for entry in meta
            .as_ref()
            .and_then(|meta| meta.get("tags"))
            .map_or(&[][..], Tree::entries)
        {
            tags.extend(
                entry
                    .tree
                    .scalar_text()
                    .map(|text| (entry.key.clone(), text)),
            );
        }
        Ok(Raw {
            source: source.to_owned(),
            user_data,
            instance_id: text("instance-id"),
            local_hostname: text("local-hostname").or_else(|| text("hostname")),
            tags,
            network_config,
        })
    }
}

/// What the machine was told, read and checked.
#[derive(Debug, Clone)]
pub struct Metadata {
    /// Where it was found.
    pub source: String,
    /// The platform.
    pub deployment: Deployment,
    /// What only this machine was told.
    pub fragment: NodeFragment,
    /// Instance id.
    pub instance_id: Option<String>,
    /// Host name the cloud gave.
    pub local_hostname: Option<String>,
    /// Tags of the instance.
    pub tags: BTreeMap<String, String>,
    /// Network configuration.
    pub network: Option<NetworkConfig>,
}

impl Metadata {
    /// Reads all texts of a source.
    ///
    /// # Errors
    /// The first document that is not acceptable.
    pub fn merge(raw: &Raw) -> Result<Self> {
        let found = userdata::parse(&raw.user_data)?;
        let Some(deployment) = found.deployment else {
            let hint =
                "add a part text/x-farrow-deployment, or the key \"farrow\" to the cloud-config";
            let message = "there is no deployment document in it";
            let invalid = Invalid::new("FR-USERDATA-DEPLOYMENT", "", message, hint);
            return Err(invalid
                .in_document(&format!("user-data of {}", raw.source))
                .into());
        };
        let network = match raw.network_config.as_deref().map(str::trim) {
            None | Some("") => None,
            Some(text) => Some(netplan::parse(text)?),
        };
        Ok(Metadata {
            source: raw.source.clone(),
            deployment: match &deployment {
                Document::Toml(text) => Deployment::parse(text)?,
                Document::Yaml(tree) => Deployment::from_tree(tree, "")?,
            },
            fragment: match &found.node {
                None => NodeFragment::empty(),
                Some(Document::Toml(text)) => NodeFragment::parse(text)?,
                Some(Document::Yaml(tree)) => NodeFragment::from_tree(tree, "")?,
            },
            instance_id: raw.instance_id.clone(),
            local_hostname: raw.local_hostname.clone(),
            tags: raw.tags.clone(),
            network,
        })
    }
}
