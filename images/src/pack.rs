//! File systems of an image, made by the tools tree's programs and cached by content.
//!
//! A cached part is a folder named by the digest of all that goes into it. It appears under that name by one rename when
//! it is whole.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::elsewhere::{Cache, Kind, Wanted};
use crate::error::{Error, Result};
use crate::partitions::Guid;
use crate::progress::{Progress, ProgressFn};
use crate::root::{self, Base, Layer, RootTree};
use crate::sandbox::Sandbox;
use crate::tools::ToolsTree;

/// How the names of unfinished folders begin.
const TEMPORARY: &str = ".unfinished-";
/// The file of a cached part.
pub const FILE: &str = "part.img";
/// A file beside it with the name of the stage that made it.
const STAGE: &str = "stage";
/// Parts that are quickly made, or hold no more than what a builder has anyway: sharing them between builders would cost
/// more than it saves.
const LOCAL: [&str; 4] = ["image/layer", "image/root", "image/repository", "image/var"];

/// The root's compression. On the 630 MB of `bench` that are packed first, level 6 takes 7.0 s of a processor for 277 MB, level 3
/// 5.2 s for 281 MB, level 2 2.5 s for 295 MB, and plain lz4 0.9 s for 314 MB. A page fault unpacks at most 16 KiB of
/// compressed data, which matters on an emulated processor.
const ROOT_OPTIONS: [&str; 2] = ["-zlz4hc,level=2", "-C16384"];
/// The same for who wants a small image: better packed, in larger pieces, at the price of slower reads.
const SMALL_ROOT_OPTIONS: [&str; 2] = ["-zzstd,level=15", "-C131072"];
/// What is not in the root: the kernel is in the ESP, `/var` in its own partition. The folders themselves stay.
const ROOT_EXCLUDE: &str = "--exclude-regex=^(boot|var)/.";

/// Features of `/var` beyond ext4's usual ones. `resize` reserves block-group descriptors for growth to 2 TiB (further
/// growth works too, through meta_bg); one inode per 32 KiB.
const VAR_RESIZE_BLOCKS: &str = "536870912";
const VAR_BYTES_PER_INODE: &str = "32768";
/// Journal of `/var` in MiB; it keeps this size when the file system grows.
const VAR_JOURNAL_MIB: &str = "size=32";

/// How a root file system is packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootCompression {
    /// For reads that cost little, also on an emulated processor.
    #[default]
    Lz4,
    /// For small images.
    Zstd,
}

/// What all parts of one image share.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Programs.
    pub tools: &'a ToolsTree,
    /// Cached parts.
    pub cache: Cache<'a>,
    /// Build time of the file systems, seconds since 1970.
    pub epoch: u64,
    /// Where events go.
    pub progress: ProgressFn<'a>,
}

/// The read-only root file system of a tree. What its layers hold is packed once for each of them; what a base has beyond
/// them, and files that were added to it, are then appended to copies, which takes a moment. An image from an empty
/// cache goes the same way, so it has the same bytes.
///
/// # Errors
/// When `mkfs.erofs` fails or the cache cannot be written. [`Error::LayerGone`] when a layer that has not been packed is
/// not in the cache any more: [make](crate::root::remake_layers) it and try again.
pub fn root(
    context: &Context,
    tree: &RootTree,
    uuid: Guid,
    compression: RootCompression,
) -> Result<PathBuf> {
    let packer = Packer {
        context,
        compression,
    };
    let Some(base) = &tree.base else {
        return packer.whole("image/root", &tree.digest, uuid, &tree.path);
    };
    packer.above("image/root", &tree.digest, uuid, &tree.path, || {
        Ok((packer.base(base)?, list(&base.added)))
    })
}

/// Packs the uppermost of layers over the others, for [`root`] to find it.
///
/// # Errors
/// As [`root`].
pub fn layers(context: &Context, layers: &[Layer], compression: RootCompression) -> Result<()> {
    let packer = Packer {
        context,
        compression,
    };
    packer.layers(layers).map(drop)
}

/// Packs root file systems in one way.
struct Packer<'a> {
    context: &'a Context<'a>,
    compression: RootCompression,
}

