//! Writes the entries of one tar archive below one folder, and nowhere else.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{
    Mode, UtimensatFlags, fchmod, fchmodat, fstatat, futimens, mkdirat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, linkat, symlinkat};
use tar::{Entry, EntryType};

use super::Owners;

/// Unpacks below `root`; remembers the folder it wrote to last, because archives are sorted by folder.
pub(crate) struct Extractor {
    root: OwnedFd,
    owners: Owners,
    folder: Option<(PathBuf, OwnedFd)>,
    /// What is copied at a time.
    piece: Vec<u8>,
}

/// Bytes that are copied at a time.
const PIECE: usize = 1 << 18;

/// One entry of a data archive.
pub(crate) struct PackedFile<'a> {
    /// Where it belongs, below the root.
    pub(crate) path: PathBuf,
    pub(crate) kind: EntryType,
    pub(crate) attributes: Attributes,
    /// What it leads to, of a link.
    pub(crate) link: Option<PathBuf>,
    content: &'a mut dyn Read,
}

impl<'a> PackedFile<'a> {
    pub(super) fn new<R: Read>(entry: &'a mut Entry<R>, owners: Owners) -> io::Result<Self> {
        let link = entry.link_name_bytes();
        Ok(Self {
            path: relative(&entry.path_bytes())?,
            kind: entry.header().entry_type(),
            attributes: Attributes::of(entry, owners)?,
            link: link.map(|link| PathBuf::from(OsStr::from_bytes(&link))),
            content: entry,
        })
    }

    /// The same with another content.
    pub(crate) fn with_content<'b>(&self, content: &'b mut dyn Read) -> PackedFile<'b> {
        PackedFile {
            path: self.path.clone(),
            kind: self.kind,
            attributes: self.attributes,
            link: self.link.clone(),
            content,
        }
    }

    /// The content, if it is not larger than `limit` bytes.
    pub(crate) fn read(&mut self, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.content.take(limit + 1).read_to_end(&mut bytes)?;
        match bytes.len() as u64 > limit {
            true => Err(io::Error::other("unpacks to too much")),
            false => Ok(bytes),
        }
    }

    fn link(&self) -> io::Result<&Path> {
        let link = self.link.as_deref();
        link.ok_or_else(|| io::Error::other("refused: link without a target"))
    }
}

/// What every entry says about itself besides its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    pub(crate) mode: u32,
    pub(crate) modified: TimeSpec,
}

impl Extractor {
    pub(super) fn new(root: &Path, owners: Owners) -> io::Result<Self> {
        Ok(Self {
            root: File::open(root)?.into(),
            owners,
            folder: None,
            piece: vec![0; PIECE],
        })
    }

    /// Writes one entry.
    pub(crate) fn extract(&mut self, file: &mut PackedFile) -> io::Result<()> {
        let path = file.path.clone();
        self.extract_as(file, &path).map(drop)
    }

