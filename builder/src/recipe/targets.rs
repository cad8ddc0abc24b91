//! What a recipe is made for besides its own platform: other platforms, and states that machines are in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::validating::{check_name, with_architecture};
use super::{Recipe, RecipeFile, UpstreamKind};
use crate::diagnostic::{Diagnostic, Result, nearest};

/// A state of a machine on which every group of the recipe must install from the repository alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// Its name, for verdicts.
    pub name: String,
    /// What is installed.
    pub kind: BaseKind,
    /// For the kind `status`: the path, from the recipe's folder, of a dpkg status file, of RPM packages of what
    /// `rpm -qa` answers to [`offline_repo::rpm::proof::QUERY`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
}

/// Kinds of base state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BaseKind {
    /// Nothing.
    Empty,
    /// The essential and the required packages of the first suite, and what they need; of Debian packages only.
    Minimal,
    /// What a dpkg status file, or a list of RPM packages, says.
    Status,
}

/// Another platform that the recipe's packages are locked for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Name of the target; the lock of `pigsty` for `d12` is `pigsty.d12.lock`.
    pub name: String,
    /// The recipe whose distribution and upstreams are taken (default: this one's).
    pub platform: Option<String>,
    /// Debian architecture name (default: this recipe's).
    pub architecture: Option<String>,
    /// Groups that have other packages there; an empty list leaves a group out.
    #[serde(default)]
    pub packages: BTreeMap<String, Vec<String>>,
}

/// Refuses names that occur twice or cannot be part of a file's name, and states that are not whole.
pub(super) fn check(
    bases: &[Base],
    kind: UpstreamKind,
    targets: &[Target],
    shown: &str,
) -> Result<()> {
    let invalid =
        |message: String| Diagnostic::invalid("FR-RECIPE-TARGET", format!("{shown}: {message}"));
    for (i, target) in targets.iter().enumerate() {
        check_name("target name", &target.name, shown)?;
        if targets[..i].iter().any(|other| other.name == target.name) {
            return Err(invalid(format!(
                "the target `{}` occurs twice",
                target.name
            )));
        }
    }
    for (i, base) in bases.iter().enumerate() {
        if bases[..i].iter().any(|other| other.name == base.name) {
            return Err(invalid(format!("the base `{}` occurs twice", base.name)));
        }
        if base.kind == BaseKind::Minimal && kind == UpstreamKind::Rpm {
            let message = format!(
                "the base `{}` is of a kind that RPM packages have not",
                base.name
            );
            return Err(invalid(message).with_hint("theirs are `empty` and `status`"));
        }
        if (base.kind == BaseKind::Status) != base.status.is_some() {
            return Err(invalid(format!("the base `{}` is not whole", base.name))
                .with_hint("a base of the kind status, and no other, has a path in `status`"));
        }
    }
    Ok(())
}

impl Recipe {
    /// The recipe for one of its targets.
    pub fn for_target(&self, name: &str) -> Result<Recipe> {
        let Some(target) = self.targets.iter().find(|target| target.name == name) else {
            let names = self.targets.iter().map(|target| target.name.as_str());
            let found = Diagnostic::invalid(
                "FR-RECIPE-TARGET",
                format!("the recipe `{}` has no target `{name}`", self.name),
            );
            return Err(match nearest(name, names.clone()) {
                Some(nearest) => found.with_hint(format!("did you mean `{nearest}`?")),
                None if self.targets.is_empty() => {
                    found.with_hint("it has none: a target is a [[target]] of the recipe")
                }
                None => {
                    found.with_hint(format!("it has: {}", names.collect::<Vec<_>>().join(", ")))
                }
            });
        };
        let mut recipe = self.clone();
        recipe.target = Some(target.name.clone());
        if let Some(platform) = &target.platform {
            let (file, source) = RecipeFile::read(platform, self.path.as_deref())?;
            let distribution = file.distribution.filter(|_| !file.upstreams.is_empty());
            recipe.distribution = distribution.ok_or_else(|| {
                Diagnostic::invalid(
                    "FR-RECIPE-TARGET",
                    format!(
                        "{}: a platform has a distribution and upstreams",
                        source.shown
                    ),
                )
            })?;
            recipe.upstreams = file.upstreams;
            recipe.architecture = file.architecture.unwrap_or(recipe.architecture);
        }
        if let Some(architecture) = &target.architecture {
            recipe.architecture.clone_from(architecture);
        }
        for (group, names) in &target.packages {
            recipe.groups.insert(group.clone(), names.clone());
        }
        recipe.groups.retain(|_, names| !names.is_empty());
        recipe.packages = with_architecture(&recipe.groups, &recipe.architecture);
        Ok(recipe)
    }
}
