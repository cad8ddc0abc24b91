//! The sandbox of four machines: from power-on to all green, and then everything that its users rely on,
//! asked from where they would ask it. The outcome is a table.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::fleet::Fleet;
use e2e::world::World;

/// Bar for the start of the sandbox, in seconds.
const READY_BAR: f64 = 20.0;

/// One question: area, what should hold, where it is asked, a shell script that succeeds when it holds.
pub type Row = (&'static str, &'static str, &'static str, &'static str);

/// Checks that a script may need to repeat, as metrics and probes come at their own pace.
const SETTLE: Duration = Duration::from_secs(45);

/// Variables for the scripts: passwords come by them, not by command lines.
fn prelude(fleet: &Fleet<'_>) -> Result<String> {
    let mut text = String::from(
        "set -eu\nexport PGCONNECT_TIMEOUT=5 PGSSLMODE=verify-full PGSSLROOTCERT=/etc/farrow/ca.crt\n\
         export ETCDCTL_CACERT=/etc/farrow/ca.crt\n\
         prom() { curl -fsG http://10.10.10.10:9090/api/v1/query --data-urlencode \"query=$1\" | python3 -c 'import json,sys; r=json.load(sys.stdin)[\"data\"][\"result\"]; print(r[0][\"value\"][1] if r else 0)'; }\n\
         as_test() { PGPASSWORD=$TEST psql -XAtq -U test -d test \"$@\"; }\n",
    );
    for (name, cluster, user) in [
        ("TEST", "pg-test", "test"),
        ("DBA", "pg-test", "dbuser_dba"),
        ("MONITOR", "pg-test", "dbuser_monitor"),
        ("META", "pg-meta", "dbuser_meta"),
        ("VIEW", "pg-meta", "dbuser_view"),
    ] {
        writeln!(text, "{name}={}", fleet.password(cluster, user)?)?;
    }
    Ok(text)
}

/// `inventory SQL` asks the platform's own database as one who may only read.
macro_rules! inventory {
    () => {
        "inventory() { found=$(PGPASSWORD=$VIEW psql -v ON_ERROR_STOP=1 -XAtq -h pg-meta -p 5432 -U dbuser_view -d meta -c \"$1\") && echo \"$found\" | tr '\\n' ' '; }; "
    };
}

