//! File systems of an image, made by the tools tree's programs and cached by content.
//!
//! A cached part is a folder named by the digest of all that goes into it. It appears under that name by one rename when
//! it is whole.

mod root;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::elsewhere::{Cache, Kind, Wanted};
use crate::error::{Error, Result};
use crate::partitions::Guid;
use crate::progress::{Progress, ProgressFn};
use crate::sandbox::Sandbox;
use crate::tools::ToolsTree;
use crate::unfinished::Unfinished;

pub use root::{base, layers, root};

/// The file of a cached part.
pub const FILE: &str = "part.img";
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
fn begin_folder(context: &Context, stage: &str) -> Result<Unfinished> {
    let temporary = Unfinished::begin(context.cache.folder)?;
    let path = temporary.path().join(STAGE);
    fs::write(&path, format!("{stage}\n")).map_err(Error::io("write", &path))?;
    Ok(temporary)
}

/// Whether somebody else has made the part; then its file is there.
fn found_elsewhere(context: &Context, stage: &str, key: &str, unfinished: &Unfinished) -> bool {
    let wanted = Wanted {
        kind: Kind::Part,
        digest: key,
    };
    let find = context.cache.find.filter(|_| !LOCAL.contains(&stage));
    find.is_some_and(|find| find(wanted, &unfinished.path().join(FILE)))
}

fn make(context: &Context, work: &Work, begin: &Begin, temporary: &Unfinished) -> Result<()> {
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
fn publish(temporary: Unfinished, folder: &Path) -> Result<()> {
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
