//! The main job: a recipe and a deployment become two machines that configured themselves, and stay what they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::farrow::{Farrow, Running};
use e2e::load::tls;
use e2e::world::{World, read_json};
use nix::sys::signal::Signal;
use postgres::Client;
use postgres::config::SslMode;
use serde_json::Value;

/// The second `up`, which later parts talk to.
static SECOND_UP: Mutex<Option<(Running, Value)>> = Mutex::new(None);

/// How long the whole way may take from an empty cache, in seconds of emulated boot.
const READY_SECONDS: &str = "900";

/// Waits for a condition inside a machine: `COMMAND` is tried each two seconds.
macro_rules! until {
    ($condition:expr, $command:expr) => {
        concat!(
            "for i in $(seq 50); do ",
            $condition,
            " && break; sleep 2; done; ",
            $command
        )
    };
}

/// Commands that run in both machines at both boots; their output must not change.
const SAME_AT_EVERY_BOOT: [&str; 3] = [
    "cat /etc/machine-id",
    "runuser -u postgres -- psql -Atc 'select system_identifier from pg_control_system()'",
    "cd /etc && find farrow etcd patroni haproxy pgbouncer prometheus nginx chrony default dnsmasq* hosts* systemd/network systemd/system systemd/resolved.conf.d -type f | LC_ALL=C sort | xargs sha256sum",
];

const ROW: &str = "runuser -u postgres -- psql -q -d postgres -c 'create table if not exists public.kept(boot int)' -c 'insert into public.kept values (1)'";
const ROWS: &str =
    "runuser -u postgres -- psql -At -d postgres -c 'select count(*) from public.kept'";

/// Questions asked in the meta node, through its own services.
const META: [&str; 8] = [
    "promtool check config /etc/prometheus/prometheus.yml",
    until!(
        "curl -s 127.0.0.1:9090/api/v1/targets | grep -q '\"health\":\"up\"' && ! curl -s 127.0.0.1:9090/api/v1/targets | grep -Eq '\"health\":\"(unknown|down)\"'",
        "curl -s '127.0.0.1:9090/api/v1/query?query=up'"
    ),
    "curl -s -o /dev/null -w '%{http_code}' -H 'Host: h.pigsty' http://10.10.10.10/",
    "curl -s -o /dev/null -w '%{http_code}' -H 'Host: h.pigsty' http://10.10.10.10/pigsty/repo_complete",
    "curl -s -o /dev/null -w '%{http_code}' -H 'Host: h.pigsty' http://10.10.10.10/pigsty/Packages.gz",
    "curl -s -o /dev/null -w '%{http_code}' -L -H 'Host: p.pigsty' http://10.10.10.10/-/ready; curl -s -o /dev/null -w ' %{http_code}' -H 'Host: a.pigsty' http://10.10.10.10/-/ready",
    "veritysetup status root",
    "touch /usr/x 2>&1; findmnt -no FSTYPE,OPTIONS /",
];

/// Questions asked in the database node.
const DATABASE: [&str; 4] = [
    // The other machine may still be starting its name server.
    until!(
        "dig +short @10.10.10.10 pg-test-1 | grep -q '^10.10.10.11$'",
        "for name in h.pigsty meta pg-meta-1 pg-test-1; do dig +short @10.10.10.10 $name; done"
    ),
    until!(
        "chronyc -n sources | grep -q '^\\^\\* 10.10.10.10'",
        "chronyc -n sources"
    ),
    "touch /usr/x 2>&1; findmnt -no FSTYPE,OPTIONS /",
    "systemctl --failed --no-legend",
];

fn up(world: &World, further: &[&str]) -> Farrow {
    let mut args: Vec<String> = ["up", "--json", "--timeout", READY_SECONDS]
        .map(String::from)
        .to_vec();
    args.extend(further.iter().map(|word| (*word).to_owned()));
    for node in ["meta", "pg-test-1"] {
        for command in SAME_AT_EVERY_BOOT {
            args.extend(["--check".into(), format!("{node}={command}")]);
        }
    }
    for command in META {
        args.extend(["--check".into(), format!("meta={command}")]);
    }
    for command in DATABASE.iter().chain([&ROW, &ROWS]) {
        args.extend(["--check".into(), format!("pg-test-1={command}")]);
    }
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    Farrow::new(world, &words)
}

