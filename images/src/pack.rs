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
use crate::root::RootTree;
use crate::sandbox::Sandbox;
use crate::tools::ToolsTree;

/// How the names of unfinished folders begin.
const TEMPORARY: &str = ".unfinished-";
/// The file of a cached part.
pub const FILE: &str = "part.img";
/// A file beside it with the name of the stage that made it.
const STAGE: &str = "stage";
/// Parts that are quickly made, or hold no more than the repository that a builder has anyway: sharing them
/// between builders would cost more than it saves.
const LOCAL: [&str; 3] = ["image/root", "image/repository", "image/var"];

/// The root's compression. Against level 9 and 4 KiB clusters on a 380 MB tree: 40 % less time, 9 % less space, and a
/// page fault still unpacks at most 16 KiB of compressed data, which matters on an emulated processor.
const ROOT_OPTIONS: [&str; 2] = ["-zlz4hc,level=6", "-C16384"];
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

/// The read-only root file system of a tree. What its base holds is packed once; files that were added are then appended
/// to a copy, which takes a moment. An image from an empty cache goes the same way, so it has the same bytes.
///
/// # Errors
/// When `mkfs.erofs` fails or the cache cannot be written.
pub fn root(
    context: &Context,
    tree: &RootTree,
    uuid: Guid,
    compression: RootCompression,
) -> Result<PathBuf> {
    let options = match compression {
        RootCompression::Lz4 => ROOT_OPTIONS,
        RootCompression::Zstd => SMALL_ROOT_OPTIONS,
    };
    let packing = |uuid| {
        let mut arguments = erofs_arguments(context.epoch, uuid);
        arguments.extend(options.map(str::to_owned));
        arguments
    };
    let whole = |stage, digest: &str, uuid, tree: &Path| {
        let mut arguments = packing(uuid);
        arguments.extend([ROOT_EXCLUDE, "/out/part.img", "/tree"].map(str::to_owned));
        cached(context, stage, digest, &arguments, tree, None)
    };
    let Some(base) = &tree.base else {
        return whole("image/root", &tree.digest, uuid, &tree.path);
    };
    let id = Sha256::digest(format!("base file system {}", base.digest));
    let part = whole(
        "image/base",
        &base.digest,
        Guid::from_digest(&id),
        &base.path,
    )?;
    let mut arguments: Vec<String> = ["sh", "-c", APPEND, "append"].map(str::to_owned).into();
    arguments.extend(packing(uuid));
    arguments.extend(
        ["--incremental=data", "--tar=f", "/out/part.img"]
            .iter()
            .map(|&word| word.to_owned()),
    );
    let start = Start {
        part: &part,
        list: list(&base.added),
    };
    let (digest, tree) = (&tree.digest, &tree.path);
    cached(
        context,
        "image/root",
        digest,
        &arguments,
        tree,
        Some(&start),
    )
}

/// Appends the files listed in `/out/added` to the file system that the command in the arguments names.
const APPEND: &str = r#"set -eu
cd /out
tar --create --file=added.tar --directory=/tree --no-recursion --format=gnu --numeric-owner \
    --null --verbatim-files-from --files-from=added
"$@" added.tar
rm added added.tar"#;

/// What a part begins as.
struct Start<'a> {
    /// A part that is copied.
    part: &'a Path,
    /// Paths that are appended, each ended by a NUL.
    list: Vec<u8>,
}

/// The added files that are in the root's file system, and the folders on the way to them, whose times changed.
fn list(added: &[String]) -> Vec<u8> {
    let mut paths = BTreeSet::new();
    for path in added.iter().map(Path::new) {
        if path.starts_with("boot") || path.starts_with("var") {
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
    cached(
        context,
        "image/repository",
        digest,
        &arguments,
        folder,
        None,
    )
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
    cached(
        context,
        "image/var",
        digest,
        &arguments.map(str::to_owned),
        tree,
        None,
    )
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

/// The part that a program makes from `tree` (seen as `/tree`) at `/out/part.img`, or the one made before. With a start,
/// that is there already.
fn cached(
    context: &Context,
    stage: &'static str,
    digest: &str,
    arguments: &[String],
    tree: &Path,
    begin: Option<&Start>,
) -> Result<PathBuf> {
    let start = std::time::Instant::now();
    (context.progress)(Progress::Started { stage, total: None });
    let key = key(context, digest, arguments);
    let folder = context.cache.folder.join(&key);
    let mut reused = folder.is_dir();
    if reused {
        // The time of last use decides what goes when the cache is bounded; others may share it read-only.
        let _ = fs::File::open(&folder).and_then(|f| f.set_modified(std::time::SystemTime::now()));
    } else {
        let unfinished = begin_folder(context, stage)?;
        reused = found_elsewhere(context, stage, &key, &unfinished);
        if !reused {
            make(context, arguments, tree, begin, &unfinished)?;
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

/// Digest of all that a part depends on; each field ends with a NUL so that no two lists look the same.
fn key(context: &Context, digest: &str, arguments: &[String]) -> String {
    let mut hash = Sha256::new();
    let epoch = context.epoch.to_string();
    let fields = ["farrow part 1", digest, &context.tools.digest, &epoch].into_iter();
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

fn make(
    context: &Context,
    arguments: &[String],
    tree: &Path,
    begin: Option<&Start>,
    temporary: &TempDir,
) -> Result<()> {
    let file = temporary.path().join(FILE);
    if let Some(Start { part, list }) = begin {
        fs::copy(part, &file).map_err(Error::io("copy", part))?;
        let added = temporary.path().join("added");
        fs::write(&added, list).map_err(Error::io("write", &added))?;
    }
    let epoch = context.epoch.to_string();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    sandbox(context, tree, temporary.path())
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
        let added = ["usr/lib/x/a", "etc/hostname", "var/lib/b", "boot/c"];
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
        ];
        assert_eq!(listed, expected);
    }
}
