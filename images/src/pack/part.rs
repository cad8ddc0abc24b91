//! File systems in the cache: whole, or what was appended to another one.
//!
//! A part is a folder named by the digest of all that goes into it; it appears under that name by one rename when it is complete.
//! Most file systems of an image are another one with a little appended, and a copy of each would cost more time on the disk
//! than making it: they are kept as what was appended, with the block that names the new end, and put together in a
//! [`WorkingImage`].

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::error::{Error, Result};
use crate::unfinished::Unfinished;

/// The file of a part that is whole, and of the working image.
pub(super) const FILE: &str = "part.img";
/// The file of what was appended: the first block, then all from the other one's end on.
const APPENDED: &str = "appended.img";
/// The file that names the part below and its length in bytes, on one line.
const BELOW: &str = "below";
/// What appending changes at the beginning: the superblock of erofs is in the first block (fs/erofs/erofs_fs.h).
const BLOCK: u64 = 4096;
/// More parts above each other than that are nobody's: five are made.
const LIMIT: usize = 16;

/// A complete part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Its name in the cache.
    pub(super) key: String,
    /// The file that begins it.
    whole: PathBuf,
    /// What is appended to that, in order: the file, and from which byte on.
    appended: Vec<(PathBuf, u64)>,
    /// Its size in bytes.
    length: u64,
}

impl Part {
    /// The part of that name, if all that it consists of is there.
    pub(super) fn find(cache: &Path, key: &str) -> Option<Self> {
        let mut appended = Vec::new();
        let mut name = key.to_owned();
        while appended.len() < LIMIT {
            let folder = cache.join(&name);
            if let Ok(found) = fs::metadata(folder.join(FILE)) {
                return Self::of(key, folder.join(FILE), found.len(), appended);
            }
            let below = fs::read_to_string(folder.join(BELOW)).ok()?;
            let (below, length) = below.trim_end().split_once(' ')?;
            let is_digest = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
            if below.len() != 64 || !is_digest(below) {
                return None;
            }
            appended.push((folder.join(APPENDED), length.parse().ok()?));
            name = below.to_owned();
        }
        None
    }

    /// A part of files, the uppermost first; none when their lengths do not fit.
    fn of(
        key: &str,
        whole: PathBuf,
        mut length: u64,
        mut appended: Vec<(PathBuf, u64)>,
    ) -> Option<Self> {
        appended.reverse();
        for (path, at) in &appended {
            let more = fs::metadata(path).ok()?.len().checked_sub(BLOCK)?;
            if *at != length {
                return None;
            }
            length += more;
        }
        Some(Self {
            key: key.to_owned(),
            whole,
            appended,
            length,
        })
    }

    /// The file, of a part that is whole.
    pub(super) fn file(&self) -> Option<&Path> {
        self.appended.is_empty().then_some(&self.whole)
    }

    /// Says that it was used, by the times of its folders: they decide what goes when the cache is bounded. Others may share
    /// the cache read-only.
    pub(super) fn mark_used(&self) {
        let appended = self.appended.iter().map(|(path, _)| path);
        for folder in appended.chain([&self.whole]).filter_map(|p| p.parent()) {
            let _ = File::open(folder).and_then(|f| f.set_modified(SystemTime::now()));
        }
    }

    /// Writes all of it to an empty file.
    pub(super) fn write(&self, mut target: &File) -> io::Result<()> {
        // Between files this is copy_file_range(2).
        io::copy(&mut File::open(&self.whole)?, &mut target)?;
        for (path, at) in &self.appended {
            let mut source = File::open(path)?;
            source.seek(SeekFrom::Start(BLOCK))?;
            target.seek(SeekFrom::Start(*at))?;
            io::copy(&mut source, &mut target)?;
        }
        if let Some((path, _)) = self.appended.last() {
            let mut block = Vec::new();
            File::open(path)?.take(BLOCK).read_to_end(&mut block)?;
            target.seek(SeekFrom::Start(0))?;
            target.write_all(&block)?;
        }
        Ok(())
    }

    /// Writes into a new part's folder what was appended to this one.
    pub(super) fn write_appended(&self, image: &File, folder: &Path) -> Result<()> {
        let path = folder.join(APPENDED);
        self.copy_appended(image, &path)
            .map_err(Error::io("write", &path))?;
        let path = folder.join(BELOW);
        let text = format!("{} {}\n", self.key, self.length);
        fs::write(&path, text).map_err(Error::io("write", &path))
    }

