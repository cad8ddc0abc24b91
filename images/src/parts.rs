//! The file systems of a disk, the hash tree of its root, and the layout that they need.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::disk::DiskInput;
use crate::error::{Error, Result};
use crate::grub;
use crate::pack::{self, Context};
use crate::partitions::{self, Guid, Layout, Role, Wish};
use crate::progress::stage;
use crate::verity::{self, HashTree};

/// A root slot is a quarter larger than its first content, for later versions; whole multiples of this many bytes.
const SLOT_STEP: u64 = 16 << 20;

/// The file systems, the hash tree, and the ids that tie them together.
pub(crate) struct Parts {
    pub(crate) root: PathBuf,
    pub(crate) tree: HashTree,
    pub(crate) var: PathBuf,
    pub(crate) repository: Option<PathBuf>,
    /// Partition ids of root and hash tree: the two halves of the root hash, as the Discoverable Partitions
    /// specification has it. So a kernel image finds its root in whichever slot it was written to.
    pub(crate) root_id: Guid,
    pub(crate) verity_id: Guid,
    /// Depends on the image's name alone: later versions must find the `/var` of earlier ones.
    pub(crate) var_id: Guid,
}

impl Parts {
    /// Makes what is not the root.
    ///
    /// # Errors
    /// When a tool fails, or a file cannot be read or written.
    pub(crate) fn make(input: &DiskInput, root: &Path, context: &Context) -> Result<Self> {
        let (path, digest) = (&input.root.path, &input.root.digest);
        let salt = Sha256::new()
            .chain_update(input.seed)
            .chain_update("verity salt")
            .finalize();
        let uuid = Guid::derived(&input.seed, "verity").0;
        let var_id = Guid::from_digest(&Sha256::digest(format!("farrow var {}", input.name)));
        let (tree, var) = rayon::join(
            || {
                stage(context.progress, "image/verity", || {
                    verity::build(root, &salt.into(), uuid)
                })
            },
            || pack::var(context, path, digest, var_id, input.var_mib),
        );
        let (tree, var) = (tree?, var?);
        let repository = input.repository.as_ref().map(|repository| {
            let uuid = Guid::from_digest(&Sha256::digest(&repository.digest));
            pack::repository(context, &repository.path, &repository.digest, uuid)
        });
        Ok(Self {
            root_id: Guid::from_hash_half(&tree.root_hash[..16]),
            verity_id: Guid::from_hash_half(&tree.root_hash[16..]),
            root: root.to_owned(),
            tree,
            var,
            repository: repository.transpose()?,
            var_id,
        })
    }

    /// Of files that are there.
    #[cfg(test)]
    pub(crate) fn of_files(root: &Path, tree: HashTree, var: &Path) -> Self {
        let id = |number: u8| Guid::from_digest(&[number; 32]);
        Self {
            root: root.to_owned(),
            tree,
            var: var.to_owned(),
            repository: None,
            root_id: id(1),
            verity_id: id(2),
            var_id: id(3),
        }
    }

    /// Where they are on a disk whose EFI system partition has so many bytes.
    pub(crate) fn layout(&self, input: &DiskInput, esp: u64) -> Result<Layout> {
        let root = length(&self.root)?;
        let slot = match input.root_slot_mib {
            Some(mib) => mib << 20,
            None => (root + root / 4).next_multiple_of(SLOT_STEP),
        };
        if slot < root {
            let reason = format!(
                "the root needs {} MiB, a slot has {}: raise root_slot_mib or leave it out",
                root.div_ceil(1 << 20),
                slot >> 20
            );
            return Err(Error::Image { reason });
        }
        // The tree has a 128th of the data and a 128th of that, and so on; superblock and partial blocks.
        let hashes = (slot / 127 + (64 << 10)).max(self.tree.bytes.len() as u64);
        let id = |label: &str| Guid::derived(&input.seed, label);
        let wish = |name, role, unique, bytes| Wish {
            name,
            role,
            unique,
            bytes,
        };
        let bios = wish("bios", Role::BiosBoot, id("bios"), grub::PARTITION_BYTES);
        let mut wishes = Vec::from_iter(input.architecture.has_bios().then_some(bios));
        wishes.extend([
            wish("esp", Role::Esp, id("esp"), esp),
            wish("root-a", Role::Root, self.root_id, slot),
            wish("verity-a", Role::Verity, self.verity_id, hashes),
            wish("root-b", Role::Reserved, id("root-b"), slot),
            wish("verity-b", Role::Reserved, id("verity-b"), hashes),
        ]);
        if let Some(repository) = &self.repository {
            wishes.push(wish(
                "repo",
                Role::Repository,
                id("repo"),
                length(repository)?,
            ));
        }
        wishes.push(wish("var", Role::Var, self.var_id, length(&self.var)?));
        Ok(partitions::lay_out(id("disk"), input.architecture, &wishes))
    }
}

fn length(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).map_err(Error::io("read", path))?.len())
}
