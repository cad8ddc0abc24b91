//! A root tree as a tar archive, for containers and chroots.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use crate::error::{Error, Result};
use crate::root::RootTree;
use crate::tools::ToolsTree;

/// Where the tree is visible to tar.
const INSIDE: &str = "/run/tree";
/// Equal trees give equal bytes: sorted names, numbers for owners, no times but the files' own, to the second.
const OPTIONS: [&str; 8] = [
    "--create",
    "--sort=name",
    "--numeric-owner",
    "--format=posix",
    "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime,delete=mtime",
    "--xattrs",
    "--file=-",
    ".",
];

/// Writes the archive to `path`, which appears only when it is whole.
///
/// # Errors
/// The tools' tar fails, or the file cannot be written.
pub fn write(tree: &RootTree, tools: &ToolsTree, path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let file = tempfile::Builder::new()
        .prefix(".unfinished-")
        .tempfile_in(folder)
        .map_err(Error::io("create in", folder))?;
    let output = file.reopen().map_err(Error::io("open", file.path()))?;
    let sandbox = tools.sandbox().bind_ro(&tree.path, INSIDE).workdir(INSIDE);
    let argv: Vec<&str> = std::iter::once("tar").chain(OPTIONS).collect();
    let mut child = sandbox.spawn(&argv, Stdio::null(), Stdio::from(output), Stdio::inherit())?;
    let status = child.wait()?;
    if !status.success() {
        return Err(Error::Program {
            program: "tar".to_owned(),
            status: status.to_string(),
            stderr: String::new(),
        });
    }
    let readable = fs::Permissions::from_mode(0o644);
    file.as_file()
        .set_permissions(readable)
        .map_err(Error::io("write", path))?;
    file.as_file()
        .sync_all()
        .map_err(Error::io("flush", path))?;
    file.persist(path)
        .map_err(|e| Error::io("rename to", path)(e.error))?;
    Ok(())
}