/// `up --until-ready --json` from an empty cache; the roles come from each machine's own bootstrap.
pub fn first_boot(world: &World) -> Result<()> {
    ensure!(
        !world.root.join("cache").exists() || std::env::var_os("FARROW_E2E_KEEP").is_some(),
        "the cache is not empty"
    );
    let document = up(world, &["--until-ready"]).json()?;
    std::fs::write(world.root.join("first.json"), document.to_string())?;
    check_ready(&document)?;
    let roles: BTreeMap<&str, &str> = nodes(&document)?
        .iter()
        .filter_map(|node| Some((node["name"].as_str()?, node["role"].as_str()?)))
        .collect();
    ensure!(
        roles == BTreeMap::from([("meta", "meta"), ("pg-test-1", "database")]),
        "roles are {roles:?}"
    );
    for stage in document["stages"].as_array().context("stages")? {
        println!(
            "    {:>7.1} s  {}",
            stage["seconds"].as_f64().unwrap_or(0.0),
            stage["name"].as_str().unwrap_or("?")
        );
    }
    Ok(())
}

fn check_ready(document: &Value) -> Result<()> {
    ensure!(document["ready"] == true, "not ready: {document:#}");
    for node in nodes(document)? {
        ensure!(node["state"] == "ready", "{node:#}");
        let services = node["services"].as_array().context("services")?;
        ensure!(
            services.len() >= 7,
            "only {} services on {}",
            services.len(),
            node["name"]
        );
        for service in services {
            ensure!(
                service["state"] == "healthy",
                "{} on {}: {service}",
                service["name"],
                node["name"]
            );
        }
    }
    Ok(())
}

fn nodes(document: &Value) -> Result<&Vec<Value>> {
    document["nodes"]
        .as_array()
        .context("the document has no nodes")
}

fn node<'a>(document: &'a Value, name: &str) -> Result<&'a Value> {
    nodes(document)?
        .iter()
        .find(|node| node["name"] == name)
        .with_context(|| format!("no node {name}"))
}

/// The standard output of a check; a check that did not succeed is an error.
fn answer<'a>(document: &'a Value, name: &str, command: &str) -> Result<&'a str> {
    let checks = node(document, name)?["checks"]
        .as_array()
        .context("checks")?;
    let check = checks
        .iter()
        .find(|check| check["command"] == command)
        .with_context(|| format!("no check `{command}` on {name}"))?;
    ensure!(check["exit"] == 0, "`{command}` on {name}: {check:#}");
    check["stdout"].as_str().map(str::trim).context("stdout")
}

/// What the services of the first boot answered inside the machines.
pub fn services_inside(world: &World) -> Result<()> {
    let document = read_json(&world.root.join("first.json"))?;
    let meta = |index: usize| answer(&document, "meta", META[index]);
    ensure!(meta(0)?.contains("SUCCESS"), "promtool: {}", meta(0)?);
    check_targets(meta(1)?)?;
    for (index, expected) in [(2, "200"), (3, "200"), (4, "200"), (5, "200 200")] {
        ensure!(
            meta(index)? == expected,
            "{}: {}",
            META[index],
            meta(index)?
        );
    }
    ensure!(meta(6)?.contains("verified"), "veritysetup: {}", meta(6)?);
    for (name, command) in [("meta", META[7]), ("pg-test-1", DATABASE[2])] {
        let text = answer(&document, name, command)?;
        ensure!(
            text.contains("Read-only file system") && text.contains("erofs") && text.contains("ro"),
            "/ of {name}: {text}"
        );
    }
    let addresses: Vec<&str> = answer(&document, "pg-test-1", DATABASE[0])?
        .lines()
        .collect();
    ensure!(
        addresses == ["10.10.10.10", "10.10.10.10", "10.10.10.10", "10.10.10.11"],
        "dig: {addresses:?}"
    );
    let sources = answer(&document, "pg-test-1", DATABASE[1])?;
    ensure!(sources.contains("^* 10.10.10.10"), "chrony: {sources}");
    let failed = answer(&document, "pg-test-1", DATABASE[3])?;
    ensure!(failed.is_empty(), "failed units: {failed}");
    Ok(())
}