impl Packer<'_> {
    fn base(&self, base: &Base) -> Result<PathBuf> {
        let id = id("base", &base.digest);
        let (stage, digest, changes) = ("image/base", &base.digest, &base.changes);
        match base.layers.get(..changes.layers) {
            None | Some([]) => self.whole(stage, digest, id, &base.path),
            Some(layers) => self.above(stage, digest, id, &base.path, || {
                Ok((self.layers(layers)?, list(&changes.tree)))
            }),
        }
    }

    /// `/usr` of layers.
    fn layers(&self, layers: &[Layer]) -> Result<PathBuf> {
        let Some((last, below)) = layers.split_last() else {
            return Err(Error::Tree {
                reason: "it has no layer".to_owned(),
            });
        };
        if below.is_empty() {
            return self.lowest(last);
        }
        let id = id("layer", &last.digest);
        self.above("image/layer", &last.digest, id, &last.path, || {
            if !last.path.is_dir() {
                return Err(gone(last));
            }
            Ok((self.layers(below)?, list(&last.changed)))
        })
    }

    /// `/usr` of a layer that is a whole tree.
    fn lowest(&self, layer: &Layer) -> Result<PathBuf> {
        let id = id("layer", &layer.digest);
        let mut arguments = self.arguments(id);
        arguments.push(format!("--exclude-regex={}", root::OF_THE_BUILD));
        arguments.extend(["/out/part.img", "/tree"].map(str::to_owned));
        let excluded = || {
            let names = fs::read_dir(&layer.path).map_err(|_| gone(layer))?;
            let mut names: Vec<String> = names
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .filter(|name| name != root::PACKED)
                .map(|name| format!("--exclude-path={name}"))
                .collect();
            names.sort();
            Ok::<_, Error>(names)
        };
        let work = Work {
            stage: "image/layer",
            digest: &layer.digest,
            arguments: &arguments,
            tree: &layer.path,
        };
        work.cached(self.context, || Ok(Begin::Arguments(excluded()?)))
    }

    /// A tree as one file system.
    fn whole(&self, stage: &'static str, digest: &str, uuid: Guid, tree: &Path) -> Result<PathBuf> {
        let mut arguments = self.arguments(uuid);
        arguments.extend([ROOT_EXCLUDE, "/out/part.img", "/tree"].map(str::to_owned));
        let work = Work {
            stage,
            digest,
            arguments: &arguments,
            tree,
        };
        work.cached(self.context, || Ok(Begin::Nothing))
    }

    /// Files of a tree appended to a copy of a part; both are asked for when this one is not in the cache.
    fn above(
        &self,
        stage: &'static str,
        digest: &str,
        uuid: Guid,
        tree: &Path,
        begin: impl FnOnce() -> Result<(PathBuf, Vec<u8>)>,
    ) -> Result<PathBuf> {
        let mut arguments: Vec<String> = ["sh", "-c", APPEND, "append"].map(str::to_owned).into();
        arguments.extend(self.arguments(uuid));
        arguments.extend(
            ["--incremental=data", "--tar=f", "/out/part.img"]
                .iter()
                .map(|&word| word.to_owned()),
        );
        let work = Work {
            stage,
            digest,
            arguments: &arguments,
            tree,
        };
        work.cached(self.context, || {
            let (part, list) = begin()?;
            Ok(Begin::Part { part, list })
        })
    }

    fn arguments(&self, uuid: Guid) -> Vec<String> {
        let mut arguments = erofs_arguments(self.context.epoch, uuid);
        let options = match self.compression {
            RootCompression::Lz4 => ROOT_OPTIONS,
            RootCompression::Zstd => SMALL_ROOT_OPTIONS,
        };
        arguments.extend(options.map(str::to_owned));
        arguments
    }
}

fn id(what: &str, digest: &str) -> Guid {
    Guid::from_digest(&Sha256::digest(format!("{what} file system {digest}")))
}

fn gone(layer: &Layer) -> Error {
    Error::LayerGone {
        digest: layer.digest.clone(),
    }
}

/// Appends the files listed in `/out/added` to the file system that the command in the arguments names.
const APPEND: &str = r#"set -eu
cd /out
tar --create --file=added.tar --directory=/tree --no-recursion --format=gnu --numeric-owner \
    --null --verbatim-files-from --files-from=added
"$@" added.tar
rm added added.tar"#;

