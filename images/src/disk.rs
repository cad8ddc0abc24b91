//! From a root tree to disk images and their manifest.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::ScopedJoinHandle;

use sha2::{Digest, Sha256};

use crate::architecture::Architecture;
use crate::assemble::RawDisk;
use crate::boot_image::{self, BootFiles};
use crate::error::{Error, Result};
use crate::esp;
use crate::formats::{self, Format};
use crate::grub::{self, Embedded};
use crate::initrd;
use crate::manifest::{Artifact, Manifest, Provenance};
use crate::pack::{self, Context, RootCompression};
use crate::partitions::{self, Guid};
use crate::parts::Parts;
use crate::progress::stage;
use crate::root::{Kernel, RootTree};
use crate::secure_boot::signer::Signer;
use crate::tools::ToolsTree;

/// Kind of an upgrade among artefacts, and how its name ends.
const UPGRADE: &str = "upgrade";
/// How the names of unfinished folders begin.
const TEMPORARY: &str = ".unfinished-";

/// A folder to embed as a read-only partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// The folder.
    pub path: PathBuf,
    /// Digest of its manifest, hex.
    pub digest: String,
}

/// What a disk is made of. Equal inputs (paths aside) give equal bytes.
#[derive(Debug, Clone)]
pub struct DiskInput {
    /// Name of the image: lower-case letters, digits, dashes.
    pub name: String,
    /// Version: letters, digits, dots, dashes, tildes.
    pub version: String,
    /// What the image runs on.
    pub architecture: Architecture,
    /// Root tree, with a kernel.
    pub root: RootTree,
    /// Repository to embed.
    pub repository: Option<Repository>,
    /// Further kernel arguments, for example [`Architecture::consoles`].
    pub kernel_arguments: Vec<String>,
    /// Whose key signs the boot loader and the kernel image.
    pub secure_boot: Option<Signer>,
    /// ELF image of the first process.
    pub init: Vec<u8>,
    /// Build time of the file systems, seconds since 1970.
    pub epoch: u64,
    /// Ids and salts derive from it.
    pub seed: [u8; 32],
    /// How the root file system is packed.
    pub root_compression: RootCompression,
    /// Size of each of the two root slots in MiB; none: a quarter more than the content.
    pub root_slot_mib: Option<u64>,
    /// Size of `/var` in the image, MiB; at least 64. It grows on the machine.
    pub var_mib: u64,
    /// Which files to make.
    pub formats: Vec<Format>,
    /// What the manifest says about the origin.
    pub provenance: Provenance,
}

/// A part of what an upgrade to an image consists of.
#[derive(Debug, Clone, Copy)]
pub enum Piece<'a> {
    /// A file's content.
    File(&'a Path),
    /// Bytes.
    Bytes(&'a [u8]),
}

/// What a machine with an older version needs of this one: the content of a slot and the boot loaders' files.
#[derive(Debug, Clone)]
pub struct Pieces<'a> {
    /// dm-verity root hash, hex.
    pub root_hash: &'a str,
    /// By name: `root`, `verity`, `linux.efi`, `entry.cfg`.
    pub pieces: Vec<(&'static str, Piece<'a>)>,
}

