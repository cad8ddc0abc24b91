//! Unpacks packages side by side into a new tree, and writes dpkg's records of them. Runs in the mapped namespace.
//!
//! dpkg unpacks one package after the other, with half a dozen processes for each. Of [plain](super::record::is_plain) packages
//! that have no file in common with another one, all of that comes to files and records. The essential ones of the others
//! are unpacked as well, so that dpkg can run, which then unpacks them itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tar::EntryType;

use super::filter;
use super::input::Package;
use super::record::{self, Record, WAITING};
use crate::deb::{self, Attributes, Extractor, Owners, PackedFile};
use crate::error::{Error, Result};

/// The largest conffile that is unpacked here, in bytes.
const CONFFILE_LIMIT: u64 = 16 << 20;
/// Ids from here on are given out by each system as it likes (Debian policy 9.2.2), and dpkg looks them up by name.
const FIRST_DYNAMIC_ID: u32 = 100;
/// Folders of `/` that are links to those of the same name in `/usr`.
const MERGED: [&str; 7] = ["bin", "sbin", "lib", "lib32", "lib64", "libo32", "libx32"];

/// A package, and what is done with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Unpacked {
    pub(crate) package: Package,
    /// Where its file is: [`Package`] does not carry that into a worker.
    pub(crate) path: PathBuf,
    /// Whether the tree needs its conffiles in their places before dpkg configures them.
    pub(crate) essential: bool,
    /// Whether dpkg unpacks it once more.
    pub(crate) by_dpkg: bool,
}

/// What was found in one package.
struct Found {
    files: Vec<FoundFile>,
    /// Whether dpkg must have it.
    by_dpkg: bool,
    record: Option<Record>,
}

struct FoundFile {
    path: PathBuf,
    folder: Option<Folder>,
}

#[derive(Clone, Copy)]
struct Folder {
    attributes: Attributes,
    made: bool,
}

/// What unpacking came to.
pub(super) struct Outcome {
    records: Vec<(Record, Vec<u8>)>,
    /// Folders that another package than their first one made, and what they are to be.
    folders: Vec<(PathBuf, Attributes)>,
    /// Places of packages that dpkg must unpack after all: nothing of the tree is of use then.
    pub(super) clashes: Vec<usize>,
}

/// What holds for all packages.
pub(super) struct Rules<'a> {
    /// dpkg's options about what is left out.
    pub(super) options: &'a [&'a str],
    /// Paths below the root at which there will be something else: only a conffile is no matter for dpkg then.
    pub(super) reserved: BTreeSet<PathBuf>,
}

/// Unpacks packages, given in dpkg's order, below `tree`. `report` gets how many are done.
pub(super) fn unpack(
    tree: &Path,
    packages: &[Unpacked],
    rules: &Rules,
    report: &(dyn Fn(u64) + Sync),
) -> Result<Outcome> {
    let done = AtomicU64::new(0);
    let size = |index: &usize| packages[*index].path.metadata().map_or(0, |m| m.len());
    let mut order: Vec<usize> = (0..packages.len()).collect();
    // Large ones first, or one of them would be left alone at the end.
    order.sort_by_cached_key(|index| std::cmp::Reverse(size(index)));
    let found = order.into_par_iter().with_max_len(1).map(|index| {
        let found = unpack_one(tree, &packages[index], rules)?;
        report(done.fetch_add(1, Ordering::Relaxed) + 1);
        Ok((index, found))
    });
    let found: BTreeMap<usize, Found> = found.collect::<Result<_>>()?;
    let clashes = clashes(packages, &found);
    let folders = folders(found.values());
    let of_record = |found: Found| {
        let list = record::list(found.files.iter().map(|file| &*file.path));
        found.record.map(|record| (record, list))
    };
    let records = found.into_values().filter_map(of_record).collect();
    Ok(Outcome {
        records,
        folders,
        clashes,
    })
}

