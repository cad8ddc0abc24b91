//! The initial file system: our first process, the modules it loads, and nothing else.

use std::path::Path;

use rayon::prelude::*;

use crate::cpio::{Archive, Kind};
use crate::error::{Error, Result};
use crate::kernel;

/// Mount points that the first process uses.
const DIRECTORIES: [&str; 6] = ["dev", "modules", "proc", "run", "sys", "sysroot"];

/// Compression level of zstd: higher ones take seconds and save some percent of a few MB.
const LEVEL: i32 = 9;

/// Makes the compressed archive from the ELF image of the first process and the folder of the kernel's modules.
///
/// # Errors
/// When a module is missing or unreadable.
pub fn build(folder: &Path, init: &[u8]) -> Result<Vec<u8>> {
    let plan = kernel::plan_modules(folder)?;
    let modules: Vec<(&String, Vec<u8>)> = plan
        .files
        .par_iter()
        .map(|(name, path)| Ok((name, kernel::read_module(&folder.join(path))?)))
        .collect::<Result<_>>()?;
    let archive = archive(init, &plan.text(), &modules);
    zstd::bulk::compress(&archive, LEVEL).map_err(Error::io("compress", "the initial file system"))
}

fn archive(init: &[u8], list: &str, modules: &[(&String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Archive::default();
    for directory in DIRECTORIES {
        archive.add(directory, Kind::Directory);
    }
    // Standard output of the first process, before it has mounted /dev.
    archive.add("dev/console", Kind::CharacterDevice { major: 5, minor: 1 });
    archive.add(
        "init",
        Kind::File {
            mode: 0o755,
            content: init,
        },
    );
    archive.add(
        "modules.list",
        Kind::File {
            mode: 0o644,
            content: list.as_bytes(),
        },
    );
    for (name, content) in modules {
        archive.add(
            &format!("modules/{name}"),
            Kind::File {
                mode: 0o644,
                content,
            },
        );
    }
    archive.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_a_function_of_its_input() {
        let name = "a.ko".to_owned();
        let modules = [(&name, vec![1, 2, 3])];
        let one = archive(b"init", "always a.ko\n", &modules);
        assert_eq!(one, archive(b"init", "always a.ko\n", &modules));
        let text = String::from_utf8_lossy(&one);
        for part in [
            "dev/console\0",
            "init\0",
            "modules.list\0",
            "modules/a.ko\0",
            "TRAILER!!!",
        ] {
            assert!(text.contains(part), "{part}");
        }
    }
}