/// Writes them to a new file, in a form that is not this crate's business.
pub type UpgradeSink<'a> = &'a (dyn Fn(&Pieces<'_>, &Path) -> std::io::Result<()> + Sync);

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSet {
    /// Images, in the order of the wanted formats.
    pub artifacts: Vec<Artifact>,
    /// dm-verity root hash, hex.
    pub root_hash: String,
    /// Path of the manifest.
    pub manifest: PathBuf,
}

/// Makes the images of `input` in `out`, with cached file systems, and what `upgrade` writes.
///
/// The old manifest is withdrawn first and the new one written last: a manifest never describes other images than those
/// beside it.
///
/// # Errors
/// When the input is refused, a tool fails, or a file cannot be written.
pub fn build(
    input: &DiskInput,
    upgrade: Option<UpgradeSink<'_>>,
    context: &Context,
    out: &Path,
) -> Result<ImageSet> {
    check(input)?;
    fs::create_dir_all(out).map_err(Error::io("create", out))?;
    let work = tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(out);
    let work = work.map_err(Error::io("create in", out))?;
    let kernel = boot_image::find_kernel(&input.root)?;
    let raw = work.path().join("disk.raw");
    std::thread::scope(|scope| {
        let loaders = scope.spawn(|| Loaders::make(input, &kernel, context.tools, work.path()));
        let at = usual_root(input.architecture);
        let root = root(input, context)?;
        let begun = Begun {
            input,
            context,
            kernel: &kernel,
            work: work.path(),
            loaders,
            disk: RawDisk::begin(scope, &raw, root, at, context.progress)?,
        };
        begun.finish(upgrade, out)
    })
}

/// What of the boot does not depend on the root's hash.
struct Loaders {
    initrd: Vec<u8>,
    /// Where machines with a BIOS exist. It lies in the first partition.
    bios: Option<Embedded>,
}

impl Loaders {
    fn make(input: &DiskInput, kernel: &Kernel, tools: &ToolsTree, work: &Path) -> Result<Self> {
        let start = partitions::BEGIN / partitions::SECTOR;
        let bios = match input.architecture.has_bios() {
            true => Some(grub::build(tools, work, start)?),
            false => None,
        };
        let initrd = initrd::build(&kernel.modules, &input.init)?;
        Ok(Self { initrd, bios })
    }
}

/// What there is of an image when its root is packed.
struct Begun<'a> {
    input: &'a DiskInput,
    context: &'a Context<'a>,
    kernel: &'a Kernel,
    work: &'a Path,
    loaders: ScopedJoinHandle<'a, Result<Loaders>>,
    disk: RawDisk<'a>,
}

impl Begun<'_> {
    /// Makes the other parts of the disk, and of that the wanted files.
    fn finish(self, upgrade: Option<UpgradeSink<'_>>, out: &Path) -> Result<ImageSet> {
        let (input, tools, progress) = (self.input, self.context.tools, self.context.progress);
        let mut disk = self.disk;
        let parts = Parts::make(input, &disk.root, self.context)?;
        let root_hash = hex::encode(parts.tree.root_hash);
        let loaders = self.loaders.join();
        let loaders = loaders.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let boot = boot_image::build(input, self.kernel, &loaders.initrd, &parts, tools)?;
        let esp = stage(progress, "image/esp", || {
            make_esp(input, &boot, tools, self.work)
        })?;
        let layout = parts.layout(input, esp::size(boot.image.len() as u64))?;
        disk.write(&layout, &parts, &esp, loaders.bios.as_ref())?;
        let manifest = out.join(format!("{}.manifest.json", input.name));
        withdraw(&manifest)?;
        let mut artifacts = formats::make(input, &disk, tools, out, progress)?;
        if let Some(write) = upgrade {
            let path = self.work.join("upgrade");
            artifacts.push(stage(progress, "image/upgrade", || {
                let pieces = pieces(&parts, &boot, &root_hash);
                write(&pieces, &path).map_err(Error::io("write", &path))?;
                formats::publish(input, UPGRADE, UPGRADE, &path, out)
            })?);
        }
        Manifest::new(input, &layout, &self.kernel.version, &root_hash, &artifacts)
            .write(&manifest)?;
        Ok(ImageSet {
            artifacts,
            root_hash,
            manifest,
        })
    }
}

/// The root file system, named after what it is made of.
fn root(input: &DiskInput, context: &Context) -> Result<PathBuf> {
    let content = format!("root file system {}", input.root.digest);
    let uuid = Guid::from_digest(&Sha256::digest(content));
    pack::root(context, &input.root, uuid, input.root_compression)
}

/// Where the root begins on a disk whose EFI system partition is of the smallest size, in bytes.
pub(crate) fn usual_root(architecture: Architecture) -> u64 {
    let bios = if architecture.has_bios() {
        grub::PARTITION_BYTES
    } else {
        0
    };
    partitions::BEGIN + bios + esp::SMALLEST
}

