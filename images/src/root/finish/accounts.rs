//! Account files without the traces of when and in which order they were edited.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::root::input::{Content, FileEntry, SystemUser};
use crate::root::prepare::group_with;

/// What passwd(1) and its kin leave beside the files they edit.
const BACKUPS: [&str; 7] = [
    "/etc/passwd-",
    "/etc/group-",
    "/etc/shadow-",
    "/etc/gshadow-",
    "/etc/subuid-",
    "/etc/subgid-",
    "/etc/.pwd.lock",
];

/// Seconds of a day.
const DAY: u64 = 86400;

/// Removes backups and sets the dates of passwords to the day of `epoch`.
pub(super) fn normalise(epoch: u64) -> Result<()> {
    for backup in BACKUPS.iter().map(Path::new).filter(|path| path.exists()) {
        fs::remove_file(backup).map_err(Error::io("remove", backup))?;
    }
    let path = Path::new("/etc/shadow");
    if path.exists() {
        let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
        super::replace(path, with_dates(&text, epoch / DAY).as_bytes())?;
    }
    Ok(())
}

/// The account files with users added, as they would be had the users been there from the start: passwords are shadowed
/// where those of others are.
pub(super) fn with_users(users: &[SystemUser], epoch: u64) -> Result<Vec<FileEntry>> {
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let day = epoch / DAY;
    let shadowed = Path::new("/etc/shadow").exists();
    let mut entries = Vec::new();
    for path in ["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"] {
        if !Path::new(path).exists() {
            continue;
        }
        let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
        let metadata = fs::metadata(path).map_err(Error::io("look at", path))?;
        let text = match path {
            "/etc/passwd" => passwd_with(&text, users, shadowed)?,
            "/etc/group" => group_with(&text, users, own_group),
            "/etc/shadow" => {
                text + &users
                    .iter()
                    .map(|user| shadow(user, day))
                    .collect::<String>()
            }
            _ => group_with(&text, users, |user| format!("{}:*::", user.name)),
        };
        entries.push(FileEntry {
            path: path.to_owned(),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            kind: Content::File(text.into_bytes()),
        });
    }
    Ok(entries)
}

/// passwd(5) with the users added; an account of a package with the same name or id is in the way.
fn passwd_with(text: &str, users: &[SystemUser], shadowed: bool) -> Result<String> {
    let mut text = text.to_owned();
    let password = if shadowed { "x" } else { "*" };
    for user in users {
        let SystemUser {
            name,
            uid,
            gid,
            comment,
            home,
            shell,
            ..
        } = user;
        let id = uid.to_string();
        let taken = text.lines().any(|line| {
            let mut fields = line.split(':');
            fields.next() == Some(name) || fields.nth(1) == Some(&id)
        });
        if taken {
            return Err(Error::Tree {
                reason: format!(
                    "user {name} has the name or uid of an account that a package made: leave out its `phase`"
                ),
            });
        }
        text += &format!("{name}:{password}:{uid}:{gid}:{comment}:{home}:{shell}\n");
    }
    Ok(text)
}

/// The line of a user's own group in group(5), where passwords of groups are shadowed as well.
fn own_group(user: &SystemUser) -> String {
    format!("{}:x:{}:", user.name, user.gid)
}

/// A line of shadow(5) as pwconv(8) makes it with Debian's login.defs.
fn shadow(user: &SystemUser, day: u64) -> String {
    format!("{}:*:{day}:0:99999:7:::\n", user.name)
}

/// shadow(5) with the third field, the day of the last change, set to `day` where it is set.
fn with_dates(text: &str, day: u64) -> String {
    let line = |line: &str| {
        let mut fields: Vec<String> = line.split(':').map(str::to_owned).collect();
        if let Some(date) = fields.get_mut(2).filter(|date| !date.is_empty()) {
            *date = day.to_string();
        }
        fields.join(":") + "\n"
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_that_no_package_asks_for() {
        let user = SystemUser {
            name: "me".into(),
            uid: 900,
            gid: 900,
            comment: String::new(),
            home: "/var/lib/me".into(),
            shell: "/bin/sh".into(),
            groups: Vec::new(),
        };
        let users = [user];
        let passwd = "root:x:0:0:root:/root:/bin/bash\n";
        assert_eq!(
            passwd_with(passwd, &users, true).unwrap(),
            format!("{passwd}me:x:900:900::/var/lib/me:/bin/sh\n")
        );
        for taken in ["me:x:1:1::/:/bin/sh\n", "you:x:900:1::/:/bin/sh\n"] {
            assert!(passwd_with(taken, &users, true).is_err(), "{taken}");
        }
        assert_eq!(shadow(&users[0], 3), "me:*:3:0:99999:7:::\n");
    }

    #[test]
    fn dates_of_passwords() {
        let text = "root:*:20000:0:99999:7:::\nx:!::::::\n";
        assert_eq!(with_dates(text, 3), "root:*:3:0:99999:7:::\nx:!::::::\n");
    }
}