/// Every expected target is there and `up`.
fn check_targets(answer: &str) -> Result<()> {
    let answer: Value = serde_json::from_str(answer).with_context(|| answer.to_owned())?;
    let mut seen = BTreeSet::new();
    for row in answer["data"]["result"].as_array().context("result")? {
        let (job, instance) = (
            row["metric"]["job"].as_str().unwrap_or("?"),
            row["metric"]["instance"].as_str().unwrap_or("?"),
        );
        ensure!(row["value"][1] == "1", "target {job} {instance} is down");
        seen.insert(instance.to_owned());
    }
    for address in ["10.10.10.10", "10.10.10.11"] {
        for port in [9100, 9101, 9630, 9631, 8008] {
            ensure!(
                seen.contains(&format!("{address}:{port}")),
                "no target {address}:{port} in {seen:?}"
            );
        }
    }
    for port in [2379, 9090, 9091, 9093, 9115] {
        ensure!(
            seen.iter()
                .any(|instance| instance.ends_with(&format!(":{port}"))),
            "no target on port {port} in {seen:?}"
        );
    }
    Ok(())
}

/// The same disks boot again, from warm caches: same identity, same bytes, the data is there.
pub fn reboot(world: &World) -> Result<()> {
    let first = read_json(&world.root.join("first.json"))?;
    let started = std::time::Instant::now();
    let mut running = up(world, &["--keep-disks"]).start(&world.root.join("second-up.log"))?;
    let second = running.read_document().with_context(|| {
        std::fs::read_to_string(world.root.join("second-up.log")).unwrap_or_default()
    })?;
    println!(
        "    warm caches to both nodes ready: {:.1} s",
        started.elapsed().as_secs_f64()
    );
    check_ready(&second)?;
    for name in ["meta", "pg-test-1"] {
        for command in SAME_AT_EVERY_BOOT {
            let (before, after) = (
                answer(&first, name, command)?,
                answer(&second, name, command)?,
            );
            ensure!(
                !before.is_empty() && before == after,
                "{name}: `{command}` changed\n{before}\n{after}"
            );
        }
        let digest =
            |document| -> Result<Value> { Ok(node(document, name)?["plan_digest"].clone()) };
        ensure!(
            digest(&first)?.is_string() && digest(&first)? == digest(&second)?,
            "{name} computed another plan"
        );
    }
    ensure!(
        answer(&first, "pg-test-1", ROWS)? == "1" && answer(&second, "pg-test-1", ROWS)? == "2",
        "the row of the first boot is gone"
    );
    *SECOND_UP.lock().expect("no panic holds it") = Some((running, second));
    Ok(())
}

/// Where a guest's port is reachable from the host.
fn endpoint(document: &Value, name: &str, port: u16) -> Result<(String, u16)> {
    let endpoints = node(document, name)?["endpoints"]
        .as_array()
        .context("endpoints")?;
    let found = endpoints
        .iter()
        .find(|endpoint| endpoint["guest_port"] == port)
        .with_context(|| format!("{name} has no endpoint for {port}"))?;
    let (host, port) = found["address"]
        .as_str()
        .context("address")?
        .rsplit_once(':')
        .context("address")?;
    Ok((host.to_owned(), port.parse()?))
}

/// A database as a client names it.
struct Account<'a> {
    node: &'a str,
    user: &'a str,
    database: &'a str,
    password: &'a str,
    /// The deployment's authority in PEM.
    ca: &'a str,
}

