//! The first two stages: a recipe as written, and merged along `extends`.

use std::path::{Path, PathBuf};

use super::{ImageSection, RecipeFile, files};
use crate::diagnostic::{self, Diagnostic, Result};
use crate::embedded;

/// The recipe schema that this version reads.
const SCHEMA: u32 = 1;
/// How deep `extends` may go; a longer chain is taken for a loop.
const MAX_EXTENDS: usize = 8;

/// Where a recipe's text comes from.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// How errors call it.
    pub(super) shown: String,
    /// The file; `None` for one shipped inside farrow.
    pub(super) path: Option<PathBuf>,
    /// What is in it.
    pub(super) text: String,
}

impl Source {
    /// A file of that path, else a file beside `from`, else a recipe that farrow ships.
    fn find(argument: &str, from: Option<&Path>) -> Result<Self> {
        let beside = from
            .and_then(Path::parent)
            .map(|dir| dir.join(format!("{argument}.toml")));
        let candidates = [Some(PathBuf::from(argument)), beside];
        let mut candidates = candidates.into_iter().flatten();
        if let Some(path) = candidates.find(|path| path.is_file()) {
            let text =
                std::fs::read_to_string(&path).map_err(|e| Diagnostic::io("read", &path, e))?;
            return Ok(Self {
                shown: path.display().to_string(),
                path: Some(path),
                text,
            });
        }
        let name = argument.strip_prefix("recipes/").unwrap_or(argument);
        let name = name.strip_suffix(".toml").unwrap_or(name);
        match embedded::recipe(name) {
            Some(text) => Ok(Self {
                shown: format!("recipes/{name}.toml"),
                path: None,
                text: text.into(),
            }),
            None => {
                let found = Diagnostic::invalid(
                    "FR-RECIPE-NOTFOUND",
                    format!("no recipe `{argument}`: neither a file nor one that farrow ships"),
                );
                Err(found.with_hint(format!(
                    "farrow ships: {}",
                    embedded::recipe_names().join(", ")
                )))
            }
        }
    }

    fn parse(&self) -> Result<RecipeFile> {
        let file: RecipeFile = toml::from_str(&self.text)
            .map_err(|error| diagnostic::from_toml("RECIPE", &self.shown, &self.text, &error))?;
        match file.schema {
            SCHEMA => files::take_sources(file, self),
            other => Err(Diagnostic::invalid(
                "FR-RECIPE-SCHEMA",
                format!(
                    "{}: schema {other} is not one that this farrow reads",
                    self.shown
                ),
            )
            .with_hint(format!("this version reads schema {SCHEMA}"))),
        }
    }
}

/// `child` wins over `parent`; lists and groups are joined, the parent's first.
fn merge(parent: RecipeFile, child: RecipeFile) -> RecipeFile {
    let mut packages = parent.packages;
    for (group, names) in child.packages {
        packages.entry(group).or_default().extend(names);
    }
    RecipeFile {
        schema: child.schema,
        name: child.name,
        description: child.description,
        extends: None,
        architecture: child.architecture.or(parent.architecture),
        distribution: child.distribution.or(parent.distribution),
        upstreams: [parent.upstreams, child.upstreams].concat(),
        packages,
        repository: child.repository.or(parent.repository),
        users: [parent.users, child.users].concat(),
        files: [parent.files, child.files].concat(),
        scripts: [parent.scripts, child.scripts].concat(),
        services: child.services.or(parent.services),
        image: merge_images(parent.image, child.image),
        bases: [parent.bases, child.bases].concat(),
        targets: [parent.targets, child.targets].concat(),
    }
}

/// The child's formats and sizes win, kernel arguments are joined.
fn merge_images(parent: Option<ImageSection>, child: Option<ImageSection>) -> Option<ImageSection> {
    let (Some(parent), Some(child)) = (&parent, &child) else {
        return child.or(parent);
    };
    let formats = match child.formats.is_empty() {
        true => &parent.formats,
        false => &child.formats,
    };
    Some(ImageSection {
        version: child.version.clone().or_else(|| parent.version.clone()),
        formats: formats.clone(),
        kernel_arguments: [&parent.kernel_arguments[..], &child.kernel_arguments].concat(),
        root_compression: child.root_compression.or(parent.root_compression),
        root_slot_mib: child.root_slot_mib.or(parent.root_slot_mib),
        var_mib: child.var_mib.or(parent.var_mib),
    })
}

impl RecipeFile {
    /// Reads a recipe and merges the chain that it extends; `from` is the recipe that names it.
    pub(super) fn read(argument: &str, from: Option<&Path>) -> Result<(Self, Source)> {
        let (source, layers) = Self::layers(argument, from)?;
        let files = layers.into_iter().map(|(_, file)| file);
        // There is at least the recipe itself.
        let merged = files.reduce(merge).unwrap_or_default();
        Ok((merged, source))
    }

    /// The chain that a recipe extends, with the names of the files: the outermost parent first, the recipe last.
    pub(super) fn layers(
        argument: &str,
        from: Option<&Path>,
    ) -> Result<(Source, Vec<(String, Self)>)> {
        let source = Source::find(argument, from)?;
        let mut at = source.clone();
        let mut layers = Vec::new();
        for _ in 0..=MAX_EXTENDS {
            let file = at.parse()?;
            let parent = file.extends.clone();
            layers.push((at.shown.clone(), file));
            let Some(parent) = parent else {
                layers.reverse();
                return Ok((source, layers));
            };
            at = Source::find(&parent, at.path.as_deref())?;
        }
        Err(Diagnostic::invalid(
            "FR-RECIPE-EXTENDS",
            format!(
                "{}: `extends` leads through more than {MAX_EXTENDS} recipes",
                source.shown
            ),
        ))
    }
}
