//! Writes a `.deb` (deb(5)): an ar archive with `debian-binary`, `control.tar.zst` and `data.tar.zst`. The same input gives
//! the same bytes.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::dependency;
use crate::error::{Error, Result};
use crate::files::is_confined;
use crate::version;

/// A member of an ar archive is a regular file that everybody may read.
const MEMBER_MODE: u32 = 0o100_644;
/// Programs shrink to two fifths in a tenth of a second; higher levels take five times longer for a tenth.
const LEVEL: i32 = 3;

/// A package to be written. Everything in it belongs to root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewDeb {
    /// Package name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Architecture, or "all".
    pub architecture: String,
    /// Further fields of the control file in their order, such as Depends and Description (deb-control(5)).
    pub fields: Vec<(String, String)>,
    /// What it installs, in any order.
    pub files: Vec<NewFile>,
    /// Time of everything in it, seconds since 1970.
    pub epoch: u64,
}

/// A file of a [`NewDeb`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    /// Path below `/`, without leading slash.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Content.
    pub content: Vec<u8>,
    /// Whether it is configuration, which dpkg leaves as the administrator has it.
    pub is_configuration: bool,
}

impl NewDeb {
    /// The file.
    ///
    /// # Errors
    /// [`Error::Deb`] when a name, version, field or path is not valid.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let fail = |message: String| Error::Deb {
            path: format!("{}.deb", self.name).into(),
            message,
        };
        self.check().map_err(fail)?;
        let io = |e: std::io::Error| fail(format!("cannot be written: {e}"));
        let control = zstd::encode_all(&self.control().map_err(io)?[..], LEVEL).map_err(io)?;
        let data = zstd::encode_all(&self.data().map_err(io)?[..], LEVEL).map_err(io)?;
        let mut archive = ar::Builder::new(Vec::new());
        for (name, content) in [
            ("debian-binary", &b"2.0\n"[..]),
            ("control.tar.zst", &control),
            ("data.tar.zst", &data),
        ] {
            let mut header = ar::Header::new(name.as_bytes().to_vec(), content.len() as u64);
            header.set_mode(MEMBER_MODE);
            header.set_mtime(self.epoch);
            archive.append(&header, content).map_err(io)?;
        }
        archive.into_inner().map_err(io)
    }

    fn check(&self) -> std::result::Result<(), String> {
        if !dependency::is_package_name(&self.name) || !version::is_valid(&self.version) {
            return Err("has no valid name or version".into());
        }
        // One line each: what a field goes on with would have to begin with a space.
        let broken = |text: &str| text.contains('\n');
        if let Some((field, _)) = self.fields.iter().find(|(_, value)| broken(value)) {
            return Err(format!("its field {field} has more than one line"));
        }
        let wrong = self.files.iter().find(|file| !is_confined(&file.path));
        match wrong {
            Some(file) => Err(format!(
                "its path '{}' leads elsewhere",
                file.path.escape_debug()
            )),
            None => Ok(()),
        }
    }

    /// The control archive: `control`, and `conffiles` if there are any.
    fn control(&self) -> std::io::Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        self.append_folder(&mut tar, "./")?;
        let installed: u64 = self
            .files
            .iter()
            .map(|file| file.content.len() as u64)
            .sum();
        let mut text = format!(
            "Package: {}\nVersion: {}\nArchitecture: {}\nInstalled-Size: {}\n",
            self.name,
            self.version,
            self.architecture,
            installed.div_ceil(1024)
        );
        for (field, value) in &self.fields {
            let _ = writeln!(text, "{field}: {value}");
        }
        self.append(&mut tar, "./control", 0o644, text.as_bytes())?;
        let configuration: String = self
            .files
            .iter()
            .filter(|file| file.is_configuration)
            .map(|file| format!("/{}\n", file.path))
            .collect();
        if !configuration.is_empty() {
            self.append(&mut tar, "./conffiles", 0o644, configuration.as_bytes())?;
        }
        tar.into_inner()
    }

    /// The data archive: folders before what is in them, everything by name.
    fn data(&self) -> std::io::Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut files: Vec<&NewFile> = self.files.iter().collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let folders: BTreeSet<String> = files
            .iter()
            .flat_map(|file| {
                file.path
                    .match_indices('/')
                    .map(|(end, _)| &file.path[..end])
            })
            .map(|folder| format!("./{folder}/"))
            .collect();
        self.append_folder(&mut tar, "./")?;
        folders
            .iter()
            .try_for_each(|folder| self.append_folder(&mut tar, folder))?;
        for file in files {
            let path = format!("./{}", file.path);
            self.append(&mut tar, &path, file.mode, &file.content)?;
        }
        tar.into_inner()
    }

    fn append_folder(&self, tar: &mut tar::Builder<Vec<u8>>, path: &str) -> std::io::Result<()> {
        let mut header = self.header(tar::EntryType::Directory, 0o755, 0);
        set_path(&mut header, path)?;
        header.set_cksum();
        tar.append(&header, std::io::empty())
    }

    fn append(
        &self,
        tar: &mut tar::Builder<Vec<u8>>,
        path: &str,
        mode: u32,
        content: &[u8],
    ) -> std::io::Result<()> {
        let mut header = self.header(tar::EntryType::Regular, mode, content.len() as u64);
        set_path(&mut header, path)?;
        header.set_cksum();
        tar.append(&header, content)
    }

    fn header(&self, kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.epoch);
        header.set_size(size);
        header
    }
}

