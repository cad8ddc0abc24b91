//! A bundle in several files, for media that hold no larger ones: `BUNDLE.001`, `BUNDLE.002`, …, and a list of their
//! digests, `BUNDLE.volumes`, which is written last.
//!
//! The list is what `sha256sum -c` reads. The marker inside the bundle is signed, so the list needs no signature.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::digest::{Hasher, Sha256};
use crate::error::{Error, Result};
use crate::files::{self, PartialFile};

/// Ending of the list.
pub const LIST: &str = "volumes";
/// Volumes have three digits.
const VOLUME_LIMIT: usize = 999;
/// No list is larger, in bytes.
const LIST_LIMIT: u64 = 1 << 20;
const SIZE_LINE: &str = "# bytes: ";

/// A writer that begins a new volume when one is full.
pub(crate) struct Volumes {
    target: PathBuf,
    limit: u64,
    finished: Vec<(PathBuf, Sha256, u64)>,
    files: Vec<PartialFile>,
    current: Option<(PartialFile, Hasher)>,
}

impl Volumes {
    /// Writes volumes of at most `limit` bytes of the bundle that would be `target`.
    pub fn new(target: &Path, limit: u64) -> Self {
        Volumes {
            target: target.to_path_buf(),
            limit: limit.max(1),
            finished: Vec::new(),
            files: Vec::new(),
            current: None,
        }
    }

    fn close(&mut self) -> io::Result<()> {
        if let Some((file, hasher)) = self.current.take() {
            let (sha256, size) = hasher.finish();
            let path = volume_path(&self.target, self.files.len() + 1);
            self.finished.push((path, sha256, size));
            self.files.push(file);
        }
        Ok(())
    }

    /// Gives the volumes their names, the list last; returns the list's path and the volumes'.
    pub fn install(mut self) -> Result<(PathBuf, Vec<PathBuf>)> {
        let closed = self.close();
        closed.map_err(|e| Error::io("write", &self.target, e))?;
        let list = list_path(&self.target);
        remove(&list)?;
        self.files.into_iter().try_for_each(PartialFile::install)?;
        // Volumes that an earlier, larger bundle had.
        for number in self.finished.len() + 1..=VOLUME_LIMIT {
            let path = volume_path(&self.target, number);
            if path.symlink_metadata().is_err() {
                break;
            }
            remove(&path)?;
        }
        let (mut text, mut total) = (String::new(), 0);
        for (path, sha256, size) in &self.finished {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            text += &format!("{sha256}  {name}\n");
            total += size;
        }
        text += &format!("{SIZE_LINE}{total}\n");
        files::write_atomic(&list, text.as_bytes(), 0o644)?;
        let paths = self.finished.into_iter().map(|(path, _, _)| path);
        Ok((list, paths.collect()))
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

impl Write for Volumes {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if let Some((_, hasher)) = &self.current
            && hasher.size() >= self.limit
        {
            self.close()?;
        }
        if self.current.is_none() {
            let number = self.files.len() + 1;
            if number > VOLUME_LIMIT {
                let message = format!("more than {VOLUME_LIMIT} volumes: choose larger ones");
                return Err(io::Error::other(message));
            }
            let file = PartialFile::new(&volume_path(&self.target, number));
            let file = file.map_err(io::Error::other)?;
            self.current = Some((file, Hasher::default()));
        }
        let (file, hasher) = self.current.as_mut().expect("was just made");
        let room = usize::try_from(self.limit - hasher.size()).unwrap_or(usize::MAX);
        let written = file.write(&buffer[..buffer.len().min(room)])?;
        hasher.update(&buffer[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.current {
            Some((file, _)) => file.flush(),
            None => Ok(()),
        }
    }
}

fn with_ending(target: &Path, ending: &str) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{ending}"));
    target.with_file_name(name)
}

fn volume_path(target: &Path, number: usize) -> PathBuf {
    with_ending(target, &format!("{number:03}"))
}

/// The list of the volumes of a bundle.
pub fn list_path(target: &Path) -> PathBuf {
    with_ending(target, LIST)
}

/// The list that a path means: the list itself, a volume, or the bundle's own name when only volumes are there.
pub(crate) fn find_list(path: &Path) -> Option<PathBuf> {
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or("");
    let is_volume = ending.len() == 3 && ending.bytes().all(|b| b.is_ascii_digit());
    match ending {
        LIST => Some(path.to_path_buf()),
        _ if is_volume => Some(path.with_extension(LIST)),
        _ => Some(list_path(path)).filter(|list| !path.exists() && list.is_file()),
    }
}

/// The volumes of a bundle with their digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeList {
    files: Vec<(PathBuf, Sha256)>,
    /// Size of the whole bundle in bytes.
    pub size: u64,
}

impl VolumeList {
    /// Reads a list's text; the volumes lie in `folder`.
    pub fn parse(text: &str, folder: &Path) -> std::result::Result<Self, String> {
        let (mut files, mut size) = (Vec::new(), None);
        for line in text.lines() {
            if let Some(value) = line.strip_prefix(SIZE_LINE) {
                size = value.parse().ok();
                continue;
            }
            let entry = line
                .split_once("  ")
                .and_then(|(hex, name)| Some((hex.parse().ok()?, name)))
                .filter(|(_, name)| files::is_confined(name) && !name.contains('/'));
            let Some((sha256, name)) = entry else {
                return Err(format!("has a line '{}'", line.escape_debug()));
            };
            files.push((folder.join(name), sha256));
        }
        match size {
            Some(size) if !files.is_empty() && files.len() <= VOLUME_LIMIT => {
                Ok(VolumeList { files, size })
            }
            _ => Err("is cut off".into()),
        }
    }

