//! Leaving the initial file system: the root moves to `/` and its init replaces this program.

use super::failure::{Failure, Step};
use super::mounts::ROOT;
use nix::mount::{MsFlags, mount};
use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const HINT: &str =
    "the image holds no usable system: boot another version, or write the image anew";

/// Moves the root to `/` and executes `init` with this process' arguments behind it; only returns on failure.
pub fn to_root(init: &str, arguments: impl Iterator<Item = String>) -> Step<Infallible> {
    if !Path::new(ROOT).join(init.trim_start_matches('/')).exists() {
        return Err(failure(
            &format!("cannot find {init} in the root"),
            &"no such file",
        ));
    }
    for name in ["dev", "proc", "sys", "run"] {
        let target = format!("{ROOT}/{name}");
        move_mount(&format!("/{name}"), &target)?;
    }
    // Its pages are memory, and nothing can reach them once the root is over it.
    empty_initial_file_system();
    nix::unistd::chdir(ROOT).map_err(|e| failure("cannot enter the root", &e))?;
    move_mount(".", "/")?;
    nix::unistd::chroot(".").map_err(|e| failure("cannot change the root", &e))?;
    nix::unistd::chdir("/").map_err(|e| failure("cannot enter the root", &e))?;
    let words = std::iter::once(init.to_owned()).chain(arguments);
    let words: Vec<CString> = words.filter_map(|word| CString::new(word).ok()).collect();
    nix::unistd::execv(&words[0], &words)
        .map_err(|e| failure(&format!("cannot execute {init}"), &e))
}

fn move_mount(from: &str, to: &str) -> Step<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .map_err(|e| failure(&format!("cannot move the mount {from} to {to}"), &e))
}

/// Deletes everything on the file system of `/`, never crossing into another one.
fn empty_initial_file_system() {
    if let Ok(root) = fs::symlink_metadata("/") {
        remove_below(Path::new("/"), root.dev());
    }
}

/// Best effort: a file that stays only costs memory.
fn remove_below(directory: &Path, device: u64) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        match fs::symlink_metadata(&path) {
            Ok(data) if data.dev() == device && data.is_dir() => {
                remove_below(&path, device);
                let _ = fs::remove_dir(&path);
            }
            Ok(data) if data.dev() == device => {
                let _ = fs::remove_file(&path);
            }
            _ => {}
        }
    }
}

fn failure(what: &str, cause: &dyn std::fmt::Display) -> Failure {
    Failure::new("FR-INIT-SWITCH", format!("{what}: {cause}"), HINT)
}
