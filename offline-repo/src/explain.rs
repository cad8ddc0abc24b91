//! Why packages cannot be installed together, from the solver's proof: which requirement of which package is in the way.
//!
//! The proof is a graph whose edges say that a package was needed by another one, or excludes it. Told from what was asked
//! for downwards, and with the relations as the packages themselves write them, it is a chain that a person can check.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::dependency::{Alternatives, Relation};
use crate::error::Result;
use crate::resolve::Resolver;
use crate::solver::Ask;
use crate::universe::{PackageId, Universe};

/// Lines of an explanation; a longer one would not be read.
const LINE_LIMIT: usize = 40;
/// Versions that are named where none fits.
const VERSION_LIMIT: usize = 3;

/// The requirement at which it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clash {
    /// Name and version of the package that has the requirement, or `the request`.
    pub package: String,
    /// Its requirement as in the package's control file, for example `Conflicts: mail-transport-agent`.
    pub requirement: String,
    /// Name and version of the package that it excludes; absent when the requirement is for something that nothing gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<String>,
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Clash {
            package,
            requirement,
            with,
        } = self;
        match with {
            Some(with) => write!(f, "{package} ({requirement}) and {with}"),
            None => write!(f, "{package} ({requirement}), which nothing satisfies"),
        }
    }
}

/// An edge of the proof; `None` is what was asked for, and what does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) from: Option<PackageId>,
    pub(crate) to: Option<PackageId>,
    /// `from` excludes `to`; otherwise it needs it, perhaps as one of several.
    pub(crate) excludes: bool,
}

/// Where it ends, and the lines that lead there.
pub(crate) fn explain(
    resolver: &Resolver<'_>,
    ask: Ask<'_>,
    edges: &[Edge],
) -> Result<(Clash, String)> {
    let mut story = Story {
        resolver,
        universe: resolver.universe(),
        edges,
        lines: Vec::new(),
        missing: None,
        excluded: None,
    };
    story.request(ask);
    for id in story.order() {
        story.package(id)?;
    }
    let clash = story.missing.or(story.excluded).unwrap_or_else(|| Clash {
        package: "the request".into(),
        requirement: "what is asked for".into(),
        with: None,
    });
    let more = story.lines.len().saturating_sub(LINE_LIMIT);
    story.lines.truncate(LINE_LIMIT);
    if more > 0 {
        story.lines.push(format!("… and {more} more lines"));
    }
    Ok((clash, story.lines.join("\n")))
}

struct Story<'r, 'u, 'e> {
    resolver: &'r Resolver<'u>,
    universe: &'u Universe,
    edges: &'e [Edge],
    lines: Vec<String>,
    /// The first requirement that nothing satisfies, and the first that excludes something.
    missing: Option<Clash>,
    excluded: Option<Clash>,
}

