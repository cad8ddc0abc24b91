//! An existing machine: a plain Debian 13 whose `/etc` lasts, booted with systemd as a container that has no route anywhere.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::farrow::Outcome;
use crate::world::World;

/// How long systemd may take to come up, or to go down.
const LIMIT: Duration = Duration::from_secs(60);

/// Starts systemd-nspawn of the tools tree in namespaces of its own, on a tree that can be written to. The machine has one
/// interface whose address has no network behind it; its control group is one of its own. Arguments: tools tree, tree, name of
/// the control group, address.
const BOOT: &str = r#"
set -e
mount --make-rprivate /
mount -t cgroup2 cgroup2 /sys
group=/sys$(sed -n 's/^0:://p' /proc/self/cgroup)/$3
mkdir -p "$group"
echo 0 >"$group/cgroup.procs"
umount /sys
mount -t tmpfs tmpfs /mnt
mkdir /mnt/tools
mount --rbind "$1" /mnt/tools
cd /mnt/tools
mount -t tmpfs tmpfs run
mkdir run/tree run/old
mount --bind "$2" run/tree
mount -t proc proc proc
mount --rbind /dev dev
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs tmp
touch run/net
mount --bind /proc/self/ns/net run/net
pivot_root . run/old
cd /
umount -l run/old
export PATH=/usr/sbin:/usr/bin
ip link set lo up
ip link add ens4 type veth peer name cable
ip link set cable up
ip link set ens4 up
ip address add "$4/32" dev ens4
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
exec systemd-nspawn --quiet --register=no --keep-unit --boot --console=pipe --resolv-conf=off --timezone=off \
    --link-journal=no --capability=CAP_NET_ADMIN --machine=existing --directory=/run/tree --network-namespace-path=/run/net
"#;

/// Removes the control group of a machine that is off. Argument: its name.
const CLEAN: &str = r#"
mount --make-rprivate /
mount -t cgroup2 cgroup2 /sys
group=/sys$(sed -n 's/^0:://p' /proc/self/cgroup)/$1
for i in $(seq 50); do
    test -d "$group" || exit 0
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null
    sleep 0.1
done
"#;

/// A machine, on or off. Dropping it ends it.
pub struct Existing {
    tools: PathBuf,
    tree: PathBuf,
    address: &'static str,
    group: String,
    console: PathBuf,
    child: Option<Child>,
}

impl Existing {
    /// A machine that is off. `tree` is its root, with systemd in it.
    pub fn new(world: &World, tree: &Path, address: &'static str) -> Result<Self> {
        let tools = fs::read_dir(world.root.join("tools"))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.join("usr/bin/systemd-nspawn").exists());
        Ok(Existing {
            tools: tools.context("no tools tree with systemd-nspawn")?,
            tree: tree.to_owned(),
            address,
            group: format!("farrow-{}-existing", std::process::id()),
            console: tree.with_extension("console"),
            child: None,
        })
    }

    /// Switches it on and waits until systemd is up.
    pub fn power_on(&mut self) -> Result<()> {
        let log = File::create(&self.console)?;
        let child = Command::new("unshare")
            .args([
                "--mount",
                "--uts",
                "--ipc",
                "--net",
                "--pid",
                "--fork",
                "--kill-child",
            ])
            .args(["sh", "-c", BOOT, "boot"])
            .args([&self.tools, &self.tree])
            .args([self.group.as_str(), self.address])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("unshare")?;
        self.child = Some(child);
        let start = Instant::now();
        loop {
            let child = self.child.as_mut().context("a process")?;
            let said = || fs::read_to_string(&self.console).unwrap_or_default();
            if let Some(status) = child.try_wait()? {
                bail!("the machine ended with {status}:\n{}", said());
            }
            if self.first_process().is_some()
                && let Ok(outcome) = self.script("systemctl is-system-running")
                && matches!(outcome.stdout.trim(), "running" | "degraded")
            {
                return Ok(());
            }
            ensure!(start.elapsed() < LIMIT, "systemd is not up:\n{}", said());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Shuts it down in order.
    pub fn power_off(&mut self) -> Result<()> {
        // The answer does not come back from a machine that is going down.
        let _ = self.script("systemctl poweroff --no-block");
        let start = Instant::now();
        let child = self.child.as_mut().context("it is off")?;
        while child.try_wait()?.is_none() {
            ensure!(start.elapsed() < LIMIT, "it does not go down");
            std::thread::sleep(Duration::from_millis(50));
        }
        self.end();
        Ok(())
    }

    /// Runs a shell script in it.
    pub fn script(&self, script: &str) -> Result<Outcome> {
        let started = Instant::now();
        let output = self.command(script)?.output().context("nsenter")?;
        Ok(Outcome {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// What a script prints, without the last newline; it must succeed.
    pub fn ask(&self, script: &str) -> Result<String> {
        let outcome = self.script(script)?;
        ensure!(outcome.code == Some(0), "`{script}`: {outcome:?}");
        Ok(outcome.stdout.trim_end().to_owned())
    }

    /// Starts a script in it and goes on.
    pub fn start(&self, script: &str) -> Result<Child> {
        Ok(self.command(script)?.spawn()?)
    }

    fn command(&self, script: &str) -> Result<Command> {
        let process = self.first_process().context("the machine is off")?;
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &process.to_string()])
            .args([
                "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd",
            ])
            .args(["--", "env", "-i", "HOME=/root", "PATH=/usr/sbin:/usr/bin"])
            .args(["sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command)
    }

    /// The host's number of the machine's systemd: below unshare, its shell that became systemd-nspawn.
    fn first_process(&self) -> Option<u32> {
        let nspawn = children(self.child.as_ref()?.id()).into_iter().next()?;
        children(nspawn).into_iter().find(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            ids.is_some_and(|ids| ids.split_whitespace().next_back() == Some("1"))
        })
    }

    /// A path in its tree, for this process.
    pub fn path(&self, path: &str) -> PathBuf {
        self.tree.join(path.trim_start_matches('/'))
    }

    /// Writes a file in its tree.
    pub fn write(&self, path: &str, text: &str, mode: u32) -> Result<()> {
        let path = self.path(path);
        fs::create_dir_all(path.parent().context("a folder")?)?;
        fs::write(&path, text)?;
        Ok(fs::set_permissions(
            &path,
            fs::Permissions::from_mode(mode),
        )?)
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            let words = ["--mount", "sh", "-c", CLEAN, "clean", &self.group];
            let _ = Command::new("unshare").args(words).status();
        }
    }
}

impl Drop for Existing {
    fn drop(&mut self) {
        self.end();
    }
}

/// Processes that a process has started.
fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}
