//! File systems of an image, made by the tools tree's programs and cached by content: see [`part`].

mod part;
mod root;

use std::fs::{self, File};
use std::io::Seek;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::elsewhere::{Cache, Kind, Wanted};
use crate::error::{Error, Result};
use crate::partitions::Guid;
use crate::progress::{Progress, ProgressFn};
use crate::sandbox;
use crate::tools::ToolsTree;
use crate::unfinished::Unfinished;

pub use part::WorkingImage;
pub use root::{base, layers, root};

use part::{FILE, Part};

/// A file beside it with the name of the stage that made it.
const STAGE: &str = "stage";
/// Parts that are quickly made, or hold no more than what a builder has anyway: sharing them between builders would cost
/// more than it saves.
const LOCAL: [&str; 4] = ["image/layer", "image/root", "image/repository", "image/var"];

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
    /// Where root file systems are put together.
    pub working: &'a WorkingImage,
    /// Where events go.
    pub progress: ProgressFn<'a>,
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
    work.whole(context)
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
    work.whole(context)
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
    /// The file of a part that begins with nothing.
    fn whole(&self, context: &Context) -> Result<PathBuf> {
        let part = self.cached(context, || Ok(Vec::new()))?;
        let file = part.file().map(Path::to_owned);
        file.ok_or_else(|| Error::Image {
            reason: format!("the part {} is not whole", part.key),
        })
    }

    /// A part that begins with nothing. What the command has before its last two arguments is asked for only when the part has to
    /// be made.
    fn cached(
        &self,
        context: &Context,
        arguments: impl FnOnce() -> Result<Vec<String>>,
    ) -> Result<Part> {
        self.kept(context, arguments, |more, unfinished| {
            let mut arguments = self.arguments.to_vec();
            let place = arguments.len().saturating_sub(2);
            arguments.splice(place..place, more);
            self.run(context, &arguments, unfinished.path())?;
            sync(&unfinished.path().join(FILE))
        })
    }

    /// A part that another one is the beginning of: the command finds that at `/out/part.img`, and in `/out/added` the paths that
    /// it is to append, each ended by a NUL.
    fn appended(
        &self,
        context: &Context,
        begin: impl FnOnce() -> Result<(Part, Vec<u8>)>,
    ) -> Result<Part> {
        let cache = context.cache.folder;
        let mut made = None;
        let part = self.kept(context, begin, |(below, list), unfinished| {
            let image = context.working.take(&below, cache)?;
            let added = image.folder.path().join("added");
            fs::write(&added, list).map_err(Error::io("write", &added))?;
            self.run(context, self.arguments, image.folder.path())?;
            let path = image.path();
            let file = File::open(&path).map_err(Error::io("open", &path))?;
            below.write_appended(&file, unfinished.path())?;
            made = Some(image);
            Ok(())
        })?;
        if let Some(image) = made {
            context.working.put(image, &part);
        }
        Ok(part)
    }

    /// The part, or the one made before. What it begins with is asked for only when it has to be made.
    fn kept<Begin>(
        &self,
        context: &Context,
        begin: impl FnOnce() -> Result<Begin>,
        make: impl FnOnce(Begin, &Unfinished) -> Result<()>,
    ) -> Result<Part> {
        let key = key(context, self.digest, self.arguments);
        let cache = context.cache.folder;
        let (stage, mut start) = (self.stage, std::time::Instant::now());
        let mut found = Part::find(cache, &key);
        let mut reused = found.is_some();
        if reused {
            (context.progress)(Progress::Started { stage, total: None });
        } else {
            let unfinished = begin_folder(context, stage)?;
            reused = found_elsewhere(context, stage, &key, &unfinished)?;
            if !reused {
                // What it begins with has stages of its own.
                let begin = begin()?;
                start = std::time::Instant::now();
                (context.progress)(Progress::Started { stage, total: None });
                make(begin, &unfinished)?;
            }
            publish(unfinished, &cache.join(&key))?;
            found = Part::find(cache, &key);
        }
        let seconds = start.elapsed().as_secs_f64();
        (context.progress)(Progress::Finished {
            stage,
            seconds,
            reused,
        });
        let part = found.ok_or_else(|| Error::Image {
            reason: format!("the part {key} went while it was made"),
        })?;
        part.mark_used();
        Ok(part)
    }

    /// Runs the command, with `out` as `/out`.
    fn run(&self, context: &Context, arguments: &[String], out: &Path) -> Result<()> {
        let epoch = context.epoch.to_string();
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let sandbox = context.tools.sandbox();
        sandbox
            .bind_ro(self.tree, "/tree")
            .bind(out, "/out")
            .env("SOURCE_DATE_EPOCH", &epoch)
            .env("E2FSPROGS_FAKE_TIME", &epoch)
            .run(&words, None)
            .map(drop)
    }
}

