//! `image build`: a repository becomes a root tree, and the tree becomes images. Opens no connection, but to a shared cache
//! that the user names.

mod root_input;
mod rooted;

use std::path::{Path, PathBuf};

use images::architecture::Architecture;
use images::disk::{self, DiskInput, UpgradeSink};
use images::elsewhere::{Cache, Wanted};
use images::formats::Format;
use images::manifest::{self, Artifact, Provenance};
use images::pack::{Context, WorkingImage};
use images::progress::Progress;
use images::root::{self, RootTree};
use images::secure_boot::signer::Signer;
use images::tools::ToolsTree;
use offline_repo::lock::Lock;
use offline_repo::repository::{ClosurePackage, Repository};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::beside;
use crate::commands::write_file;
use crate::diagnostic::{Diagnostic, Result};
use crate::interrupt;
use crate::machine_programs::MachinePrograms;
use crate::recipe::{ImageFormat, Recipe};
use crate::session::{Done, Session, Stage};
use crate::shared_cache::SharedCache;
use crate::stages;
use crate::upgrade::Writer;
use rooted::{Rooted, root_tree};

/// Size of `/var` in an image when the recipe names none, in MiB; it grows on the machine.
const VAR_MIB: u64 = 256;
/// Kernel arguments of every image: the initrd has mounted everything, so systemd-gpt-auto-generator would only mount the
/// ESP and wait for it; and nothing individual is kept on the ESP, so no random seed either.
const KERNEL_ARGUMENTS: [&str; 2] = [
    "systemd.gpt_auto=0",
    "systemd.mask=systemd-boot-random-seed.service",
];

/// A repository that an image is baked from.
pub struct Source {
    /// The repository.
    pub repository: Repository,
    /// Its lock.
    pub lock: Lock,
}

/// What a bake made, and of what.
pub struct Baked {
    artifacts: Vec<(String, PathBuf)>,
    /// The repository.
    pub source: Source,
    /// The packages of the root.
    pub closure: Vec<ClosurePackage>,
    /// The manifest of the disk images; none when only a tar archive was made.
    pub manifest: Option<PathBuf>,
}

impl Baked {
    /// The file of a kind, such as `image-qcow2`.
    pub fn path(&self, kind: &str) -> Result<PathBuf> {
        let found = self.artifacts.iter().find(|(known, _)| known == kind);
        found.map(|(_, path)| path.clone()).ok_or_else(|| {
            Diagnostic::failed("FR-IMAGE-FORMAT", format!("the bake made no {kind}"))
        })
    }
}

/// Opens a repository folder and proves that it is complete.
pub fn open(path: &Path, recipe: &Recipe) -> Result<Source> {
    let repository = Repository::open(path, None)?;
    repository.verify()?.into_result(path)?;
    let lock = Lock::load(&path.join(format!("{}.lock", recipe.repository)))?;
    Ok(Source { repository, lock })
}

