//! What each key of a recipe, and of those that it extends, did to the image: `image build --explain`.

use std::collections::BTreeSet;

use images::manifest::Manifest;
use serde::Serialize;

use crate::bake::Baked;
use crate::diagnostic::Result;
use crate::embedded;
use crate::recipe::{Catalogue, File, ImageSection, Phase, Recipe, RecipeFile};

/// One key and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Effect {
    /// The file that has the key.
    pub recipe: String,
    /// The key, such as `packages.database` or `image.var_mib`.
    pub key: String,
    /// What it did.
    pub effect: String,
}

/// The effects in the order of the files, the outermost parent first.
pub fn of(layers: &[(String, RecipeFile)], recipe: &Recipe, baked: &Baked) -> Result<Vec<Effect>> {
    let manifest = match &baked.manifest {
        Some(path) => Some(Manifest::read(path)?),
        None => None,
    };
    let mut all = Vec::new();
    for (number, (shown, file)) in layers.iter().enumerate() {
        let mut layer = Layer {
            file,
            later: &layers[number + 1..],
            recipe,
            baked,
            manifest: manifest.as_ref(),
            found: Vec::new(),
        };
        layer.origin();
        layer.packages();
        layer.tree();
        layer.image();
        let effect = |(key, effect)| Effect {
            recipe: shown.clone(),
            key,
            effect,
        };
        all.extend(layer.found.into_iter().map(effect));
    }
    Ok(all)
}

/// The effects as lines, those of a file below its name.
pub fn lines(effects: &[Effect]) -> Vec<String> {
    let width = effects.iter().map(|effect| effect.key.len()).max();
    let width = width.unwrap_or(0).min(40);
    let mut lines = Vec::new();
    let mut recipe = "";
    for effect in effects {
        if effect.recipe != recipe {
            recipe = &effect.recipe;
            lines.push(recipe.to_owned());
        }
        lines.push(format!("  {:<width$}  {}", effect.key, effect.effect));
    }
    lines
}

/// One file of the chain.
struct Layer<'a> {
    file: &'a RecipeFile,
    /// The files that extend it.
    later: &'a [(String, RecipeFile)],
    recipe: &'a Recipe,
    baked: &'a Baked,
    manifest: Option<&'a Manifest>,
    found: Vec<(String, String)>,
}

impl<'a> Layer<'a> {
    fn say(&mut self, key: impl Into<String>, effect: impl Into<String>) {
        self.found.push((key.into(), effect.into()));
    }

    /// Says the effect of a key that has one value, unless a later file has it, too.
    fn say_once(&mut self, key: &str, again: impl Fn(&RecipeFile) -> bool, effect: String) {
        let winner = self.later.iter().rev().find(|(_, file)| again(file));
        let effect = match winner {
            Some((shown, _)) => format!("nothing: {shown} has another"),
            None => effect,
        };
        self.say(key, effect);
    }

    /// Distribution and archives.
    fn origin(&mut self) {
        if let Some(parent) = &self.file.extends {
            self.say("extends", format!("everything of {parent} first"));
        }
        if let Some(architecture) = &self.file.architecture {
            let effect = format!("packages of {architecture} and all");
            self.say_once("architecture", |file| file.architecture.is_some(), effect);
        }
        if let Some(distribution) = &self.file.distribution {
            let effect = format!("{} {}", distribution.id, distribution.suite);
            self.say_once("distribution", |file| file.distribution.is_some(), effect);
        }
        let installed = self.installed();
        for upstream in &self.file.upstreams {
            let locked = &self.baked.source.lock.packages;
            let own = locked.iter().filter(|package| {
                package.archive == upstream.archive && installed.contains(package.name.as_str())
            });
            let effect = format!("{} of the installed packages", own.count());
            self.say(format!("upstream.{}", upstream.name), effect);
        }
    }

