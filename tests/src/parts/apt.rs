//! Stock apt, in a minimal Debian 13 tree, with the tarball as its only source and no network.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::farrow::{Farrow, Outcome};
use e2e::world::{World, read_json};
use nix::unistd::geteuid;

use super::refusals::bundle;

/// Run inside the tree; PLATFORM stands for the names of all packages that some group asks for. `--error-on=any` makes apt fail
/// where it would otherwise only warn, as about a signature. Nothing is started, and nothing waits for a disk.
const INSTALL: &str = r#"
set -eu
export DEBIAN_FRONTEND=noninteractive
test "$(sed 1,2d /proc/net/dev | cut -d: -f1 | tr -d ' ')" = lo
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
! grep -qi trusted /etc/apt/sources.list.d/pigsty.sources
test "$(ls /etc/apt/sources.list.d)" = pigsty.sources
mkdir -p /var/cache/apt/archives/partial /var/lib/apt/lists/partial /var/log/apt
apt-get -q -o APT::Sandbox::User=root update --error-on=any
apt-get -q -o APT::Sandbox::User=root -o Dpkg::Options::=--force-unsafe-io install -y --no-install-recommends PLATFORM
test -z "$(dpkg --audit)"
dpkg-query -W -f 'STATUS ${Package} ${db:Status-Status}\n' PLATFORM
/usr/lib/postgresql/17/bin/postgres --version
"#;

/// A machine with a package that does not go together with one of the platform's: `farrow repo install` names both and
/// touches nothing.
const CLASH: &str = r#"
set -eu
cd /var/lib/dpkg
printf 'Package: guard\nStatus: install ok installed\nVersion: 7\nArchitecture: all\nMaintainer: nobody\nConflicts: patroni\nDescription: x\n\n' >> status
touch info/guard.list info/guard.md5sums
test -z "$(dpkg --audit)"
sha256sum status > /tmp/before
if /tmp/farrow repo install /tmp/bundle.tar.gz --target /www --group database 2> /tmp/said; then exit 1; fi
sha256sum --quiet -c /tmp/before
test ! -e /usr/sbin/policy-rc.d
test ! -e /etc/apt/sources.list.d/pigsty.sources
cat /tmp/said
"#;

/// Comes before [`INSTALL`] where the repository is in a folder.
const FROM_FILE: &str = r#"
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*
sed 's#^URIs:.*#URIs: file:/www/pigsty/#' /www/pigsty.sources > /etc/apt/sources.list.d/pigsty.sources
"#;

/// Comes before it where the repository is only served, source entry and key included.
const FROM_HTTP: &str = r#"
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*
test ! -e /www/pigsty
/usr/lib/apt/apt-helper -o APT::Sandbox::User=root download-file http://127.0.0.1:8080/pigsty.sources /tmp/pigsty.sources
sed 's#^URIs:.*#URIs: http://127.0.0.1:8080/pigsty/#' /tmp/pigsty.sources > /etc/apt/sources.list.d/pigsty.sources
"#;

