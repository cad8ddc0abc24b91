//! What is in an image, from its file alone: partitions, kernel images, the root's packages and identity.
//!
//! Nothing is mounted. File systems are read by programs of the tools tree in a sandbox; what they print is bounded.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::inspect;
use crate::opened::{self, Opened};
use crate::partitions::{self, Layout, SECTOR};
use crate::tools::ToolsTree;
use crate::uki;

/// The largest file that is taken out of an image, in bytes.
const LIMIT: u64 = 256 << 20;
/// dpkg's database in the root.
const STATUS: &str = "/usr/lib/sysimage/dpkg/status";
/// What the machine can say about its image.
const IDENTITY: &str = "/usr/lib/farrow/image.json";
/// Where the kernel images are in the ESP.
const KERNELS: &str = "::/EFI/Linux";

/// Partition types: UEFI specification 2.10, section 5.3.3, and the Discoverable Partitions specification.
const KINDS: [(&str, &str); 8] = [
    ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "esp"),
    ("21686148-6449-6e6f-744e-656564454649", "bios-boot"),
    ("4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "root-x86-64"),
    ("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5", "root-x86-64-verity"),
    ("b921b045-1df0-41c3-af44-4c6f280d3fae", "root-arm64"),
    ("df3300ce-d69f-4c92-978c-9bfb0f38d820", "root-arm64-verity"),
    ("0fc63daf-8483-4772-8e79-3d69d8477de4", "linux-generic"),
    ("4d21b016-b534-45c2-a9fb-5c16e091fd2d", "var"),
];

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionContent {
    /// Name in the table.
    pub name: String,
    /// Type, by name where it is a known one.
    pub kind: String,
    /// Unique id.
    pub uuid: String,
    /// Offset in bytes.
    pub offset: u64,
    /// Size in bytes.
    pub size: u64,
}

/// A unified kernel image in the ESP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KernelImage {
    /// File name.
    pub file: String,
    /// Size in bytes.
    pub size: u64,
    /// Kernel release.
    pub release: String,
    /// Kernel command line.
    pub command_line: String,
    /// os-release(5).
    pub os_release: BTreeMap<String, String>,
    /// Size of the initial file system in bytes.
    pub initrd_size: u64,
}

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Installed {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Architecture.
    pub architecture: String,
    /// Installed size in KiB as the package says.
    pub installed_kib: u64,
}

/// What is in an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Contents {
    /// Format of the file.
    pub format: &'static str,
    /// Size of the file in bytes.
    pub file_size: u64,
    /// Size of the disk in bytes.
    pub disk_size: u64,
    /// Id of the disk.
    pub disk_id: String,
    /// Partitions in their order.
    pub partitions: Vec<PartitionContent>,
    /// dm-verity root hash, computed from the root partition.
    pub root_hash: String,
    /// Whether a kernel image's command line asks for this root hash.
    pub root_hash_fits: bool,
    /// Kernel images, newest name last.
    pub kernels: Vec<KernelImage>,
    /// What the image says about itself: name, version, digest of the lock.
    pub identity: Option<serde_json::Value>,
    /// Installed packages, sorted.
    pub packages: Vec<Installed>,
}

/// Looks into an image. What must be unpacked goes into `cache` meanwhile.
///
/// # Errors
/// [`Error::Unknown`] when this is none of our images, [`Error::Verify`] when its root does not match its hash tree.
pub fn read(path: &Path, tools: &ToolsTree, cache: &Path) -> Result<Contents> {
    let opened = opened::open(path, tools, cache)?;
    let layout = layout(&opened)?;
    read_opened(path, &opened, &layout, tools, cache)
}

/// The partition table of an opened image.
pub(crate) fn layout(opened: &Opened) -> Result<Layout> {
    let raw = &opened.raw;
    let mut file = File::open(raw).map_err(Error::io("open", raw))?;
    partitions::read(&mut file, raw)
}

pub(crate) fn read_opened(
    path: &Path,
    opened: &Opened,
    layout: &Layout,
    tools: &ToolsTree,
    cache: &Path,
) -> Result<Contents> {
    let work = opened::work_folder(cache)?;
    let look = Look {
        raw: &opened.raw,
        layout,
        tools,
        work: work.path(),
    };
    let kernels = look.kernels()?;
    let root_hash = inspect::root_hash(&opened.raw)?;
    let wanted = format!("farrow.roothash={root_hash}");
    let asks = |kernel: &KernelImage| kernel.command_line.split(' ').any(|word| word == wanted);
    let identity = look.root_file(IDENTITY)?;
    let identity = identity.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let status = look.root_file(STATUS)?.unwrap_or_default();
    let file_size = fs::metadata(path).map_err(Error::io("read", path))?.len();
    Ok(Contents {
        format: opened.format.name(),
        file_size,
        disk_size: opened.size,
        disk_id: layout.disk.text(),
        partitions: layout.partitions.iter().map(partition).collect(),
        root_hash_fits: kernels.iter().any(asks),
        root_hash,
        kernels,
        identity,
        packages: installed(&String::from_utf8_lossy(&status)),
    })
}

fn partition(partition: &partitions::Partition) -> PartitionContent {
    PartitionContent {
        name: partition.name.clone(),
        kind: kind_name(&partition.kind.text()),
        uuid: partition.unique.text(),
        offset: partition.start * SECTOR,
        size: partition.sectors * SECTOR,
    }
}