    fn installed(&self) -> BTreeSet<&'a str> {
        let names = self.baked.closure.iter();
        names.map(|chosen| chosen.package.name.as_str()).collect()
    }

    /// Package groups, by what the lock says of each package.
    fn packages(&mut self) {
        let mut effects = Vec::new();
        for (group, names) in &self.file.packages {
            let locked = self.baked.source.lock.packages.iter();
            let with = locked.filter(|package| package.groups.contains(group));
            let (mut all, mut alone, mut bytes) = (0, 0, 0);
            for package in with {
                all += 1;
                bytes += package.size;
                alone += usize::from(package.groups.len() == 1 && !package.essential);
            }
            effects.push((
                format!("packages.{group}"),
                format!(
                    "{} named; the group has {all} packages ({}), {alone} of them in no other",
                    names.len(),
                    mib(bytes)
                ),
            ));
        }
        self.found.extend(effects);
    }

    /// What is written into the root, and run in it.
    fn tree(&mut self) {
        for user in &self.file.users {
            let groups = match user.groups.is_empty() {
                true => String::new(),
                false => format!(", also in {}", user.groups.join(", ")),
            };
            let when = match user.phase {
                Phase::BeforePackages => "before any package",
                Phase::AfterPackages => "after all packages",
            };
            let effect = format!("uid and gid {}, {when}{groups}", user.uid);
            self.say(format!("user.{}", user.name), effect);
        }
        for (number, file) in self.file.files.iter().enumerate() {
            let same = |other: &File| other.path == file.path && other.phase == file.phase;
            let again = self.file.files[number + 1..].iter().any(same)
                || self.later.iter().any(|(_, l)| l.files.iter().any(same));
            let effect = match again {
                true => "nothing: a later file of this path replaces it".to_owned(),
                false => written(file),
            };
            self.say(format!("file.{}", file.path), effect);
        }
        for script in &self.file.scripts {
            let lines = script.run.trim().lines().count();
            let effect = format!("{lines} lines, run in the tree behind the packages");
            self.say(format!("script.{}", script.name), effect);
        }
        if let Some(services) = &self.file.services {
            let carried = embedded::catalogue();
            let mut names: BTreeSet<&str> = BTreeSet::new();
            let names_of = carried
                .iter()
                .filter_map(|(path, _)| path.split('/').next());
            names.extend(names_of.filter(|name| match &services.catalogue {
                Catalogue::All(_) => true,
                Catalogue::Some(list) => list.iter().any(|known| known == name),
            }));
            let effect = format!("{} services in /usr/lib/farrow/services", names.len());
            self.say_once("services.catalogue", |file| file.services.is_some(), effect);
        }
    }

    /// The repository's partition, layout and formats.
    fn image(&mut self) {
        if let Some(repository) = &self.file.repository {
            let has = |file: &RecipeFile| file.repository.is_some();
            let place = format!("/www/{}", self.recipe.repository);
            self.say_once("repository.name", has, place);
            let effect = match self.partition("repo") {
                Some(size) if repository.embed => format!("partition repo, {size}"),
                _ => "no partition of its own".to_owned(),
            };
            self.say_once("repository.embed", has, effect);
        }
        if let Some(image) = &self.file.image {
            self.layout(image);
        }
        for base in &self.file.bases {
            let effect = "nothing in the image: the repository was proved for it";
            self.say(format!("base.{}", base.name), effect);
        }
        for target in &self.file.targets {
            let effect = "nothing in the image: another platform's lock";
            self.say(format!("target.{}", target.name), effect);
        }
    }

    fn layout(&mut self, image: &ImageSection) {
        let of = |file: &RecipeFile| file.image.clone().unwrap_or_default();
        if let Some(version) = &image.version {
            let effect =
                format!("version {version}, by which boot loaders choose and upgrades are ordered");
            self.say_once("image.version", |file| of(file).version.is_some(), effect);
        }
        if !image.formats.is_empty() {
            let artifacts = self
                .manifest
                .map_or(&[][..], |manifest| &manifest.artifacts);
            let one = |artifact: &images::manifest::Artifact| {
                format!("{} ({})", artifact.path.display(), mib(artifact.size))
            };
            let made: Vec<String> = artifacts.iter().map(one).collect();
            let effect = match made.is_empty() {
                true => "a tar archive".to_owned(),
                false => made.join(", "),
            };
            self.say_once("image.formats", |file| !of(file).formats.is_empty(), effect);
        }
        if !image.kernel_arguments.is_empty() {
            let words = image.kernel_arguments.join(" ");
            self.say(
                "image.kernel_arguments",
                format!("at the end of the command line: {words}"),
            );
        }
        if let Some(compression) = image.root_compression {
            let size = self.partition("root-a").unwrap_or_default();
            let again = |file: &RecipeFile| of(file).root_compression.is_some();
            let effect = format!("packed with {compression:?}; partition root-a, {size}");
            self.say_once("image.root_compression", again, effect);
        }
        let sizes = [
            ("image.root_slot_mib", image.root_slot_mib, "root-a"),
            ("image.var_mib", image.var_mib, "var"),
        ];
        for (key, value, partition) in sizes {
            if value.is_none() {
                continue;
            }
            let size = self.partition(partition).unwrap_or_default();
            let again = |file: &RecipeFile| match partition {
                "var" => of(file).var_mib.is_some(),
                _ => of(file).root_slot_mib.is_some(),
            };
            self.say_once(key, again, format!("partition {partition}, {size}"));
        }
    }

    /// A partition's size as text.
    fn partition(&self, name: &str) -> Option<String> {
        let partitions = &self.manifest?.partitions;
        let found = partitions.iter().find(|partition| partition.name == name)?;
        Some(mib(found.size))
    }
}

fn written(file: &File) -> String {
    let when = match file.phase {
        Phase::BeforePackages => "before the packages",
        Phase::AfterPackages => "behind the packages",
    };
    match (&file.link, &file.owner) {
        (Some(target), _) => format!("a link to {target}, made {when}"),
        (None, owner) => format!(
            "{} bytes, mode {}, of {}, written {when}",
            file.bytes().len(),
            file.mode,
            owner.as_deref().unwrap_or("root")
        ),
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stand_below_their_files() {
        let effect = |recipe: &str, key: &str| Effect {
            recipe: recipe.into(),
            key: key.into(),
            effect: "done".into(),
        };
        let found = lines(&[effect("a", "x"), effect("a", "long"), effect("b", "y")]);
        assert_eq!(
            found,
            ["a", "  x     done", "  long  done", "b", "  y     done"]
        );
    }
}