fn connect(document: &Value, account: &Account<'_>, port: u16) -> Result<Client> {
    let (host, port) = endpoint(document, account.node, port)?;
    let name = format!("{}.pigsty", account.node);
    postgres::Config::new()
        .host(&name)
        .hostaddr(host.parse()?)
        .port(port)
        .ssl_mode(SslMode::Require)
        .user(account.user)
        .dbname(account.database)
        .password(account.password)
        .connect_timeout(Duration::from_secs(20))
        .connect(tls(account.ca)?)
        .with_context(|| {
            format!(
                "{}@{} through {}:{port}",
                account.user, account.database, account.node
            )
        })
}

/// 5433 writes, 5434 reads it back, 5436 reaches PostgreSQL itself, all by TLS with the right name; a wrong
/// password is refused everywhere.
pub fn clients_from_host(world: &World) -> Result<()> {
    let guard = SECOND_UP.lock().expect("no panic holds it");
    let (_, document) = guard.as_ref().context("no machines are running")?;
    let credentials = read_json(&world.out().join("credentials.json"))?;
    let ca = std::fs::read_to_string(world.out().join("ca.crt"))?;
    for (node, cluster, user, database) in [
        ("pg-test-1", "pg-test", "test", "test"),
        ("meta", "pg-meta", "dbuser_meta", "meta"),
    ] {
        let password = credentials["clusters"][cluster][user]
            .as_str()
            .context("password")?;
        let account = Account {
            node,
            user,
            database,
            password,
            ca: &ca,
        };
        write_and_read(document, &account)?;
        for port in [5433, 5434, 5436] {
            let wrong = Account {
                password: "wrong",
                ..account
            };
            match connect(document, &wrong, port) {
                Ok(_) => bail!("{node}:{port} accepts a wrong password"),
                Err(error) => ensure!(
                    format!("{error:#}").contains("authentication")
                        || format!("{error:?}").contains("28P01")
                        || format!("{error:?}").contains("auth"),
                    "{node}:{port}: {error:?}"
                ),
            }
        }
    }
    Ok(())
}

fn write_and_read(document: &Value, account: &Account<'_>) -> Result<()> {
    let mut write = connect(document, account, 5433)?;
    write.simple_query("create table if not exists public.from_host(n int); truncate public.from_host; insert into public.from_host values (42)")?;
    let mut read = connect(document, account, 5434)?;
    ensure!(
        first_value(&mut read, "select n from public.from_host")? == "42",
        "5434 of {} does not read what 5433 wrote",
        account.node
    );
    let mut direct = connect(document, account, 5436)?;
    ensure!(
        first_value(&mut direct, "select inet_server_port()")? == "5432",
        "5436 of {} does not reach 5432",
        account.node
    );
    ensure!(
        first_value(&mut direct, "select pg_is_in_recovery()")? == "f",
        "5436 of {} is no primary",
        account.node
    );
    Ok(())
}

/// The first column of the first row, by the simple protocol, which transaction pooling always allows.
fn first_value(client: &mut Client, query: &str) -> Result<String> {
    for message in client.simple_query(query)? {
        if let postgres::SimpleQueryMessage::Row(row) = message {
            return Ok(row.get(0).unwrap_or_default().to_owned());
        }
    }
    bail!("`{query}` gave no row")
}

/// Ctrl-C stops the machines, and nothing of them stays behind.
pub fn stop(_world: &World) -> Result<()> {
    let (running, _) = SECOND_UP
        .lock()
        .expect("no panic holds it")
        .take()
        .context("no machines are running")?;
    let pid = running.child.id();
    running.signal(Signal::SIGINT)?;
    let (code, _) = running.wait(Duration::from_secs(120))?;
    ensure!(code == Some(0), "exit {code:?}");
    ensure!(
        !std::path::Path::new(&format!("/proc/{pid}")).exists(),
        "farrow is still there"
    );
    Ok(())
}