/// The same, with one byte of the index changed: apt itself must refuse it.
const TAMPERED: &str = r#"
set -eu
printf 'x' | dd of=/www/pigsty/InRelease bs=1 seek=200 conv=notrunc 2>/dev/null
rm -rf /var/lib/apt/lists/*
mkdir -p /var/lib/apt/lists/partial
! apt-get -q -o APT::Sandbox::User=root update --error-on=any
"#;

/// Serves and installs in a network namespace of its own; needs root and the host's `ip`.
const SERVED: &str = r#"
set -eu
ip link set lo up
"$FARROW" repo serve "$WWW" --listen 127.0.0.1:8080 -v 2>"$LOG" &
server=$!
trap 'kill -INT "$server"; wait "$server"' EXIT
sleep 1
"$FARROW" tools --network --root "$TREE" -- sh -c "$SCRIPT"
"#;

/// What the groups of a repository ask for: names of packages, as arguments.
fn platform(repository: &Path) -> Result<Vec<String>> {
    let document = read_json(&repository.join("closure.json"))?;
    let groups = document["groups"].as_object().context("groups")?;
    let requests = groups
        .values()
        .flat_map(|names| names.as_array().into_iter().flatten());
    let names: BTreeSet<String> = requests
        .filter_map(|name| name.as_str())
        .map(str::to_owned)
        .collect();
    ensure!(names.len() > 30 && names.contains("patroni"), "{names:?}");
    Ok(names.into_iter().collect())
}

/// Every package that was asked for is installed.
fn check(outcome: &Outcome, platform: &[String]) -> Result<()> {
    for name in platform {
        let line = format!("STATUS {name} installed\n");
        ensure!(
            outcome.stdout.contains(&line),
            "{name} is missing in:\n{}",
            outcome.stdout
        );
    }
    ensure!(
        outcome.stdout.contains("postgres (PostgreSQL) 17"),
        "{}",
        outcome.stdout
    );
    Ok(())
}

/// A copy of the minimal tree, and what is needed to try a repository in it.
struct Site<'a> {
    world: &'a World,
    dir: &'a Path,
    www: String,
    platform: Vec<String>,
}

impl Site<'_> {
    /// Unpacks a fresh tree; its path.
    fn tree(&self, name: &str) -> Result<String> {
        let script = format!(
            "mkdir /work/{name} && tar -xf /work/image/minimal.tar -C /work/{name} --numeric-owner"
        );
        self.tools(&script)?;
        Ok(self.dir.join(name).to_string_lossy().into_owned())
    }

    /// A script with the tools tree's programs and this folder as `/work`.
    fn tools(&self, script: &str) -> Result<()> {
        let bind = format!("{}:/work", self.dir.display());
        let words = ["tools", "--bind", &bind, "--", "sh", "-c", script];
        Farrow::new(self.world, &words).succeed().map(drop)
    }

    fn script(&self, source: &str) -> String {
        format!(
            "{source}{}",
            INSTALL.replace("PLATFORM", &self.platform.join(" "))
        )
    }

    /// A script in a tree that sees the repository as a folder and no network.
    fn inside(&self, tree: &str, script: &str) -> Result<Outcome> {
        let bind = format!("{}:/www", self.www);
        let words = [
            "tools", "--root", tree, "--bind", &bind, "--", "sh", "-c", script,
        ];
        Farrow::new(self.world, &words).succeed()
    }

    /// The whole platform from `file:`; the tree it is in then.
    fn install_from_file(&self) -> Result<String> {
        let tree = self.tree("file-tree")?;
        let outcome = self.inside(&tree, &self.script(FROM_FILE))?;
        check(&outcome, &self.platform)?;
        println!(
            "    {} packages and what they need from file: {:.0} s",
            self.platform.len(),
            outcome.seconds
        );
        Ok(tree)
    }

    /// The whole platform from `repo serve`, with no other way out.
    fn install_over_http(&self) -> Result<()> {
        let has_ip = Command::new("ip").arg("-V").output().is_ok();
        if !geteuid().is_root() || !has_ip {
            println!("    SKIPPED: apt over HTTP, which needs root and the host's ip(8)");
            return Ok(());
        }
        let tree = self.tree("http-tree")?;
        let log = self.dir.join("serve.log");
        let outcome = Farrow::in_shell_without_network(self.world, SERVED)
            .env("WWW", &self.www)
            .env("TREE", tree)
            .env("LOG", &log)
            .env("SCRIPT", self.script(FROM_HTTP))
            .succeed()?;
        check(&outcome, &self.platform)?;
        println!("    the same over HTTP: {:.0} s", outcome.seconds);
        let log = std::fs::read_to_string(&log)?;
        ensure!(log.contains("/by-hash/SHA256/"), "{log}");
        Ok(())
    }
}

impl Site<'_> {
    /// The installation of a group that cannot be is refused before anything is touched.
    fn refused_by_a_clash(&self, bundle: &str) -> Result<()> {
        let tree = self.tree("clash-tree")?;
        let binds = [
            format!("{}:/www", self.www),
            format!("{}:/tmp/farrow", self.world.binary.display()),
            format!("{bundle}:/tmp/bundle.tar.gz"),
        ];
        let mut words = vec!["tools", "--root", &tree];
        words.extend(binds.iter().flat_map(|bind| ["--bind", bind.as_str()]));
        words.extend(["--", "sh", "-c", CLASH]);
        let said = Farrow::new(self.world, &words).succeed()?.stdout;
        for word in ["FR-REPO-CLOSURE", "guard 7", "patroni "] {
            ensure!(said.contains(word), "`{word}` is missing in:\n{said}");
        }
        Ok(())
    }
}

/// Installs all that the platform's groups ask for from the tarball alone, signatures checked.
pub fn install_from_bundle(world: &World) -> Result<()> {
    let resolved = Farrow::new(world, &["resolve", "curl", "--json"]).json()?;
    let packages = resolved["packages"].as_array().context("packages")?;
    let has = |name: &str| packages.iter().any(|package| package["name"] == name);
    ensure!(has("curl") && has("libc6") && !has("dpkg"), "{resolved}");
    let dir = world.scratch("apt")?;
    Farrow::new(world, &["repo", "build", "minimal", "--out", "."])
        .in_dir(&dir)
        .succeed()?;
    let whole = bundle(&world.out())?.to_string_lossy().into_owned();
    let diff = ["repo", "diff", "repo/minimal", &whole, "--json"];
    let diff = Farrow::new(world, &diff).in_dir(&dir).json()?;
    let added = diff["difference"]["added"].as_array().context("added")?;
    ensure!(
        added.iter().any(|package| package["name"] == "prometheus"),
        "{diff}"
    );
    Farrow::new(world, &["image", "build", "minimal", "--out", "."])
        .in_dir(&dir)
        .succeed()?;
    let www = dir.join("www").to_string_lossy().into_owned();
    Farrow::new(world, &["repo", "install", &whole, "--target", &www]).succeed()?;
    let site = Site {
        world,
        dir: &dir,
        platform: platform(&dir.join("www/pigsty"))?,
        www,
    };
    let tree = std::thread::scope(|scope| {
        let over_http = scope.spawn(|| site.install_over_http());
        let tree = site.install_from_file();
        let served = over_http.join().expect("no panic over HTTP");
        served.and(tree)
    })?;
    site.refused_by_a_clash(&whole)?;
    site.inside(&tree, TAMPERED)?;
    repaired(world, &site.www, &whole)?;
    site.tools("rm -rf /work/file-tree /work/http-tree /work/clash-tree")
}

/// The changed index is named, and restored from the tarball.
fn repaired(world: &World, www: &str, bundle: &str) -> Result<()> {
    let path = format!("{www}/pigsty");
    let outcome = Farrow::new(world, &["repo", "verify", &path]).run()?;
    outcome.expect_refusal(1, &["FR-REPO-INCOMPLETE", "--repair"])?;
    ensure!(outcome.stdout == "wrong: InRelease\n", "{}", outcome.stdout);
    let repair = ["repo", "verify", &path, "--repair", "--from", bundle];
    let outcome = Farrow::new(world, &repair).succeed()?;
    ensure!(
        outcome.stdout.starts_with("restored: InRelease (bundle)\n"),
        "{}",
        outcome.stdout
    );
    Farrow::new(world, &["repo", "verify", &path])
        .succeed()
        .map(drop)
}
