//! Account files without the traces of when and in which order they were edited.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};

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
        // Written in place: its owner and mode stay.
        fs::write(path, with_dates(&text, epoch / DAY)).map_err(Error::io("write", path))?;
    }
    Ok(())
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
    fn dates_of_passwords() {
        let text = "root:*:20000:0:99999:7:::\nx:!::::::\n";
        assert_eq!(with_dates(text, 3), "root:*:3:0:99999:7:::\nx:!::::::\n");
    }
}
