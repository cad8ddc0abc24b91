//! Clients that write and read all the time while something is done to the machines, and what they saw.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio_postgres_rustls::MakeRustlsConnect;

/// How often clients do something, and how long they wait.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two statements of a client.
    pub pause: Duration,
    /// After this a client gives a statement or a connection up: what was sent into a machine without power never answers.
    pub patience: Duration,
    /// Between two looks at who answers `/primary`.
    pub look: Duration,
    /// How long such an answer may take.
    pub answer: Duration,
    /// How long clients run before something is done to the machines, and after it.
    pub settled: Duration,
}

/// For machines that have the host's speed.
pub const PACE: Pace = Pace {
    pause: Duration::from_millis(200),
    patience: Duration::from_secs(4),
    look: Duration::from_millis(500),
    answer: Duration::from_secs(1),
    settled: Duration::from_secs(4),
};

/// For emulated machines, which take a second of processor time to accept a connection with TLS and a password: clients
/// that ask more often would measure themselves.
pub const EMULATED_PACE: Pace = Pace {
    pause: Duration::from_secs(1),
    patience: Duration::from_secs(10),
    look: Duration::from_secs(3),
    answer: Duration::from_secs(10),
    settled: Duration::from_secs(15),
};

/// The same for a test's own questions, to machines that are emulated.
const LONG_PATIENCE: Duration = Duration::from_secs(30);

/// Where a client connects.
#[derive(Debug, Clone)]
pub struct Target {
    /// Machine whose port it is.
    pub node: String,
    /// The port on the host.
    pub address: SocketAddr,
    /// The name that its certificate must carry.
    pub name: String,
}

/// Who connects.
#[derive(Debug, Clone)]
pub struct Account {
    /// User.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Database.
    pub database: String,
    /// The deployment's authority in PEM.
    pub ca: String,
}

/// What one client saw.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// Machine through which it came.
    pub node: String,
    /// Moments of success in seconds since the load began, with the row's id for a writer.
    pub done: Vec<(f64, i64)>,
    /// Statements and connections that failed.
    pub errors: usize,
    /// A reader's answers that came from a primary: moments.
    pub from_primary: Vec<f64>,
}

/// Who answered `/primary` with 200, moment by moment.
#[derive(Debug, Clone, Default)]
pub struct Primaries {
    /// Seconds since the load began, and the machines.
    pub seen: Vec<(f64, Vec<String>)>,
}

/// Clients that run.
pub struct Load {
    started: Instant,
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Log>>,
    readers: Vec<JoinHandle<Log>>,
    watcher: JoinHandle<Primaries>,
}

/// What all clients saw.
pub struct Seen {
    /// Writers.
    pub writers: Vec<Log>,
    /// Readers.
    pub readers: Vec<Log>,
    /// Primaries.
    pub primaries: Primaries,
    /// Seconds from begin to end.
    pub seconds: f64,
}

impl Load {
    /// Starts a writer for each of `writers`, a reader for each of `readers`, and asks `rest` who is primary. Rows go to
    /// the table `load`, which must exist; `first_id` is above every id in it.
    pub fn start(
        account: &Account,
        writers: &[Target],
        readers: &[Target],
        rest: &[Target],
        first_id: i64,
        pace: Pace,
    ) -> Result<Self> {
        let started = Instant::now();
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |target: &Target, next_id: Option<i64>| {
            let client = Client {
                account: account.clone(),
                target: target.clone(),
                tls: tls(&account.ca)?,
                pace,
                started,
                stop: Arc::clone(&stop),
            };
            Ok(std::thread::spawn(move || client.run(next_id)))
        };
        let range = 10_000_000;
        let writers = (0..).zip(writers);
        let writers = writers
            .map(|(index, target)| spawn(target, Some(first_id + index * range)))
            .collect::<Result<_>>()?;
        let readers = readers
            .iter()
            .map(|target| spawn(target, None))
            .collect::<Result<_>>()?;
        let (rest, stopped) = (rest.to_vec(), Arc::clone(&stop));
        let watcher = std::thread::spawn(move || watch(&rest, pace, started, &stopped));
        Ok(Load {
            started,
            stop,
            writers,
            readers,
            watcher,
        })
    }

