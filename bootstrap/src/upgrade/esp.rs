//! What the boot loaders read: entries of systemd-boot for UEFI, and files and variables of GRUB for a BIOS. Both are always
//! written, whatever this machine's firmware is.
//!
//! FAT has no journal: each step is on the disk before the next one begins, and files that a boot loader would take get
//! their names last.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::grubenv::{Choice, Environment};
use super::names::{self, Counter, Entry};
use crate::error::{Error, Result};
use crate::mounts;

/// Where systemd-boot looks for kernel images.
const ENTRIES: &str = "EFI/Linux";
/// GRUB's variables.
const GRUBENV: &str = "grub/grubenv";
/// One folder a version, for GRUB.
const VERSIONS: &str = "farrow";
/// How often a version is tried.
pub const TRIES: u32 = 3;
/// Where the partition is mounted while it is written.
const MOUNT_POINT: &str = "/run/farrow/esp";

/// An EFI system partition as a folder, seen by machines from images of one name.
#[derive(Debug, Clone)]
pub struct Esp {
    folder: PathBuf,
    name: String,
}

/// Where an EFI system partition is.
#[derive(Debug, Clone)]
pub enum Place {
    /// A partition, which is mounted only while something is done with it.
    Device(PathBuf),
    /// A folder that stands for one.
    Folder(PathBuf),
}

/// The partition's content, until this is dropped.
pub struct Opened {
    /// Its content.
    pub esp: Esp,
    mounted: bool,
}

impl Place {
    /// Opens the partition for machines from images of a name.
    ///
    /// # Errors
    /// `FR-IO`.
    pub fn open(&self, name: &str) -> Result<Opened> {
        let (folder, mounted) = match self {
            Place::Folder(folder) => (folder.as_path(), false),
            Place::Device(device) => {
                let folder = Path::new(MOUNT_POINT);
                fs::create_dir_all(folder).map_err(|error| Error::io("make", folder, error))?;
                mounts::mount_fat(device, folder)?;
                (folder, true)
            }
        };
        Ok(Opened {
            esp: Esp::new(folder, name),
            mounted,
        })
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if self.mounted
            && let Err(error) = self
                .esp
                .sync()
                .and_then(|()| mounts::unmount(Path::new(MOUNT_POINT)))
        {
            log::warn!("{error}");
        }
    }
}

impl Esp {
    /// The partition's content in `folder`.
    pub fn new(folder: &Path, name: &str) -> Self {
        Esp {
            folder: folder.to_owned(),
            name: name.to_owned(),
        }
    }

    /// The entries of systemd-boot.
    ///
    /// # Errors
    /// `FR-IO`.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let files = list(&self.folder.join(ENTRIES))?;
        let mut entries: Vec<Entry> = files
            .iter()
            .filter_map(|file| Entry::parse(file, &self.name))
            .collect();
        entries.sort_by_key(ToString::to_string);
        Ok(entries)
    }

    /// GRUB's variables; none where an image was made without BIOS boot.
    ///
    /// # Errors
    /// `FR-IO`: they cannot be read, or are none.
    pub fn environment(&self) -> Result<Option<Environment>> {
        let path = self.folder.join(GRUBENV);
        match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            read => read
                .and_then(|block| Environment::parse(&block).map_err(std::io::Error::other))
                .map(Some)
                .map_err(|error| Error::io("read", &path, error)),
        }
    }

    /// Tells GRUB what to boot. The block is written over the old one: GRUB knows its sectors.
    ///
    /// # Errors
    /// `FR-IO`.
    pub fn choose(&self, choice: &Choice) -> Result<()> {
        let Some(environment) = self.environment()? else {
            return Ok(());
        };
        if environment.choice() == *choice {
            return Ok(());
        }
        let path = self.folder.join(GRUBENV);
        let write = || {
            let block = environment
                .with(choice)
                .block()
                .map_err(std::io::Error::other)?;
            let mut file = OpenOptions::new().write(true).open(&path)?;
            file.write_all(&block)?;
            file.sync_all()
        };
        write().map_err(|error| Error::io("write", &path, error))?;
        self.sync()
    }

    /// Files and folders that belong to other versions than `id`, or are the rest of an upgrade that was killed.
    ///
    /// # Errors
    /// `FR-IO`.
    pub fn others(&self, id: &str) -> Result<Vec<PathBuf>> {
        let entries = self.entries()?.into_iter().filter(|entry| entry.id != id);
        let mut found: Vec<PathBuf> = entries
            .map(|entry| Path::new(ENTRIES).join(entry.to_string()))
            .collect();
        let prefix = names::id(&self.name, "");
        let folders = list(&self.folder.join(VERSIONS))?;
        let others = folders
            .iter()
            .filter(|folder| folder.starts_with(&prefix) && *folder != id);
        found.extend(others.map(|folder| Path::new(VERSIONS).join(folder)));
        Ok(found)
    }

    /// Removes a file, or a folder with its files.
    ///
    /// # Errors
    /// `FR-IO`.
    pub fn remove(&self, path: &Path) -> Result<()> {
        let path = self.folder.join(path);
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(|error| Error::io("remove", &path, error))
    }

    /// Bytes that are free.
    ///
    /// # Errors
    /// `FR-IO`.
    pub fn free(&self) -> Result<u64> {
        let found = nix::sys::statvfs::statvfs(&self.folder)
            .map_err(|error| Error::io("read", &self.folder, error.into()))?;
        Ok(found.blocks_available() * found.fragment_size())
    }

    /// A new file of a version, under a name that no boot loader reads, in the folder of the version.
    ///
    /// # Errors
    /// `FR-IO`.
    pub fn create(&self, id: &str, file: &str) -> Result<(PathBuf, File)> {
        let path = self.folder.join(VERSIONS).join(id).join(file);
        let folder = path.parent().unwrap_or(&self.folder);
        let made = fs::create_dir_all(folder).and_then(|()| File::create(&path));
        made.map(|file| (path.clone(), file))
            .map_err(|error| Error::io("create", &path, error))
    }

    /// Gives a version's kernel image the name under which systemd-boot tries it.
    ///
    /// # Errors
    /// `FR-IO`.
    pub fn arm(&self, id: &str, file: &str, entry: &Entry) -> Result<()> {
        let from = self.folder.join(VERSIONS).join(id).join(file);
        self.rename(&from, &self.folder.join(ENTRIES).join(entry.to_string()))
    }

    /// Gives an entry another counter, or none; where two names of it are left, one goes.
    ///
    /// # Errors
    /// `FR-IO`.
    pub fn recount(&self, id: &str, counter: impl Fn(Counter) -> Option<Counter>) -> Result<()> {
        for entry in self.entries()?.into_iter().filter(|entry| entry.id == id) {
            let Some(old) = entry.counter else {
                continue;
            };
            let place = |entry: &Entry| self.folder.join(ENTRIES).join(entry.to_string());
            let new = Entry {
                counter: counter(old),
                ..entry.clone()
            };
            if new != entry {
                self.rename(&place(&entry), &place(&new))?;
            }
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(|error| Error::io("rename", from, error))?;
        self.sync()
    }

    /// Waits until all is on the disk.
    ///
    /// # Errors
    /// `FR-IO`.
    pub fn sync(&self) -> Result<()> {
        let failed = |error| Error::io("flush", &self.folder, error);
        let folder = File::open(&self.folder).map_err(failed)?;
        nix::unistd::syncfs(&folder).map_err(|error| failed(error.into()))
    }
}

