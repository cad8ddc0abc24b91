//! Recipes in three stages: [`RecipeFile`] as written, merged along `extends`, and [`Recipe`], which is valid.

mod targets;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use offline_repo::layout::Layout;
use serde::{Deserialize, Serialize};

use crate::diagnostic::{self, Diagnostic, Result};
use crate::embedded;

pub use targets::{Base, BaseKind, Target};

/// The recipe schema that this version reads.
const SCHEMA: u32 = 1;
/// How deep `extends` may go; a longer chain is taken for a loop.
const MAX_EXTENDS: usize = 8;

/// A recipe as a person wrote it; every key is optional until the chain is merged.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeFile {
    /// Version of this format; 1.
    pub schema: u32,
    /// The recipe's name, which its artefacts carry.
    pub name: String,
    /// One sentence for people.
    #[serde(default)]
    pub description: String,
    /// Name or path of the recipe that this one adds to.
    pub extends: Option<String>,
    /// Architecture as the distribution names it (default: amd64, of RPM packages x86_64).
    pub architecture: Option<String>,
    /// Which distribution the packages come from.
    pub distribution: Option<Distribution>,
    /// Where packages come from.
    #[serde(default, rename = "upstream")]
    pub upstreams: Vec<Upstream>,
    /// Packages by group; `@GROUP` stands for all of another group.
    #[serde(default)]
    pub packages: BTreeMap<String, Vec<String>>,
    /// The offline repository.
    pub repository: Option<RepositorySection>,
    /// System users with fixed ids.
    #[serde(default, rename = "user")]
    pub users: Vec<User>,
    /// Files put into the root.
    #[serde(default, rename = "file")]
    pub files: Vec<File>,
    /// Scripts run in the root.
    #[serde(default, rename = "script")]
    pub scripts: Vec<Script>,
    /// Services from the catalogue.
    pub services: Option<Services>,
    /// The image's layout and formats.
    pub image: Option<ImageSection>,
    /// States of a machine on which every group must install from the repository alone.
    #[serde(default, rename = "base")]
    pub bases: Vec<Base>,
    /// Other platforms that the same packages are locked for.
    #[serde(default, rename = "target")]
    pub targets: Vec<Target>,
}

/// A distribution and its release.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    /// `ID` of os-release(5).
    pub id: String,
    /// The release's code name.
    pub suite: String,
    /// The short code in bundle names, such as `d13`.
    pub code: String,
}

/// An archive that packages come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Name inside the recipe.
    pub name: String,
    /// Kind of archive.
    pub kind: UpstreamKind,
    /// The archive's name, from which the mirror is found when the build runs.
    pub archive: String,
    /// A vendor's own URL; a distribution's archive has none.
    pub url: Option<String>,
    /// Suites, the base suite first; of RPM packages the folders that hold a `repodata/` (default: the archive itself).
    #[serde(default)]
    pub suites: Vec<String>,
    /// Components of each suite; RPM packages have none.
    #[serde(default)]
    pub components: Vec<String>,
    /// Key files below `keys/` beside the recipe, or shipped with farrow.
    pub keys: Vec<String>,
    /// Which archive wins for the same version; higher first (default: 500).
    #[serde(default = "default_priority")]
    pub priority: i32,
}

fn default_priority() -> i32 {
    500
}

/// Kinds of archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamKind {
    /// Debian packages.
    Deb,
    /// RPM packages.
    Rpm,
}

/// What becomes of the offline repository.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositorySection {
    /// The folder's name below `/www` (default: the recipe's name).
    pub name: Option<String>,
    /// Whether the image carries it as a partition (default: false).
    #[serde(default)]
    pub embed: bool,
    /// Where its files lie: "flat" (default) or "pool".
    #[serde(default)]
    pub layout: Layout,
}

/// A system user with fixed ids.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Login name; the group has the same.
    pub name: String,
    /// User id, and the group's id.
    pub uid: u32,
    /// Home directory.
    pub home: String,
    /// Login shell (default: /usr/sbin/nologin).
    #[serde(default = "default_shell")]
    pub shell: String,
}

fn default_shell() -> String {
    "/usr/sbin/nologin".into()
}

/// A file put into the root.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Absolute path in the image.
    pub path: String,
    /// The text; a leading newline is dropped.
    pub content: String,
    /// Permissions in octal (default: 0644).
    #[serde(default = "default_mode")]
    pub mode: String,
    /// When it is written (default: after the packages are configured).
    #[serde(default)]
    pub phase: Phase,
}