fn unpack_one(tree: &Path, unpacked: &Unpacked, rules: &Rules) -> Result<Found> {
    let package = &unpacked.package;
    let members = match unpacked.by_dpkg {
        true => BTreeMap::new(),
        false => deb::control_members(&unpacked.path)?,
    };
    let conffiles = record::conffiles(&members);
    let mut found = Found {
        files: Vec::new(),
        by_dpkg: false,
        record: None,
    };
    let mut seen = BTreeSet::new();
    deb::for_each_file(
        &unpacked.path,
        tree,
        Owners::Package,
        &mut |extractor, file| {
            let name = String::from_utf8_lossy(file.path.as_os_str().as_bytes()).into_owned();
            let folder_or_link = matches!(file.kind, EntryType::Directory | EntryType::Symlink);
            let skipped = filter::skips(rules.options, &format!("/{name}"), folder_or_link);
            found.files.push(FoundFile::of(file));
            let attributes = file.attributes;
            let ids = [attributes.uid.as_raw(), attributes.gid.as_raw()];
            let names_owner = ids.iter().any(|id| *id >= FIRST_DYNAMIC_ID);
            let replaced = rules.reserved.contains(&file.path) && !conffiles.contains(&file.path);
            found.by_dpkg |= names_owner || replaced || leads_to(file, &conffiles);
            // Once it is dpkg's, only its paths are of interest.
            if skipped || found.by_dpkg && !unpacked.by_dpkg {
                return Ok(());
            }
            let result = match conffiles.contains(&file.path) {
                true => {
                    seen.insert(file.path.clone());
                    extract_conffile(extractor, file, unpacked.essential)
                }
                false => {
                    let path = file.path.clone();
                    extractor.extract_as(file, &path)
                }
            };
            match result {
                Ok(made) => {
                    let last = found.files.last_mut().and_then(|file| file.folder.as_mut());
                    if let Some(folder) = last {
                        folder.made = made;
                    }
                    Ok(())
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    found.by_dpkg = true;
                    Ok(())
                }
                Err(error) => Err(error),
            }
        },
    )?;
    found.by_dpkg |= seen != conffiles;
    if !unpacked.by_dpkg {
        found.record = Some(record::of(package, members));
    }
    Ok(found)
}

/// Whether a file is a hard link to one of these.
fn leads_to(file: &PackedFile, conffiles: &BTreeSet<PathBuf>) -> bool {
    let link = file
        .link
        .as_deref()
        .filter(|_| file.kind == EntryType::Link);
    let target = link.and_then(|link| deb::relative(link.as_os_str().as_bytes()).ok());
    target.is_some_and(|target| conffiles.contains(&target))
}

/// A conffile waits beside its place until it is configured; essential ones are in their places as well.
fn extract_conffile(
    extractor: &mut Extractor,
    file: &mut PackedFile,
    essential: bool,
) -> io::Result<bool> {
    if !matches!(file.kind, EntryType::Regular | EntryType::Continuous) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let content = file.read(CONFFILE_LIMIT)?;
    if essential {
        let path = file.path.clone();
        extractor.extract_as(&mut file.with_content(&mut &*content), &path)?;
    }
    let mut waiting = file.path.clone().into_os_string();
    waiting.push(WAITING);
    extractor.extract_as(&mut file.with_content(&mut &*content), Path::new(&waiting))
}

impl FoundFile {
    fn of(file: &PackedFile) -> Self {
        let folder = (file.kind == EntryType::Directory).then_some(Folder {
            attributes: file.attributes,
            made: false,
        });
        Self {
            path: file.path.clone(),
            folder,
        }
    }

    /// Where the file is in a tree whose `/usr` is merged.
    fn place(&self) -> PathBuf {
        let mut parts = self.path.components();
        let first = parts.next().map(|part| part.as_os_str().to_owned());
        let merged = first.is_some_and(|first| MERGED.iter().any(|name| *name == first));
        match merged && parts.next().is_some() {
            true => Path::new("usr").join(&self.path),
            false => self.path.clone(),
        }
    }
}

/// Places of packages that have found out that they are dpkg's, and of all that have a path in common with another one which is not
/// a folder in both.
fn clashes(packages: &[Unpacked], found: &BTreeMap<usize, Found>) -> Vec<usize> {
    let mut clashes: BTreeSet<usize> = (found.iter())
        .filter(|(_, found)| found.by_dpkg)
        .map(|(index, _)| *index)
        .collect();
    let mut owners: BTreeMap<PathBuf, (usize, bool)> = BTreeMap::new();
    for (&index, one) in found {
        for file in &one.files {
            let folder = file.folder.is_some();
            let (other, other_folder) = *owners.entry(file.place()).or_insert((index, folder));
            if other != index && !(folder && other_folder) {
                clashes.extend([index, other]);
            }
        }
    }
    let undecided = clashes
        .into_iter()
        .filter(|index| !packages[*index].by_dpkg);
    undecided.collect()
}

/// A folder that several packages have gets owner, mode and time from the first of them, as with dpkg, whichever made it here.
fn folders<'a>(found: impl Iterator<Item = &'a Found>) -> Vec<(PathBuf, Attributes)> {
    let mut folders: BTreeMap<&Path, Vec<Folder>> = BTreeMap::new();
    for file in found.flat_map(|found| &found.files) {
        if let Some(folder) = file.folder {
            folders.entry(&file.path).or_default().push(folder);
        }
    }
    let differ = |(path, found): (&Path, Vec<Folder>)| {
        let first = found[0].attributes;
        let maker = found.iter().find(|folder| folder.made)?;
        (maker.attributes != first).then(|| (path.to_owned(), first))
    };
    folders.into_iter().filter_map(differ).collect()
}

