//! While packages are installed nothing is started and nothing enabled: a policy for services (invoke-rc.d(8)) and a preset
//! (systemd.preset(5)) that are there only as long.
//!
//! The policy holds only while the lock is held, and whoever installs hands the lock down to apt and dpkg. So when this
//! program is killed, what dpkg has begun is still done quietly; after that the policy is as if it were not there, and
//! the next run takes it away. The preset is in /run.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, fcntl};

use crate::commands::write_file;
use crate::diagnostic::{Diagnostic, Result};

/// The folder of what lasts until the machine goes down.
pub const RUN: &str = "/run/farrow";
/// Held while packages are installed.
const LOCK: &str = "/run/farrow/install.lock";
/// Asked before a service is started by a package.
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// The machine's own, in the meantime.
const SAVED: &str = "/usr/sbin/policy-rc.d.farrow-saved";
/// Sorts before the presets of packages, so it decides.
const PRESET: &str = "/run/systemd/system-preset/00-farrow-install.preset";
/// How long another installation, or a dpkg that outlived its own, may take.
const WAIT: Duration = Duration::from_secs(900);

const PRESET_TEXT: &str = "# While `farrow repo install` runs.\ndisable *\n";
const POLICY_TEXT: &str = "#!/bin/sh
# Written by `farrow repo install`, which takes it away again. It holds only while packages are being installed.
lock=/run/farrow/install.lock
if [ -e $lock ] && ! flock --nonblock $lock true; then
    exit 101
fi
saved=/usr/sbin/policy-rc.d.farrow-saved
if [ -x $saved ]; then
    exec $saved \"$@\"
fi
exit 0
";

/// The time in which nothing starts. It ends when this is told to, not when it is dropped: a failure to put things back
/// has to be reported.
#[derive(Debug)]
pub struct Quiet {
    _lock: Flock<File>,
}

impl Quiet {
    /// From now on nothing starts.
    pub fn begin(lock: Flock<File>) -> Result<Quiet> {
        let quiet = Quiet { _lock: lock };
        if is_foreign()? {
            save()?;
        }
        write_file(Path::new(POLICY), POLICY_TEXT.as_bytes(), 0o755)?;
        write_file(Path::new(PRESET), PRESET_TEXT.as_bytes(), 0o644)?;
        Ok(quiet)
    }

    /// Puts everything back.
    pub fn end(self) -> Result<()> {
        remove(PRESET)?;
        if Path::new(SAVED).symlink_metadata().is_ok() {
            return fs::rename(SAVED, POLICY)
                .map_err(|e| Diagnostic::io("restore", Path::new(POLICY), e));
        }
        match is_foreign()? {
            true => Ok(()),
            false => remove(POLICY),
        }
    }
}

/// Waits for other installations and takes the lock, in a way that programs started from now on hold it, too.
pub fn lock() -> Result<Flock<File>> {
    fs::create_dir_all(RUN).map_err(|e| Diagnostic::io("create", Path::new(RUN), e))?;
    let fail = |e: std::io::Error| Diagnostic::io("lock", Path::new(LOCK), e);
    let end = Instant::now() + WAIT;
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(LOCK)
        .map_err(fail)?;
    fcntl(file.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).map_err(|e| fail(e.into()))?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, error)) if Instant::now() >= end => {
                return Err(busy(error));
            }
            Err((back, _)) => file = back,
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn busy(error: nix::Error) -> Diagnostic {
    let message = format!("packages are still being installed by another run ({error})");
    Diagnostic::failed("FR-INSTALL-BUSY", message)
        .with_hint("wait for it; it is over when no process of apt or dpkg is left")
}

/// Whether there is a policy that is not ours.
fn is_foreign() -> Result<bool> {
    match fs::read(POLICY) {
        Ok(found) => Ok(found != POLICY_TEXT.as_bytes()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Diagnostic::io("read", Path::new(POLICY), error)),
    }
}

/// Keeps the machine's own policy under another name. Under its own it stays until ours takes its place in one step.
fn save() -> Result<()> {
    remove(SAVED)?;
    fs::hard_link(POLICY, SAVED).map_err(|e| Diagnostic::io("save", Path::new(POLICY), e))
}

fn remove(path: &str) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Diagnostic::io("remove", Path::new(path), error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn another_run_is_named() {
        let printed = super::busy(nix::Error::EWOULDBLOCK).render(false);
        crate::golden::golden("FR-INSTALL-BUSY", &printed);
    }
}