/// Names begin with `./`, as dpkg-deb writes them; the library would take that away.
fn set_path(header: &mut tar::Header, path: &str) -> std::io::Result<()> {
    let field = &mut header.as_old_mut().name;
    if path.len() > field.len() {
        return Err(std::io::Error::other(format!(
            "'{path}' is too long a name"
        )));
    }
    field.fill(0);
    field[..path.len()].copy_from_slice(path.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deb;

    fn sample() -> NewDeb {
        let file = |path: &str, is_configuration| NewFile {
            path: path.into(),
            mode: 0o644,
            content: b"x".to_vec(),
            is_configuration,
        };
        NewDeb {
            name: "aa".into(),
            version: "1.0".into(),
            architecture: "all".into(),
            fields: vec![("Depends".into(), "bb".into())],
            files: vec![file("usr/lib/b", false), file("etc/a", true)],
            epoch: 7,
        }
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aa.deb");
        let bytes = sample().to_bytes().unwrap();
        assert_eq!(bytes, sample().to_bytes().unwrap());
        std::fs::write(&path, bytes).unwrap();
        let expected =
            "Package: aa\nVersion: 1.0\nArchitecture: all\nInstalled-Size: 1\nDepends: bb\n";
        assert_eq!(deb::control(&path).unwrap(), expected);
    }

    #[test]
    fn folders_come_before_their_files() {
        let data = sample().data().unwrap();
        let mut archive = tar::Archive::new(&data[..]);
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| String::from_utf8(entry.unwrap().path_bytes().into_owned()).unwrap())
            .collect();
        let expected = [
            "./",
            "./etc/",
            "./usr/",
            "./usr/lib/",
            "./etc/a",
            "./usr/lib/b",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn what_cannot_be_a_package() {
        type Change = fn(&mut NewDeb);
        let cases: [(Change, &str); 3] = [
            (|deb| deb.name = "A".into(), "no valid name"),
            (
                |deb| deb.fields[0].1 = "a\nEssential: yes".into(),
                "its field Depends has more than one line",
            ),
            (
                |deb| deb.files[0].path = "../a".into(),
                "its path '../a' leads elsewhere",
            ),
        ];
        for (change, message) in cases {
            let mut deb = sample();
            change(&mut deb);
            let error = deb.to_bytes().unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
