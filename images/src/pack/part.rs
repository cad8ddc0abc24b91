//! File systems in the cache: whole, or what was appended to another one.
//!
//! A part is a folder named by the digest of all that goes into it; it appears under that name by one rename when it is complete.
//! Most file systems of an image are another one with a little appended, and a copy of each would cost more time on the disk
//! than making it: they are kept as what was appended, with the blocks that were changed before that (mkfs.erofs changes more
//! than its superblock), and put together in a [`WorkingImage`].

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::unfinished::Unfinished;

/// The file of a part that is whole, and of the working image.
pub(super) const FILE: &str = "part.img";
/// The file of what was appended: the changed blocks, then all from the other one's end on.
const APPENDED: &str = "appended.img";
/// The file that says to what: a line with the name of the part below and its length in bytes, then the numbers of the changed
/// blocks, a line each.
const BELOW: &str = "below";
/// Bytes of a block.
const BLOCK: u64 = 4096;
/// Bytes that are compared at a time.
const PIECE: u64 = 1 << 20;
/// More parts above each other than that are nobody's: five are made.
const LIMIT: usize = 16;

/// A complete part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Its name in the cache.
    pub(super) key: String,
    /// The file that begins it.
    whole: PathBuf,
    /// What is appended to that, in order.
    appended: Vec<Appended>,
    /// Its size in bytes.
    length: u64,
}

/// What a part has beyond the one below.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Appended {
    path: PathBuf,
    /// Length of the part below.
    at: u64,
    /// Numbers of the blocks below that which were changed.
    changed: Vec<u64>,
}

