//! Recipes in three stages: [`RecipeFile`] as written, merged along `extends`, and [`Recipe`], which is valid.

mod files;
mod reading;
mod targets;
mod validating;

use std::collections::BTreeMap;
use std::path::PathBuf;

use images::architecture::Architecture;
use images::pack::RootCompression;
use offline_repo::layout::Layout;
use offline_repo::signer::KeyKind;
use serde::{Deserialize, Serialize};

use crate::diagnostic::{Diagnostic, Result};
use crate::embedded;

pub use targets::{Base, BaseKind, Target};

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
    /// Packages by group; `@GROUP` stands for all of another group, `{architecture}` in a name for the architecture.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
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
    /// Kind of the key that signs it, if there is none yet: "ed25519" (default), "rsa-3072", "rsa-4096".
    #[serde(default)]
    pub key: KeyKind,
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
    /// Full name or purpose.
    #[serde(default)]
    pub comment: String,
    /// Groups that it joins: of other users of the recipe, or of base-passwd.
    #[serde(default)]
    pub groups: Vec<String>,
    /// When it is made (default: before any package is unpacked, so that its packages find it).
    #[serde(default = "default_user_phase")]
    pub phase: Phase,
}

fn default_user_phase() -> Phase {
    Phase::BeforePackages
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
    #[serde(default)]
    pub content: String,
    /// Instead of a text: a file whose content is taken, by its path from the recipe's folder.
    pub source: Option<String>,
    /// Instead of a text: the target of a symbolic link.
    pub link: Option<String>,
    /// Permissions in octal (default: 0644).
    #[serde(default = "default_mode")]
    pub mode: String,
    /// One of the recipe's users, who owns it (default: root).
    pub owner: Option<String>,
    /// The content of `source`.
    #[serde(skip)]
    taken: Option<Vec<u8>>,
    /// When it is written (default: after the packages are configured).
    #[serde(default)]
    pub phase: Phase,
}

impl File {
    /// The content as it is written.
    pub fn bytes(&self) -> &[u8] {
        let text = self.content.strip_prefix('\n').unwrap_or(&self.content);
        self.taken.as_deref().unwrap_or(text.as_bytes())
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
#[serde(untagged, expecting = "expected \"all\" or a list of services' names")]
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
    /// Version of the image (default: farrow's own). Upgrades need a higher one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Formats to write (default: raw).
    #[serde(default)]
    pub formats: Vec<ImageFormat>,
    /// Further kernel arguments.
    #[serde(default)]
    pub kernel_arguments: Vec<String>,
    /// How the root is packed: "lz4" (default) or "zstd", which is smaller and slower to read.
    pub root_compression: Option<RootCompression>,
    /// Size of each root slot in MiB (default: from the content, with room for upgrades).
    pub root_slot_mib: Option<u64>,
    /// Size of `/var` in the image in MiB; it grows at first boot (default: from the content).
    pub var_mib: Option<u64>,
}

/// Formats that an image can be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ImageFormat {
    /// The disk, byte for byte, sparse.
    Raw,
    /// QEMU's qcow2.
    Qcow2,
    /// qcow2 with compressed clusters.
    Qcow2Compressed,
    /// VMware's stream-optimised VMDK.
    Vmdk,
    /// Fixed VHD, for Azure and Hyper-V.
    Vhd,
    /// Google Compute Engine's disk.raw in a tar archive.
    Gce,
    /// A virtual appliance with a VMDK.
    Ova,
    /// The root tree as a tar archive.
    Tar,
    /// What machines that run an older version are upgraded with.
    Upgrade,
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
    /// The same as written, with `{architecture}` in names.
    #[serde(skip)]
    groups: BTreeMap<String, Vec<String>>,
    /// Repository folder name.
    pub repository: String,
    /// Whether the image carries the repository.
    pub embed: bool,
    /// Where the repository's files lie.
    pub layout: Layout,
    /// Kind of the key that signs it.
    pub key: KeyKind,
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

    /// The files that a recipe is merged from, each with its name: the outermost parent first.
    pub fn layers(argument: &str) -> Result<Vec<(String, RecipeFile)>> {
        RecipeFile::layers(argument, None).map(|(_, layers)| layers)
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

    /// The id of a file's owner; it was checked when the recipe was read.
    pub fn owner(&self, file: &File) -> u32 {
        let owner = self
            .users
            .iter()
            .find(|user| Some(&user.name) == file.owner.as_ref());
        owner.map_or(0, |user| user.uid)
    }

    /// Version of the images.
    pub fn image_version(&self) -> &str {
        let own = self.image.version.as_deref();
        own.unwrap_or(env!("CARGO_PKG_VERSION"))
    }

    /// What images and machines of the recipe run on.
    pub fn processor(&self) -> Result<Architecture> {
        Architecture::of_debian(&self.architecture).ok_or_else(|| {
            let message = format!("no images are made for {}", self.architecture);
            let known = Architecture::ALL.map(Architecture::debian).join(" or ");
            Diagnostic::invalid("FR-RECIPE-ARCHITECTURE", message)
                .with_hint(format!("the recipe's architecture can be {known}"))
        })
    }

    /// All package names, sorted and without repetition.
    pub fn roots(&self) -> Vec<String> {
        let mut names: Vec<String> = self.packages.values().flatten().cloned().collect();
        names.sort();
        names.dedup();
        names
    }
}