    /// Seconds since it began.
    pub fn now(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Ends all clients.
    pub fn finish(self) -> Result<Seen> {
        self.stop.store(true, Ordering::SeqCst);
        let seconds = self.started.elapsed().as_secs_f64();
        let join = |threads: Vec<JoinHandle<Log>>| -> Result<Vec<Log>> {
            let logs = threads.into_iter().map(JoinHandle::join);
            logs.map(|log| log.map_err(|_| anyhow::anyhow!("a client panicked")))
                .collect()
        };
        Ok(Seen {
            writers: join(self.writers)?,
            readers: join(self.readers)?,
            primaries: self
                .watcher
                .join()
                .map_err(|_| anyhow::anyhow!("the watcher panicked"))?,
            seconds,
        })
    }
}

impl Seen {
    /// The longest time without a success of the clients on `nodes`, between `from` and the end.
    pub fn longest_gap<'a>(
        &self,
        logs: &'a [Log],
        nodes: impl Fn(&str) -> bool,
        from: f64,
    ) -> Option<(f64, &'a str)> {
        let logs = logs.iter().filter(|log| nodes(&log.node));
        logs.map(|log| (log.longest_gap(from, self.seconds), log.node.as_str()))
            .max_by(|a, b| a.0.total_cmp(&b.0))
    }

    /// Ids that were acknowledged.
    pub fn acknowledged(&self) -> BTreeSet<i64> {
        let done = self.writers.iter().flat_map(|log| &log.done);
        done.map(|(_, id)| *id).collect()
    }

    /// Seconds in which more than one machine said it was primary.
    pub fn two_primaries(&self) -> f64 {
        let pairs = self.primaries.seen.windows(2);
        let doubled = pairs.filter(|pair| pair[0].1.len() > 1);
        // A sum of nothing would be -0.
        doubled.fold(0.0, |seconds, pair| seconds + pair[1].0 - pair[0].0)
    }
}

impl Log {
    fn longest_gap(&self, from: f64, end: f64) -> f64 {
        let before = self.done.iter().filter(|(at, _)| *at <= from);
        let mut last = before.map(|(at, _)| *at).fold(0.0, f64::max);
        let mut longest: f64 = 0.0;
        for (at, _) in self.done.iter().filter(|(at, _)| *at > from) {
            longest = longest.max(at - last);
            last = *at;
        }
        longest.max(end - last)
    }
}

/// TLS that trusts the deployment's authority alone.
pub fn tls(ca: &str) -> Result<MakeRustlsConnect> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).context("the authority's PEM")?)?;
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

fn connection(account: &Account, target: &Target) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config
        .host(&target.name)
        .hostaddr(target.address.ip())
        .port(target.address.port())
        .user(&account.user)
        .password(&account.password)
        .dbname(&account.database)
        .ssl_mode(tokio_postgres::config::SslMode::Require);
    config
}

/// A connection that stays open.
pub struct Session {
    runtime: tokio::runtime::Runtime,
    client: tokio_postgres::Client,
}

impl Session {
    /// Connects.
    pub fn open(account: &Account, target: &Target) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let config = connection(account, target);
        let tls = tls(&account.ca)?;
        let (client, connection) = runtime
            .block_on(async { tokio::time::timeout(LONG_PATIENCE, config.connect(tls)).await })??;
        runtime.spawn(connection);
        Ok(Session { runtime, client })
    }

    /// Runs SQL; gives the rows, with fields divided by `|`.
    pub fn query(&self, sql: &str) -> Result<Vec<String>> {
        let asked =
            async { tokio::time::timeout(LONG_PATIENCE, self.client.simple_query(sql)).await };
        let messages = self.runtime.block_on(asked)??;
        let rows = messages.into_iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                let fields: Vec<&str> = (0..row.len())
                    .map(|field| row.get(field).unwrap_or_default())
                    .collect();
                Some(fields.join("|"))
            }
            _ => None,
        });
        Ok(rows.collect())
    }
}

/// Runs SQL on a connection of its own; gives the rows, with fields divided by `|`.
pub fn query(account: &Account, target: &Target, sql: &str) -> Result<Vec<String>> {
    Session::open(account, target)?.query(sql)
}

