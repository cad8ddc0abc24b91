//! Locking, beside `apt-get install --print-uris` with the same indexes and an empty status.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::run::{Table, evict, fastest, timed};
use crate::stages::Setting;

/// Most memory that locking may take, in MB.
const MEMORY: f64 = 300.0;

/// Cold: nothing derived from the indexes is there, and nothing is in the page cache. Warm: run before.
pub fn lock(setting: &Setting<'_>, table: &mut Table) -> Result<()> {
    let cache = setting.dir.join("lock-cache");
    let lock = || {
        let mut command =
            setting.farrow(&["lock", setting.recipe, "--upgrade", "--lock", "again.lock"]);
        command.env("FARROW_CACHE", &cache);
        command
    };
    timed(&mut lock())?;
    let forget = || {
        offline_repo::cache::Cache::new(&cache).remove_derived()?;
        evict(&cache)
    };
    let cold = fastest(forget, || timed(&mut lock()))?;
    let warm = fastest(|| Ok(()), || timed(&mut lock()))?;
    let peak = e2e::peak::of(&lock())?;
    forget()?;
    let cold_peak = e2e::peak::of(&lock())?;
    table.bound("lock, memory", peak.max(cold_peak), "MB", MEMORY);
    let apt = Apt::new(setting)?;
    let apt_cold = fastest(|| apt.forget(), || timed(&mut apt.print_uris()))?;
    let apt_warm = fastest(|| Ok(()), || timed(&mut apt.print_uris()))?;
    table.ratio("lock, cold : apt-get", cold, apt_cold, 1.0);
    table.ratio("lock, warm : apt-get", warm, apt_warm, 1.0);
    Ok(())
}

/// An apt with folders of its own.
struct Apt<'a> {
    root: PathBuf,
    setting: &'a Setting<'a>,
}

impl<'a> Apt<'a> {
    fn new(setting: &'a Setting<'a>) -> Result<Self> {
        let root = setting.dir.join("apt");
        for folder in [
            "lists/partial",
            "cache/archives/partial",
            "etc/preferences.d",
        ] {
            fs::create_dir_all(root.join(folder))?;
        }
        fs::write(root.join("status"), "")?;
        fs::write(root.join("sources.list"), sources(setting))?;
        fs::write(root.join("apt.conf"), configuration(&root))?;
        let apt = Apt { root, setting };
        timed(&mut apt.get("update"))?;
        // What fills its caches.
        timed(&mut apt.print_uris())?;
        Ok(apt)
    }

    /// `apt-get ARGUMENTS` with these folders.
    fn get(&self, arguments: &str) -> Command {
        let configuration = self.root.join("apt.conf");
        let script = format!(
            "APT_CONFIG='{}' LC_ALL=C apt-get {arguments}",
            configuration.display()
        );
        self.setting.yardstick("apt-get", &script, self.setting.dir)
    }

    fn print_uris(&self) -> Command {
        let requests = self.setting.requests().join(" ");
        self.get(&format!(
            "install --print-uris -y -qq --no-install-recommends {requests}"
        ))
    }

    fn forget(&self) -> Result<()> {
        for name in ["pkgcache.bin", "srcpkgcache.bin"] {
            let _ = fs::remove_file(self.root.join("cache").join(name));
        }
        evict(&self.root.join("lists"))
    }
}

/// The lists are already proved by farrow's run with the same files: apt takes them unchecked, which only favours it.
fn sources(setting: &Setting<'_>) -> String {
    let mut text = String::new();
    for index in &setting.mirror.lock.indexes {
        let url = &setting.mirror.urls[&index.archive];
        text += &format!(
            "deb [trusted=yes] {url} {} {}\n",
            index.suite, index.component
        );
    }
    text
}

fn configuration(root: &Path) -> String {
    format!(
        "Dir::State \"{0}\";\nDir::State::lists \"{0}/lists\";\nDir::State::status \"{0}/status\";\nDir::Cache \"{0}/cache\";\n\
         Dir::Etc \"{0}/etc\";\nDir::Etc::sourcelist \"{0}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
         Dir::Etc::parts \"/dev/null\";\nAPT::Architecture \"amd64\";\nAPT::Architectures \"amd64\";\nAPT::Sandbox::User \"\";\n\
         Acquire::Languages \"none\";\nAcquire::IndexTargets::deb::Contents-deb::DefaultEnabled \"false\";\nDebug::NoLocking \"true\";\n",
        root.display()
    )
}