/// What is there before the command of a part is run.
enum Begin {
    /// Nothing; the command is complete.
    Nothing,
    /// Nothing; but the command gets these arguments before its last two.
    Arguments(Vec<String>),
    /// A copy of a part.
    Part {
        part: PathBuf,
        /// Paths that are appended, each ended by a NUL.
        list: Vec<u8>,
    },
}

/// The added files that are in the root's file system, and the folders on the way to them, whose times changed.
fn list(added: &[String]) -> Vec<u8> {
    let mut paths = BTreeSet::new();
    for path in added.iter().map(Path::new) {
        let below = |folder: &str| path.starts_with(folder) && path != Path::new(folder);
        if below("boot") || below("var") {
            continue;
        }
        paths.extend(path.ancestors().map(|path| Path::new(".").join(path)));
    }
    let path = |path: PathBuf| [path.as_os_str().as_encoded_bytes(), b"\0"].concat();
    paths.into_iter().flat_map(path).collect()
}

/// A repository as a read-only file system, not compressed: packages are already.
///
/// # Errors
/// When `mkfs.erofs` fails or the cache cannot be written.
pub fn repository(context: &Context, folder: &Path, digest: &str, uuid: Guid) -> Result<PathBuf> {
    let mut arguments = erofs_arguments(context.epoch, uuid);
    arguments.extend(["--all-root", "--all-time", "-Lfarrow-repo"].map(str::to_owned));
    arguments.extend(["/out/part.img".to_owned(), "/tree".to_owned()]);
    let work = Work {
        stage: "image/repository",
        digest,
        arguments: &arguments,
        tree: folder,
    };
    work.cached(context, || Ok(Begin::Nothing))
}

/// The writable file system with the tree's `/var`, of `mib` MiB.
///
/// # Errors
/// When `mkfs.ext4` fails (its content may not fit) or the cache cannot be written.
pub fn var(context: &Context, tree: &Path, digest: &str, uuid: Guid, mib: u64) -> Result<PathBuf> {
    let uuid = uuid.text();
    let extended = format!(
        "hash_seed={uuid},resize={VAR_RESIZE_BLOCKS},root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    );
    let size = format!("{mib}M");
    let arguments = [
        "mke2fs",
        "-q",
        "-F",
        "-t",
        "ext4",
        "-b",
        "4096",
        "-I",
        "256",
        "-i",
        VAR_BYTES_PER_INODE,
        "-m",
        "1",
        "-J",
        VAR_JOURNAL_MIB,
        "-L",
        "var",
        "-U",
        &uuid,
        "-E",
        &extended,
        "-d",
        "/tree/var",
        "/out/part.img",
        &size,
    ];
    let work = Work {
        stage: "image/var",
        digest,
        arguments: &arguments.map(str::to_owned),
        tree,
    };
    work.cached(context, || Ok(Begin::Nothing))
}

fn erofs_arguments(epoch: u64, uuid: Guid) -> Vec<String> {
    let mut arguments = vec!["mkfs.erofs".to_owned(), "--quiet".to_owned()];
    arguments.extend([
        format!("-T{epoch}"),
        "--mkfs-time".to_owned(),
        format!("-U{}", uuid.text()),
    ]);
    arguments
}

/// A command that makes a part at `/out/part.img` from a tree that is seen as `/tree`.
struct Work<'a> {
    stage: &'static str,
    /// Digest of the tree.
    digest: &'a str,
    arguments: &'a [String],
    tree: &'a Path,
}

impl Work<'_> {
    /// The part, or the one made before. What it begins with is asked for only when it has to be made.
    fn cached(&self, context: &Context, begin: impl FnOnce() -> Result<Begin>) -> Result<PathBuf> {
        let key = key(context, self.digest, self.arguments);
        let folder = context.cache.folder.join(&key);
        let (stage, mut start) = (self.stage, std::time::Instant::now());
        let mut reused = folder.is_dir();
        if reused {
            // The time of last use decides what goes when the cache is bounded; others may share it read-only.
            let _ =
                fs::File::open(&folder).and_then(|f| f.set_modified(std::time::SystemTime::now()));
            (context.progress)(Progress::Started { stage, total: None });
        } else {
            let unfinished = begin_folder(context, stage)?;
            reused = found_elsewhere(context, stage, &key, &unfinished);
            if !reused {
                // What it begins with has stages of its own.
                let begin = begin()?;
                start = std::time::Instant::now();
                (context.progress)(Progress::Started { stage, total: None });
                make(context, self, &begin, &unfinished)?;
            }
            publish(unfinished, &folder)?;
        }
        let seconds = start.elapsed().as_secs_f64();
        (context.progress)(Progress::Finished {
            stage,
            seconds,
            reused,
        });
        Ok(folder.join(FILE))
    }
}

