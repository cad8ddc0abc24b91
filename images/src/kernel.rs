//! Which modules of a kernel the first steps of a boot need.
//!
//! Formats: `modules.dep` and `modules.alias` as depmod(8) of kmod writes them, `modules.builtin` as the kernel's build
//! does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::error::{Error, Result};

/// Loaded on every machine, in this order of wishes: the root's checks, its file systems.
const ALWAYS: [&str; 4] = ["dm_verity", "erofs", "overlay", "ext4"];

/// Loaded when their device is there. The order is the order of trials: an accelerated hash before it is used, drivers
/// of virtual machines first, and last the controllers that every emulated PC has whether the root is there or not.
const FOR_DEVICES: [&str; 16] = [
    "sha256_ssse3",
    "sha2_ce",
    "virtio_pci",
    "virtio_blk",
    "nvme",
    "virtio_scsi",
    "hv_vmbus",
    "pci_hyperv",
    "hv_storvsc",
    "vmw_pvscsi",
    "xen_blkfront",
    "mptspi",
    "mptsas",
    "sd_mod",
    "ahci",
    "ata_piix",
];

/// Patterns instead of the hundreds that these drivers name: the class of AHCI, and the two PIIX of emulators.
const OWN_ALIASES: [(&str, &[&str]); 2] = [
    ("ahci", &["pci:v*d*sv*sd*bc01sc06i01*"]),
    (
        "ata_piix",
        &["pci:v00008086d00007010sv*", "pci:v00008086d00007111sv*"],
    ),
];

/// Kinds of devices whose announcements the first process looks at.
const ALIAS_KINDS: [&str; 8] = [
    "cpu:", "pci:", "virtio:", "scsi:", "acpi", "vmbus:", "xen:", "nvme:",
];

/// The largest text file of depmod that is read, in bytes (the largest real one has 0.5 MB).
const TABLE_LIMIT: u64 = 16 << 20;

fn tree(reason: &str) -> Error {
    Error::Tree {
        reason: reason.to_owned(),
    }
}

/// Which modules go into the initial file system, and when they are loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModulePlan {
    /// One line of `/modules.list` each: the condition, and file names with dependencies first.
    pub rules: Vec<Rule>,
    /// File name in the initial file system → path below the modules' folder.
    pub files: BTreeMap<String, String>,
}

/// When to load what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Pattern over modaliases; none: always.
    pub alias: Option<String>,
    /// File names, in the order of loading.
    pub files: Vec<String>,
}

impl ModulePlan {
    /// The text of `/modules.list`, in the format of farrow-init's `modules` module.
    pub fn text(&self) -> String {
        let line = |rule: &Rule| {
            let files = rule.files.join(" ");
            match &rule.alias {
                None => format!("always {files}\n"),
                Some(alias) => format!("alias {alias} {files}\n"),
            }
        };
        self.rules.iter().map(line).collect()
    }
}

/// Reads the kernel's tables from the folder of its modules and plans with them.
///
/// # Errors
/// When a table cannot be read or a needed module is neither a file nor built in.
pub fn plan_modules(modules: &Path) -> Result<ModulePlan> {
    let read = |name: &str| {
        let path = modules.join(name);
        let size = fs::metadata(&path).map_err(Error::io("read", &path))?.len();
        if size > TABLE_LIMIT {
            return Err(tree(&format!("{name} of the kernel is too large")));
        }
        fs::read_to_string(&path).map_err(Error::io("read", &path))
    };
    plan(
        &read("modules.dep")?,
        &read("modules.alias")?,
        &read("modules.builtin")?,
    )
}

/// The plan from the texts of `modules.dep`, `modules.alias` and `modules.builtin`.
///
/// # Errors
/// When a module that every boot needs is neither listed nor built in, or a path leaves the modules' folder.
pub fn plan(dependencies: &str, aliases: &str, built_in: &str) -> Result<ModulePlan> {
    let table = Dependencies::parse(dependencies)?;
    let built_in: BTreeSet<String> = built_in.lines().map(module_name).collect();
    let mut plan = ModulePlan {
        rules: Vec::new(),
        files: BTreeMap::new(),
    };
    for name in ALWAYS {
        if built_in.contains(name) {
            continue;
        }
        let files = table
            .with_dependencies(name, &mut plan.files)
            .ok_or_else(|| {
                tree(&format!(
                    "the kernel has no module {name}, which every boot needs"
                ))
            })?;
        plan.rules.push(Rule { alias: None, files });
    }
    for name in FOR_DEVICES {
        // Drivers that this kernel does not have, or has built in, need nothing here.
        if built_in.contains(name) || !table.modules.contains_key(name) {
            continue;
        }
        let files = table
            .with_dependencies(name, &mut plan.files)
            .unwrap_or_default();
        for alias in aliases_of(name, aliases) {
            plan.rules.push(Rule {
                alias: Some(alias),
                files: files.clone(),
            });
        }
    }
    Ok(plan)
}

/// `modules.dep`: name → (path, paths of what it depends on, in kmod's order, last one loaded first).
struct Dependencies<'a> {
    modules: BTreeMap<String, (&'a str, Vec<&'a str>)>,
}

