//! A PostgreSQL cluster of a fleet as its clients see it: through the ports of its members on the host.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::fleet::Fleet;
use crate::load::{self, Account, Load, PACE, Pace, Seen, Target, wait_primary};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// The cluster, and who uses it.
pub struct Cluster<'a> {
    /// The machines.
    pub fleet: &'a Fleet<'a>,
    /// The clients' account.
    pub account: Account,
    /// How long all may take to be green again.
    pub limit: Duration,
    /// Machine and instance of each member.
    pub members: Vec<(String, String)>,
    /// Whether it is green only with a synchronous replica (`rpo = 0`); without one nobody may take over.
    pub synchronous: bool,
    /// How often it is used.
    pub pace: Pace,
}

/// What clients saw while something happened.
pub struct Observed {
    /// All that they saw.
    pub seen: Seen,
    /// When it happened, in seconds since the load began.
    pub from: f64,
    /// Rows that were acknowledged.
    pub acknowledged: usize,
    /// Of them, those that are not there.
    pub lost: usize,
}

impl<'a> Cluster<'a> {
    /// The cluster `pg-test` of the sandbox, with an empty table `load`.
    pub fn of_sandbox(fleet: &'a Fleet<'a>, limit: Duration) -> Result<Self> {
        let members: Vec<(String, String)> = (1..=3)
            .map(|seq| (format!("node-{seq}"), format!("pg-test-{seq}")))
            .collect();
        Self::new(fleet, "pg-test", ("test", "test"), members, limit)
    }

    /// A cluster with its user and database, and an empty table `load`.
    pub fn new(
        fleet: &'a Fleet<'a>,
        cluster: &str,
        (user, database): (&str, &str),
        members: Vec<(String, String)>,
        limit: Duration,
    ) -> Result<Self> {
        let made = Cluster {
            fleet,
            account: Account {
                user: user.into(),
                password: fleet.password(cluster, user)?.to_owned(),
                database: database.into(),
                ca: fleet.authority()?,
            },
            limit,
            members,
            synchronous: false,
            pace: PACE,
        };
        let primary = made.primary()?;
        made.query(&primary, 5433, "create table load(id bigint primary key)")?;
        Ok(made)
    }

    /// A port of every member.
    pub fn targets(&self, port: u16) -> Result<Vec<Target>> {
        let members = self.members.iter();
        members
            .map(|(node, instance)| {
                Ok(Target {
                    node: node.clone(),
                    address: self.fleet.address(node, port)?.parse()?,
                    name: instance.clone(),
                })
            })
            .collect()
    }

    fn target(&self, node: &str, port: u16) -> Result<Target> {
        let targets = self.targets(port)?;
        let found = targets.into_iter().find(|target| target.node == node);
        found.with_context(|| format!("{node} is no member"))
    }

    /// The machine that leads; waits until there is one.
    pub fn primary(&self) -> Result<String> {
        wait_primary(&self.targets(8008)?, self.pace, self.limit)
    }

    /// Runs SQL through a port of a machine; gives the rows, with fields divided by `|`.
    pub fn query(&self, node: &str, port: u16, sql: &str) -> Result<Vec<String>> {
        load::query(&self.account, &self.target(node, port)?, sql)
            .with_context(|| format!("{node}:{port}: {sql}"))
    }

    /// Waits until one member leads, all others stream from it (one synchronously if it must be), and every machine
    /// says that it is ready.
    pub fn wait_green(&self) -> Result<()> {
        let started = Instant::now();
        loop {
            let said = match self.states() {
                Ok(states) if self.is_green(&states) => match self.not_ready()? {
                    None => return Ok(()),
                    Some(node) => format!("{node} is not ready"),
                },
                Ok(states) => format!("{states:?}"),
                Err(error) => format!("{error:#}"),
            };
            ensure!(
                started.elapsed() < self.limit,
                "not green after {} s: {said}",
                self.limit.as_secs()
            );
            std::thread::sleep(LOOK);
        }
    }

    /// Role and state of each member, as the one that leads tells them.
    pub fn states(&self) -> Result<Vec<(String, String)>> {
        let rest = self.targets(8008)?;
        let leaders = load::primaries(&rest, self.pace);
        let leader = rest.iter().find(|target| leaders.contains(&target.node));
        let document: Value = load::patroni(leader.context("nobody leads")?, "cluster")?;
        let members = document["members"].as_array().context("members")?;
        let word = |member: &Value, key: &str| member[key].as_str().unwrap_or("-").to_owned();
        Ok(members
            .iter()
            .map(|member| (word(member, "role"), word(member, "state")))
            .collect())
    }

    fn is_green(&self, states: &[(String, String)]) -> bool {
        let count = |leads: bool, wanted: &str| {
            let found = states
                .iter()
                .filter(|(role, state)| (role == "leader") == leads && state == wanted);
            found.count()
        };
        let synchronous = states.iter().any(|(role, _)| role == "sync_standby");
        states.len() == self.members.len()
            && synchronous == self.synchronous
            && count(true, "running") == 1
            && count(false, "streaming") + 1 == states.len()
    }

    /// A machine that does not say that it is ready.
    fn not_ready(&self) -> Result<Option<String>> {
        for node in self.fleet.nodes() {
            if !self.fleet.is_ready(&node)? {
                return Ok(Some(node));
            }
        }
        Ok(None)
    }

    /// Runs `act` while a writer and a reader use every member, then counts what is there of what was acknowledged.
    /// `round` is a number that no other call has.
    pub fn during(&self, round: i64, act: impl FnOnce() -> Result<()>) -> Result<Observed> {
        let first_id = round * 1_000_000_000;
        let (writers, readers) = (self.targets(5433)?, self.targets(5434)?);
        let rest = self.targets(8008)?;
        let load = Load::start(
            &self.account,
            &writers,
            &readers,
            &rest,
            first_id,
            self.pace,
        )?;
        std::thread::sleep(self.pace.settled);
        let from = load.now();
        let outcome = act();
        std::thread::sleep(self.pace.settled);
        let seen = load.finish()?;
        outcome?;
        let leader = self.primary()?;
        let sql = format!("select id from load where id >= {first_id}");
        let stored = self.query(&leader, 5433, &sql)?;
        let stored: BTreeSet<i64> = stored.iter().filter_map(|id| id.parse().ok()).collect();
        let acknowledged = seen.acknowledged();
        Ok(Observed {
            from,
            acknowledged: acknowledged.len(),
            lost: acknowledged.difference(&stored).count(),
            seen,
        })
    }
}