impl Story<'_, '_, '_> {
    /// Packages of the proof, those nearest to the request first.
    fn order(&self) -> Vec<PackageId> {
        let mut order = Vec::new();
        let mut seen: BTreeSet<PackageId> = BTreeSet::new();
        let mut open = VecDeque::from([None]);
        while let Some(at) = open.pop_front() {
            let next = self.edges.iter().filter(|edge| edge.from == at);
            for id in next.filter_map(|edge| edge.to) {
                if seen.insert(id) {
                    order.push(id);
                    open.push_back(Some(id));
                }
            }
        }
        order
    }

    /// What a package needs according to the proof; and whether it needs something that does not exist.
    fn needs(&self, from: Option<PackageId>) -> (BTreeSet<PackageId>, bool) {
        let edges = self.edges.iter();
        let edges = edges.filter(|edge| edge.from == from && !edge.excludes);
        let (found, missing): (Vec<_>, Vec<_>) =
            edges.map(|edge| edge.to).partition(Option::is_some);
        (found.into_iter().flatten().collect(), !missing.is_empty())
    }

    fn request(&mut self, ask: Ask<'_>) {
        let (mut needed, lacks) = self.needs(None);
        for group in ask.required {
            let found = self.resolver.alternatives(group);
            if found.is_empty() && lacks {
                let reason = self.why_missing(group);
                self.lines
                    .push(format!("{} is asked for: {reason}", shown(group)));
                self.missing.get_or_insert(Clash {
                    package: "the request".into(),
                    requirement: shown(group),
                    with: None,
                });
            } else if found.iter().any(|id| needed.contains(id)) {
                self.lines.push(format!("{} is asked for", shown(group)));
                needed.retain(|id| !found.contains(id));
            }
        }
        let names: BTreeSet<&str> = needed.iter().map(|id| self.universe.name(*id)).collect();
        for name in names {
            let versions = self.universe.versions(name).iter();
            let installed = versions.copied().find(|id| self.universe.is_installed(*id));
            if let Some(id) = installed {
                self.lines.push(format!("{} is installed", self.title(id)));
            }
        }
    }

    fn package(&mut self, id: PackageId) -> Result<()> {
        let (needed, lacks) = self.needs(Some(id));
        let fields = self.universe.depends_by_field(id)?;
        for (field, groups) in ["Pre-Depends", "Depends"].into_iter().zip(&fields) {
            for group in groups {
                self.need(id, field, group, &needed, lacks);
            }
        }
        let excluded: Vec<PackageId> = {
            let edges = self.edges.iter();
            let edges = edges.filter(|edge| edge.from == Some(id) && edge.excludes);
            edges.filter_map(|edge| edge.to).collect()
        };
        for other in excluded {
            self.exclude(id, other)?;
        }
        Ok(())
    }

    fn need(
        &mut self,
        id: PackageId,
        field: &str,
        group: &Alternatives<'_>,
        needed: &BTreeSet<PackageId>,
        lacks: bool,
    ) {
        let found = self.resolver.alternatives(group);
        let requirement = format!("{field}: {}", shown(group));
        let title = self.title(id);
        if found.is_empty() && lacks {
            let reason = self.why_missing(group);
            self.lines
                .push(format!("{title} has {requirement}: {reason}"));
            self.missing.get_or_insert(Clash {
                package: title,
                requirement,
                with: None,
            });
        } else if found.iter().any(|id| needed.contains(id)) {
            let named = |id: &PackageId| {
                let name = self.universe.name(*id);
                group.iter().any(|relation| relation.name == name)
            };
            let others: Vec<String> = found
                .iter()
                .filter(|id| !named(id))
                .map(|id| self.title(*id))
                .collect();
            let provided = match others.is_empty() {
                true => String::new(),
                false => format!(", provided by {}", some(&others)),
            };
            self.lines
                .push(format!("{title} has {requirement}{provided}"));
        }
    }

    fn exclude(&mut self, id: PackageId, other: PackageId) -> Result<()> {
        let (title, with) = (self.title(id), self.title(other));
        if self.universe.name(id) == self.universe.name(other) {
            self.lines.push(format!(
                "{title} and {with} are versions of one package, which can be installed in one version only"
            ));
            self.excluded.get_or_insert(Clash {
                package: title,
                requirement: "another version of the package".into(),
                with: Some(with),
            });
            return Ok(());
        }
        let fields = self.universe.conflicts_by_field(id)?;
        for (field, groups) in ["Conflicts", "Breaks"].into_iter().zip(&fields) {
            for relation in groups.iter().flatten() {
                if !self.resolver.excluded_by(relation).contains(&other) {
                    continue;
                }
                let requirement = format!("{field}: {relation}");
                self.lines
                    .push(format!("{title} has {requirement}, which excludes {with}"));
                self.excluded.get_or_insert(Clash {
                    package: title,
                    requirement,
                    with: Some(with),
                });
                return Ok(());
            }
        }
        Ok(())
    }

    fn why_missing(&self, group: &Alternatives<'_>) -> String {
        let reasons: Vec<String> = group.iter().map(|r| self.why_no(r)).collect();
        reasons.join("; ")
    }

    fn why_no(&self, relation: &Relation<'_>) -> String {
        let titles =
            |ids: &[PackageId]| -> Vec<String> { ids.iter().map(|id| self.title(*id)).collect() };
        let native = self.universe.native();
        let here = titles(self.universe.versions(relation.name));
        let pinned = titles(self.universe.pinned_out(relation.name));
        let provided: Vec<PackageId> = self.resolver.providers(relation.name).into_iter().collect();
        let provided = titles(&provided);
        match relation.qualifier {
            Some(other) if !["any", "native", native].contains(&other) => {
                format!("only packages for {native} are here, not for {other}")
            }
            Some("any") if !here.is_empty() && relation.version.is_none() => {
                format!("{} may not be used for another architecture", some(&here))
            }
            _ if !pinned.is_empty() => {
                let only = format!(
                    "{} is in an archive with a negative priority",
                    some(&pinned)
                );
                match here.is_empty() {
                    true => only,
                    false => format!("there is only {}; {only}", some(&here)),
                }
            }
            _ if !here.is_empty() => format!("there is only {}", some(&here)),
            _ if !provided.is_empty() => {
                format!("{} provides it in no such version", some(&provided))
            }
            _ => format!("no archive has {}", relation.name),
        }
    }

    fn title(&self, id: PackageId) -> String {
        format!("{} {}", self.universe.name(id), self.universe.version(id))
    }
}

fn shown(group: &Alternatives<'_>) -> String {
    let relations: Vec<String> = group.iter().map(ToString::to_string).collect();
    relations.join(" | ")
}

/// The first few of some names.
fn some(names: &[String]) -> String {
    let shown = names[..names.len().min(VERSION_LIMIT)].join(", ");
    match names.len().saturating_sub(VERSION_LIMIT) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