    fn copy_appended(&self, mut image: &File, path: &Path) -> io::Result<()> {
        let mut appended = File::create_new(path)?;
        image.seek(SeekFrom::Start(0))?;
        io::copy(&mut image.take(BLOCK), &mut appended)?;
        image.seek(SeekFrom::Start(self.length))?;
        io::copy(&mut image, &mut appended)?;
        appended.sync_all()
    }
}

/// The root file system that was worked on last, as one file: what is appended next begins with it, in most cases. It
/// goes with this value.
#[derive(Default)]
pub struct WorkingImage(Mutex<Option<Image>>);

/// A part put together.
pub(super) struct Image {
    pub(super) folder: Unfinished,
    /// The part's name.
    key: String,
}

impl Image {
    /// Where it is.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join(FILE)
    }
}

impl WorkingImage {
    /// Puts a part together, unless it is what was worked on last. Its path.
    pub(super) fn hold(&self, part: &Part, cache: &Path) -> Result<PathBuf> {
        let image = self.take(part, cache)?;
        let path = image.path();
        self.put(image, part);
        Ok(path)
    }

    /// Removes the file.
    pub(crate) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A part as a file that can be changed.
    pub(super) fn take(&self, part: &Part, cache: &Path) -> Result<Image> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(image) = last.filter(|image| image.key == part.key) {
            return Ok(image);
        }
        let image = Image {
            folder: Unfinished::begin(cache)?,
            key: part.key.clone(),
        };
        let path = image.path();
        File::create_new(&path)
            .and_then(|file| part.write(&file))
            .map_err(Error::io("write", &path))?;
        Ok(image)
    }

    /// What was made of it is a part.
    pub(super) fn put(&self, mut image: Image, part: &Part) {
        image.key.clone_from(&part.key);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(image);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOWEST: [&str; 3] = ["a", "b", "c"];

    fn key(name: &str) -> String {
        name.repeat(64)
    }

    /// Three parts above each other, of the blocks that a letter fills.
    fn cache() -> (tempfile::TempDir, Vec<Vec<u8>>) {
        let cache = tempfile::tempdir().unwrap();
        let block = |letter: u8| vec![letter; BLOCK as usize];
        let mut image = [block(b'0'), block(b'x')].concat();
        let mut images = Vec::new();
        let mut below: Option<Part> = None;
        for (index, name) in LOWEST.into_iter().enumerate() {
            let folder = cache.path().join(key(name));
            fs::create_dir(&folder).unwrap();
            let Some(part) = below else {
                fs::write(folder.join(FILE), &image).unwrap();
                images.push(image.clone());
                below = Part::find(cache.path(), &key(name));
                continue;
            };
            image[..BLOCK as usize].fill(b'0' + index as u8);
            image.extend(block(name.as_bytes()[0]));
            let path = cache.path().join("image");
            fs::write(&path, &image).unwrap();
            let file = File::open(&path).unwrap();
            part.write_appended(&file, &folder).unwrap();
            images.push(image.clone());
            below = Part::find(cache.path(), &key(name));
        }
        (cache, images)
    }

    #[test]
    fn parts_are_put_together_from_what_was_appended() {
        let (cache, images) = cache();
        let working = WorkingImage::default();
        for (name, image) in LOWEST.iter().zip(&images) {
            let part = Part::find(cache.path(), &key(name)).unwrap();
            assert_eq!(part.length, image.len() as u64);
            assert_eq!(part.file().is_some(), *name == "a");
            let path = working.hold(&part, cache.path()).unwrap();
            assert_eq!(&fs::read(&path).unwrap(), image);
            // The same file again.
            assert_eq!(working.hold(&part, cache.path()).unwrap(), path);
        }
        drop(working);
        // Nothing of it is left.
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 4);
    }

    #[test]
    fn a_part_of_which_something_is_missing_is_none() {
        let lengths = |text: &str| {
            let (cache, _) = cache();
            fs::write(cache.path().join(key("c")).join(BELOW), text).unwrap();
            Part::find(cache.path(), &key("c")).is_some()
        };
        let (a, b, c) = (key("a"), key("b"), key("c"));
        assert!(lengths(&format!("{b} 12288\n")));
        for wrong in [
            String::new(),
            format!("{b} 8192"),
            format!("{a} 12288"),
            format!("{c} 12288"),
            format!("{b} x"),
            "../x 12288".to_owned(),
        ] {
            assert!(!lengths(&wrong), "{wrong:?}");
        }
        let (cache, _) = cache();
        fs::remove_file(cache.path().join(&a).join(FILE)).unwrap();
        assert_eq!(Part::find(cache.path(), &c), None);
    }
}