/// Everything that is asked.
const TABLE: &[Row] = &[
    (
        "repository",
        "every file has the hash that `repo_complete` names",
        "meta",
        "cd /www/pigsty && grep -E '^[0-9a-f]{64}  ' repo_complete | sha256sum -c --quiet",
    ),
    (
        "repository",
        "its index comes by name over HTTP",
        "node-1",
        "curl -fsS -o /dev/null http://h.pigsty/pigsty/Packages.gz && curl -fsS http://h.pigsty/pigsty/repo_complete | grep -q postgresql-17",
    ),
    (
        "portal",
        "portal, Prometheus and Alertmanager answer by their names",
        "node-1",
        "for u in h.pigsty/ p.pigsty/-/ready a.pigsty/-/ready; do curl -fsSL -o /dev/null http://$u; done",
    ),
    (
        "portal",
        "HTTPS with a certificate of the deployment's authority",
        "node-1",
        "curl -fsS -o /dev/null --cacert /etc/farrow/ca.crt https://h.pigsty/ && ! curl -fsS -o /dev/null https://h.pigsty/ 2>/dev/null",
    ),
    (
        "names",
        "instances, clusters and the portal",
        "node-2",
        "for p in h.pigsty:10.10.10.10 pg-meta-1:10.10.10.10 pg-test-1:10.10.10.11 pg-test-2:10.10.10.12 pg-test-3:10.10.10.13 pg-meta:10.10.10.2 pg-test:10.10.10.3; do test \"$(dig +short @10.10.10.10 ${p%:*})\" = ${p#*:}; done",
    ),
    (
        "names",
        "the machine's own resolver knows them",
        "node-1",
        "test \"$(getent hosts p.pigsty | cut -d' ' -f1)\" = 10.10.10.10",
    ),
    (
        "names",
        "a new file in /etc/hosts.d is answered within 2 s",
        "meta",
        "echo 10.10.10.99 acceptance.pigsty > /etc/hosts.d/acceptance; sleep 2; test \"$(dig +short @10.10.10.10 acceptance.pigsty)\" = 10.10.10.99; rm /etc/hosts.d/acceptance",
    ),
    (
        "store",
        "healthy for who holds a certificate",
        "node-1",
        "curl -fsS --cacert /etc/farrow/ca.crt --cert /etc/patroni/server.crt --key /etc/patroni/server.key https://10.10.10.10:2379/health | grep -q true",
    ),
    (
        "store",
        "refused for who holds none",
        "node-1",
        "! curl -fsS --cacert /etc/farrow/ca.crt https://10.10.10.10:2379/health 2>/dev/null && ! curl -fsS http://10.10.10.10:2379/health 2>/dev/null",
    ),
    (
        "cluster",
        "one leader and two streaming replicas",
        "node-1",
        "patronictl -c /etc/patroni/config.yml list -f json | python3 -c 'import json,sys; m=json.load(sys.stdin); assert sorted((x[\"Role\"],x[\"State\"]) for x in m)==[(\"Leader\",\"running\"),(\"Replica\",\"streaming\"),(\"Replica\",\"streaming\")], m'",
    ),
    (
        "cluster",
        "the image's data folder is what initdb makes, identity aside",
        "node-3",
        "d=$(mktemp -d); chown postgres: $d; xargs -a /usr/lib/farrow/postgresql-17/options runuser -u postgres -- /usr/lib/postgresql/17/bin/initdb --pgdata=$d/data > /dev/null; rm -r $d/data/pg_wal/0* $d/data/pg_stat/pgstat.stat; cmp -s $d/data/global/pg_control /usr/lib/farrow/postgresql-17/data/global/pg_control && exit 1; rm $d/data/global/pg_control; diff -r -x pg_control $d/data /usr/lib/farrow/postgresql-17/data; rm -r $d",
    ),
    (
        "cluster",
        "clusters founded from it have identities of their own, and checksums",
        "meta",
        "sysid() { psql -XAtq -d test -U test -h $1 -p 5432 -c 'select system_identifier from pg_control_system()'; }; a=$(PGPASSWORD=$TEST sysid pg-test-1); b=$(runuser -u postgres -- psql -XAtq -c 'select system_identifier from pg_control_system()'); test -n \"$a\" && test \"$a\" != \"$b\" && test $(( $(date +%s) - (a >> 32) )) -lt 3600 && test \"$(runuser -u postgres -- psql -XAtq -c 'show data_checksums')\" = on",
    ),
    (
        "cluster",
        "founding took the image's data folder",
        "node-1",
        "journalctl -b -t farrow-bootstrap --no-pager | grep -q 'made /data/postgres/pg-test-17 from /usr/lib/farrow'",
    ),
    (
        "cluster",
        "pg-meta has its leader",
        "meta",
        "patronictl -c /etc/patroni/config.yml list -f json | grep -q Leader",
    ),
    (
        "services",
        "5433 of every member leads to the primary",
        "meta",
        "for i in 1 2 3; do test \"$(as_test -h pg-test-$i -p 5433 -c 'select pg_is_in_recovery()')\" = f; done",
    ),
    (
        "services",
        "5434 of every member leads to a replica, ten times",
        "meta",
        "for i in 1 2 3; do for k in 1 2 3 4 5 6 7 8 9 10; do test \"$(as_test -h pg-test-$i -p 5434 -c 'select pg_is_in_recovery()')\" = t; done; done",
    ),
    (
        "services",
        "5436 leads to the primary's own port",
        "meta",
        "for i in 1 2 3; do test \"$(as_test -h pg-test-$i -p 5436 -c 'select pg_is_in_recovery(), inet_server_port()')\" = 'f|5432'; done",
    ),
    (
        "services",
        "5438 leads to the offline instance",
        "meta",
        "for i in 1 2 3; do test \"$(as_test -h pg-test-$i -p 5438 -c 'select pg_is_in_recovery(), host(inet_server_addr())')\" = 't|10.10.10.13'; done",
    ),
    (
        "services",
        "what is written on 5433 is on every replica within 1 s",
        "meta",
        "as_test -h pg-test-1 -p 5433 -c 'create table if not exists acceptance(x int); truncate acceptance; insert into acceptance values (42)'; sleep 1; for i in 2 3; do test \"$(as_test -h pg-test-$i -p 5432 -c 'select x from acceptance')\" = 42; done",
    ),
    (
        "services",
        "writing on 5434 is refused",
        "meta",
        "as_test -h pg-test-1 -p 5434 -c 'insert into acceptance values (1)' 2>&1 | grep -q read-only",
    ),
    (
        "access",
        "a wrong password is refused on every way in",
        "meta",
        "for p in 5432 5433 5434 5436 5438 6432; do ! PGPASSWORD=wrong psql -XAt -h pg-test-1 -p $p -U test -d test -c 'select 1' 2>/dev/null || exit 1; done",
    ),
    (
        "access",
        "the superuser of the system never comes by network",
        "meta",
        "! PGPASSWORD=$DBA psql -XAt -h pg-test-1 -p 5432 -U postgres -d postgres -c 'select 1' 2>/dev/null",
    ),
    (
        "access",
        "PostgreSQL takes no connection without TLS from another machine",
        "meta",
        "! PGSSLMODE=disable PGPASSWORD=$TEST psql -XAt -h pg-test-1 -p 5432 -U test -d test -c 'select 1' 2>/dev/null",
    ),
    (
        "access",
        "the pool lists its databases to the administrator",
        "node-1",
        "PGPASSWORD=$DBA psql -XAt -h pg-test-1 -p 6432 -U dbuser_dba -d pgbouncer -c 'show databases' | grep -q '^test|'",
    ),
    (
        "database",
        "roles, extension and checksums",
        "node-1",
        "runuser -u postgres -- psql -XAt -d test -c \"select count(*) from pg_roles where rolname like 'dbrole_%'\" -c \"select 1 from pg_extension where extname='pg_stat_statements'\" -c 'show data_checksums' | tr '\\n' ' ' | grep -qx '4 1 on '",
    ),
    (
        "address",
        "each virtual address is on one machine, and that leads",
        "meta",
        "as_test -h pg-test -p 5432 -c 'select pg_is_in_recovery()' | grep -qx f && PGPASSWORD=$META psql -XAtq -h pg-meta -p 5432 -U dbuser_meta -d meta -c 'select 1' | grep -qx 1",
    ),
    (
        "metrics",
        "every target is up",
        "meta",
        "test \"$(prom 'count(up==0)')\" = 0",
    ),
    (
        "metrics",
        "PostgreSQL, pools and exporters of all four",
        "meta",
        "test \"$(prom 'sum(pg_up)')\" = 4 && test \"$(prom 'sum(pgbouncer_up)')\" = 4",
    ),
    (
        "metrics",
        "one primary for each cluster",
        "meta",
        "test \"$(prom 'count(sum by (cls) (patroni_primary) == 1)')\" = 2",
    ),
    (
        "metrics",
        "a pushed metric arrives",
        "meta",
        "echo 'acceptance 1' | curl -fsS --data-binary @- http://10.10.10.10:9091/metrics/job/acceptance; for i in 1 2 3 4 5 6 7 8 9 10; do test \"$(prom 'acceptance')\" = 1 && exit 0; sleep 2; done; exit 1",
    ),
    (
        "metrics",
        "rules and configuration are right",
        "meta",
        "promtool check config /etc/prometheus/prometheus.yml >/dev/null && amtool check-config /etc/prometheus/alertmanager.yml >/dev/null",
    ),
    (
        "inventory",
        "clusters with their leaders, machines with their roles",
        "meta",
        concat!(
            inventory!(),
            "test \"$(inventory \"select name, leader from pigsty.cluster order by 1\")\" = 'pg-meta|pg-meta-1 pg-test|pg-test-1 ' && test \"$(inventory \"select name, host(address), role from pigsty.node order by 1\")\" = 'meta|10.10.10.10|meta node-1|10.10.10.11|database node-2|10.10.10.12|database node-3|10.10.10.13|database '"
        ),
    ),
    (
        "inventory",
        "instances as they are declared and as they are",
        "meta",
        concat!(
            inventory!(),
            "test \"$(inventory \"select name, seq, declared_role, role, state, live from pigsty.instance where cluster = 'pg-test' order by 1\")\" = 'pg-test-1|1|primary|primary|running|t pg-test-2|2|replica|replica|streaming|t pg-test-3|3|offline|replica|streaming|t '"
        ),
    ),
    (
        "inventory",
        "services of every machine with their ports; readers may read, and not write",
        "meta",
        concat!(
            inventory!(),
            "test \"$(inventory \"select node from pigsty.service where name = 'patroni' and ports @> array[5432,8008] order by 1\")\" = 'meta node-1 node-2 node-3 ' && ! inventory \"delete from pigsty.node\" 2>/dev/null"
        ),
    ),
    (
        "systemd",
        "nothing failed",
        "meta",
        "test -z \"$(systemctl --failed --no-legend)\"",
    ),
    (
        "systemd",
        "nothing failed on a database node",
        "node-3",
        "test -z \"$(systemctl --failed --no-legend)\"",
    ),
    (
        "bootstrap",
        "a second run writes nothing",
        "node-2",
        "touch /run/before; sleep 1; farrow-bootstrap run >/dev/null 2>&1; test -z \"$(find /etc -type f -newer /run/before | tee /dev/stderr)\"",
    ),
];