impl Appended {
    /// Reads the text of [`BELOW`]: the name of the part below as well.
    fn parse(text: &str, folder: &Path) -> Option<(String, Self)> {
        let mut lines = text.lines();
        let (below, length) = lines.next()?.split_once(' ')?;
        let is_digest = below.bytes().all(|byte| byte.is_ascii_hexdigit());
        let at: u64 = length.parse().ok()?;
        let changed: Vec<u64> = lines.map(|line| line.parse().ok()).collect::<Option<_>>()?;
        let inside = changed.iter().all(|block| *block < at / BLOCK);
        let appended = Self {
            path: folder.join(APPENDED),
            at,
            changed,
        };
        (below.len() == 64 && is_digest && inside).then(|| (below.to_owned(), appended))
    }
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
            let text = fs::read_to_string(folder.join(BELOW)).ok()?;
            let (below, what) = Appended::parse(&text, &folder)?;
            appended.push(what);
            name = below;
        }
        None
    }

    /// A part of files, the uppermost first; none when their lengths do not fit.
    fn of(key: &str, whole: PathBuf, mut length: u64, mut appended: Vec<Appended>) -> Option<Self> {
        appended.reverse();
        for what in &appended {
            let changed = what.changed.len() as u64 * BLOCK;
            let more = fs::metadata(&what.path).ok()?.len().checked_sub(changed)?;
            if what.at != length {
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
        let appended = self.appended.iter().map(|what| &what.path);
        for folder in appended.chain([&self.whole]).filter_map(|p| p.parent()) {
            let _ = File::open(folder).and_then(|f| f.set_modified(SystemTime::now()));
        }
    }

    /// Writes all of it to an empty file.
    pub(super) fn write(&self, mut target: &File) -> io::Result<()> {
        // Between files this is copy_file_range(2).
        io::copy(&mut File::open(&self.whole)?, &mut target)?;
        let mut block = [0; BLOCK as usize];
        for what in &self.appended {
            let mut source = File::open(&what.path)?;
            source.seek(SeekFrom::Start(what.changed.len() as u64 * BLOCK))?;
            target.seek(SeekFrom::Start(what.at))?;
            io::copy(&mut source, &mut target)?;
            for (place, number) in (0..).zip(&what.changed) {
                source.read_exact_at(&mut block, place * BLOCK)?;
                target.write_all_at(&block, number * BLOCK)?;
            }
        }
        Ok(())
    }

    /// Writes into a new part's folder what was made of this one.
    pub(super) fn write_appended(&self, image: &File, folder: &Path) -> Result<()> {
        let path = folder.join(APPENDED);
        let changed = self
            .copy_appended(image, &path)
            .map_err(Error::io("write", &path))?;
        let path = folder.join(BELOW);
        let mut text = format!("{} {}\n", self.key, self.length);
        changed
            .iter()
            .for_each(|block| text += &format!("{block}\n"));
        // Cut short by a power cut it could still name a part.
        fs::write(&path, text)
            .and_then(|()| File::open(&path)?.sync_all())
            .map_err(Error::io("write", &path))
    }

    fn copy_appended(&self, mut image: &File, path: &Path) -> io::Result<Vec<u64>> {
        let changed = self.changed(image)?;
        let mut appended = File::create_new(path)?;
        let mut block = [0; BLOCK as usize];
        for (place, number) in (0..).zip(&changed) {
            image.read_exact_at(&mut block, number * BLOCK)?;
            appended.write_all_at(&block, place * BLOCK)?;
        }
        appended.seek(SeekFrom::End(0))?;
        image.seek(SeekFrom::Start(self.length))?;
        io::copy(&mut image, &mut appended)?;
        appended.sync_all()?;
        Ok(changed)
    }

    /// Numbers of the blocks in which an image differs from this part, sorted.
    fn changed(&self, image: &File) -> io::Result<Vec<u64>> {
        let content = Content::open(self)?;
        let pieces: Vec<u64> = (0..self.length.div_ceil(PIECE)).collect();
        let differing = pieces.into_par_iter().map(|piece| {
            let start = piece * PIECE;
            let length = PIECE.min(self.length - start) as usize;
            let (mut old, mut new) = (vec![0; length], vec![0; length]);
            content.read(start, &mut old)?;
            image.read_exact_at(&mut new, start)?;
            let size = BLOCK as usize;
            let pairs = old.chunks(size).zip(new.chunks(size));
            let numbers = (start / BLOCK..).zip(pairs);
            let differ = numbers.filter(|(_, (old, new))| old != new);
            Ok(differ.map(|(number, _)| number).collect::<Vec<u64>>())
        });
        let found: Vec<Vec<u64>> = differing.collect::<io::Result<_>>()?;
        Ok(found.concat())
    }
}

/// The content of a part, to be read at any place.
struct Content {
    /// Files with the ranges that they hold, and where in the file such a range begins.
    ranges: Vec<(File, std::ops::Range<u64>, u64)>,
    /// Blocks that were changed later: in which of the files, and where.
    changed: HashMap<u64, (usize, u64)>,
}

impl Content {
    fn open(part: &Part) -> io::Result<Self> {
        let whole = File::open(&part.whole)?;
        let ends = part
            .appended
            .iter()
            .map(|what| what.at)
            .chain([part.length]);
        let mut ends = ends.collect::<Vec<u64>>().into_iter();
        let mut ranges = vec![(whole, 0..ends.next().unwrap_or(0), 0)];
        let mut changed = HashMap::new();
        for (what, end) in part.appended.iter().zip(ends) {
            for (place, number) in (0..).zip(&what.changed) {
                changed.insert(*number, (ranges.len(), place * BLOCK));
            }
            let begin = what.changed.len() as u64 * BLOCK;
            ranges.push((File::open(&what.path)?, what.at..end, begin));
        }
        Ok(Self { ranges, changed })
    }

    /// Reads from a place on, which is a block's beginning.
    fn read(&self, start: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = start + buffer.len() as u64;
        for (file, range, begin) in &self.ranges {
            let (from, to) = (start.max(range.start), end.min(range.end));
            if from < to {
                let part = &mut buffer[(from - start) as usize..(to - start) as usize];
                file.read_exact_at(part, begin + from - range.start)?;
            }
        }
        for (number, block) in (start / BLOCK..).zip(buffer.chunks_mut(BLOCK as usize)) {
            if let Some((file, at)) = self.changed.get(&number) {
                self.ranges[*file].0.read_exact_at(block, *at)?;
            }
        }
        Ok(())
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
            // The second one's last block is changed by the third.
            image[..BLOCK as usize].fill(b'0' + index as u8);
            let end = image.len();
            image[end - 1] = b'!';
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
        assert!(lengths(&format!("{b} 12288\n0\n2\n")));
        for wrong in [
            format!("{b} 12288\n0\n3\n"),
            format!("{b} 12288\n0\nx\n"),
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
