//! The air-gapped install: a plain Debian 13 becomes a meta node from the bundle alone, on a machine without any route.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::existing::Existing;
use e2e::farrow::Farrow;
use e2e::world::World;
use serde_json::Value;

use super::refusals::bundle;

/// Address of the meta node in the deployment; it is on an interface, and no network is behind it.
const ADDRESS: &str = "10.10.10.10";

/// Makes a plain system of the tree of an image: folders where Debian has them, no accounts, presets or settings of ours; and
/// what a machine boots with, from the repository at /www, which then goes.
const PLAIN: &str = r#"
set -eu
export DEBIAN_FRONTEND=noninteractive
for name in home opt srv; do rm /$name; mv /var/$name /$name; done
rm /root && mv /var/roothome /root
rm /data && rmdir /var/data
rm /var/lib/dpkg && mv /usr/lib/sysimage/dpkg /var/lib/dpkg
mkdir -p /var/lib/dpkg/updates /var/lib/dpkg/triggers /var/lib/dpkg/parts
touch /var/lib/dpkg/available
sed -i -E '/^(postgres|etcd|prometheus|haproxy|_chrony|messagebus):/d' /etc/passwd /etc/group
rm -rf /usr/lib/systemd/*-preset/00-farrow.preset /etc/postgresql-common /etc/apt/sources.list /etc/apt/sources.list.d/*
sed 's#^URIs:.*#URIs: file:/www/pigsty/#' /www/pigsty.sources >/etc/apt/sources.list.d/first.sources
mkdir -p /var/cache/apt/archives/partial /var/lib/apt/lists/partial /var/log/apt
# Nobody pulls the plug of this machine while packages are unpacked.
echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/test
apt-get -q -o APT::Sandbox::User=root update --error-on=any
apt-get -q -o APT::Sandbox::User=root install -y --no-install-recommends systemd-sysv dbus iproute2 procps udev
rm -rf /etc/apt/sources.list.d/* /var/lib/apt/lists/*
"#;

/// What a container needs that a machine does not: chronyd leaves the host's clock alone, and programs that size themselves
/// are told how large it is.
const CONTAINER: [(&str, &str); 3] = [
    (
        "/etc/systemd/system/chrony.service.d/zz-container.conf",
        "[Unit]\nConditionCapability=\n",
    ),
    ("/etc/default/chrony", "DAEMON_OPTS=\"-F 0 -x\"\n"),
    (
        "/etc/farrow/limits.json",
        "{\"memory_mib\": 2048, \"cpus\": 2, \"data_mib\": 20480}\n",
    ),
];

/// A policy for services that is the machine's own.
const POLICY: &str = "#!/bin/sh\nexit 0\n";
const POLICY_PATH: &str = "/usr/sbin/policy-rc.d";
/// A file that the first deployment replaces and the second no longer wants.
const TARGETS: &str = "/etc/prometheus/targets/pgsql/pg-test-1.yml";
const OWN_TARGETS: &str = "# the administrator's\n[]\n";
/// A source that cannot be reached.
const UNREACHABLE: &str = "deb http://192.0.2.1/debian trixie main\n";

/// What runs, listens, is enabled, and which clusters there are: the same before and after the installation. Sessions of
/// users, which a package's script may open and which end by themselves, are no services.
const STATE: &str = "systemctl list-units --no-legend --plain --type=service,socket,timer --state=active | cut -d' ' -f1 | grep -v ^user | sort
systemctl list-unit-files --no-legend --state=enabled | cut -d' ' -f1 | sort; ss -Hltun
ls -d /etc/postgresql/*/* /var/lib/postgresql/*/* /etc/systemd/system/*.wants/* 2>/dev/null | sort";

/// Installs, is killed on the way, installs again, runs with two deployments, boots again.
pub fn air_gapped(world: &World) -> Result<()> {
    let dir = world.scratch("install")?;
    let whole = bundle(&world.out())?;
    let mut machine = plain(world, &dir, &whole)?;
    seeds(world, &machine, "two-node", "first")?;
    let one = without_test_cluster(world)?;
    let deployment = dir.join("one-node.toml");
    fs::write(&deployment, one)?;
    seeds(world, &machine, &deployment.to_string_lossy(), "second")?;
    machine.power_on()?;
    let routes = machine.ask("ip route; ip -6 route show default")?;
    ensure!(routes.is_empty(), "there is a route: {routes}");
    installs(&machine)?;
    runs(&machine)?;
    changes(&machine)?;
    machine.power_off()?;
    boots_again(&mut machine)
}

/// The tree of a plain Debian 13, with the bundle and `farrow` in it and nothing else of ours.
fn plain(world: &World, dir: &Path, whole: &Path) -> Result<Existing> {
    for words in [
        ["repo", "build", "minimal", "--out", "."],
        ["image", "build", "minimal", "--out", "."],
    ] {
        Farrow::new(world, &words).in_dir(dir).succeed()?;
    }
    let bind = format!("{}:/work", dir.display());
    let unpack =
        "mkdir /work/tree && tar -xf /work/image/minimal.tar -C /work/tree --numeric-owner";
    Farrow::new(world, &["tools", "--bind", &bind, "--", "sh", "-c", unpack]).succeed()?;
    let (tree, www) = (dir.join("tree"), dir.join("www"));
    let (shown_tree, shown_www) = (tree.to_string_lossy(), www.to_string_lossy());
    let shown = whole.to_string_lossy();
    Farrow::new(world, &["repo", "install", &shown, "--target", &shown_www]).succeed()?;
    let bind = format!("{shown_www}:/www");
    let words = [
        "tools",
        "--root",
        &shown_tree,
        "--bind",
        &bind,
        "--",
        "sh",
        "-c",
        PLAIN,
    ];
    Farrow::new(world, &words).succeed()?;
    fs::remove_dir_all(&www)?;
    let machine = Existing::new(world, &tree, ADDRESS)?;
    for (path, text) in CONTAINER {
        machine.write(path, text, 0o644)?;
    }
    machine.write(POLICY_PATH, POLICY, 0o755)?;
    machine.write(TARGETS, OWN_TARGETS, 0o640)?;
    machine.write("/etc/apt/sources.list", UNREACHABLE, 0o644)?;
    fs::hard_link(whole, machine.path("/root/bundle.tar.gz"))?;
    fs::copy(&world.binary, machine.path("/root/farrow"))?;
    Ok(machine)
}

fn seeds(world: &World, machine: &Existing, deployment: &str, name: &str) -> Result<()> {
    let out = machine.path(&format!("/root/{name}"));
    let out = out.to_string_lossy();
    let words = ["seed", deployment, "--no-images", "--out", &out];
    Farrow::new(world, &words).succeed().map(drop)
}

/// The deployment of two nodes without the second one.
fn without_test_cluster(world: &World) -> Result<String> {
    let path = world.project.join("recipes/deployments/two-node.toml");
    let text = fs::read_to_string(&path)?;
    let (head, rest) = text
        .split_once("[[cluster]]\nname = \"pg-test\"")
        .context("the cluster")?;
    let (_, tail) = rest.split_once("# Sizes for").context("what follows it")?;
    Ok(format!("{head}# Sizes for{tail}"))
}

/// Nothing starts, no cluster is made, a kill is survived, and a second time changes nothing.
fn installs(machine: &Existing) -> Result<()> {
    let before = machine.ask(STATE)?;
    let wrong = machine.script("/root/farrow repo install /root/bundle.tar.gz --group metta")?;
    wrong.expect_refusal(2, &["FR-INSTALL-GROUP", "metta", "meta"])?;
    killed(machine)?;
    let done = install(machine)?;
    println!("    installed: {} packages", count(&done, "installed"));
    let after = machine.ask(STATE)?;
    ensure!(before == after, "before:\n{before}\nafter:\n{after}");
    let policy = fs::read_to_string(machine.path(POLICY_PATH))?;
    ensure!(policy == POLICY, "the machine's policy became:\n{policy}");
    let left =
        machine.ask("ls /usr/sbin/policy-rc.d?* /run/systemd/system-preset/* 2>/dev/null; true")?;
    ensure!(left.is_empty(), "left behind: {left}");
    let audit =
        machine.ask("dpkg --audit; dpkg-query -W -f '${db:Status-Status}\\n' pigsty-meta")?;
    ensure!(audit == "installed", "{audit}");
    let again = install(machine)?;
    ensure!(again["repository"] == "unchanged", "{again:#}");
    ensure!(count(&again, "installed") == 0, "{again:#}");
    machine.ask("printf x | dd of=/www/pigsty/Packages bs=1 seek=99 conv=notrunc 2>/dev/null")?;
    let repaired = install(machine)?;
    ensure!(repaired["repository"] == "repaired", "{repaired:#}");
    Ok(())
}

fn install(machine: &Existing) -> Result<Value> {
    let text = machine.ask("/root/farrow repo install /root/bundle.tar.gz --group meta --json")?;
    Ok(serde_json::from_str(&text)?)
}

fn count(document: &Value, what: &str) -> usize {
    document["packages"][what].as_array().map_or(0, Vec::len)
}

/// Kills farrow while dpkg works. dpkg goes on, quietly; the policy has no effect once it has ended.
fn killed(machine: &Existing) -> Result<()> {
    let mut running =
        machine.start("exec /root/farrow repo install /root/bundle.tar.gz --group meta")?;
    let start = Instant::now();
    let unpacking =
        "grep -qs Unpacking /var/log/farrow-install.log && dpkg-query -W systemd-resolved";
    while machine.script(unpacking)?.code != Some(0) {
        ensure!(
            start.elapsed() < Duration::from_secs(120),
            "nothing is unpacked"
        );
        ensure!(
            running.try_wait()?.is_none(),
            "it ended before it could be killed"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    // The second process may have ended with the first.
    machine.ask("pkill -KILL -x farrow; pkill -KILL -f '^/proc/self/exe repo install' || true")?;
    let quiet = machine.script("policy-rc.d nginx start")?.code;
    ensure!(
        quiet == Some(101),
        "while dpkg goes on, the policy says {quiet:?}"
    );
    machine
        .ask("pkill -KILL apt-get; pkill -KILL dpkg; while pgrep -x dpkg; do sleep 0.1; done")?;
    running.wait()?;
    let own = "until flock --nonblock /run/farrow/install.lock true; do sleep 0.1; done; policy-rc.d nginx start";
    let loud = machine.script(own)?.code;
    ensure!(
        loud == Some(0),
        "after all was killed the policy says {loud:?}"
    );
    Ok(())
}

/// A meta node with the services that one from an image has; a second run changes nothing.
fn runs(machine: &Existing) -> Result<()> {
    let seconds = run(machine, "first")?.1;
    println!("    a meta node after {seconds:.1} s");
    for (question, answer) in [
        (
            "runuser -u postgres -- psql -Atc 'select pg_is_in_recovery()'",
            "f",
        ),
        (
            "runuser -u postgres -- psql -Atd meta -c \"select count(*) from pigsty.cluster\"",
            "2",
        ),
        (
            "curl -s --unix-socket /run/haproxy/etcd.sock http://localhost/health | grep -o '\"health\":\"true\"'",
            "\"health\":\"true\"",
        ),
        (
            "curl -s -o /dev/null -w '%{http_code}' -H 'Host: h.pigsty' http://10.10.10.10/pigsty/repo_complete",
            "200",
        ),
        ("dig +short @10.10.10.10 h.pigsty", ADDRESS),
        (
            "promtool check config /etc/prometheus/prometheus.yml >/dev/null && echo good",
            "good",
        ),
        (
            "curl -s '127.0.0.1:9090/api/v1/query?query=pg_up' | grep -q '\"1\"\\]' && echo up",
            "up",
        ),
        ("systemctl --failed --no-legend", ""),
        ("ip route show default", ""),
    ] {
        answers(machine, question, answer)?;
    }
    let (again, _) = run(machine, "first")?;
    ensure!(again.contains("0 files written"), "{again}");
    Ok(())
}

/// Asks until the answer is right: some things follow soon after a machine is ready.
fn answers(machine: &Existing, question: &str, answer: &str) -> Result<()> {
    let start = Instant::now();
    loop {
        let found = machine.script(question)?;
        if found.stdout.trim_end() == answer {
            return Ok(());
        }
        ensure!(
            start.elapsed() < Duration::from_secs(30),
            "{question}: {found:?}"
        );
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Another deployment: what only the first one wanted goes, and what that had replaced comes back as it was.
fn changes(machine: &Existing) -> Result<()> {
    let shown = format!("stat -c '%a %U' {TARGETS}; cat {TARGETS}");
    let replaced = machine.ask(&shown)?;
    ensure!(!replaced.contains("administrator"), "{replaced}");
    let gone = "/etc/prometheus/targets/ping/pg-test-1.yml";
    machine.ask(&format!("test -e {gone}"))?;
    run(machine, "second")?;
    let restored = machine.ask(&shown)?;
    ensure!(
        restored == format!("640 root\n{}", OWN_TARGETS.trim_end()),
        "{restored}"
    );
    machine.ask(&format!("! test -e {gone}"))?;
    let hosts = machine.ask("cat /etc/hosts; cat /var/lib/farrow/replaced/etc/hosts")?;
    ensure!(
        hosts.contains("pg-meta-1") && !hosts.contains("pg-test-1"),
        "{hosts}"
    );
    let (again, _) = run(machine, "second")?;
    ensure!(
        again.contains("0 files written") && !again.contains("removed"),
        "{again}"
    );
    Ok(())
}

/// `farrow-bootstrap run`: its log and seconds.
fn run(machine: &Existing, seed: &str) -> Result<(String, f64)> {
    let script = format!("farrow-bootstrap run --metadata /root/{seed}/meta");
    let outcome = machine.script(&script)?;
    ensure!(outcome.code == Some(0), "{outcome:?}");
    Ok((outcome.stderr, outcome.seconds))
}

/// It is ready again by itself, without metadata.
fn boots_again(machine: &mut Existing) -> Result<()> {
    fs::remove_dir_all(machine.path("/root/first"))?;
    fs::remove_dir_all(machine.path("/root/second"))?;
    machine.power_on()?;
    let start = Instant::now();
    while machine.script("farrow-bootstrap status")?.code != Some(0) {
        ensure!(
            start.elapsed() < Duration::from_secs(90),
            "not ready after a reboot: {}",
            machine.ask("farrow-bootstrap status --json; true")?
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    println!(
        "    ready {:.1} s after a reboot",
        start.elapsed().as_secs_f64()
    );
    let names = machine.ask("hostname; runuser -u postgres -- psql -Atd meta -c 'select 1'")?;
    ensure!(names == "meta\n1", "{names}");
    Ok(())
}
