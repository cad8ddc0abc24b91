//! A disk with two slots in a file, an EFI system partition in a folder, and archives signed by a key of the test.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bootstrap::gpt::{self, HEAD_SECTORS, SECTOR};
use bootstrap::upgrade::archive::Archive;
use bootstrap::upgrade::esp::{Esp, Place, only};
use bootstrap::upgrade::grubenv::Environment;
use bootstrap::upgrade::machine::{Disk, Region, Running};
use bootstrap::upgrade::merkle::{BLOCK, Superblock, Tree};
use bootstrap::upgrade::plan::{Inputs, UpgradePlan};
use bootstrap::upgrade::record::Records;
use bootstrap::upgrade::release::{DOCUMENT, MEMBERS, Member, Release, SIGNATURE};
use bootstrap::upgrade::{apply, names, read_release};
use bootstrap::{Image, Result};
use ed25519_compact::{KeyPair, Seed};
use sha2::{Digest, Sha256, Sha512};
use tempfile::TempDir;

/// Partition id of the running root.
const ROOT_A: &str = "0a0a0a0a-0a0a-0a0a-0a0a-0a0a0a0a0a0a";
/// Partitions with their lengths in sectors.
const PARTITIONS: [(&str, u64); 6] = [
    ("esp", 64),
    ("root-a", 8192),
    ("verity-a", 64),
    ("root-b", 8192),
    ("verity-b", 64),
    ("var", 64),
];

fn pair() -> KeyPair {
    KeyPair::from_seed(Seed::new([5; 32]))
}

/// The key that the test's machine trusts.
pub fn key() -> [u8; 32] {
    *pair().pk
}

/// A detached OpenPGP signature, version 4, Ed25519, SHA-512.
pub fn sign(data: &[u8]) -> Vec<u8> {
    let mut body = vec![4, 0, 27, 10, 0, 6, 5, 2, 1, 2, 3, 4];
    let digest = Sha512::new()
        .chain_update(data)
        .chain_update(&body)
        .chain_update([4, 0xff, 0, 0, 0, 12])
        .finalize();
    body.extend([0, 0, digest[0], digest[1]]);
    body.extend(pair().sk.sign(digest, None).iter());
    [&[0xc2, body.len() as u8][..], &body].concat()
}

/// What an archive is made of; tests change it before it is packed.
pub struct Upgrade {
    pub release: Release,
    pub contents: Vec<Vec<u8>>,
    pub signature: Option<Vec<u8>>,
}

impl Upgrade {
    /// A right one: a root of 700 blocks.
    pub fn new(version: &str) -> Self {
        let root: Vec<u8> = (0..700 * BLOCK)
            .map(|i| (i / 7) as u8 ^ version.as_bytes()[0])
            .collect();
        let mut verity = vec![0; 8 * BLOCK];
        verity[..8].copy_from_slice(b"verity\0\0");
        (verity[8], verity[12]) = (1, 1);
        verity[32..38].copy_from_slice(b"sha256");
        verity[64..68].copy_from_slice(&4096u32.to_le_bytes());
        verity[68..72].copy_from_slice(&4096u32.to_le_bytes());
        verity[72..80].copy_from_slice(&700u64.to_le_bytes());
        verity[80] = 4;
        verity[88..92].copy_from_slice(b"salt");
        let mut tree = Tree::new(Superblock::parse(&verity).unwrap());
        tree.update(&root);
        let hash = hex::encode(tree.root().unwrap());
        let boot =
            ["linux.efi", "entry.cfg"].map(|name| format!("{name} of {version}").into_bytes());
        let contents: Vec<Vec<u8>> = [root, verity].into_iter().chain(boot).collect();
        let mut upgrade = Upgrade {
            release: Release::new(
                "base",
                version,
                bootstrap::upgrade::plan::architecture(),
                &hash,
                Vec::new(),
            ),
            contents,
            signature: None,
        };
        upgrade.describe();
        upgrade
    }

    /// Sizes and digests of what it holds now.
    pub fn describe(&mut self) {
        let member = |((name, _), content): ((&str, u64), &Vec<u8>)| Member {
            name: name.to_owned(),
            size: content.len() as u64,
            sha256: hex::encode(Sha256::digest(content)),
        };
        self.release.members = MEMBERS
            .into_iter()
            .zip(&self.contents)
            .map(member)
            .collect();
    }

    /// The archive, as the `tar` crate writes it.
    pub fn pack(&self) -> Vec<u8> {
        let document = serde_json::to_vec(&self.release).unwrap();
        let signature = self.signature.clone().unwrap_or_else(|| sign(&document));
        let mut archive = tar::Builder::new(Vec::new());
        let names = [DOCUMENT, SIGNATURE]
            .into_iter()
            .chain(MEMBERS.map(|(name, _)| name));
        let all = [&document, &signature].into_iter().chain(&self.contents);
        for (name, content) in names.zip(all) {
            let mut header = tar::Header::new_ustar();
            header.set_path(name).unwrap();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            archive.append(&header, &content[..]).unwrap();
        }
        archive.into_inner().unwrap()
    }
}

