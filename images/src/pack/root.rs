//! The root file system: layers of packages, the tree that they make, and the files of a recipe, each put over what was packed
//! before.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::part::Part;
use super::{Context, RootCompression, Work, erofs_arguments};
use crate::error::{Error, Result};
use crate::partitions::Guid;
use crate::root::{self, Base, Layer, RootTree};

/// The root's compression. On the 630 MB of `bench` that are packed first, level 6 of lz4hc takes 7.0 s of a processor for 277 MB,
/// level 3 5.2 s for 281 MB, level 2 2.5 s for 295 MB, and plain lz4 0.9 s for 314 MB. A page fault unpacks at most 16 KiB of
/// compressed data, which matters on an emulated processor.
const ROOT_OPTIONS: &[&str] = &["-zlz4", "-C16384"];
/// The same for who wants a small image: better packed, in larger pieces, at the price of slower reads. On the whole tree of
/// `bench`, level 3 takes 22 s on two processors for 359 MB, level 6 67 s for 345 MB, level 9 99 s for 341 MB, level 12 175 s for
/// 340 MB, and level 15 ten minutes and more. Ends of files that lie beside their inodes make it 3.5 % smaller, for 14 s.
const SMALL_ROOT_OPTIONS: &[&str] = &["-zzstd,level=6", "-C131072", "-Eztailpacking"];
/// What is not in the root: the kernel is in the ESP, `/var` in its own partition. The folders themselves stay.
const ROOT_EXCLUDE: &str = "--exclude-regex=^(boot|var)/.";

/// The read-only root file system of a tree, in a file that is there as long as the context's working image, or until that has
/// another one. What its layers hold is packed once for each of them; what a base has beyond them, and files that were added to
/// it, are then appended, which takes a moment. An image from an empty cache goes the same way, so it has the same
/// bytes.
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
    let part = match &tree.base {
        None => packer.whole("image/root", &tree.digest, uuid, &tree.path),
        Some(base) => packer.above("image/root", &tree.digest, uuid, &tree.path, || {
            Ok((packer.base(base)?, list(&base.added)))
        }),
    }?;
    match part.file() {
        Some(file) => Ok(file.to_owned()),
        None => packer.hold(&part),
    }
}

/// Packs the uppermost of layers over the others, for [`root`] to find it; the working image is that then.
///
/// # Errors
/// As [`root`].
pub fn layers(context: &Context, layers: &[Layer], compression: RootCompression) -> Result<()> {
    let packer = Packer {
        context,
        compression,
    };
    let part = packer.layers(layers)?;
    packer.hold(&part).map(drop)
}

/// Packs the base of a root tree over its layers, for [`root`] to find it; the working image is that then.
///
/// # Errors
/// As [`root`].
pub fn base(context: &Context, base: &Base, compression: RootCompression) -> Result<()> {
    let packer = Packer {
        context,
        compression,
    };
    let part = packer.base(base)?;
    packer.hold(&part).map(drop)
}

/// Packs root file systems in one way.
struct Packer<'a> {
    context: &'a Context<'a>,
    compression: RootCompression,
}

impl Packer<'_> {
    fn hold(&self, part: &Part) -> Result<PathBuf> {
        let Context { working, cache, .. } = self.context;
        working.hold(part, cache.folder)
    }

    fn base(&self, base: &Base) -> Result<Part> {
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
    fn layers(&self, layers: &[Layer]) -> Result<Part> {
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
    fn lowest(&self, layer: &Layer) -> Result<Part> {
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
        work.cached(self.context, excluded)
    }

    /// A tree as one file system.
    fn whole(&self, stage: &'static str, digest: &str, uuid: Guid, tree: &Path) -> Result<Part> {
        let mut arguments = self.arguments(uuid);
        arguments.extend([ROOT_EXCLUDE, "/out/part.img", "/tree"].map(str::to_owned));
        let work = Work {
            stage,
            digest,
            arguments: &arguments,
            tree,
        };
        work.cached(self.context, || Ok(Vec::new()))
    }

    /// Files of a tree appended to a part; both are asked for when this one is not in the cache.
    fn above(
        &self,
        stage: &'static str,
        digest: &str,
        uuid: Guid,
        tree: &Path,
        begin: impl FnOnce() -> Result<(Part, Vec<u8>)>,
    ) -> Result<Part> {
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
        work.appended(self.context, begin)
    }

    fn arguments(&self, uuid: Guid) -> Vec<String> {
        let mut arguments = erofs_arguments(self.context.epoch, uuid);
        let options = match self.compression {
            RootCompression::Lz4 => ROOT_OPTIONS,
            RootCompression::Zstd => SMALL_ROOT_OPTIONS,
        };
        arguments.extend(options.iter().map(|&option| option.to_owned()));
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

/// Appends the files listed in `/out/added` to the file system that the command in the arguments names: it reads an archive.
/// With only a part of that it would succeed as well.
const APPEND: &str = r#"set -eu
cd /out
{
    tar --create --file=- --directory=/tree --no-recursion --format=gnu --numeric-owner \
        --null --verbatim-files-from --files-from=added || : >failed
} | "$@"
[ ! -e failed ]
rm added"#;

/// The added files that are in the root's file system, and the folders on the way to them, whose times changed.
fn list(added: &[String]) -> Vec<u8> {
    let mut paths = BTreeSet::new();
    let here = |path: &&Path| !root::is_elsewhere(path);
    for path in added.iter().map(Path::new).filter(here) {
        paths.extend(path.ancestors().map(|path| Path::new(".").join(path)));
    }
    let path = |path: PathBuf| [path.as_os_str().as_encoded_bytes(), b"\0"].concat();
    paths.into_iter().flat_map(path).collect()
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