    /// Reads a list; every volume must be there.
    pub fn load(list: &Path) -> Result<Self> {
        let fail = |message: String| Error::Bundle {
            path: list.to_path_buf(),
            message,
        };
        let text = String::from_utf8(files::read_bounded(list, LIST_LIMIT)?)
            .map_err(|_| fail("is not UTF-8 text".into()))?;
        let found = VolumeList::parse(&text, files::parent(list)).map_err(fail)?;
        match found.files.iter().find(|(path, _)| !path.is_file()) {
            Some((missing, _)) => Err(fail(format!("lacks its volume {}", shown(missing)))),
            None => Ok(found),
        }
    }

    /// All volumes as one stream, which ends with an error at the first volume with other content than listed.
    pub fn reader(&self) -> impl Read + use<> {
        JoinedReader {
            files: self.files.clone().into_iter(),
            current: None,
        }
    }

    /// Names of the volumes that do not have the listed content.
    pub fn wrong(&self) -> Vec<String> {
        let files = self.files.iter();
        let wrong = files.filter(|(path, sha256)| {
            !Sha256::of_file(path).is_ok_and(|(found, _)| found == *sha256)
        });
        wrong.map(|(path, _)| shown(path)).collect()
    }
}

fn shown(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

struct JoinedReader {
    files: std::vec::IntoIter<(PathBuf, Sha256)>,
    current: Option<(File, PathBuf, Sha256, Hasher)>,
}

impl Read for JoinedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some((file, _, _, hasher)) = &mut self.current else {
                let Some((path, sha256)) = self.files.next() else {
                    return Ok(0);
                };
                self.current = Some((File::open(&path)?, path, sha256, Hasher::default()));
                continue;
            };
            let n = file.read(buffer)?;
            hasher.update(&buffer[..n]);
            if n > 0 || buffer.is_empty() {
                return Ok(n);
            }
            let (_, path, sha256, hasher) = self.current.take().expect("was just read");
            if hasher.finish().0 != sha256 {
                let message = format!("volume {} is not as listed", shown(&path));
                return Err(io::Error::other(message));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_split_is_joined_again() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("b.tar.gz");
        let content: Vec<u8> = (0..1000u32).flat_map(u32::to_le_bytes).collect();
        for (limit, count) in [(1500, 3), (4000, 1), (999_999, 1), (1000, 4)] {
            let mut volumes = Volumes::new(&target, limit);
            volumes.write_all(&content).unwrap();
            let (list, paths) = volumes.install().unwrap();
            assert_eq!(paths.len(), count, "{limit}");
            // A larger bundle that was there before leaves nothing behind.
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), count + 1);
            let mut joined = Vec::new();
            let loaded = VolumeList::load(&list).unwrap();
            loaded.reader().read_to_end(&mut joined).unwrap();
            assert_eq!(joined, content);
            assert_eq!(loaded.size, 4000);
        }
        for path in ["b.tar.gz", "b.tar.gz.002", "b.tar.gz.volumes"] {
            let found = find_list(&dir.path().join(path));
            assert_eq!(found, Some(list_path(&target)), "{path}");
        }
        let list = list_path(&target);
        let (one, two) = (volume_path(&target, 1), volume_path(&target, 2));
        let swap = dir.path().join("swap");
        fs::rename(&one, &swap).unwrap();
        fs::rename(&two, &one).unwrap();
        fs::rename(&swap, &two).unwrap();
        let loaded = VolumeList::load(&list).unwrap();
        let error = loaded.reader().read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "volume b.tar.gz.001 is not as listed");
        assert_eq!(loaded.wrong(), ["b.tar.gz.001", "b.tar.gz.002"]);
        fs::remove_file(&two).unwrap();
        let error = VolumeList::load(&list).unwrap_err().to_string();
        assert!(error.ends_with("lacks its volume b.tar.gz.002"), "{error}");
    }

    #[test]
    fn lists_that_are_none_are_refused() {
        let digest = "0".repeat(64);
        for text in [
            String::new(),
            format!("{digest}  ../x\n# bytes: 1\n"),
            format!("{digest}  a/b\n# bytes: 1\n"),
            format!("{digest}  a\n"),
            format!("{digest} a\n# bytes: 1\n"),
            "# bytes: 1\n".to_string(),
            format!("{digest}  a\n# bytes: x\n"),
        ] {
            assert!(VolumeList::parse(&text, Path::new("/")).is_err(), "{text}");
        }
    }
}