    /// Writes one entry to another path below the root, and returns whether it was not there: a folder may be.
    pub(crate) fn extract_as(&mut self, file: &mut PackedFile, path: &Path) -> io::Result<bool> {
        let result = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => self.write(file, parent, Path::new(name)),
            // The root folder itself: its mode is the tree maker's business.
            _ => Ok(false),
        };
        result.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }

    fn write(&mut self, file: &mut PackedFile, parent: &Path, name: &Path) -> io::Result<bool> {
        let attributes = file.attributes;
        match file.kind {
            EntryType::Directory => return self.make_folder(parent, name, &attributes),
            EntryType::Regular | EntryType::Continuous => {
                self.write_file(file.content, parent, name, &attributes)?;
            }
            EntryType::Symlink => self.make_symlink(file.link()?, parent, name, &attributes)?,
            EntryType::Link => self.make_hard_link(file.link()?, parent, name)?,
            other => {
                return Err(io::Error::other(format!("refused: entry type {other:?}")));
            }
        }
        Ok(true)
    }

    fn make_folder(
        &mut self,
        parent: &Path,
        name: &Path,
        attributes: &Attributes,
    ) -> io::Result<bool> {
        let owners = self.owners;
        let folder = self.open(parent)?;
        match mkdirat(folder, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) => {
                attributes.own(folder, name, owners)?;
                let mode = Mode::from_bits_truncate(attributes.mode);
                fchmodat(
                    folder,
                    name,
                    mode,
                    nix::sys::stat::FchmodatFlags::FollowSymlink,
                )?;
                // It stays that of a folder to which nothing is added.
                let time = &attributes.modified;
                utimensat(folder, name, time, time, UtimensatFlags::NoFollowSymlink)?;
                Ok(true)
            }
            // A folder that exists, also behind a link such as /bin, stays as it is; opening proves that it is one.
            Err(Errno::EEXIST) => self.open(&parent.join(name)).map(|_| false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn write_file(
        &mut self,
        content: &mut dyn Read,
        parent: &Path,
        name: &Path,
        attributes: &Attributes,
    ) -> io::Result<()> {
        let owners = self.owners;
        let folder = self.open(parent)?;
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(
            folder,
            name,
            flags,
            Mode::from_bits_truncate(0o600),
        )?);
        loop {
            match content.read(&mut self.piece)? {
                0 => break,
                count => file.write_all(&self.piece[..count])?,
            }
        }
        let (_, folder) = self.folder.as_ref().ok_or(io::ErrorKind::NotFound)?;
        // The owner first: changing it clears the set-id bits.
        attributes.own(folder, name, owners)?;
        fchmod(&file, Mode::from_bits_truncate(attributes.mode))?;
        futimens(&file, &attributes.modified, &attributes.modified)?;
        Ok(())
    }

    fn make_symlink(
        &mut self,
        link: &Path,
        parent: &Path,
        name: &Path,
        attributes: &Attributes,
    ) -> io::Result<()> {
        let owners = self.owners;
        let folder = self.open(parent)?;
        match symlinkat(link, folder, name) {
            // The merged-/usr links are made before the package that holds them.
            Err(Errno::EEXIST) if readlinkat(folder, name).is_ok_and(|known| known == link) => {}
            other => other?,
        }
        attributes.own(folder, name, owners)?;
        let time = &attributes.modified;
        utimensat(folder, name, time, time, UtimensatFlags::NoFollowSymlink)?;
        Ok(())
    }

    fn make_hard_link(&mut self, target: &Path, parent: &Path, name: &Path) -> io::Result<()> {
        let target = relative(target.as_os_str().as_bytes())?;
        let (Some(source), Some(file)) = (target.parent(), target.file_name()) else {
            return Err(io::Error::other("refused: link to the root"));
        };
        let source = self.open(source)?.as_fd().try_clone_to_owned()?;
        let file = Path::new(file);
        if fstatat(&source, file, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_mode & nix::libc::S_IFMT
            == nix::libc::S_IFDIR
        {
            return Err(io::Error::other("refused: link to a folder"));
        }
        let folder = self.open(parent)?;
        linkat(&source, file, folder, name, AtFlags::empty())?;
        Ok(())
    }

    /// Opens a folder below the root. Links on the way are followed as if the root were `/`.
    fn open(&mut self, path: &Path) -> io::Result<&OwnedFd> {
        if self.folder.as_ref().is_none_or(|(known, _)| known != path) {
            let how = OpenHow::new()
                .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
                .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
            let dot = if path.as_os_str().is_empty() {
                Path::new(".")
            } else {
                path
            };
            self.folder = Some((path.to_owned(), openat2(&self.root, dot, how)?));
        }
        self.folder
            .as_ref()
            .map(|(_, folder)| folder)
            .ok_or_else(|| io::Error::other("no folder"))
    }
}

impl Attributes {
    fn of(entry: &Entry<impl Read>, owners: Owners) -> io::Result<Self> {
        let header = entry.header();
        let id = |id: u64| {
            u32::try_from(id).map_err(|_| io::Error::other("refused: owner out of range"))
        };
        let mode = header.mode()? & 0o7777;
        Ok(Self {
            uid: Uid::from_raw(id(header.uid()?)?),
            gid: Gid::from_raw(id(header.gid()?)?),
            mode: match owners {
                Owners::Package => mode,
                Owners::Caller if header.entry_type().is_dir() => mode & 0o1777 | 0o700,
                Owners::Caller => mode & 0o1777 | 0o600,
            },
            modified: TimeSpec::new(i64::try_from(header.mtime()?).unwrap_or(i64::MAX), 0),
        })
    }

    fn own(&self, folder: &OwnedFd, name: &Path, owners: Owners) -> io::Result<()> {
        match owners {
            Owners::Package => Ok(fchownat(
                folder,
                name,
                Some(self.uid),
                Some(self.gid),
                AtFlags::AT_SYMLINK_NOFOLLOW,
            )?),
            Owners::Caller => Ok(()),
        }
    }
}

/// A name of the archive without its leading `./`, if it stays below the root by itself.
pub(crate) fn relative(name: &[u8]) -> io::Result<PathBuf> {
    let mut path = PathBuf::new();
    for part in Path::new(OsStr::from_bytes(name)).components() {
        match part {
            Component::CurDir => {}
            Component::Normal(part) => path.push(part),
            _ => {
                let name = String::from_utf8_lossy(name);
                return Err(io::Error::other(format!(
                    "{name}: refused: not below the root"
                )));
            }
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_root() {
        let cases: [(&[u8], Option<&str>); 7] = [
            (b"./usr/bin/x", Some("usr/bin/x")),
            (b"./", Some("")),
            (b"usr/./bin/", Some("usr/bin")),
            (b"/etc/passwd", None),
            (b"../x", None),
            (b"./usr/../../x", None),
            (b"usr/..", None),
        ];
        for (name, expected) in cases {
            assert_eq!(
                relative(name).ok(),
                expected.map(PathBuf::from),
                "{}",
                String::from_utf8_lossy(name)
            );
        }
    }
}