/// Refuses what would end up in file names or on the command line as something else.
fn check(input: &DiskInput) -> Result<()> {
    let refuse = |what: &str, value: &str| {
        let reason = format!("{what} {value:?} has characters that are not allowed");
        Err(Error::Image { reason })
    };
    let plain = |text: &str, more: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
        !text.is_empty() && text.len() <= 64 && text.chars().all(allowed)
    };
    if !plain(&input.name, "-") {
        return refuse("name", &input.name);
    }
    // A plus begins the boot loader's counter of tries.
    if !plain(&input.version, ".-~") || input.version.starts_with('.') {
        return refuse("version", &input.version);
    }
    for argument in &input.kernel_arguments {
        // GRUB would hand quotes and backslashes on with another backslash.
        let printable = argument
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"'\"\\".contains(&b));
        if argument.is_empty() || !printable || argument.starts_with("farrow.ro") {
            return refuse("kernel argument", argument);
        }
    }
    if input.var_mib < 64 {
        return Err(Error::Image {
            reason: "/var needs at least 64 MiB".to_owned(),
        });
    }
    Ok(())
}

fn pieces<'a>(parts: &'a Parts, boot: &'a BootFiles, root_hash: &'a str) -> Pieces<'a> {
    let mut pieces = vec![
        ("root", Piece::File(&parts.root)),
        ("verity", Piece::Bytes(&parts.tree.bytes)),
        ("linux.efi", Piece::Bytes(&boot.image)),
    ];
    if let Some(entry) = &boot.entry {
        pieces.push(("entry.cfg", Piece::Bytes(entry)));
    }
    Pieces { root_hash, pieces }
}

/// The path of the file.
fn make_esp(
    input: &DiskInput,
    boot: &BootFiles,
    tools: &ToolsTree,
    work: &Path,
) -> Result<PathBuf> {
    let volume = Guid::derived(&input.seed, "esp volume").0;
    let content = esp::Content {
        name: &format!("{}_{}", input.name, input.version),
        boot,
        architecture: input.architecture,
        volume: u32::from_be_bytes([volume[0], volume[1], volume[2], volume[3]]),
        epoch: input.epoch,
    };
    esp::build(&content, tools, work)?;
    Ok(work.join("esp.img"))
}

fn withdraw(manifest: &Path) -> Result<()> {
    match fs::remove_file(manifest) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", manifest)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn input() -> DiskInput {
        DiskInput {
            name: "pigsty".to_owned(),
            version: "1.0".to_owned(),
            architecture: Architecture::Amd64,
            root: RootTree {
                path: PathBuf::new(),
                digest: String::new(),
                kernel: None,
                base: None,
            },
            repository: None,
            kernel_arguments: vec!["quiet".to_owned()],
            secure_boot: None,
            init: Vec::new(),
            epoch: 0,
            seed: [0; 32],
            root_compression: RootCompression::default(),
            root_slot_mib: None,
            var_mib: 256,
            formats: vec![Format::Raw],
            provenance: Provenance::default(),
        }
    }

    #[test]
    fn inputs_that_would_mean_something_else_are_refused() {
        assert!(check(&input()).is_ok());
        let cases: [fn(&mut DiskInput); 10] = [
            |i| i.name = "a/b".to_owned(),
            |i| i.name = String::new(),
            |i| i.version = "../1".to_owned(),
            |i| i.version = "1_2".to_owned(),
            |i| i.version = "1+2".to_owned(),
            |i| i.kernel_arguments = vec!["a b".to_owned()],
            |i| i.kernel_arguments = vec!["farrow.roothash=0".to_owned()],
            |i| i.kernel_arguments = vec![String::new()],
            |i| i.kernel_arguments = vec!["a=\"b\"".to_owned()],
            |i| i.var_mib = 1,
        ];
        for (index, change) in cases.into_iter().enumerate() {
            let mut input = input();
            change(&mut input);
            assert!(check(&input).is_err(), "case {index}");
        }
    }
}
