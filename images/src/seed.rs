//! NoCloud seed images: one machine's user-data, meta-data and network-config on a small FAT volume.
//!
//! The label and the file names are those of cloud-init's NoCloud data source.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::error::{Error, Result};
use crate::qemu_error::MachineError;
use crate::tools::ToolsTree;

/// The label by which NoCloud volumes are found.
pub const LABEL: &str = "CIDATA";

/// Largest document, in bytes: far more than any cloud lets through, small enough to be read at once.
const MAX_DOCUMENT: usize = 4 << 20;

/// Smallest image, in bytes.
const MIN_IMAGE: u64 = 1 << 20;

/// Time of the files on the volume: 1 January 2020, in seconds since 1970. FAT cannot store 1970.
const FILE_TIME: u64 = 1_577_836_800;

/// Volume serial number: a fixed one, since nothing tells volumes apart by it.
const VOLUME_ID: &str = "46415257";

/// The documents of one machine. They may hold secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SeedFiles {
    /// What the operator wants: deployment and node fragments.
    pub user_data: String,
    /// Who the machine is: instance-id and hostname.
    pub meta_data: String,
    /// Network settings; empty: the file is left out.
    pub network_config: String,
}

impl std::fmt::Debug for SeedFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The content stays out of logs.
        f.debug_struct("SeedFiles").finish_non_exhaustive()
    }
}

impl SeedFiles {
    /// The files by the names they have on the volume.
    pub fn files(&self) -> Vec<(&'static str, &str)> {
        let mut files = vec![
            ("meta-data", self.meta_data.as_str()),
            ("user-data", self.user_data.as_str()),
        ];
        if !self.network_config.is_empty() {
            files.push(("network-config", self.network_config.as_str()));
        }
        files
    }

    /// Writes the image to `path`, readable by its owner only. Equal documents give equal bytes.
    ///
    /// # Errors
    /// [`MachineError::SeedSize`] for a document over 4 MiB; file and tool failures.
    pub fn write(&self, tools: &ToolsTree, path: &Path) -> Result<()> {
        for (name, content) in self.files() {
            if content.len() > MAX_DOCUMENT {
                let (size, limit) = (content.len(), MAX_DOCUMENT);
                return Err(MachineError::SeedSize { name, size, limit }.into());
            }
        }
        let parent = path.parent().unwrap_or(Path::new("/"));
        // In the same folder, so that the finished image can be renamed; tempfile makes it with mode 0700.
        let work = tempfile::Builder::new()
            .prefix(".seed-")
            .tempdir_in(parent)
            .map_err(Error::io("create a folder in", parent))?;
        self.write_files(work.path())?;
        pack(tools, work.path(), &self.files())?;
        let image = work.path().join("image");
        fs::rename(&image, path).map_err(Error::io("move the seed image to", path))
    }

    fn write_files(&self, folder: &Path) -> Result<()> {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(FILE_TIME);
        for (name, content) in self.files() {
            let path = folder.join(name);
            let mut file = create_private(&path)?;
            file.write_all(content.as_bytes())
                .and_then(|()| file.set_modified(time))
                .map_err(Error::io("write", &path))?;
        }
        let path = folder.join("image");
        let image = create_private(&path)?;
        image
            .set_len(self.image_bytes())
            .map_err(Error::io("write", &path))
    }

    /// Room for the documents, the FAT and the folder, in whole 64 KiB.
    fn image_bytes(&self) -> u64 {
        let content: usize = self.files().iter().map(|(_, content)| content.len()).sum();
        let wanted = content as u64 + content as u64 / 64 + (128 << 10);
        wanted.next_multiple_of(64 << 10).max(MIN_IMAGE)
    }
}

fn create_private(path: &Path) -> Result<File> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::io("create", path))
}

fn pack(tools: &ToolsTree, folder: &Path, files: &[(&str, &str)]) -> Result<()> {
    const INSIDE: &str = "/run/seed";
    let sandbox = tools.sandbox().map_ids(false).bind(folder, INSIDE);
    let sandbox = sandbox.workdir(INSIDE).env("MTOOLS_SKIP_CHECK", "1");
    let format = ["mkfs.vfat", "--invariant", "-i", VOLUME_ID, "-n", LABEL];
    sandbox.run(&[&format[..], &["image"]].concat(), None)?;
    let mut copy = vec!["mcopy", "-m", "-i", "image"];
    copy.extend(files.iter().map(|(name, _)| *name));
    copy.push("::");
    sandbox.run(&copy, None)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_network_config_is_left_out_and_secrets_are_not_printed() {
        let mut seed = SeedFiles {
            user_data: "hush".to_owned(),
            ..SeedFiles::default()
        };
        let names = |seed: &SeedFiles| seed.files().iter().map(|f| f.0).collect::<Vec<_>>();
        assert_eq!(names(&seed), ["meta-data", "user-data"]);
        seed.network_config = "version: 2".to_owned();
        assert_eq!(names(&seed), ["meta-data", "user-data", "network-config"]);
        assert!(!format!("{seed:?}").contains("hush"));
    }

    #[test]
    fn an_image_has_room_for_its_documents() {
        for (bytes, expected) in [(0, 1 << 20), (900 << 10, 17 << 16), (4 << 20, 67 << 16)] {
            let seed = SeedFiles {
                user_data: "x".repeat(bytes),
                ..SeedFiles::default()
            };
            assert_eq!(seed.image_bytes(), expected, "{bytes} bytes");
        }
    }
}