impl<'a> Dependencies<'a> {
    fn parse(text: &'a str) -> Result<Self> {
        let mut modules = BTreeMap::new();
        for line in text.lines() {
            let (path, needs) = line
                .split_once(':')
                .ok_or_else(|| tree(&format!("modules.dep has the line {line:?}")))?;
            let needs: Vec<&str> = needs.split_ascii_whitespace().collect();
            for path in needs.iter().chain([&path]) {
                if path.starts_with('/') || path.split('/').any(|part| part == "..") {
                    return Err(tree(&format!("modules.dep leaves its folder: {path}")));
                }
            }
            modules.insert(module_name(path), (path, needs));
        }
        Ok(Self { modules })
    }

    /// File names of a module behind those it depends on; notes their paths in `files`.
    fn with_dependencies(
        &self,
        name: &str,
        files: &mut BTreeMap<String, String>,
    ) -> Option<Vec<String>> {
        let (path, needs) = self.modules.get(name)?;
        let order = needs.iter().rev().chain([path]);
        let names = order.map(|path| {
            let file = format!("{}.ko", module_name(path));
            files.insert(file.clone(), (*path).to_owned());
            file
        });
        Some(names.collect())
    }
}

/// `kernel/fs/erofs/erofs.ko.xz` → `erofs`; dashes and underscores are the same to the kernel.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

fn aliases_of(name: &str, text: &str) -> Vec<String> {
    if let Some((_, own)) = OWN_ALIASES.iter().find(|(module, _)| *module == name) {
        return own.iter().map(|&alias| alias.to_owned()).collect();
    }
    text.lines()
        .filter_map(|line| {
            let (alias, module) = line.strip_prefix("alias ")?.rsplit_once(' ')?;
            let wanted = module == name && ALIAS_KINDS.iter().any(|kind| alias.starts_with(kind));
            wanted.then(|| alias.to_owned())
        })
        .collect()
}

/// The plain ELF object of a module file, which may be compressed with xz or zstd.
///
/// # Errors
/// When the file cannot be read, is larger than 64 MiB, or is no ELF object.
pub fn read_module(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    const LIMIT: u64 = 64 << 20;
    let file = fs::File::open(path).map_err(Error::io("open", path))?;
    let mut content = Vec::new();
    let mut reader: Box<dyn Read> = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => Box::new(liblzma::read::XzDecoder::new(file)),
        Some("zst") => {
            Box::new(zstd::stream::Decoder::new(file).map_err(Error::io("decompress", path))?)
        }
        _ => Box::new(file),
    };
    let mut limited = (&mut reader).take(LIMIT);
    limited
        .read_to_end(&mut content)
        .map_err(Error::io("decompress", path))?;
    if content.len() as u64 == LIMIT || !content.starts_with(b"\x7fELF") {
        return Err(tree(&format!("{} is not a kernel module", path.display())));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/drivers/md/dm-verity.ko.xz: kernel/drivers/md/dm-bufio.ko.xz kernel/drivers/md/dm-mod.ko.xz
kernel/drivers/md/dm-bufio.ko.xz: kernel/drivers/md/dm-mod.ko.xz
kernel/drivers/md/dm-mod.ko.xz:
kernel/fs/erofs/erofs.ko.xz: kernel/lib/libcrc32c.ko.xz
kernel/lib/libcrc32c.ko.xz:
kernel/fs/overlayfs/overlay.ko.xz:
kernel/drivers/block/virtio_blk.ko.xz:
kernel/drivers/ata/ahci.ko.xz: kernel/drivers/ata/libata.ko.xz
kernel/drivers/ata/libata.ko.xz:
";
    const ALIAS: &str = "\
# Aliases extracted from modules themselves.
alias virtio:d00000002v* virtio_blk
alias devname:something virtio_blk
alias pci:v00001234d*sv*sd*bc*sc*i* ahci
";

    #[test]
    fn dependencies_come_first_and_built_in_ones_are_left_out() {
        let plan = plan(DEP, ALIAS, "kernel/fs/ext4/ext4.ko\n").unwrap();
        assert_eq!(
            plan.text(),
            "always dm_mod.ko dm_bufio.ko dm_verity.ko\n\
             always libcrc32c.ko erofs.ko\n\
             always overlay.ko\n\
             alias virtio:d00000002v* virtio_blk.ko\n\
             alias pci:v*d*sv*sd*bc01sc06i01* libata.ko ahci.ko\n"
        );
        assert_eq!(plan.files["dm_mod.ko"], "kernel/drivers/md/dm-mod.ko.xz");
    }

    #[test]
    fn what_cannot_boot_is_refused() {
        let missing = plan(DEP, ALIAS, "").unwrap_err();
        assert!(missing.to_string().contains("ext4"), "{missing}");
        for line in ["no colon", "../a.ko:", "/a.ko:", "a.ko: b/../../c.ko"] {
            assert!(plan(line, "", "").is_err(), "{line}");
        }
    }
}