/// What Patroni answers to a question. Only that counts here, so the certificate is not looked at.
pub fn patroni(target: &Target, path: &str) -> Result<serde_json::Value> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::blocking::Client::builder()
        .danger_accept_invalid_certs(true)
        .timeout(LONG_PATIENCE)
        .build()?;
    let url = format!("https://{}/{path}", target.address);
    Ok(serde_json::from_str(&client.get(url).send()?.text()?)?)
}

struct Client {
    account: Account,
    target: Target,
    tls: MakeRustlsConnect,
    pace: Pace,
    started: Instant,
    stop: Arc<AtomicBool>,
}

impl Client {
    fn run(self, next_id: Option<i64>) -> Log {
        let mut log = Log {
            node: self.target.node.clone(),
            ..Log::default()
        };
        let mut next_id = next_id;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let Ok(runtime) = runtime else {
            return log;
        };
        while !self.stop.load(Ordering::SeqCst) {
            if runtime
                .block_on(self.session(&mut log, &mut next_id))
                .is_err()
            {
                log.errors += 1;
            }
            std::thread::sleep(self.pace.pause / 2);
        }
        log
    }

    /// One connection, until it fails or the load ends.
    async fn session(&self, log: &mut Log, next_id: &mut Option<i64>) -> Result<()> {
        let config = connection(&self.account, &self.target);
        let connected = tokio::time::timeout(self.pace.patience, config.connect(self.tls.clone()));
        let (client, connection) = connected.await??;
        let driver = tokio::spawn(connection);
        let outcome = self.statements(&client, log, next_id).await;
        driver.abort();
        outcome
    }

    async fn statements(
        &self,
        client: &tokio_postgres::Client,
        log: &mut Log,
        next_id: &mut Option<i64>,
    ) -> Result<()> {
        while !self.stop.load(Ordering::SeqCst) {
            match next_id {
                Some(id) => {
                    let row = *id;
                    // An id is used once: a statement without answer may have been carried out.
                    *id += 1;
                    let insert = format!("insert into load values ({row})");
                    tokio::time::timeout(self.pace.patience, client.simple_query(&insert))
                        .await??;
                    log.done.push((self.now(), row));
                }
                None => {
                    let ask = client.simple_query("select pg_is_in_recovery()");
                    let rows = tokio::time::timeout(self.pace.patience, ask).await??;
                    let standby = rows.iter().find_map(|message| match message {
                        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
                        _ => None,
                    });
                    if standby == Some("f") {
                        log.from_primary.push(self.now());
                    }
                    log.done.push((self.now(), 0));
                }
            }
            tokio::time::sleep(self.pace.pause).await;
        }
        Ok(())
    }

    fn now(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

/// Who answers `/primary` with 200. Only that counts here, so the certificate is not looked at.
pub fn primaries(rest: &[Target], pace: Pace) -> Vec<String> {
    let Ok(client) = reqwest::blocking::Client::builder()
        .danger_accept_invalid_certs(true)
        .timeout(pace.answer)
        .build()
    else {
        return Vec::new();
    };
    let found: Vec<Option<String>> = std::thread::scope(|scope| {
        let asked: Vec<_> = rest
            .iter()
            .map(|target| {
                let client = &client;
                scope.spawn(move || {
                    let url = format!("https://{}/primary", target.address);
                    let answer = client.get(url).send().ok()?;
                    (answer.status() == 200).then(|| target.node.clone())
                })
            })
            .collect();
        asked
            .into_iter()
            .map(|thread| thread.join().ok().flatten())
            .collect()
    });
    found.into_iter().flatten().collect()
}

fn watch(rest: &[Target], pace: Pace, started: Instant, stop: &AtomicBool) -> Primaries {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut log = Primaries::default();
    while !stop.load(Ordering::SeqCst) {
        let at = started.elapsed().as_secs_f64();
        log.seen.push((at, primaries(rest, pace)));
        std::thread::sleep(pace.look);
    }
    log
}

/// Waits until exactly one machine says that it is primary; gives its name.
pub fn wait_primary(rest: &[Target], pace: Pace, limit: Duration) -> Result<String> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let started = Instant::now();
    loop {
        let found = primaries(rest, pace);
        if let [one] = &found[..] {
            return Ok(one.clone());
        }
        if started.elapsed() > limit {
            bail!("after {} s the primaries are {found:?}", limit.as_secs());
        }
        std::thread::sleep(pace.look);
    }
}
