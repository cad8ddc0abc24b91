//! A disk image of any of our formats, opened as a raw disk: as it is, or unpacked into a folder of its own.
//!
//! Images come from anywhere: their kind is told by their content, what they unpack to is bounded, and QEMU's formats
//! are read by `qemu-img` in a sandbox that sees nothing else.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::formats::{Format, magic};
use crate::tools::ToolsTree;

/// The largest disk that is unpacked, in bytes; ours have a few GiB.
const LIMIT: u64 = 64 << 30;
/// How the names of unfinished folders begin; an interrupted run's are removed.
const TEMPORARY: &str = ".unfinished-";
/// Bytes that are copied at a time; what is all zeros becomes a hole.
const PIECE: usize = 64 << 10;

/// An image whose disk can be read.
#[derive(Debug)]
pub struct Opened {
    /// The image's format.
    pub format: Format,
    /// A file that begins with the raw disk.
    pub raw: PathBuf,
    /// Size of the disk in bytes.
    pub size: u64,
    /// Where it was unpacked.
    _work: Option<tempfile::TempDir>,
}

/// Opens an image; what must be unpacked goes into `cache` until the value is dropped.
///
/// # Errors
/// [`Error::Unknown`] when this is no disk image of a known format, or one that is too large.
pub fn open(path: &Path, tools: &ToolsTree, cache: &Path) -> Result<Opened> {
    let format = detect(path)?;
    let length = fs::metadata(path).map_err(Error::io("read", path))?.len();
    let (raw, size, work) = match format {
        Format::Raw => (path.to_owned(), length, None),
        // The disk comes first.
        Format::Vhd => (path.to_owned(), length - magic::VHD_FOOTER, None),
        packed => {
            let work = work_folder(cache)?;
            let raw = unpack(packed, path, tools, work.path())?;
            let size = fs::metadata(&raw).map_err(Error::io("read", &raw))?.len();
            (raw, size, Some(work))
        }
    };
    Ok(Opened {
        format,
        raw,
        size,
        _work: work,
    })
}

/// A folder for what an image holds; it goes when the value does.
pub(crate) fn work_folder(cache: &Path) -> Result<tempfile::TempDir> {
    fs::create_dir_all(cache).map_err(Error::io("create", cache))?;
    let folder = tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(cache);
    folder.map_err(Error::io("create in", cache))
}

/// The format of an image, by its content.
///
/// # Errors
/// [`Error::Unknown`] when it is none of ours.
pub fn detect(path: &Path) -> Result<Format> {
    let io = |what| Error::io(what, path);
    let file = File::open(path).map_err(io("open"))?;
    let length = file.metadata().map_err(io("read"))?.len();
    let mut start = [0; 1024];
    let there = length.min(1024) as usize;
    file.read_exact_at(&mut start[..there], 0)
        .map_err(io("read"))?;
    let mut end = [0; 8];
    if let Some(at) = length.checked_sub(magic::VHD_FOOTER) {
        file.read_exact_at(&mut end, at).map_err(io("read"))?;
    }
    magic::format(&start, &end).ok_or_else(|| Error::Unknown {
        path: path.to_owned(),
        reason: "it is no disk image of a known format".to_owned(),
    })
}

fn unpack(format: Format, path: &Path, tools: &ToolsTree, work: &Path) -> Result<PathBuf> {
    let raw = work.join("disk.raw");
    match format {
        Format::Gce => {
            let file = File::open(path).map_err(Error::io("open", path))?;
            let wanted = |name: &str| name == "disk.raw";
            take_member(MultiGzDecoder::new(file), wanted, path, &raw)?;
        }
        Format::Ova => {
            let vmdk = work.join("disk.vmdk");
            let file = File::open(path).map_err(Error::io("open", path))?;
            take_member(file, |name| name.ends_with(".vmdk"), path, &vmdk)?;
            to_raw(&vmdk, "vmdk", path, tools, work)?;
        }
        Format::Vmdk => to_raw(path, "vmdk", path, tools, work)?,
        _ => to_raw(path, "qcow2", path, tools, work)?,
    }
    Ok(raw)
}

