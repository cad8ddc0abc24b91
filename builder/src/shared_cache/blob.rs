//! Parts and trees as blobs: packed by zstd, a tree as a tar archive.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use images::elsewhere::Kind;
use images::tools::ToolsTree;
use images::{pack, tree_archive};
use offline_repo::digest::HashingWriter;

use super::TEMPORARY;

/// Packs at the speed of a disk; what is packed is lz4 data mostly, which no level makes much smaller.
const LEVEL: i32 = 3;
/// Bytes that are written at a time; what is all zeros becomes a hole.
const STEP: usize = 64 << 10;

/// A packed blob.
pub struct Blob {
    /// The file, which has no name.
    pub file: File,
    /// SHA-256 in hex.
    pub digest: String,
    /// Its size.
    pub size: u64,
    /// Size of what it unpacks to.
    pub unpacked: u64,
}

/// Packs an entry of the cache into a file in `folder`.
pub fn pack_entry(
    kind: Kind,
    entry: &Path,
    tools: Option<&ToolsTree>,
    folder: &Path,
) -> Result<Blob, String> {
    let text = |e: io::Error| e.to_string();
    let file = tempfile::tempfile_in(folder).map_err(text)?;
    let output = HashingWriter::new(&file);
    let mut encoder = zstd::Encoder::new(output, LEVEL).map_err(text)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = u32::try_from(threads).unwrap_or(1);
    encoder.multithread(threads).map_err(text)?;
    let mut counter = HashingWriter::new(encoder);
    match kind {
        Kind::Part => {
            let mut part = pack::open(entry).map_err(|e| e.to_string())?;
            io::copy(&mut part, &mut counter).map_err(text)?;
        }
        Kind::Base => {
            let tools = tools.ok_or("there is no tools tree")?;
            tree_archive::pack(entry, tools, &mut counter).map_err(|e| e.to_string())?;
        }
    }
    let (encoder, _, unpacked) = counter.finish();
    let (_, digest, size) = encoder.finish().map_err(text)?.finish();
    Ok(Blob {
        file,
        digest: digest.to_string(),
        size,
        unpacked,
    })
}

/// Unpacks a blob of exactly so many bytes to a file, which appears when it is whole; zeros become holes.
pub fn unpack_file(packed: &File, unpacked: u64, path: &Path) -> Result<(), String> {
    let inner = || -> io::Result<()> {
        let folder = path.parent().unwrap_or(path);
        let file = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .permissions(fs::Permissions::from_mode(0o644))
            .tempfile_in(folder)?;
        let mut content = Bounded::open(packed, unpacked)?;
        copy_sparse(&mut content, file.as_file())?;
        content.is_finished()?;
        file.as_file().set_len(unpacked)?;
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    inner().map_err(|e| e.to_string())
}

/// Unpacks a blob with a tree into a folder, after all of it has been looked through.
pub fn unpack_tree(
    packed: &File,
    unpacked: u64,
    tools: &ToolsTree,
    folder: &Path,
) -> Result<(), String> {
    let open = || Bounded::open(packed, unpacked).map_err(|e| e.to_string());
    let mut content = open()?;
    tree_archive::check(&mut content).map_err(|e| e.to_string())?;
    io::copy(&mut content, &mut io::sink()).map_err(|e| e.to_string())?;
    content.is_finished().map_err(|e| e.to_string())?;
    tree_archive::unpack(&mut open()?, tools, folder).map_err(|e| e.to_string())
}

/// What a blob unpacks to, never more than was stated.
struct Bounded<'a> {
    inner: zstd::Decoder<'a, BufReader<File>>,
    left: u64,
}

impl Bounded<'_> {
    fn open(packed: &File, unpacked: u64) -> io::Result<Self> {
        let mut packed = packed.try_clone()?;
        packed.rewind()?;
        Ok(Bounded {
            inner: zstd::Decoder::new(packed)?,
            left: unpacked,
        })
    }

    fn is_finished(&self) -> io::Result<()> {
        match self.left {
            0 => Ok(()),
            left => Err(io::Error::other(format!(
                "it unpacks to {left} bytes less than its statement says"
            ))),
        }
    }
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| io::Error::other("it unpacks to more bytes than its statement says"))?;
        Ok(read)
    }
}

fn copy_sparse(source: &mut impl Read, target: &File) -> io::Result<()> {
    let mut at = 0;
    let mut piece = Vec::with_capacity(STEP);
    loop {
        piece.clear();
        source.by_ref().take(STEP as u64).read_to_end(&mut piece)?;
        if piece.is_empty() {
            return Ok(());
        }
        if piece.iter().any(|&byte| byte != 0) {
            target.write_all_at(&piece, at)?;
        }
        at += piece.len() as u64;
    }
}