/// Ports that must listen, by machine; from the seeds' tables, as far as Debian 13 supplies the service.
const PORTS: &[(&str, &[u16])] = &[
    (
        "meta",
        &[
            53, 80, 443, 2379, 2380, 5432, 5433, 5434, 5436, 5438, 6432, 8008, 9090, 9091, 9093,
            9100, 9101, 9115, 9630, 9631,
        ],
    ),
    (
        "node-1",
        &[
            5432, 5433, 5434, 5436, 5438, 6432, 8008, 9100, 9101, 9630, 9631,
        ],
    ),
    (
        "node-2",
        &[
            5432, 5433, 5434, 5436, 5438, 6432, 8008, 9100, 9101, 9630, 9631,
        ],
    ),
    (
        "node-3",
        &[
            5432, 5433, 5434, 5436, 5438, 6432, 8008, 9100, 9101, 9630, 9631,
        ],
    ),
];

/// Starts all machines of the sandbox at once, then asks everything.
pub fn sandbox(world: &World) -> Result<()> {
    let fleet = Fleet::start(world, "acceptance", "sandbox", &[])?;
    println!(
        "    sandbox ready after {:.1} s, bar {READY_BAR:.0} s",
        fleet.boot_seconds
    );
    let outcome = ask_all(&fleet)?;
    let table = render(&outcome, fleet.boot_seconds)?;
    std::fs::write(world.root.join("acceptance.md"), &table)?;
    let failed: Vec<&Answer> = outcome.iter().filter(|answer| !answer.right).collect();
    for answer in &failed {
        println!(
            "    FAILED {}: {}\n{}",
            answer.area, answer.what, answer.said
        );
    }
    ensure!(
        failed.is_empty(),
        "{} of {} do not hold",
        failed.len(),
        outcome.len()
    );
    println!("    {} of {} hold", outcome.len(), outcome.len());
    fleet.stop()
}

