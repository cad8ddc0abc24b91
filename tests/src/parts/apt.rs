//! Stock apt, in a minimal Debian 13 tree, with the tarball as its only source and no network.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::farrow::Farrow;
use e2e::world::World;
use nix::unistd::geteuid;

use super::refusals::bundle;

/// Run inside the tree. `--error-on=any` makes apt fail where it would otherwise only warn, as about a signature.
const SCRIPT: &str = r#"
set -eu
export DEBIAN_FRONTEND=noninteractive
test "$(sed 1,2d /proc/net/dev | cut -d: -f1 | tr -d ' ')" = lo
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*
cp /www/pigsty.sources /etc/apt/sources.list.d/
sed -i 's#^URIs:.*#URIs: file:/www/pigsty/#' /etc/apt/sources.list.d/pigsty.sources
! grep -qi 'trusted' /etc/apt/sources.list.d/pigsty.sources
mkdir -p /var/cache/apt/archives/partial /var/lib/apt/lists/partial /var/log/apt
apt-get -q -o APT::Sandbox::User=root update --error-on=any
apt-get -q -o APT::Sandbox::User=root install -y --no-install-recommends postgresql-17 patroni haproxy
dpkg --audit
dpkg-query -W -f '${Package} ${db:Status-Status}\n' postgresql-17 patroni haproxy
/usr/lib/postgresql/17/bin/postgres --version
"#;

/// The same, with one byte of the index changed: apt itself must refuse it.
const TAMPERED: &str = r#"
set -eu
printf 'x' | dd of=/www/pigsty/InRelease bs=1 seek=200 conv=notrunc 2>/dev/null
rm -rf /var/lib/apt/lists/*
mkdir -p /var/lib/apt/lists/partial
! apt-get -q -o APT::Sandbox::User=root update --error-on=any
"#;

/// Run inside the tree, in a network of which only the loopback interface is up: over HTTP, as published.
const OVER_HTTP: &str = r#"
set -eu
export DEBIAN_FRONTEND=noninteractive
test "$(sed 1,2d /proc/net/dev | cut -d: -f1 | tr -d ' ')" = lo
rm -rf /var/lib/apt/lists/*
mkdir -p /var/lib/apt/lists/partial
sed -i 's#^URIs:.*#URIs: http://127.0.0.1:8080/pigsty/#' /etc/apt/sources.list.d/pigsty.sources
apt-get -q -o APT::Sandbox::User=root update --error-on=any
apt-get -q -o APT::Sandbox::User=root install -y --no-install-recommends prometheus
dpkg --audit
dpkg-query -W -f '${Package} ${db:Status-Status}\n' prometheus
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

/// `repo serve` and real apt, with no other way out.
fn over_http(world: &World, www: &str, tree: &str) -> Result<()> {
    let has_ip = Command::new("ip").arg("-V").output().is_ok();
    if !geteuid().is_root() || !has_ip {
        println!("    SKIPPED: apt over HTTP, which needs root and the host's ip(8)");
        return Ok(());
    }
    let log = world.root.join("scratch/apt/serve.log");
    let outcome = Farrow::in_shell_without_network(world, SERVED)
        .env("WWW", www)
        .env("TREE", tree)
        .env("LOG", &log)
        .env("SCRIPT", OVER_HTTP)
        .succeed()?;
    ensure!(
        outcome.stdout.contains("prometheus installed"),
        "{}",
        outcome.stdout
    );
    let log = std::fs::read_to_string(&log)?;
    ensure!(log.contains("/by-hash/SHA256/"), "{log}");
    Ok(())
}

/// Installs `postgresql-17 patroni haproxy` from the tarball alone, signatures checked.
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
    let bind = format!("{}:/work", dir.display());
    let unpack =
        "mkdir /work/tree && tar -xf /work/image/minimal.tar -C /work/tree --numeric-owner";
    Farrow::new(world, &["tools", "--bind", &bind, "--", "sh", "-c", unpack]).succeed()?;
    let www = dir.join("www").to_string_lossy().into_owned();
    Farrow::new(world, &["repo", "install", &whole, "--target", &www]).succeed()?;
    let tree = dir.join("tree").to_string_lossy().into_owned();
    let bind = format!("{www}:/www");
    let inside = |script| {
        Farrow::new(
            world,
            &[
                "tools", "--root", &tree, "--bind", &bind, "--", "sh", "-c", script,
            ],
        )
    };
    let outcome = inside(SCRIPT).succeed()?;
    for package in [
        "postgresql-17 installed",
        "patroni installed",
        "haproxy installed",
        "postgres (PostgreSQL) 17",
    ] {
        ensure!(
            outcome.stdout.contains(package),
            "`{package}` is missing in:\n{}",
            outcome.stdout
        );
    }
    over_http(world, &www, &tree)?;
    inside(TAMPERED).succeed()?;
    repaired(world, &www, &whole)?;
    Farrow::new(
        world,
        &[
            "tools",
            "--bind",
            &format!("{}:/work", dir.display()),
            "--",
            "rm",
            "-rf",
            "/work/tree",
        ],
    )
    .succeed()?;
    Ok(())
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