/// Settles folders of the tree that this process is in: from outside, a link of a package could lead elsewhere.
pub(super) fn settle_folders(outcome: &Outcome) -> Result<()> {
    for (path, wanted) in &outcome.folders {
        let path = Path::new("/").join(path);
        let (uid, gid) = (wanted.uid.as_raw(), wanted.gid.as_raw());
        chown(&path, Some(uid), Some(gid)).map_err(Error::io("set the owner of", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(wanted.mode))
            .map_err(Error::io("set the mode of", &path))?;
        let mut entries = fs::read_dir(&path).map_err(Error::io("list", &path))?;
        if entries.next().is_none() {
            super::finish::times::set(&path, wanted.modified)?;
        }
    }
    Ok(())
}

/// Writes what dpkg knows into the tree that this process is in; `database` is its folder, which has the folder `info`.
pub(super) fn write_records(outcome: &Outcome, database: &Path) -> Result<()> {
    let mut status = String::new();
    for (record, list) in &outcome.records {
        let place = |suffix: &str| database.join(format!("info/{}.{suffix}", record.stem));
        for (suffix, member) in &record.members {
            let path = place(suffix);
            write(&path, &member.content, member.mode)?;
            let time = nix::sys::time::TimeSpec::new(member.modified.try_into().unwrap_or(0), 0);
            super::finish::times::set(&path, time)?;
        }
        write(&place("list"), list, 0o644)?;
        status.push_str(&record.status);
    }
    write(&database.join("status"), status.as_bytes(), 0o644)
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let mut file = file.map_err(Error::io("create", path))?;
    io::Write::write_all(&mut file, content).map_err(Error::io("write", path))?;
    file.set_permissions(fs::Permissions::from_mode(mode))
        .map_err(Error::io("set the mode of", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(paths: &[(&str, bool)]) -> Found {
        let attributes = Attributes {
            uid: 0.into(),
            gid: 0.into(),
            mode: 0o755,
            modified: nix::sys::time::TimeSpec::new(0, 0),
        };
        let file = |(path, folder): &(&str, bool)| FoundFile {
            path: path.into(),
            folder: folder.then_some(Folder {
                attributes,
                made: false,
            }),
        };
        Found {
            files: paths.iter().map(file).collect(),
            by_dpkg: false,
            record: None,
        }
    }

    fn unpacked(by_dpkg: bool) -> Unpacked {
        Unpacked {
            package: Package {
                name: "x".into(),
                version: "1".into(),
                architecture: "all".into(),
                path: PathBuf::new(),
                sha256: String::new(),
            },
            path: PathBuf::new(),
            essential: false,
            by_dpkg,
        }
    }

    fn clashes_of(packages: &[&[(&str, bool)]], by_dpkg: &[usize]) -> Vec<usize> {
        let found = packages.iter().map(|paths| found(paths)).enumerate();
        let packages = (0..packages.len()).map(|index| unpacked(by_dpkg.contains(&index)));
        clashes(&packages.collect::<Vec<_>>(), &found.collect())
    }

    #[test]
    fn packages_with_a_file_in_common_are_left_to_dpkg() {
        let (folder, file) = (("usr/share/x", true), ("usr/share/x/y", false));
        assert_eq!(clashes_of(&[&[folder, file], &[folder]], &[]), [0; 0]);
        assert_eq!(clashes_of(&[&[folder], &[file], &[file]], &[]), [1, 2]);
        // One of them may be dpkg's already.
        assert_eq!(clashes_of(&[&[folder], &[file], &[file]], &[1]), [2]);
        let not_a_folder = ("usr/share/x", false);
        assert_eq!(clashes_of(&[&[folder], &[not_a_folder]], &[]), [0, 1]);
    }

    #[test]
    fn the_merged_usr_has_two_names() {
        let (old, new) = (("lib/x", false), ("usr/lib/x", false));
        assert_eq!(clashes_of(&[&[old], &[new]], &[]), [0, 1]);
        // The links themselves are no files in /usr.
        assert_eq!(
            clashes_of(&[&[("lib", false)], &[("usr/lib", true)]], &[]),
            [0; 0]
        );
        let other = ("library/x", false);
        assert_eq!(
            clashes_of(&[&[other], &[("usr/library/x", false)]], &[]),
            [0; 0]
        );
    }
}
