//! Closure proofs: does a group of a repository install on a system in a given state, from that repository alone?
//!
//! A state is what dpkg knows: the text of its status file. The question is that of
//! `apt-get install --no-remove GROUP…` with the repository as the only source: everything that is installed stays, in its
//! version or in a newer one from the repository, unless it is on hold.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::closure;
use crate::dependency::{self, Alternatives};
use crate::digest::Sha256;
use crate::error::{Error, Result};
pub use crate::explain::Clash;
use crate::resolve::Resolver;
use crate::universe::{IndexText, PackageId, Universe};

/// Whether one group installs on one base state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// Name of the base state.
    pub base: String,
    /// Name of the group.
    pub group: String,
    /// Whether the group installs.
    pub installs: bool,
    /// What is in the way, when it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clash: Option<Clash>,
    /// The chain from the request to the clash, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub explanation: Vec<String>,
}

impl Verdict {
    /// An error unless the group installs.
    pub fn into_result(self) -> Result<()> {
        match self.clash {
            None => Ok(()),
            Some(clash) => Err(Error::NotInstallable {
                group: self.group,
                base: self.base,
                clash: Box::new(clash),
                explanation: self.explanation.join("\n"),
            }),
        }
    }
}

/// A base state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base<'a> {
    /// Its name, for verdicts and messages.
    pub name: &'a str,
    /// The text of its dpkg status file, or what rpm says of it ([`crate::rpm::proof::QUERY`]); empty for a tree without any
    /// package.
    pub status: &'a str,
}

/// Requests by group: names, `name=version`, or alternatives.
pub type Groups = BTreeMap<String, Vec<String>>;

/// A base state that a repository is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequiredBase {
    /// Its name.
    pub name: String,
    /// What is installed, as in [`Base`].
    pub status: String,
}

/// What a repository says about itself, in its file [`NAME`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Version of this format, 1.
    pub schema: u32,
    /// What to ask for to get each group.
    pub groups: Groups,
    /// The base states: SHA-256 of what says what is installed, by name.
    pub bases: BTreeMap<String, Sha256>,
    /// For each base state and group whether the group installs.
    pub verdicts: Vec<Verdict>,
}

/// Name of that file in a repository.
pub const NAME: &str = "closure.json";

/// The version of the format that this crate reads and writes.
const SCHEMA: u32 = 1;

impl Document {
    /// Proves every group on every base, from the index `packages` alone.
    ///
    /// # Errors
    /// Those of [`prove`].
    pub fn new(
        packages: &str,
        architecture: &str,
        groups: &Groups,
        bases: &[RequiredBase],
    ) -> Result<Self> {
        let text = std::sync::Arc::new(packages.to_string());
        Self::of(groups, bases, |base| {
            let index = IndexText {
                origin: "Packages".into(),
                text: text.clone(),
                priority: 0,
            };
            prove(index, architecture, base, groups)
        })
    }

