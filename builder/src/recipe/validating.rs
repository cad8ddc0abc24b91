//! The last stage: a merged recipe is checked and becomes a valid one.

use std::collections::BTreeMap;

use super::reading::Source;
use super::{Catalogue, Recipe, RecipeFile, Upstream, UpstreamKind, files, targets};
use crate::diagnostic::{Diagnostic, Result};

/// How deep groups may take in others; a longer chain is taken for a loop.
const MAX_DEPTH: usize = 8;

impl RecipeFile {
    /// Refuses what later stages could not use, and fills in what was left out.
    pub(super) fn validate(self, source: Source) -> Result<Recipe> {
        let missing = |key: &str| {
            Diagnostic::invalid(
                "FR-RECIPE-MISSING",
                format!("{}: `{key}` is missing", source.shown),
            )
            .with_hint("give it here or in a recipe that this one extends")
        };
        check_name("recipe name", &self.name, &source.shown)?;
        let distribution = self.distribution.ok_or_else(|| missing("distribution"))?;
        if self.upstreams.is_empty() {
            return Err(missing("upstream"));
        }
        if self.packages.values().all(Vec::is_empty) {
            return Err(missing("packages"));
        }
        let kind = check_kinds(&self.upstreams, &source)?;
        let architecture = self.architecture.unwrap_or_else(|| match kind {
            UpstreamKind::Deb => "amd64".into(),
            UpstreamKind::Rpm => "x86_64".into(),
        });
        let groups = with_groups(&self.packages, &source)?;
        let packages = with_architecture(&groups, &architecture);
        for name in packages.values().flatten() {
            check_package(name, kind, &source)?;
        }
        files::check(&self.files, &self.users, &source)?;
        for script in &self.scripts {
            check_name("script name", &script.name, &source.shown)?;
        }
        targets::check(&self.bases, kind, &self.targets, &source.shown)?;
        let image = self.image.unwrap_or_default();
        check_version(image.version.as_deref(), &source)?;
        let repository = self.repository.unwrap_or_default();
        let folder = repository.name.unwrap_or_else(|| self.name.clone());
        check_name("repository name", &folder, &source.shown)?;
        Ok(Recipe {
            repository: folder,
            embed: repository.embed,
            layout: repository.layout,
            key: repository.key,
            architecture,
            kind,
            distribution,
            upstreams: self.upstreams.into_iter().map(with_defaults).collect(),
            packages,
            groups,
            users: self.users,
            files: self.files,
            scripts: self.scripts,
            services: match self.services.map(|services| services.catalogue) {
                None => Some(Vec::new()),
                Some(Catalogue::All(_)) => None,
                Some(Catalogue::Some(names)) => Some(names),
            },
            image,
            bases: self.bases,
            targets: self.targets,
            target: None,
            name: self.name,
            path: source.path,
        })
    }
}

/// The groups with each `@GROUP` replaced by that group's packages.
fn with_groups(
    groups: &BTreeMap<String, Vec<String>>,
    source: &Source,
) -> Result<BTreeMap<String, Vec<String>>> {
    let full = |group: &String| {
        let mut names = Vec::new();
        expand(groups, group, MAX_DEPTH, &mut names).map_err(|wrong| {
            let span = source.text.find(&format!("\"@{wrong}\""));
            let span = span.map(|at| at..at + wrong.len() + 3);
            Diagnostic::invalid(
                "FR-RECIPE-GROUP",
                format!("`@{wrong}` is not a group that this one can take in"),
            )
            .at(&source.shown, &source.text, span)
            .with_hint("a group takes in another of the recipe, and none takes in itself")
        })?;
        Ok((group.clone(), names))
    };
    groups.keys().map(full).collect()
}

/// The groups with `{architecture}` in names replaced: Debian's kernels and boot loaders carry it.
pub(super) fn with_architecture(
    groups: &BTreeMap<String, Vec<String>>,
    architecture: &str,
) -> BTreeMap<String, Vec<String>> {
    let whole = |names: &Vec<String>| {
        let names = names.iter();
        let whole = names.map(|name| name.replace("{architecture}", architecture));
        whole.collect()
    };
    let groups = groups.iter();
    let groups = groups.map(|(group, names)| (group.clone(), whole(names)));
    groups.collect()
}