/// Digest of all that a part depends on; each field ends with a NUL so that no two lists look the same.
fn key(context: &Context, digest: &str, arguments: &[String]) -> String {
    let mut hash = Sha256::new();
    let epoch = context.epoch.to_string();
    let fields = ["farrow part 2", digest, &context.tools.digest, &epoch].into_iter();
    for field in fields.chain(arguments.iter().map(String::as_str)) {
        hash.update(field);
        hash.update([0]);
    }
    hex::encode(hash.finalize())
}

/// Whether a part of the cache is worth sharing with other builders.
pub fn is_shared(part: &Path) -> bool {
    let stage = fs::read_to_string(part.join(STAGE)).unwrap_or_default();
    !LOCAL.contains(&stage.trim_end())
}

/// A folder for a part that is not there yet.
fn begin_folder(context: &Context, stage: &str) -> Result<TempDir> {
    let cache = context.cache.folder;
    fs::create_dir_all(cache).map_err(Error::io("create", cache))?;
    let temporary = tempfile::Builder::new()
        .prefix(TEMPORARY)
        .tempdir_in(cache)
        .map_err(Error::io("create in", cache))?;
    let path = temporary.path().join(STAGE);
    fs::write(&path, format!("{stage}\n")).map_err(Error::io("write", &path))?;
    Ok(temporary)
}

/// Whether somebody else has made the part; then its file is there.
fn found_elsewhere(context: &Context, stage: &str, key: &str, unfinished: &TempDir) -> bool {
    let wanted = Wanted {
        kind: Kind::Part,
        digest: key,
    };
    let find = context.cache.find.filter(|_| !LOCAL.contains(&stage));
    find.is_some_and(|find| find(wanted, &unfinished.path().join(FILE)))
}

fn make(context: &Context, work: &Work, begin: &Begin, temporary: &TempDir) -> Result<()> {
    let file = temporary.path().join(FILE);
    let mut arguments = work.arguments.to_vec();
    match begin {
        Begin::Nothing => {}
        Begin::Arguments(more) => {
            let place = arguments.len().saturating_sub(2);
            arguments.splice(place..place, more.iter().cloned());
        }
        Begin::Part { part, list } => {
            fs::copy(part, &file).map_err(Error::io("copy", part))?;
            let added = temporary.path().join("added");
            fs::write(&added, list).map_err(Error::io("write", &added))?;
        }
    }
    let epoch = context.epoch.to_string();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    sandbox(context, work.tree, temporary.path())
        .env("SOURCE_DATE_EPOCH", &epoch)
        .env("E2FSPROGS_FAKE_TIME", &epoch)
        .run(&words, None)
        .map(drop)
}

/// Gives a whole part its name.
fn publish(temporary: TempDir, folder: &Path) -> Result<()> {
    let file = temporary.path().join(FILE);
    fs::File::open(&file)
        .and_then(|f| f.sync_all())
        .map_err(Error::io("flush", &file))?;
    match fs::rename(temporary.path(), folder) {
        // Another build made the same part meanwhile: take that one.
        Err(_) if folder.is_dir() => Ok(()),
        other => other.map_err(Error::io("rename to", folder)),
    }
}

fn sandbox(context: &Context, tree: &Path, out: &Path) -> Sandbox {
    context
        .tools
        .sandbox()
        .bind_ro(tree, "/tree")
        .bind(out, "/out")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_comes_with_its_folders() {
        let added = ["usr/lib/x/a", "etc/hostname", "var", "var/lib/b", "boot/c"];
        let listed = String::from_utf8(list(&added.map(str::to_owned))).unwrap();
        let listed: Vec<&str> = listed.split_terminator('\0').collect();
        let expected = [
            "./",
            "./etc",
            "./etc/hostname",
            "./usr",
            "./usr/lib",
            "./usr/lib/x",
            "./usr/lib/x/a",
            "./var",
        ];
        assert_eq!(listed, expected);
    }
}