    /// The same with what gives the verdicts of a base.
    pub(crate) fn of(
        groups: &Groups,
        bases: &[RequiredBase],
        verdicts_of: impl Fn(Base<'_>) -> Result<Vec<Verdict>>,
    ) -> Result<Self> {
        let mut verdicts = Vec::new();
        for base in bases {
            verdicts.extend(verdicts_of(Base {
                name: &base.name,
                status: &base.status,
            })?);
        }
        Ok(Document {
            schema: SCHEMA,
            groups: groups.clone(),
            bases: digests(bases),
            verdicts,
        })
    }

    /// Whether it is about these groups and these states.
    pub fn is_about(&self, groups: &Groups, bases: &[RequiredBase]) -> bool {
        self.groups == *groups && self.bases == digests(bases)
    }

    /// The first group that does not install on a base.
    pub fn refuted(&self) -> Option<&Verdict> {
        self.verdicts.iter().find(|verdict| !verdict.installs)
    }

    /// Reads the document's text; `origin` is for messages.
    pub fn parse(origin: &str, text: &str) -> Result<Self> {
        let document: Document = serde_json::from_str(text).map_err(|e| Error::Syntax {
            origin: origin.to_string(),
            line: e.line(),
            message: e.to_string(),
        })?;
        match document.schema {
            SCHEMA => Ok(document),
            other => Err(Error::invalid(
                origin,
                format!("has schema {other}, this version reads {SCHEMA}"),
            )),
        }
    }

    /// The document's text; the same document always gives the same text.
    pub fn to_text(&self) -> String {
        let mut text =
            serde_json::to_string_pretty(self).expect("a document holds only what JSON can hold");
        text.push('\n');
        text
    }
}

fn digests(bases: &[RequiredBase]) -> BTreeMap<String, Sha256> {
    let digest = |base: &RequiredBase| (base.name.clone(), Sha256::of(base.status.as_bytes()));
    bases.iter().map(digest).collect()
}

/// Proves or refutes, for each group, that it installs on `base` from the repository whose index is `packages`.
///
/// Onto an empty base the repository must bring its essential packages, too, since nothing can be installed without them.
///
/// # Errors
/// When the index or the status file cannot be read, or has a package that dpkg left half installed. That a group does not
/// install is a verdict, not an error.
pub fn prove(
    packages: IndexText,
    architecture: &str,
    base: Base<'_>,
    groups: &Groups,
) -> Result<Vec<Verdict>> {
    let origin = format!("the status of {}", base.name);
    let universe = Universe::with_installed(vec![packages], architecture, &origin, base.status)?;
    let resolver = Resolver::new(&universe)?;
    let broken = broken(&resolver)?;
    let verdict = |(group, requests): (&String, &Vec<String>)| {
        let found = match &broken {
            Some(clash) => {
                let line = format!("the base itself is broken: {clash}");
                Some((clash.clone(), vec![line]))
            }
            None => obstacle(&resolver, requests)?,
        };
        let (clash, explanation) = found.unzip();
        Ok(Verdict {
            base: base.name.to_string(),
            group: group.clone(),
            installs: clash.is_none(),
            clash,
            explanation: explanation.unwrap_or_default(),
        })
    };
    groups.iter().map(verdict).collect()
}

/// What keeps `requests` from being installed, if anything does.
fn obstacle(resolver: &Resolver<'_>, requests: &[String]) -> Result<Option<(Clash, Vec<String>)>> {
    let universe = resolver.universe();
    let invalid = |message| Error::invalid("package list", message);
    let mut required: Vec<Alternatives<'_>> = Vec::new();
    for request in requests {
        required.push(dependency::parse_request(request).map_err(invalid)?);
    }
    if universe.installed_names().is_empty() {
        for name in closure::essential_names(universe) {
            required.push(dependency::parse_alternatives(name).map_err(invalid)?);
        }
    }
    obstacle_of(resolver.extend_installed(&required))
}

/// What the outcome of a search says of why a group cannot be installed, if it cannot.
pub(crate) fn obstacle_of(outcome: Result<()>) -> Result<Option<(Clash, Vec<String>)>> {
    match outcome {
        Ok(()) => Ok(None),
        Err(Error::Unsatisfiable { clash, explanation }) => {
            let lines = explanation.lines().map(String::from).collect();
            Ok(Some((*clash, lines)))
        }
        Err(Error::UnknownPackage { name, .. }) => {
            let line = format!("{name} is asked for: the repository does not have it");
            let clash = Clash {
                package: "the request".into(),
                requirement: name,
                with: None,
            };
            Ok(Some((clash, vec![line])))
        }
        Err(other) => Err(other),
    }
}

/// The first requirement that the installed packages themselves do not meet: apt installs nothing on such a system.
fn broken(resolver: &Resolver<'_>) -> Result<Option<Clash>> {
    let universe = resolver.universe();
    let installed: Vec<PackageId> = universe
        .ids()
        .filter(|id| universe.is_installed(*id))
        .collect();
    let present: HashSet<PackageId> = installed.iter().copied().collect();
    let title = |id: PackageId| format!("{} {}", universe.name(id), universe.version(id));
    for id in &installed {
        for (field, groups) in ["Pre-Depends", "Depends"]
            .into_iter()
            .zip(universe.depends_by_field(*id)?)
        {
            let unmet = |group: &&Alternatives<'_>| {
                !resolver
                    .alternatives(group)
                    .iter()
                    .any(|id| present.contains(id))
            };
            if let Some(group) = groups.iter().find(unmet) {
                let relations: Vec<String> = group.iter().map(ToString::to_string).collect();
                return Ok(Some(Clash {
                    package: title(*id),
                    requirement: format!("{field}: {}", relations.join(" | ")),
                    with: None,
                }));
            }
        }
        let enemy = resolver
            .enemies_in_order(*id)?
            .into_iter()
            .find(|id| present.contains(id));
        if let Some(enemy) = enemy {
            return Ok(Some(Clash {
                package: title(*id),
                requirement: "Conflicts or Breaks".into(),
                with: Some(title(enemy)),
            }));
        }
    }
    Ok(None)
}
