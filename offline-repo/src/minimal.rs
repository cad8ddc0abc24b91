//! The system that an installer without any choices makes: every essential and every required package, and what they need
//! (debootstrap's variant `minbase`; priorities: Debian policy 2.5).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::closure::{self, Wishes};
use crate::error::Result;
use crate::resolve::Resolver;
use crate::universe::Universe;

/// A base state that was computed from the indexes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedBase {
    /// Its kind: "minimal".
    pub kind: String,
    /// What dpkg would know of its packages.
    pub status: String,
}

/// Rank of `Priority: required`.
const REQUIRED: u8 = 0;

/// The dpkg status file of that system.
pub(crate) fn status(universe: &Universe) -> Result<String> {
    let mut names: Vec<String> = Vec::new();
    for name in universe.names() {
        let preferred = universe.versions(name).first().copied();
        if preferred.is_some_and(|id| universe.is_essential(id) || universe.rank(id) == REQUIRED) {
            names.push(name.to_string());
        }
    }
    names.sort_unstable();
    let wishes = Wishes {
        groups: BTreeMap::from([("minimal".to_string(), names)]),
        ..Wishes::default()
    };
    let chosen = closure::closure(&Resolver::new(universe)?, &wishes)?;
    let stanzas: Vec<String> = chosen
        .iter()
        .map(|chosen| universe.status_stanza(chosen.id))
        .collect();
    Ok(stanzas.join("\n"))
}