/// The name of a partition type, or its id.
fn kind_name(id: &str) -> String {
    let known = KINDS.iter().find(|(known, _)| *known == id);
    known.map_or(id, |(_, name)| name).to_owned()
}

/// A disk that is looked into.
struct Look<'a> {
    raw: &'a Path,
    layout: &'a Layout,
    tools: &'a ToolsTree,
    work: &'a Path,
}

impl Look<'_> {
    /// Offset of a partition in bytes.
    fn offset(&self, name: &str) -> Result<u64> {
        let found = self.layout.partitions.iter().find(|p| p.name == name);
        found
            .map(|partition| partition.start * SECTOR)
            .ok_or_else(|| Error::Unknown {
                path: self.raw.to_owned(),
                reason: format!("it has no partition {name}"),
            })
    }

    fn shell(&self, script: &str) -> Result<()> {
        let sandbox = self.tools.sandbox().map_ids(false);
        let sandbox = sandbox.bind_ro(self.raw, "/disk").bind(self.work, "/work");
        let sandbox = sandbox.workdir("/work").env("MTOOLS_SKIP_CHECK", "1");
        sandbox.run(&["sh", "-c", script], None).map(|_| ())
    }

    /// A file of the root, if it is there.
    fn root_file(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let offset = self.offset("root-a")?;
        self.shell(&format!(
            "dump.erofs --cat --offset={offset} --path={path} /disk 2>/dev/null | head -c {LIMIT} > file"
        ))?;
        let bytes = read_bounded(&self.work.join("file"))?;
        Ok((!bytes.is_empty()).then_some(bytes))
    }

    /// The kernel images of the ESP.
    fn kernels(&self) -> Result<Vec<KernelImage>> {
        let offset = self.offset("esp")?;
        self.shell(&format!(
            "mkdir kernels && mcopy -n -i /disk@@{offset} '{KERNELS}/*' kernels/"
        ))?;
        let folder = self.work.join("kernels");
        let mut kernels = Vec::new();
        for entry in fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
            let path = entry.map_err(Error::io("list", &folder))?.path();
            let bytes = read_bounded(&path)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let kernel = kernel(&name, &bytes).map_err(|reason| Error::Unknown {
                path: self.raw.to_owned(),
                reason: format!("its kernel image {name}: {reason}"),
            })?;
            kernels.push(kernel);
        }
        kernels.sort_by(|a, b| a.file.cmp(&b.file));
        Ok(kernels)
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut bytes = Vec::new();
    file.take(LIMIT)
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", path))?;
    Ok(bytes)
}

fn kernel(file: &str, bytes: &[u8]) -> std::result::Result<KernelImage, &'static str> {
    let sections = uki::sections(bytes)?;
    let section = |name: &str| {
        let found = sections.iter().find(|(known, _)| known == name);
        found.map_or(&[][..], |(_, data)| *data)
    };
    let text = |name: &str| {
        let text = String::from_utf8_lossy(section(name));
        text.trim_matches(['\0', '\n', ' ']).to_owned()
    };
    Ok(KernelImage {
        file: file.to_owned(),
        size: bytes.len() as u64,
        release: text(".uname"),
        command_line: text(".cmdline"),
        os_release: os_release(&text(".osrel")),
        initrd_size: section(".initrd").len() as u64,
    })
}

/// The assignments of os-release(5), without the quotes.
fn os_release(text: &str) -> BTreeMap<String, String> {
    let assignment = |line: &str| {
        let (key, value) = line.split_once('=')?;
        let value = value.trim().trim_matches('"');
        Some((key.trim().to_owned(), value.to_owned()))
    };
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(assignment).collect()
}

/// The installed packages of a dpkg status file (deb822, dpkg(1)).
fn installed(status: &str) -> Vec<Installed> {
    let mut packages: Vec<Installed> = status
        .split("\n\n")
        .filter_map(|stanza| {
            let field = |name: &str| {
                stanza.lines().find_map(|line| {
                    let value = line.strip_prefix(name)?.strip_prefix(": ")?;
                    Some(value.trim().to_owned())
                })
            };
            let is_there = field("Status")?.ends_with(" installed");
            is_there.then_some(())?;
            Some(Installed {
                name: field("Package")?,
                version: field("Version")?,
                architecture: field("Architecture")?,
                installed_kib: field("Installed-Size").map_or(0, |n| n.parse().unwrap_or(0)),
            })
        })
        .collect();
    packages.sort();
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_installed_counts() {
        let status = "Package: b\nStatus: install ok installed\nVersion: 1:2-3\nArchitecture: all\nInstalled-Size: 7\n\n\
                      Package: gone\nStatus: deinstall ok config-files\nVersion: 1\nArchitecture: all\n\n\
                      Package: a\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2\n";
        let found = installed(status);
        let names: Vec<_> = found
            .iter()
            .map(|p| (&p.name[..], p.installed_kib))
            .collect();
        assert_eq!(names, [("a", 0), ("b", 7)]);
        assert_eq!(found[1].version, "1:2-3");
    }

    #[test]
    fn os_release_values_lose_their_quotes() {
        let found = os_release("# a comment\nID=debian\nPRETTY_NAME=\"a b\"\nnonsense\n");
        assert_eq!(found["PRETTY_NAME"], "a b");
        assert_eq!(found.len(), 2);
    }
}