/// Looks for results in the shared cache that the user named, if any.
fn finder<'a>(
    shared: Option<&'a SharedCache>,
    tools: &'a ToolsTree,
    stage: &'a Stage<'_>,
) -> impl Fn(Wanted<'_>, &Path) -> bool + Sync + 'a {
    move |wanted, path| {
        shared.is_some_and(|shared| shared.find(wanted, path, tools, &|note| stage.note(note)))
    }
}

/// Shows the image library's reports as progress of a stage.
pub fn image_progress<'a>(stage: &'a Stage<'_>) -> impl Fn(Progress) + Sync + 'a {
    move |report| match report {
        Progress::Started { stage: name, .. } => stage.step(name),
        Progress::Advanced { stage: name, done } => stage.items(done, 0, name),
        Progress::Finished {
            stage: name,
            seconds,
            ..
        } => stage.step(&format!("{name} took {seconds:.1} s")),
    }
}

/// Bakes the formats of one recipe into `out`.
pub fn image(
    session: &Session,
    recipe: &Recipe,
    repository: &Path,
    tools: &ToolsTree,
    formats: &[ImageFormat],
    secure_boot: Option<Signer>,
    out: &Path,
) -> Result<Baked> {
    let programs = MachinePrograms::of(session, recipe.processor()?)?;
    let is_disk = |format: &ImageFormat| *format != ImageFormat::Tar;
    let working = WorkingImage::default();
    let packed = formats.iter().any(is_disk).then_some(&working);
    let rooted = root_tree(session, recipe, repository, tools, &programs, packed)?;
    let settling = rooted.settle(session);
    interrupt::clean_on_interrupt(out);
    let mut artifacts = Vec::new();
    if formats.contains(&ImageFormat::Tar) {
        let path = tar(session, recipe, &rooted.tree, tools, out)?;
        artifacts.push(("image-tar".into(), path));
    }
    let mut manifest = None;
    if packed.is_some() {
        let formats_of_disks = formats.iter().copied().filter_map(disk_format).collect();
        let mut input = disk_input(recipe, &rooted, &programs, formats_of_disks)?;
        input.secure_boot = secure_boot;
        let upgrade = match formats.contains(&ImageFormat::Upgrade) {
            true => Some(Writer::new(session, recipe, &rooted.source)?),
            false => None,
        };
        let disks = Disks {
            input: &input,
            rooted: &rooted,
            upgrade: upgrade.as_ref(),
            tools,
            working: &working,
            out,
        };
        manifest = Some(disk_images(session, &disks, &mut artifacts)?);
    }
    // A thread that panicked has told so; the base is then trusted until the next boot only.
    settling.join().unwrap_or(Ok(()))?;
    Ok(Baked {
        artifacts,
        source: rooted.source,
        closure: rooted.closure,
        manifest,
    })
}

/// The tree that becomes the root of every image of a recipe.
pub fn tree(
    session: &Session,
    recipe: &Recipe,
    repository: &Path,
    tools: &ToolsTree,
) -> Result<RootTree> {
    let programs = MachinePrograms::of(session, recipe.processor()?)?;
    let rooted = root_tree(session, recipe, repository, tools, &programs, None)?;
    if let Some(base) = &rooted.tree.base {
        root::settle(base, &session.paths.cache)?;
    }
    Ok(rooted.tree)
}

fn disk_format(format: ImageFormat) -> Option<Format> {
    match format {
        ImageFormat::Raw => Some(Format::Raw),
        ImageFormat::Qcow2 => Some(Format::Qcow2),
        ImageFormat::Qcow2Compressed => Some(Format::Qcow2Compressed),
        ImageFormat::Vmdk => Some(Format::Vmdk),
        ImageFormat::Vhd => Some(Format::Vhd),
        ImageFormat::Gce => Some(Format::Gce),
        ImageFormat::Ova => Some(Format::Ova),
        ImageFormat::Tar | ImageFormat::Upgrade => None,
    }
}

fn disk_input(
    recipe: &Recipe,
    rooted: &Rooted,
    programs: &MachinePrograms,
    formats: Vec<Format>,
) -> Result<DiskInput> {
    let Rooted {
        source,
        closure,
        tree,
        ..
    } = rooted;
    let repository = recipe.embed.then(|| disk::Repository {
        path: source.repository.path().to_owned(),
        digest: source.repository.manifest().to_string(),
    });
    let (architecture, version) = (recipe.processor()?, recipe.image_version());
    let seed = Sha256::digest(format!("image {} {version} {}", recipe.name, tree.digest));
    let packages = closure.iter().map(|chosen| manifest::Package {
        name: chosen.package.name.clone(),
        version: chosen.package.version.clone(),
        architecture: chosen.package.architecture.clone(),
        sha256: chosen.package.sha256.to_string(),
    });
    Ok(DiskInput {
        name: recipe.name.clone(),
        version: version.into(),
        architecture,
        root: tree.clone(),
        repository,
        kernel_arguments: kernel_arguments(recipe, architecture),
        secure_boot: None,
        init: programs.init.to_vec(),
        epoch: stages::epoch(&source.lock),
        seed: seed.into(),
        root_compression: recipe.image.root_compression.unwrap_or_default(),
        root_slot_mib: recipe.image.root_slot_mib,
        var_mib: recipe.image.var_mib.unwrap_or(VAR_MIB),
        formats,
        provenance: Provenance {
            farrow: env!("CARGO_PKG_VERSION").into(),
            lock: source.lock.digest().to_string(),
            repository: source.repository.manifest().to_string(),
            packages: packages.collect(),
        },
    })
}

fn kernel_arguments(recipe: &Recipe, architecture: Architecture) -> Vec<String> {
    let consoles = architecture.consoles();
    let base = consoles
        .iter()
        .chain(&KERNEL_ARGUMENTS)
        .map(|argument| (*argument).to_owned());
    base.chain(recipe.image.kernel_arguments.iter().cloned())
        .collect()
}

/// Digest of everything that the disk images depend on.
fn inputs_digest(input: &DiskInput, upgrade: bool, tools: &ToolsTree) -> String {
    let described = json!({
        "name": input.name,
        "version": input.version,
        "architecture": input.architecture,
        "root": input.root.digest,
        "repository": input.repository.as_ref().map(|repository| &repository.digest),
        "kernel_arguments": input.kernel_arguments,
        "secure_boot": input.secure_boot.as_ref().map(certificate_digest),
        "init": hex::encode(Sha256::digest(&input.init)),
        "epoch": input.epoch,
        "root_compression": input.root_compression,
        "root_slot_mib": input.root_slot_mib,
        "var_mib": input.var_mib,
        "formats": input.formats.iter().map(|format| format.name()).collect::<Vec<_>>(),
        "upgrade": upgrade,
        "tools": tools.digest,
    });
    hex::encode(Sha256::digest(described.to_string()))
}

fn certificate_digest(signer: &Signer) -> String {
    let certificate = signer.certificate().unwrap_or_default();
    hex::encode(Sha256::digest(certificate))
}

/// What disk images are made of, and with.
struct Disks<'a> {
    input: &'a DiskInput,
    rooted: &'a Rooted,
    upgrade: Option<&'a Writer>,
    tools: &'a ToolsTree,
    working: &'a WorkingImage,
    out: &'a Path,
}

