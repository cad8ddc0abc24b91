//! Who gets in, and who does not: right, wrong and no credentials, and what a database node can do with all that it holds.
//! Rows of the acceptance table.

use super::acceptance::Row;

/// The store's client with a database node's certificate, user and password.
macro_rules! cluster_user {
    () => {
        "export ETCDCTL_ENDPOINTS=https://10.10.10.10:2379 ETCDCTL_CERT=/etc/patroni/server.crt ETCDCTL_KEY=/etc/patroni/server.key ETCDCTL_USER=pg-test ETCDCTL_COMMAND_TIMEOUT=5s; \
         ETCDCTL_PASSWORD=$(sed -n '/^etcd3:/,/^$/s/.*password: //p' /etc/patroni/config.yml); export ETCDCTL_PASSWORD; "
    };
}

/// `code METHOD PATH OPTION…` gives the status of pg-test-1's Patroni; `-K password` adds what this machine holds of it.
macro_rules! rest_codes {
    () => {
        "cd $(mktemp -d); umask 077; own='--cert /etc/patroni/server.crt --key /etc/patroni/server.key'; \
         echo \"user = patroni:$(sed -n '/^restapi:/,/^$/s/.*password: //p' /etc/patroni/config.yml)\" > password; \
         code() { m=$1; p=$2; shift 2; curl -sS -o /dev/null -w '%{http_code}' --max-time 5 --cacert /etc/farrow/ca.crt -X $m \"$@\" https://10.10.10.11:8008/$p; }; "
    };
}