impl File {
    /// The text as it is written.
    pub fn text(&self) -> &str {
        self.content.strip_prefix('\n').unwrap_or(&self.content)
    }

    /// The permission bits; they were checked when the recipe was read.
    pub fn mode(&self) -> u32 {
        u32::from_str_radix(&self.mode, 8).unwrap_or(0o644)
    }
}

fn default_mode() -> String {
    "0644".into()
}

/// When a file is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Before any package is unpacked.
    BeforePackages,
    /// After every package is configured.
    #[default]
    AfterPackages,
}

/// A shell script that runs in the root tree while it is baked: after every package is configured, without a network.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// What errors call it.
    pub name: String,
    /// The text, for the tree's `sh -eu`; it runs as root.
    pub run: String,
}

/// Which services of the catalogue the image carries.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Services {
    /// `"all"` or a list of names.
    pub catalogue: Catalogue,
}

/// A choice from the service catalogue.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Catalogue {
    /// The word `all`.
    All(AllWord),
    /// Names of services.
    Some(Vec<String>),
}

/// The word `all`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AllWord {
    /// Every service.
    All,
}

/// The image's layout and formats.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSection {
    /// Formats to write (default: raw).
    #[serde(default)]
    pub formats: Vec<ImageFormat>,
    /// Further kernel arguments.
    #[serde(default)]
    pub kernel_arguments: Vec<String>,
    /// Size of each root slot in MiB (default: from the content, with room for upgrades).
    pub root_slot_mib: Option<u64>,
    /// Size of `/var` in the image in MiB; it grows at first boot (default: from the content).
    pub var_mib: Option<u64>,
}

/// Formats that an image can be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// The disk, byte for byte, sparse.
    Raw,
    /// QEMU's qcow2.
    Qcow2,
    /// The root tree as a tar archive.
    Tar,
}

/// A valid recipe: everything that later stages use.
#[derive(Debug, Clone, Serialize)]
pub struct Recipe {
    /// Name, which artefacts carry.
    pub name: String,
    /// Architecture as the distribution names it.
    pub architecture: String,
    /// Kind of all packages.
    pub kind: UpstreamKind,
    /// Distribution and release.
    pub distribution: Distribution,
    /// Archives, never empty.
    pub upstreams: Vec<Upstream>,
    /// Packages by group, never empty.
    pub packages: BTreeMap<String, Vec<String>>,
    /// Repository folder name.
    pub repository: String,
    /// Whether the image carries the repository.
    pub embed: bool,
    /// Where the repository's files lie.
    pub layout: Layout,
    /// Users with fixed ids.
    pub users: Vec<User>,
    /// Files of both phases.
    pub files: Vec<File>,
    /// Scripts, in the order in which they run.
    pub scripts: Vec<Script>,
    /// The services' names; `None` for all of the catalogue, empty for none.
    pub services: Option<Vec<String>>,
    /// Layout and formats.
    pub image: ImageSection,
    /// States of a machine on which every group must install.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bases: Vec<Base>,
    /// Other platforms.
    #[serde(skip)]
    pub targets: Vec<Target>,
    /// The target that this recipe was made for; `None` for its own platform.
    #[serde(skip)]
    pub target: Option<String>,
    /// Where the recipe was read from; `None` for one shipped inside farrow.
    #[serde(skip)]
    pub path: Option<PathBuf>,
}

impl Recipe {
    /// Reads `argument`: the path of a recipe, or the name of one that farrow ships.
    pub fn load(argument: &str) -> Result<Self> {
        let (merged, source) = RecipeFile::read(argument, None)?;
        merged.validate(source)
    }

    /// The contents of an upstream's key files.
    pub fn keys(&self, upstream: &Upstream) -> Result<Vec<Vec<u8>>> {
        upstream
            .keys
            .iter()
            .map(|name| {
                let beside = self
                    .path
                    .as_ref()
                    .and_then(|path| path.parent())
                    .map(|dir| dir.join("keys").join(name));
                match beside.filter(|path| path.exists()) {
                    Some(path) => {
                        std::fs::read(&path).map_err(|e| Diagnostic::io("read", &path, e))
                    }
                    None => embedded::key(name).ok_or_else(|| {
                        Diagnostic::invalid(
                            "FR-RECIPE-KEYFILE",
                            format!("upstream {}: no key file {name}", upstream.name),
                        )
                        .with_hint("put it into the folder keys/ beside the recipe")
                    }),
                }
            })
            .collect()
    }

