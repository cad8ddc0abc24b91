//! Putting the parts of a disk into one sparse file.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};

use nix::unistd::{Whence, lseek};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::grub::Embedded;
use crate::partitions::{self, Layout, SECTOR};
use crate::parts::Parts;
use crate::progress::{ProgressFn, stage};
use crate::sparse_digest;

/// A raw disk that is put together. The root, which is most of it, is copied beside other work; until it is there, its bytes are
/// read from where it comes from.
pub(crate) struct RawDisk<'scope> {
    /// The disk's file.
    pub(crate) path: &'scope Path,
    /// Where the root is copied from.
    pub(crate) root: PathBuf,
    /// Where the root begins on the disk, in bytes.
    at: u64,
    file: File,
    copying: Mutex<Option<ScopedJoinHandle<'scope, Result<()>>>>,
}

impl<'scope> RawDisk<'scope> {
    /// Creates the file, and begins to copy the root to where it will most likely be.
    pub(crate) fn begin(
        scope: &'scope Scope<'scope, '_>,
        path: &'scope Path,
        root: PathBuf,
        at: u64,
        progress: ProgressFn<'scope>,
    ) -> Result<Self> {
        let mut options = File::options();
        let options = options.read(true).write(true).create_new(true);
        let file = options.open(path).map_err(Error::io("create", path))?;
        // With a position of its own.
        let target = File::options().write(true).open(path);
        let target = target.map_err(Error::io("open", path))?;
        let source = root.clone();
        let copy = move || {
            stage(progress, "image/disk", || {
                copy_data(&source, &target, at).map_err(Error::io("copy", &source))
            })
        };
        Ok(Self {
            path,
            root,
            at,
            file,
            copying: Mutex::new(Some(scope.spawn(copy))),
        })
    }

    /// Waits until the root is on the disk. Of several callers one is told what went wrong.
    pub(crate) fn wait(&self) -> Result<()> {
        let mut copying = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        match copying.take().map(ScopedJoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }

    /// Writes the table and all parts but the root, which is copied once more when it belongs elsewhere.
    pub(crate) fn write(
        &mut self,
        layout: &Layout,
        parts: &Parts,
        esp: &Path,
        bios: Option<&Embedded>,
    ) -> Result<()> {
        self.place_root(layout)?;
        partitions::write(layout, &mut self.file, self.path)?;
        let io = |what| Error::io(what, self.path);
        if let Some(bios) = bios {
            let written = self.file.write_all_at(&bios.boot_code, 0);
            written.map_err(io("write"))?;
        }
        for partition in &layout.partitions {
            let at = partition.start * SECTOR;
            let source = match partition.name.as_str() {
                "esp" => esp,
                "var" => &parts.var,
                "repo" => parts.repository.as_deref().unwrap_or(esp),
                "bios" => {
                    let core = bios.map_or(&[][..], |bios| &bios.core);
                    self.file.write_all_at(core, at).map_err(io("write"))?;
                    continue;
                }
                "verity-a" => {
                    let written = self.file.write_all_at(&parts.tree.bytes, at);
                    written.map_err(io("write"))?;
                    continue;
                }
                _ => continue,
            };
            copy_data(source, &self.file, at).map_err(Error::io("copy", source))?;
        }
        Ok(())
    }

    fn place_root(&mut self, layout: &Layout) -> Result<()> {
        let mut partitions = layout.partitions.iter();
        let root = partitions.find(|partition| partition.name == "root-a");
        let at = root.map_or(self.at, |partition| partition.start * SECTOR);
        if at == self.at {
            return Ok(());
        }
        self.wait()?;
        self.at = at;
        let emptied = self.file.set_len(0);
        emptied.map_err(Error::io("empty", self.path))?;
        copy_data(&self.root, &self.file, at).map_err(Error::io("copy", &self.root))
    }

    /// SHA-256 in hex and size. What is not the root must have been written.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn digest(&self) -> Result<(String, u64)> {
        let open = |path: &Path| {
            let file = File::open(path).map_err(Error::io("open", path))?;
            let length = file.metadata().map_err(Error::io("read", path))?.len();
            Ok::<_, Error>((file, length))
        };
        let (disk, size) = open(self.path)?;
        let (root, length) = open(&self.root)?;
        let end = self.at + length;
        let mut hash = Sha256::new();
        for (file, range, path) in [
            (&disk, 0..self.at, self.path),
            (&root, 0..length, &self.root),
            (&disk, end..size, self.path),
        ] {
            sparse_digest::hash_range(&mut hash, file, range).map_err(Error::io("read", path))?;
        }
        Ok((hex::encode(hash.finalize()), size))
    }
}

/// Copies a file's data to an offset of another file; its holes stay holes.
pub(crate) fn copy_data(source: &Path, mut target: &File, offset: u64) -> std::io::Result<()> {
    let file = File::open(source)?;
    let mut from = 0;
    // ENXIO: no more data.
    while let Ok(start) = lseek(&file, from, Whence::SeekData) {
        let end = lseek(&file, start, Whence::SeekHole)?;
        (&file).seek(SeekFrom::Start(start as u64))?;
        target.seek(SeekFrom::Start(offset + start as u64))?;
        // Between files this is copy_file_range(2).
        std::io::copy(&mut (&file).take((end - start) as u64), &mut target)?;
        from = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::Architecture;
    use std::fs;

    /// The digest is the disk's also while its root is still copied, and where it has to be copied once more.
    #[test]
    fn a_disk_is_hashed_while_its_root_is_copied() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let bytes: Vec<u8> = (0..3 << 20).map(|n: u32| (n % 251) as u8).collect();
        for (name, length) in [("root", 3 << 20), ("esp", 1 << 20), ("var", 2 << 20)] {
            fs::write(path(name), &bytes[..length]).unwrap();
        }
        let tree = crate::verity::build(&path("root"), &[0; 32], [0; 16]).unwrap();
        let parts = Parts::of_files(&path("root"), tree, &path("var"));
        let layout = parts
            .layout(&crate::disk::tests::input(), 64 << 20)
            .unwrap();
        let progress = |_| ();
        let made = [crate::disk::usual_root(Architecture::Amd64), 1 << 20].map(|at| {
            let disk = path(&format!("disk-{at}"));
            let digest = std::thread::scope(|scope| {
                let mut raw = RawDisk::begin(scope, &disk, path("root"), at, &progress).unwrap();
                raw.write(&layout, &parts, &path("esp"), None).unwrap();
                let digest = raw.digest().unwrap();
                raw.wait().unwrap();
                digest
            });
            assert_eq!(digest, sparse_digest::digest(&disk).unwrap());
            digest
        });
        assert_eq!(made[0], made[1]);
    }

    #[test]
    fn holes_stay_holes() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        let file = File::create(&source).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"data", 32 << 20).unwrap();
        let target = File::create_new(folder.path().join("target")).unwrap();
        target.set_len(80 << 20).unwrap();
        copy_data(&source, &target, 1 << 20).unwrap();
        let bytes = fs::read(folder.path().join("target")).unwrap();
        assert_eq!(&bytes[33 << 20..(33 << 20) + 4], b"data");
        assert_eq!(bytes.iter().filter(|&&b| b != 0).count(), 4);
        assert!(target.metadata().unwrap().blocks() * 512 < 1 << 20);
    }
}