/// The outcome of one question.
struct Answer {
    area: &'static str,
    what: String,
    node: String,
    right: bool,
    said: String,
}

fn ask_all(fleet: &Fleet<'_>) -> Result<Vec<Answer>> {
    let prelude = prelude(fleet)?;
    let mut answers = Vec::new();
    for &(area, what, node, script) in TABLE.iter().chain(super::trust::ROWS) {
        let whole = format!("{prelude}{script}\n");
        let waited = fleet.until(node, &whole, SETTLE, |_| true);
        answers.push(Answer {
            area,
            what: what.to_owned(),
            node: node.to_owned(),
            right: waited.is_ok(),
            said: waited
                .err()
                .map(|error| hide(fleet, &error.to_string()))
                .unwrap_or_default(),
        });
    }
    for (node, ports) in PORTS {
        let listening = listening(fleet, node)?;
        let missing: Vec<String> = ports
            .iter()
            .filter(|port| !listening.contains_key(port))
            .map(u16::to_string)
            .collect();
        answers.push(Answer {
            area: "ports",
            what: format!("{} ports of the table listen", ports.len()),
            node: (*node).to_owned(),
            right: missing.is_empty(),
            said: format!("not: {}", missing.join(", ")),
        });
    }
    Ok(answers)
}

/// The ports that listen, and who.
fn listening(fleet: &Fleet<'_>, node: &str) -> Result<BTreeMap<u16, String>> {
    let text = fleet.ask(node, "ss -Hltnp")?;
    let mut ports = BTreeMap::new();
    for line in text.lines() {
        let address = line
            .split_whitespace()
            .nth(3)
            .context("ss prints an address")?;
        let port = address
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok());
        ports.insert(port.context("a port")?, line.to_owned());
    }
    Ok(ports)
}

/// An error's text without the passwords that its script held.
fn hide(fleet: &Fleet<'_>, text: &str) -> String {
    let mut text = text.to_owned();
    for (cluster, user) in [
        ("pg-test", "test"),
        ("pg-test", "dbuser_dba"),
        ("pg-test", "dbuser_monitor"),
        ("pg-meta", "dbuser_meta"),
        ("pg-meta", "dbuser_view"),
    ] {
        if let Ok(password) = fleet.password(cluster, user) {
            text = text.replace(password, "…");
        }
    }
    let lines: Vec<&str> = text.lines().rev().take(12).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

fn render(answers: &[Answer], seconds: f64) -> Result<String> {
    let mut text = String::from("| Area | What holds | Asked on | Outcome |\n|---|---|---|---|\n");
    for answer in answers {
        let outcome = if answer.right { "yes" } else { "**no**" };
        writeln!(
            text,
            "| {} | {} | {} | {outcome} |",
            answer.area, answer.what, answer.node
        )?;
    }
    writeln!(text, "\nFour machines ready {seconds:.1} s after power-on.")?;
    Ok(text)
}
