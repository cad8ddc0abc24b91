//! The tree before dpkg: packages, accounts, policy files. Runs in the mapped namespace.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::filter;
use super::input::{Content, FileEntry, SystemUser};
use super::unpack::{self, Unpacked};
use crate::error::{Error, Result};

/// What [`prepare`] is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PrepareInput {
    pub(crate) tree: PathBuf,
    pub(crate) packages: Vec<Unpacked>,
    pub(crate) files: Vec<FileEntry>,
    pub(crate) users: Vec<SystemUser>,
    pub(crate) exclude_documentation: bool,
}

/// Makes the tree that dpkg can run in, with the packages that it need not unpack itself; or returns the places of packages that it must
/// unpack after all, and the tree is then of no use. The calling process ends up inside it.
pub(crate) fn prepare(input: PrepareInput, report: &(dyn Fn(u64) + Sync)) -> Result<Vec<usize>> {
    let tree = &input.tree;
    fs::create_dir_all(tree).map_err(Error::io("create", tree))?;
    crate::tools::make_base(tree)?;
    let options: &[&str] = match input.exclude_documentation {
        true => &filter::DOCUMENTATION,
        false => &[],
    };
    let reserved = input
        .files
        .iter()
        .filter(|file| file.kind != Content::Directory);
    let reserved = reserved.map(|file| Path::new(file.path.trim_start_matches('/')).to_owned());
    let rules = unpack::Rules {
        options,
        reserved: reserved.collect(),
    };
    let outcome = unpack::unpack(tree, &input.packages, &rules, report)?;
    if !outcome.clashes.is_empty() {
        return Ok(outcome.clashes);
    }
    super::enter(tree)?;
    unpack::settle_folders(&outcome)?;
    write_accounts(&input.users)?;
    start_database(&outcome)?;
    input.files.iter().try_for_each(write_entry)?;
    Ok(Vec::new())
}

/// dpkg looks owners up by name while it unpacks, so the accounts exist before.
fn write_accounts(users: &[SystemUser]) -> Result<()> {
    for (file, add) in [
        ("passwd", passwd_with as fn(&str, &[SystemUser]) -> String),
        ("group", |master, users| {
            group_with(master, users, own_group)
        }),
    ] {
        let master = format!("/usr/share/base-passwd/{file}.master");
        let text = fs::read_to_string(&master).map_err(Error::io("read", &master))?;
        let path = format!("/etc/{file}");
        fs::write(&path, add(&text, users)).map_err(Error::io("write", &path))?;
    }
    Ok(())
}

/// passwd(5) with the users added.
fn passwd_with(master: &str, users: &[SystemUser]) -> String {
    let line = |user: &SystemUser| {
        let SystemUser {
            name,
            uid,
            gid,
            comment,
            home,
            shell,
            ..
        } = user;
        format!("{name}:*:{uid}:{gid}:{comment}:{home}:{shell}\n")
    };
    master.to_owned() + &users.iter().map(line).collect::<String>()
}

/// The line of a user's own group in group(5).
pub(super) fn own_group(user: &SystemUser) -> String {
    format!("{}:*:{}:", user.name, user.gid)
}

/// group(5) or gshadow(5) with the users' groups added, and the users to the groups they join.
pub(super) fn group_with(
    master: &str,
    users: &[SystemUser],
    own: fn(&SystemUser) -> String,
) -> String {
    let own = users.iter().map(own);
    let lines = master.lines().map(str::to_owned).chain(own);
    let join = |line: String| {
        let group = line.split(':').next().unwrap_or_default().to_owned();
        let joining = users
            .iter()
            .filter(|user| user.groups.contains(&group))
            .map(|user| user.name.as_str());
        let present = line
            .rsplit(':')
            .next()
            .filter(|members| !members.is_empty());
        let members: Vec<&str> = present.into_iter().chain(joining).collect();
        let head = line
            .rsplit_once(':')
            .map_or(line.as_str(), |(head, _)| head);
        format!("{head}:{}\n", members.join(","))
    };
    lines.map(join).collect()
}

/// A package database, and the `awk` that scripts use before its alternative is set up.
fn start_database(unpacked: &unpack::Outcome) -> Result<()> {
    let database = Path::new("/var/lib/dpkg");
    for folder in ["info", "updates", "triggers", "parts"] {
        let folder = database.join(folder);
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    }
    unpack::write_records(unpacked, database)?;
    let available = database.join("available");
    fs::write(&available, "").map_err(Error::io("write", &available))?;
    let awk = Path::new("/usr/bin/awk");
    let implementation = ["mawk", "gawk"]
        .into_iter()
        .find(|name| Path::new("/usr/bin").join(name).exists());
    match implementation {
        Some(name) if awk.symlink_metadata().is_err() => {
            symlink(name, awk).map_err(Error::io("link", awk))
        }
        _ => Ok(()),
    }
}

/// Puts one entry into the tree that this process is in.
pub(super) fn write_entry(entry: &FileEntry) -> Result<()> {
    let path = Path::new(&entry.path);
    let plain = |part| {
        matches!(
            part,
            std::path::Component::RootDir | std::path::Component::Normal(_)
        )
    };
    if !path.is_absolute() || !path.components().all(plain) || path == Path::new("/") {
        return Err(Error::Tree {
            reason: format!("file {:?} is not a plain absolute path", entry.path),
        });
    }
    if let Some(parent) = path.parent() {
        let mut builder = fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(Error::io("create", parent))?;
    }
    if entry.kind != Content::Directory && path.symlink_metadata().is_ok() {
        fs::remove_file(path).map_err(Error::io("replace", path))?;
    }
    match &entry.kind {
        Content::Symlink(target) => {
            symlink(target, path).map_err(Error::io("link", path))?;
            return lchown(path, Some(entry.uid), Some(entry.gid))
                .map_err(Error::io("set the owner of", path));
        }
        Content::Directory => fs::create_dir_all(path).map_err(Error::io("create", path))?,
        Content::File(bytes) => {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .map_err(Error::io("create", path))?;
            std::io::Write::write_all(&mut file, bytes).map_err(Error::io("write", path))?;
        }
    }
    // The owner first: changing it clears the set-id bits.
    chown(path, Some(entry.uid), Some(entry.gid)).map_err(Error::io("set the owner of", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(entry.mode))
        .map_err(Error::io("set the mode of", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_added() {
        let user = SystemUser {
            name: "postgres".into(),
            uid: 543,
            gid: 543,
            comment: "PostgreSQL".into(),
            home: "/var/lib/postgresql".into(),
            shell: "/bin/bash".into(),
            groups: vec!["tape".into()],
        };
        let users = [user];
        let passwd = passwd_with("root:*:0:0:root:/root:/bin/bash\n", &users);
        assert_eq!(
            passwd.lines().nth(1),
            Some("postgres:*:543:543:PostgreSQL:/var/lib/postgresql:/bin/bash")
        );
        let group = group_with("root:*:0:\ntape:*:26:ann\n", &users, own_group);
        assert_eq!(
            group,
            "root:*:0:\ntape:*:26:ann,postgres\npostgres:*:543:\n"
        );
    }
}