/// Names in a folder; none when it is missing.
fn list(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|error| Error::io("list", folder, error))?,
    };
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect())
}

/// What GRUB boots when only `id` is left.
pub fn only(id: &str) -> Choice {
    Choice {
        default: id.to_owned(),
        trial: None,
    }
}

/// A folder as an image's partition has it, for tests.
#[cfg(test)]
pub(crate) fn sample(folder: &Path, id: &str) -> Esp {
    for name in [ENTRIES, "grub", "farrow/base_1"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    fs::write(folder.join(format!("{ENTRIES}/{id}.efi")), b"kernel").unwrap();
    let block = Environment::default().with(&only(id)).block().unwrap();
    assert_eq!(block.len(), super::grubenv::BYTES);
    fs::write(folder.join(GRUBENV), block).unwrap();
    Esp::new(folder, "base")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn entries_are_armed_counted_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let esp = sample(folder.path(), "base_1");
        esp.create("base_2", "linux.tmp").unwrap();
        let trial = Entry::new(
            "base",
            "2",
            Some(Counter {
                left: TRIES,
                done: 0,
            }),
        );
        esp.arm("base_2", "linux.tmp", &trial).unwrap();
        let names = || {
            esp.entries()
                .unwrap()
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(names(), ["base_1.efi", "base_2+3.efi"]);
        esp.recount("base_2", |old| {
            Some(Counter {
                left: 0,
                done: old.done + 1,
            })
        })
        .unwrap();
        assert_eq!(names(), ["base_1.efi", "base_2+0-1.efi"]);
        esp.recount("base_2", |_| None).unwrap();
        assert_eq!(names(), ["base_1.efi", "base_2.efi"]);
        esp.recount("base_1", |_| Some(Counter { left: 1, done: 1 }))
            .unwrap();
        assert_eq!(
            names(),
            ["base_1.efi", "base_2.efi"],
            "a good entry is not counted"
        );
        let mut others = esp.others("base_1").unwrap();
        others.sort();
        assert_eq!(
            others,
            [
                Path::new("EFI/Linux/base_2.efi"),
                Path::new("farrow/base_2")
            ]
        );
        for path in others {
            esp.remove(&path).unwrap();
        }
        assert!(esp.others("base_1").unwrap().is_empty());
        assert!(folder.path().join("farrow/base_1").is_dir());
    }

    #[test]
    fn variables_are_written_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let esp = sample(folder.path(), "base_1");
        let path = folder.path().join(GRUBENV);
        let before = fs::metadata(&path).unwrap();
        let choice = Choice {
            default: "base_1".into(),
            trial: Some(("base_2".into(), TRIES)),
        };
        esp.choose(&choice).unwrap();
        assert_eq!(esp.environment().unwrap().unwrap().choice(), choice);
        let after = fs::metadata(&path).unwrap();
        assert_eq!((after.ino(), after.len()), (before.ino(), before.len()));
        fs::write(&path, b"no block").unwrap();
        assert_eq!(esp.choose(&choice).unwrap_err().code(), "FR-IO");
        fs::remove_file(&path).unwrap();
        esp.choose(&choice).unwrap();
        assert!(!path.exists(), "an image without BIOS boot stays without");
    }
}