impl Disks<'_> {
    fn build(&self, session: &Session, stage: &Stage<'_>) -> Result<Vec<Artifact>> {
        let (write, shared) = (self.upgrade.map(Writer::sink), session.shared()?);
        let find = finder(shared, self.tools, stage);
        let folder = session.paths.cache.as_path();
        let cache = Cache {
            folder,
            find: Some(&find),
        };
        let progress = &image_progress(stage);
        let context = Context {
            tools: self.tools,
            cache,
            epoch: self.input.epoch,
            working: self.working,
            progress,
        };
        let build = || {
            let write = write.as_ref().map(|write| write as UpgradeSink<'_>);
            disk::build(self.input, write, &context, self.out)
        };
        let made = match build() {
            Err(images::error::Error::LayerGone { .. }) => {
                root::remake_layers(&self.rooted.input, folder, progress)?;
                build()?
            }
            other => other?,
        };
        Ok(made.artifacts)
    }
}

/// Writes the images, unless `out` holds those of the same inputs, intact. Their manifest's path.
fn disk_images(
    session: &Session,
    disks: &Disks,
    made: &mut Vec<(String, PathBuf)>,
) -> Result<PathBuf> {
    let Disks { input, out, .. } = *disks;
    let manifest = out.join(format!("{}.manifest.json", input.name));
    let stamp = out.join(format!("{}.inputs", input.name));
    let inputs = inputs_digest(input, disks.upgrade.is_some(), disks.tools);
    let artifacts = session.stage("image", |stage| {
        if std::fs::read_to_string(&stamp).is_ok_and(|text| text.trim() == inputs)
            && let Ok(manifest) = manifest::Manifest::read(&manifest)
            && manifest
                .artifacts
                .iter()
                .all(|artifact| is_whole(artifact, out))
        {
            return Ok(Done::reused(manifest.artifacts));
        }
        beside::withdraw(out)?;
        Ok(Done::made(disks.build(session, stage)?))
    })?;
    for Artifact {
        kind,
        path,
        sha256,
        size,
    } in artifacts
    {
        let (kind, path) = (
            format!("image-{kind}"),
            out.join(path.file_name().unwrap_or_default()),
        );
        session.add_artifact(&kind, &path, &sha256, size);
        made.push((kind, path));
    }
    session.add_file("manifest", &manifest)?;
    let Rooted {
        source, closure, ..
    } = disks.rooted;
    beside::write(session, &manifest, source, closure)?;
    write_file(&stamp, format!("{inputs}\n").as_bytes(), 0o644)?;
    Ok(manifest)
}

/// Whether an artefact is there with its size. Reading gigabytes for their digest is `farrow image verify`'s business;
/// a machine that boots checks each block that it reads.
fn is_whole(artifact: &Artifact, out: &Path) -> bool {
    std::fs::metadata(out.join(&artifact.path))
        .is_ok_and(|metadata| metadata.len() == artifact.size)
}

fn tar(
    session: &Session,
    recipe: &Recipe,
    tree: &RootTree,
    tools: &ToolsTree,
    out: &Path,
) -> Result<PathBuf> {
    let path = out.join(format!("{}.tar", recipe.name));
    session.stage("tar", |stage| {
        stage.step("packing the tree");
        images::tree_tar::write(tree, tools, &path)?;
        Ok(Done::made(()))
    })?;
    session.add_file("image-tar", &path)?;
    Ok(path)
}
