//! The EFI system partition: boot loader, its configuration, the unified kernel image, and what GRUB starts when the firmware
//! is a BIOS.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use crate::architecture::Architecture;
use crate::boot_image::BootFiles;
use crate::error::{Error, Result};
use crate::grub;
use crate::tools::ToolsTree;

/// The newest version boots at once; holding a key while the firmware starts shows the menu.
const LOADER_CONFIGURATION: &str = "timeout 0\neditor no\n";
/// Room for three versions beside the boot loaders: the running one, the next, and one being written.
const VERSIONS: u64 = 3;
/// FAT32 needs at least 65525 clusters; of 512 bytes, this is well above. Bytes.
pub(crate) const SMALLEST: u64 = 64 << 20;

/// Size in bytes of a partition for versions of this size.
pub fn size(version: u64) -> u64 {
    let content = version * VERSIONS;
    // A file allocation table has four bytes for each cluster of 512, and there are two.
    (content + content / 64 + (4 << 20))
        .next_multiple_of(8 << 20)
        .max(SMALLEST)
}

/// What the partition gets.
#[derive(Clone, Copy)]
pub(crate) struct Content<'a> {
    /// Name and version, `NAME_VERSION`.
    pub(crate) name: &'a str,
    /// What is booted.
    pub(crate) boot: &'a BootFiles,
    /// What the boot loader runs on.
    pub(crate) architecture: Architecture,
    /// Volume id.
    pub(crate) volume: u32,
    /// Time of all files, seconds since 1970.
    pub(crate) epoch: u64,
}

/// Makes the FAT32 file system in `work/esp.img`.
///
/// # Errors
/// When a tool fails.
pub(crate) fn build(content: &Content, tools: &ToolsTree, work: &Path) -> Result<()> {
    stage(content, &work.join("esp"))?;
    let epoch = content.epoch.to_string();
    let sandbox = tools
        .sandbox()
        .map_ids(false)
        .bind(work, "/work")
        .workdir("/work")
        .env("SOURCE_DATE_EPOCH", &epoch)
        .env("MTOOLS_SKIP_CHECK", "1");
    let sectors = (size(content.boot.image.len() as u64) / 1024).to_string();
    let volume = format!("{:08x}", content.volume);
    sandbox.run(
        &[
            "mkfs.vfat",
            "--invariant",
            "-F",
            "32",
            "-s",
            "1",
            "-S",
            "512",
            "-n",
            "ESP",
            "-i",
            &volume,
            "-C",
            "esp.img",
            &sectors,
        ],
        None,
    )?;
    let mut folders = vec!["esp/EFI", "esp/farrow", "esp/grub", "esp/loader"];
    if content.boot.entry.is_none() {
        folders.retain(|folder| !["esp/farrow", "esp/grub"].contains(folder));
    }
    // -m takes over the times of files and folders.
    let copy = ["mcopy", "-m", "-s", "-i", "esp.img"];
    sandbox.run(&[&copy[..], &folders[..], &["::/"][..]].concat(), None)?;
    Ok(())
}

/// GRUB's configuration and state, by path.
fn bios_files<'a>(content: &Content<'a>) -> Vec<(String, Cow<'a, [u8]>)> {
    let Some(entry) = &content.boot.entry else {
        return Vec::new();
    };
    let environment = grub::environment(&[("farrow_default", content.name)]);
    vec![
        (
            "grub/grub.cfg".into(),
            grub::CONFIGURATION.as_bytes().into(),
        ),
        ("grub/grubenv".into(), environment.into()),
        (
            format!("farrow/{}/entry.cfg", content.name),
            (&entry[..]).into(),
        ),
    ]
}

/// Writes the files as they are to be in the file system, all of the same time.
fn stage(content: &Content, folder: &Path) -> Result<()> {
    let places = content.architecture.boot_loader_places();
    let boot = content.boot;
    let image = format!("EFI/Linux/{}.efi", content.name);
    let bios = bios_files(content);
    let mut files: Vec<(&str, &[u8])> = vec![
        ("loader/loader.conf", LOADER_CONFIGURATION.as_bytes()),
        // systemd's bootctl takes it as the sign of a partition with boot loader entries.
        ("loader/entries.srel", b"type1\n"),
        (&image, &boot.image),
    ];
    files.extend(bios.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])));
    files.extend(
        places
            .iter()
            .map(|place| (place.as_str(), &boot.loader[..])),
    );
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(content.epoch);
    let dated = |path: &Path| fs::File::open(path)?.set_modified(time);
    for (name, bytes) in &files {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        fs::write(&path, bytes)
            .and_then(|()| dated(&path))
            .map_err(Error::io("write", &path))?;
    }
    // Folders last, since writing into one dates it anew; mcopy takes their times over too.
    for (name, _) in &files {
        for path in Path::new(name).ancestors().skip(1) {
            let path = folder.join(path);
            dated(&path).map_err(Error::io("date", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size(1 << 20), SMALLEST);
        assert_eq!(size(31 << 20), 104 << 20);
    }
}