/// Writes the first member of a tar archive whose name is wanted.
fn take_member(
    archive: impl Read,
    wanted: impl Fn(&str) -> bool,
    path: &Path,
    target: &Path,
) -> Result<()> {
    let unknown = |reason: String| Error::Unknown {
        path: path.to_owned(),
        reason,
    };
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().map_err(Error::io("read", path))? {
        let mut entry = entry.map_err(Error::io("read", path))?;
        let name = entry.path().map_err(Error::io("read", path))?;
        if !wanted(&name.to_string_lossy()) {
            continue;
        }
        if entry.size() > LIMIT {
            return Err(unknown(format!("its disk has {} bytes", entry.size())));
        }
        let file = File::create_new(target).map_err(Error::io("create", target))?;
        let size = entry.size();
        copy_sparse(&mut entry, &file).map_err(Error::io("unpack", path))?;
        return file.set_len(size).map_err(Error::io("resize", target));
    }
    Err(unknown("the archive holds no disk".to_owned()))
}

/// Copies to an empty file; zeros stay holes.
fn copy_sparse(source: &mut impl Read, target: &File) -> io::Result<()> {
    let mut at = 0;
    let mut piece = Vec::with_capacity(PIECE);
    loop {
        piece.clear();
        source.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
        if piece.is_empty() {
            return (&*target).flush();
        }
        if piece.iter().any(|&byte| byte != 0) {
            target.write_all_at(&piece, at)?;
        }
        at += piece.len() as u64;
    }
}

/// What `qemu-img info` says.
#[derive(Deserialize)]
struct Info {
    #[serde(rename = "virtual-size")]
    size: u64,
}

/// Lets `qemu-img` write a disk of a known format as `work/disk.raw`. A backing file would be one of the sandbox.
fn to_raw(image: &Path, driver: &str, path: &Path, tools: &ToolsTree, work: &Path) -> Result<()> {
    let sandbox = || {
        let sandbox = tools.sandbox().map_ids(false).bind_ro(image, "/image");
        sandbox.bind(work, "/work").workdir("/work")
    };
    let argv = ["qemu-img", "info", "-f", driver, "--output=json", "/image"];
    let output = sandbox().run(&argv, None)?;
    let unknown = |reason: String| Error::Unknown {
        path: path.to_owned(),
        reason,
    };
    let info: Info = serde_json::from_slice(&output.stdout).map_err(|e| unknown(e.to_string()))?;
    if info.size > LIMIT {
        return Err(unknown(format!("its disk has {} bytes", info.size)));
    }
    let argv = [
        "qemu-img", "convert", "-f", driver, "-O", "raw", "/image", "disk.raw",
    ];
    sandbox().run(&argv, None).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_without_a_disk_and_other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for content in [&b""[..], b"text", &[0; 4096]] {
            fs::write(&path, content).unwrap();
            assert!(matches!(detect(&path), Err(Error::Unknown { .. })));
        }
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(3);
        archive
            .append_data(&mut header, "other", &b"abc"[..])
            .unwrap();
        let bytes = archive.into_inner().unwrap();
        let target = folder.path().join("target");
        let found = take_member(&bytes[..], |name| name == "disk.raw", &path, &target);
        assert!(matches!(found, Err(Error::Unknown { .. })));
        assert!(!target.exists());
    }

    #[test]
    fn zeros_become_holes() {
        use std::os::unix::fs::MetadataExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = vec![0; 8 << 20];
        bytes[5 << 20] = 1;
        copy_sparse(&mut &bytes[..], file.as_file()).unwrap();
        file.as_file().set_len(8 << 20).unwrap();
        assert!(fs::read(file.path()).unwrap() == bytes);
        assert!(file.as_file().metadata().unwrap().blocks() * 512 < 1 << 20);
    }
}
