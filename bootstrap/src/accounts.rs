//! Users and groups, read from the files themselves: the C library's lookup loads plugins, which a static binary
//! cannot rely on.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::error::{Error, Invalid, Result};
use crate::files::Owner;

/// A user of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Home directory.
    pub home: String,
    /// Login shell.
    pub shell: String,
}

/// Users and groups by name.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    users: BTreeMap<String, User>,
    groups: BTreeMap<String, u32>,
}

impl Accounts {
    /// Reads `etc/passwd` and `etc/group` below a root.
    ///
    /// # Errors
    /// `FR-IO`.
    pub fn load(root: &Path) -> Result<Self> {
        let read =
            |path: &Path| fs::read_to_string(path).map_err(|error| Error::io("read", path, error));
        let passwd = read(&root.join("etc/passwd"))?;
        Ok(Self::parse(&passwd, &read(&root.join("etc/group"))?))
    }

    /// Reads the texts of passwd(5) and group(5); lines that are not well formed are left out.
    pub fn parse(passwd: &str, group: &str) -> Self {
        let mut accounts = Accounts::default();
        for line in passwd.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            if let [name, _, uid, gid, _, home, shell] = fields.as_slice()
                && let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse())
            {
                let (home, shell) = ((*home).to_owned(), (*shell).to_owned());
                accounts.users.insert(
                    (*name).to_owned(),
                    User {
                        uid,
                        gid,
                        home,
                        shell,
                    },
                );
            }
        }
        for line in group.lines() {
            let mut fields = line.split(':');
            if let (Some(name), Some(Ok(gid))) = (fields.next(), fields.nth(1).map(str::parse)) {
                accounts.groups.insert(name.to_owned(), gid);
            }
        }
        accounts
    }

    /// A user.
    ///
    /// # Errors
    /// `FR-ACCOUNT` when there is none of that name.
    pub fn user(&self, name: &str) -> Result<&User> {
        self.users.get(name).ok_or_else(|| unknown("user", name))
    }

    /// Ids of a user and a group.
    ///
    /// # Errors
    /// `FR-ACCOUNT`.
    pub fn owner(&self, user: &str, group: &str) -> Result<Owner> {
        let gid = self
            .groups
            .get(group)
            .ok_or_else(|| unknown("group", group))?;
        Ok((self.user(user)?.uid, *gid))
    }
}

fn unknown(what: &str, name: &str) -> Error {
    let message = format!("there is no {what} {name}");
    let hint = "is the package that makes it in the image?";
    Invalid::new("FR-ACCOUNT", "", message, hint)
        .in_document("this system")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_to_ids() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\npostgres:x:543:543:,,,:/var/lib/postgresql:/bin/bash\nbroken\n";
        let accounts = Accounts::parse(passwd, "root:x:0:\nssl-cert:x:108:postgres\n");
        assert_eq!(accounts.owner("postgres", "ssl-cert").unwrap(), (543, 108));
        assert_eq!(
            accounts.user("postgres").unwrap().home,
            "/var/lib/postgresql"
        );
        assert_eq!(
            accounts.owner("nobody", "root").unwrap_err().code(),
            "FR-ACCOUNT"
        );
        assert_eq!(
            accounts.owner("root", "wheel").unwrap_err().code(),
            "FR-ACCOUNT"
        );
    }
}