/// Appends a group's packages to `names`, each once; the error is the name of a group that is not there or leads around.
fn expand(
    groups: &BTreeMap<String, Vec<String>>,
    group: &str,
    depth: usize,
    names: &mut Vec<String>,
) -> std::result::Result<(), String> {
    let members = groups.get(group).filter(|_| depth > 0);
    for name in members.ok_or_else(|| group.to_owned())? {
        match name.strip_prefix('@') {
            Some(other) => expand(groups, other, depth - 1, names)?,
            None if names.contains(name) => {}
            None => names.push(name.clone()),
        }
    }
    Ok(())
}

/// A name that can be a file's name, a label and part of a URL.
pub(super) fn check_name(what: &str, name: &str, shown: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.is_empty() && name.len() <= 32 && name.chars().all(good) && !name.starts_with('-') {
        return Ok(());
    }
    Err(Diagnostic::invalid(
        "FR-RECIPE-NAME",
        format!("{shown}: {what} `{name}` is not valid"),
    )
    .with_hint("use 1 to 32 lower-case letters, digits and hyphens"))
}

/// A version that can be part of a boot loader entry's name.
fn check_version(version: Option<&str>, source: &Source) -> Result<()> {
    let Some(wrong) = version.filter(|version| !bootstrap::upgrade::version::is_plain(version))
    else {
        return Ok(());
    };
    let span = source.text.find(&format!("\"{wrong}\""));
    let span = span.map(|at| at..at + wrong.len() + 2);
    let message = format!("`{}` is not a version of an image", wrong.escape_debug());
    Err(Diagnostic::invalid("FR-RECIPE-VERSION", message)
        .at(&source.shown, &source.text, span)
        .with_hint(
            "use 1 to 64 letters, digits, dots, hyphens and tildes, a letter or digit first",
        ))
}

/// The kind of all upstreams. A recipe is for one distribution, and a distribution has packages of one kind.
fn check_kinds(upstreams: &[Upstream], source: &Source) -> Result<UpstreamKind> {
    let kind = upstreams[0].kind;
    for upstream in upstreams {
        let fail = |message: &str, hint: &str| {
            let text = format!("{}: upstream {} {message}", source.shown, upstream.name);
            Err(Diagnostic::invalid("FR-RECIPE-UPSTREAM", text).with_hint(hint))
        };
        let (suites, components) = (&upstream.suites, &upstream.components);
        if upstream.kind != kind {
            return fail(
                "is of another kind than the first one",
                "write a recipe for each distribution",
            );
        }
        match kind {
            UpstreamKind::Deb if suites.is_empty() || components.is_empty() => {
                return fail(
                    "has no suites or no components",
                    "for example suites = [\"trixie\"], components = [\"main\"]",
                );
            }
            UpstreamKind::Rpm if !components.is_empty() => {
                return fail(
                    "has components, which RPM packages have not",
                    "name the folders that hold a repodata/ as its suites",
                );
            }
            _ => {}
        }
    }
    Ok(kind)
}

/// Without suites, a yum repository is the archive itself; each has one index.
fn with_defaults(mut upstream: Upstream) -> Upstream {
    if upstream.kind == UpstreamKind::Rpm {
        if upstream.suites.is_empty() {
            upstream.suites = vec![".".into()];
        }
        upstream.components = vec![String::new()];
    }
    upstream
}

fn check_package(name: &str, kind: UpstreamKind, source: &Source) -> Result<()> {
    match kind {
        UpstreamKind::Deb => check_package_name(name, source),
        UpstreamKind::Rpm => check_request(name, source),
    }
}

/// A name of an RPM package, or anything that packages provide, with or without a version.
fn check_request(text: &str, source: &Source) -> Result<()> {
    if !text.trim().is_empty() && text.len() <= 256 && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Diagnostic::invalid(
        "FR-RECIPE-PACKAGE",
        format!(
            "{}: `{}` is not a package",
            source.shown,
            text.escape_debug()
        ),
    ))
}

/// Debian Policy 5.6.1: lower-case letters, digits, `+`, `-`, `.`, at least two characters.
fn check_package_name(name: &str, source: &Source) -> Result<()> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
    if name.len() >= 2
        && name.chars().all(good)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        return Ok(());
    }
    let span = source
        .text
        .find(&format!("\"{name}\""))
        .map(|at| at..at + name.len() + 2);
    Err(Diagnostic::invalid(
        "FR-RECIPE-PACKAGE",
        format!("`{name}` is not a package name"),
    )
    .at(&source.shown, &source.text, span)
    .with_hint("package names have lower-case letters, digits, and + - ."))
}
