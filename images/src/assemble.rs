//! Putting the parts of a disk into one sparse file.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;

use nix::unistd::{Whence, lseek};

use crate::disk::Parts;
use crate::error::{Error, Result};
use crate::grub::Embedded;
use crate::partitions::{self, Layout, SECTOR};

/// Writes table and parts into a sparse file.
pub(crate) fn assemble(
    path: &Path,
    layout: &Layout,
    parts: &Parts,
    esp: &Path,
    bios: Option<&Embedded>,
) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let io = |what| Error::io(what, path);
    let mut disk = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(io("create"))?;
    partitions::write(layout, &mut disk, path)?;
    if let Some(bios) = bios {
        disk.write_all_at(&bios.boot_code, 0).map_err(io("write"))?;
    }
    for partition in &layout.partitions {
        let at = partition.start * SECTOR;
        let source = match partition.name.as_str() {
            "esp" => esp,
            "root-a" => &parts.root,
            "var" => &parts.var,
            "repo" => parts.repository.as_deref().unwrap_or(esp),
            "bios" => {
                let core = bios.map_or(&[][..], |bios| &bios.core);
                disk.write_all_at(core, at).map_err(io("write"))?;
                continue;
            }
            "verity-a" => {
                disk.write_all_at(&parts.tree.bytes, at)
                    .map_err(io("write"))?;
                continue;
            }
            _ => continue,
        };
        copy_data(source, &disk, at).map_err(Error::io("copy", source))?;
    }
    Ok(())
}

/// Copies a file's data to an offset of another file; its holes stay holes.
pub(crate) fn copy_data(source: &Path, mut target: &File, offset: u64) -> std::io::Result<()> {
    use std::io::Read;
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
    use std::fs;

    #[test]
    fn holes_stay_holes() {
        use std::os::unix::fs::{FileExt, MetadataExt};
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