/// Digest of all that a part depends on; each field ends with a NUL so that no two lists look the same.
fn key(context: &Context, digest: &str, arguments: &[String]) -> String {
    let mut hash = Sha256::new();
    let epoch = context.epoch.to_string();
    let fields = ["farrow part 4", digest, &context.tools.digest, &epoch].into_iter();
    for field in fields.chain(arguments.iter().map(String::as_str)) {
        hash.update(field);
        hash.update([0]);
    }
    hex::encode(hash.finalize())
}

/// Whether a part of the cache is complete, and worth sharing with other builders.
pub fn is_shared(part: &Path) -> bool {
    let stage = fs::read_to_string(part.join(STAGE)).unwrap_or_default();
    !LOCAL.contains(&stage.trim_end()) && at(part).is_some()
}

/// The file system of a part of the cache. One that is not whole is put together in a file without a name.
///
/// # Errors
/// When it is not complete, or a file cannot be read or written.
pub fn open(part: &Path) -> Result<File> {
    let found = at(part).ok_or_else(|| Error::Image {
        reason: format!("the part {} is not complete", part.display()),
    })?;
    if let Some(file) = found.file() {
        return File::open(file).map_err(Error::io("open", file));
    }
    let cache = part.parent().unwrap_or(part);
    let mut file = tempfile::tempfile_in(cache).map_err(Error::io("create in", cache))?;
    found
        .write(&file)
        .and_then(|()| file.rewind())
        .map_err(Error::io("put together", part))?;
    Ok(file)
}

fn at(part: &Path) -> Option<Part> {
    Part::find(part.parent()?, part.file_name()?.to_str()?)
}

/// A folder for a part that is not there yet.
fn begin_folder(context: &Context, stage: &str) -> Result<Unfinished> {
    let temporary = Unfinished::begin(context.cache.folder)?;
    let path = temporary.path().join(STAGE);
    fs::write(&path, format!("{stage}\n")).map_err(Error::io("write", &path))?;
    Ok(temporary)
}

/// Whether somebody else has made the part; then its file is there.
fn found_elsewhere(
    context: &Context,
    stage: &str,
    key: &str,
    unfinished: &Unfinished,
) -> Result<bool> {
    let wanted = Wanted {
        kind: Kind::Part,
        digest: key,
    };
    let file = unfinished.path().join(FILE);
    let find = context.cache.find.filter(|_| !LOCAL.contains(&stage));
    let found = find.is_some_and(|find| find(wanted, &file));
    if found {
        sync(&file)?;
    }
    Ok(found)
}

fn sync(file: &Path) -> Result<()> {
    File::open(file)
        .and_then(|f| f.sync_all())
        .map_err(Error::io("flush", file))
}

/// Gives a complete part its name. What has the name already and was not found lacks something.
fn publish(temporary: Unfinished, folder: &Path) -> Result<()> {
    if at(folder).is_none() {
        sandbox::remove_tree(folder)?;
    }
    match fs::rename(temporary.path(), folder) {
        // Another build made the same part meanwhile: take that one.
        Err(_) if folder.is_dir() => Ok(()),
        other => other.map_err(Error::io("rename to", folder)),
    }
}