/// Questions. `cluster_user` is a login to the store with everything that a database node holds.
pub const ROWS: &[Row] = &[
    (
        "trust: store",
        "a cluster's user reads and writes its own keys",
        "node-1",
        concat!(
            cluster_user!(),
            "etcdctl get --prefix /pg/pg-test/ --keys-only | grep -q leader && etcdctl put /pg/pg-test/acceptance 1 && etcdctl del /pg/pg-test/acceptance"
        ),
    ),
    (
        "trust: store",
        "other clusters' keys, users and the whole are refused",
        "node-1",
        concat!(
            cluster_user!(),
            "for k in '--prefix /pg/pg-meta/' '--prefix /' /pg/pg-test0 /pg/pg-test2/leader; do ! etcdctl get $k 2>/dev/null || exit 1; done; ! etcdctl put /pg/pg-meta/leader x 2>/dev/null && ! etcdctl user list 2>/dev/null"
        ),
    ),
    (
        "trust: store",
        "wrong passwords, no password, and the administrator's name with the cluster's are refused",
        "node-1",
        concat!(
            cluster_user!(),
            "! ETCDCTL_PASSWORD=wrong etcdctl get /pg/pg-test/leader 2>/dev/null && ! ETCDCTL_USER=root etcdctl get /pg/pg-test/leader 2>/dev/null && unset ETCDCTL_USER ETCDCTL_PASSWORD && ! etcdctl get /pg/pg-test/leader 2>/dev/null"
        ),
    ),
    (
        "trust: store",
        "a database node's certificate is none of a peer",
        "node-1",
        "curl -sS --max-time 5 --cacert /etc/farrow/ca.crt --cert /etc/patroni/server.crt --key /etc/patroni/server.key https://10.10.10.10:2380/members 2>&1 | grep -qi 'unknown ca'",
    ),
    (
        "trust: Patroni",
        "changes need a certificate and the password, reading only the authority",
        "meta",
        concat!(
            rest_codes!(),
            "test \"$(code GET primary)\" = 200; test \"$(code POST reload)\" = 403; test \"$(code POST reload -K password)\" = 403; test \"$(code POST reload $own)\" = 401"
        ),
    ),
    (
        "trust: Patroni",
        "with both they are done; plain HTTP and unknown authorities are refused",
        "node-1",
        concat!(
            rest_codes!(),
            "test \"$(code POST reload $own -K password)\" = 202; ! curl -sS --max-time 5 http://10.10.10.11:8008/ 2>/dev/null && ! curl -sS --max-time 5 https://10.10.10.11:8008/ 2>/dev/null"
        ),
    ),
    (
        "trust: sockets",
        "root asks Patroni and the store through them, nobody else does",
        "node-2",
        "for s in patroni etcd; do curl -fsS -o /dev/null --unix-socket /run/haproxy/$s.sock http://localhost/health; ! setpriv --reuid 65534 --regid 65534 --clear-groups curl -sS --unix-socket /run/haproxy/$s.sock http://localhost/health 2>/dev/null || exit 1; done",
    ),
    (
        "trust: PostgreSQL",
        "names and addresses of the cluster hold on every port, also by way of another member",
        "meta",
        "for h in pg-test.pigsty pg-test-2.pigsty node-2.pigsty 10.10.10.12; do for p in 5432 5433 5434 5436 5438 6432; do as_test -d \"hostaddr=10.10.10.12 dbname=test\" -h $h -p $p -c 'select 1' >/dev/null; done; done",
    ),
    (
        "trust: PostgreSQL",
        "no encryption, another name, a wrong password are refused on every port",
        "meta",
        "for p in 5432 5433 5434 5436 5438 6432; do ! PGSSLMODE=disable as_test -h 10.10.10.11 -p $p -c 'select 1' 2>/dev/null || exit 1; ! as_test -d 'hostaddr=10.10.10.11 dbname=test' -h pg-meta.pigsty -p $p -c 'select 1' 2>/dev/null || exit 1; ! PGPASSWORD=wrong psql -XAtw -U test -d test -h 10.10.10.11 -p $p -c 'select 1' 2>/dev/null || exit 1; done",
    ),
    (
        "trust: PostgreSQL",
        "replication is encrypted",
        "node-1",
        "PGPASSWORD=$DBA psql -XAtq -U dbuser_dba -d postgres -h pg-test.pigsty -p 5436 -c 'select count(*) filter (where ssl), count(*) from pg_stat_replication join pg_stat_ssl using (pid)' | grep -qx '2|2'",
    ),
    (
        "trust: pg-meta",
        "a database node's superuser is nobody there",
        "node-1",
        "for p in 5432 5436 6432; do ! PGPASSWORD=$DBA psql -XAtw -U dbuser_dba -d postgres -h pg-meta-1.pigsty -p $p -c 'select 1' 2>/dev/null || exit 1; done",
    ),
    (
        "trust: secrets",
        "no password or key in the journal, on a command line or in a file that all can read",
        "meta",
        NO_SECRETS,
    ),
    (
        "trust: secrets",
        "no password or key in the journal, on a command line or in a file that all can read",
        "node-3",
        NO_SECRETS,
    ),
];

/// The passwords that are in protected files must be nowhere else. What is found is named without the secret itself.
const NO_SECRETS: &str = "umask 077; d=$(mktemp -d); trap 'rm -rf $d' EXIT; \
    grep -hoE '\\b[0-9a-f]{32}\\b' /etc/pgbouncer/userlist.txt /etc/patroni/config.yml /etc/haproxy/haproxy.cfg | sort -u > $d/secrets; \
    echo 'PRIVATE KEY-----' >> $d/secrets; test $(wc -l < $d/secrets) -ge 5; \
    journalctl --no-pager --all -o short > $d/journal; \
    for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $f && echo; done > $d/argv 2>/dev/null || true; \
    find /etc /run /var /tmp -ignore_readdir_race -type f -perm -004 ! -path '/run/systemd/*' > $d/files; \
    setpriv --reuid 65534 --regid 65534 --clear-groups xargs -d '\\n' cat < $d/files > $d/world 2>/dev/null || true; \
    grep -aq root: $d/world; \
    found=0; for place in journal argv world; do if grep -aFf $d/secrets $d/$place > $d/lines; then found=1; \
    echo \"$place:\"; sed -E 's/[0-9a-f]{32}/…/g' $d/lines | cut -c1-200 | head -3; fi; done; \
    if test $found = 1; then xargs -d '\\n' grep -alFf $d/secrets < $d/files; exit 1; fi";