/// The machine.
pub struct Site {
    folder: TempDir,
    pub image: Image,
}

impl Site {
    /// A machine that runs version 1 from slot a.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let site = Site {
            folder,
            image: Image {
                name: "base".into(),
                version: "1".into(),
                root_hash: "11".repeat(32),
                ..Image::default()
            },
        };
        site.make_disk();
        for name in ["EFI/Linux", "grub", "farrow/base_1"] {
            fs::create_dir_all(site.esp_folder().join(name)).unwrap();
        }
        fs::write(
            site.esp_folder().join("EFI/Linux/base_1.efi"),
            b"kernel of 1",
        )
        .unwrap();
        let block = Environment::default()
            .with(&only("base_1"))
            .block()
            .unwrap();
        fs::write(site.esp_folder().join("grub/grubenv"), block).unwrap();
        site
    }

    fn make_disk(&self) {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.disk_path())
            .unwrap();
        file.set_len(16 << 20).unwrap();
        let mut gpt = gptman::GPT::new_from(&mut file, 512, [1; 16]).unwrap();
        gpt.header.first_usable_lba = 2048;
        let mut start = 2048;
        for (number, (name, sectors)) in (1..).zip(PARTITIONS) {
            let unique = if name == "root-a" {
                [10; 16]
            } else {
                [number as u8 * 16; 16]
            };
            gpt[number] = gptman::GPTPartitionEntry {
                partition_type_guid: [9; 16],
                unique_partition_guid: unique,
                starting_lba: start,
                ending_lba: start + sectors - 1,
                attribute_bits: 0,
                partition_name: name.into(),
            };
            start += sectors;
        }
        gpt.write_into(&mut file).unwrap();
    }

    pub fn disk_path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    pub fn esp_folder(&self) -> PathBuf {
        self.folder.path().join("esp")
    }

    pub fn esp(&self) -> Esp {
        Esp::new(&self.esp_folder(), "base")
    }

    pub fn place(&self) -> Place {
        Place::Folder(self.esp_folder())
    }

    pub fn records(&self) -> Records {
        Records::new(&self.folder.path().join("records"))
    }

    pub fn partitions(&self) -> Vec<gpt::Partition> {
        let mut head = vec![0; HEAD_SECTORS * SECTOR];
        File::open(self.disk_path())
            .unwrap()
            .read_exact(&mut head)
            .unwrap();
        gpt::partitions(&head).unwrap()
    }

    pub fn disk(&self) -> Disk {
        let path = self.disk_path();
        let region = |partition: &gpt::Partition| Region {
            path: path.clone(),
            offset: partition.start * SECTOR as u64,
            length: partition.sectors * SECTOR as u64,
            number: partition.number,
        };
        Disk::new(&path, &self.partitions(), ROOT_A, region).unwrap()
    }

    /// The first bytes of a partition.
    pub fn content(&self, name: &str, length: usize) -> Vec<u8> {
        let partitions = self.partitions();
        let found = partitions
            .iter()
            .find(|partition| partition.name == name)
            .unwrap();
        let mut bytes = vec![0; length];
        let file = File::open(self.disk_path()).unwrap();
        file.read_exact_at(&mut bytes, found.start * SECTOR as u64)
            .unwrap();
        bytes
    }

    pub fn running(&self) -> Running {
        Running {
            root: ROOT_A.into(),
            root_hash: self.image.root_hash.clone(),
        }
    }

    /// What `farrow-bootstrap upgrade` does, without devices and mounts.
    pub fn upgrade(&self, source: impl Read) -> Result<UpgradePlan> {
        self.upgrade_with(source, &self.disk())
    }

    pub fn upgrade_with(&self, source: impl Read, disk: &Disk) -> Result<UpgradePlan> {
        let mut archive = Archive::new(source);
        let release = read_release(&mut archive, &key())?;
        let records = self.records();
        let plan = UpgradePlan::compute(&Inputs {
            image: &self.image,
            running: &self.running(),
            disk,
            release: &release,
            trial: records.trial()?.as_ref(),
            others: self.esp().others(&names::id("base", &self.image.version))?,
            ready_within_seconds: 600,
        })?;
        apply::apply(&plan, &mut archive, &self.place(), &records, "boot")?;
        Ok(plan)
    }

    /// Names of the boot loader's entries.
    pub fn entries(&self) -> Vec<String> {
        self.esp()
            .entries()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// What is there of a version's files for GRUB.
    pub fn bios_file(&self, version: &str, name: &str) -> Option<Vec<u8>> {
        fs::read(
            self.esp_folder()
                .join(format!("farrow/base_{version}"))
                .join(name),
        )
        .ok()
    }
}

/// Replaces the folder's path in a text.
pub fn without_paths(text: &str, site: &Site) -> String {
    let folder = site.disk_path();
    let folder = folder.parent().unwrap_or(Path::new("/"));
    text.replace(&folder.display().to_string(), "DIR")
}