    /// All package names, sorted and without repetition.
    pub fn roots(&self) -> Vec<String> {
        let mut names: Vec<String> = self.packages.values().flatten().cloned().collect();
        names.sort();
        names.dedup();
        names
    }
}

/// Where a recipe's text comes from.
#[derive(Debug, Clone)]
struct Source {
    shown: String,
    path: Option<PathBuf>,
    text: String,
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
            SCHEMA => Ok(file),
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
        extends: parent.extends,
        architecture: child.architecture.or(parent.architecture),
        distribution: child.distribution.or(parent.distribution),
        upstreams: [parent.upstreams, child.upstreams].concat(),
        packages,
        repository: child.repository.or(parent.repository),
        users: [parent.users, child.users].concat(),
        files: [parent.files, child.files].concat(),
        scripts: [parent.scripts, child.scripts].concat(),
        services: child.services.or(parent.services),
        image: child.image.or(parent.image),
        bases: [parent.bases, child.bases].concat(),
        targets: [parent.targets, child.targets].concat(),
    }
}

impl RecipeFile {
    /// Reads a recipe and merges the chain that it extends; `from` is the recipe that names it.
    fn read(argument: &str, from: Option<&Path>) -> Result<(Self, Source)> {
        let source = Source::find(argument, from)?;
        let mut merged = source.parse()?;
        let mut at = source.clone();
        for _ in 0..MAX_EXTENDS {
            let Some(parent) = merged.extends.take() else {
                return Ok((merged, source));
            };
            at = Source::find(&parent, at.path.as_deref())?;
            merged = merge(at.parse()?, merged);
        }
        Err(Diagnostic::invalid(
            "FR-RECIPE-EXTENDS",
            format!(
                "{}: `extends` leads through more than {MAX_EXTENDS} recipes",
                source.shown
            ),
        ))
    }

    fn validate(self, source: Source) -> Result<Recipe> {
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
        let packages = with_groups(&self.packages, &source)?;
        for name in packages.values().flatten() {
            match kind {
                UpstreamKind::Deb => check_package_name(name, &source)?,
                UpstreamKind::Rpm => check_request(name, &source)?,
            }
        }
        for file in &self.files {
            check_file(file, &source)?;
        }
        for script in &self.scripts {
            check_name("script name", &script.name, &source.shown)?;
        }
        targets::check(&self.bases, &self.targets, &source.shown)?;
        let repository = self.repository.unwrap_or_default();
        let folder = repository.name.unwrap_or_else(|| self.name.clone());
        check_name("repository name", &folder, &source.shown)?;
        Ok(Recipe {
            repository: folder,
            embed: repository.embed,
            layout: repository.layout,
            architecture: self.architecture.unwrap_or_else(|| match kind {
                UpstreamKind::Deb => "amd64".into(),
                UpstreamKind::Rpm => "x86_64".into(),
            }),
            kind,
            distribution,
            upstreams: self.upstreams.into_iter().map(with_defaults).collect(),
            packages,
            users: self.users,
            files: self.files,
            scripts: self.scripts,
            services: match self.services.map(|services| services.catalogue) {
                None => Some(Vec::new()),
                Some(Catalogue::All(_)) => None,
                Some(Catalogue::Some(names)) => Some(names),
            },
            image: self.image.unwrap_or_default(),
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
        expand(groups, group, MAX_EXTENDS, &mut names).map_err(|wrong| {
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
fn check_name(what: &str, name: &str, shown: &str) -> Result<()> {
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

fn check_file(file: &File, source: &Source) -> Result<()> {
    let confined = file.path.starts_with('/') && !file.path.split('/').any(|part| part == "..");
    if confined && u32::from_str_radix(&file.mode, 8).is_ok_and(|mode| mode <= 0o7777) {
        return Ok(());
    }
    let span = source
        .text
        .find(&format!("\"{}\"", file.path))
        .map(|at| at..at + file.path.len() + 2);
    Err(Diagnostic::invalid(
        "FR-RECIPE-FILE",
        format!(
            "file `{}` with mode `{}` is not valid",
            file.path, file.mode
        ),
    )
    .at(&source.shown, &source.text, span)
    .with_hint("a path is absolute and has no `..`, a mode is octal such as 0644"))
}
