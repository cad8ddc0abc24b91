//! Who founds a cluster when the declared primary does not come: after a time, the live member with the lowest number. Only
//! Patroni's race for the key `initialize` decides in the end, so that a cluster that has data anywhere is not founded twice.

use std::time::{Duration, Instant};

use crate::deployment::{Deployment, Machine};
use crate::members::Members;
use crate::values::{MemberRole, Name};

/// Between two lines in the log.
const REMIND: Duration = Duration::from_secs(60);

/// How long this machine has waited for its cluster's leader.
#[derive(Debug)]
pub struct Patience {
    /// Own cluster and instance; none when there is nobody to wait for.
    own: Option<(Name, Name)>,
    /// The members that may found it besides the declared primary, lowest number first.
    heirs: Vec<String>,
    primary: String,
    /// None: for ever.
    limit: Option<Duration>,
    since: Option<Instant>,
    said: Option<Instant>,
}

impl Patience {
    /// For a machine of a deployment.
    pub fn new(deployment: &Deployment, machine: &Machine) -> Self {
        let member = machine.member.as_ref();
        let cluster = member.and_then(|member| deployment.cluster(member.cluster.as_str()));
        let mut patience = Patience {
            own: None,
            heirs: Vec::new(),
            primary: String::new(),
            limit: None,
            since: None,
            said: None,
        };
        let (Some(member), Some(cluster)) = (member, cluster) else {
            return patience;
        };
        let Some(primary) = &cluster.primary else {
            return patience;
        };
        if primary.instance == member.instance {
            return patience;
        }
        let heirs = cluster
            .members
            .iter()
            .filter(|member| member.role == MemberRole::Replica);
        patience.heirs = heirs.map(|member| member.instance.clone()).collect();
        patience.primary.clone_from(&primary.instance);
        let minutes = u64::from(cluster.bootstrap_fallback_minutes);
        patience.limit = (minutes > 0).then(|| Duration::from_secs(minutes * 60));
        let instance = Name::parse(&member.instance);
        patience.own = instance
            .ok()
            .map(|instance| (member.cluster.clone(), instance));
        patience
    }

    /// Looks at the own cluster: who founds it is written into `found` when the time has come.
    pub fn watch(&mut self, found: &mut Members) {
        self.watch_at(found, Instant::now());
    }

    fn watch_at(&mut self, found: &mut Members, now: Instant) {
        let Some((cluster, own)) = &self.own else {
            return;
        };
        let Some(live) = found.clusters.get_mut(cluster) else {
            return;
        };
        // One that ever led, or runs, has data: whoever has them decides.
        let waiting =
            live.last_leader.is_none() && !live.members.values().any(|member| member.running());
        if !waiting {
            self.since = None;
            return;
        }
        let since = *self.since.get_or_insert(now);
        let waited = now.saturating_duration_since(since);
        if self.limit.is_some_and(|limit| waited >= limit) {
            let lives = |name: &&String| live.members.contains_key(name.as_str());
            if live.founder.is_none()
                && self
                    .heirs
                    .iter()
                    .find(lives)
                    .is_some_and(|heir| heir == own.as_str())
            {
                log::error!(
                    "{cluster} has had no leader for {} s: its declared primary {} did not found it, {own} does so now",
                    waited.as_secs(),
                    self.primary
                );
                live.founder = Some(own.clone());
            }
        } else if self
            .said
            .is_none_or(|said| now.saturating_duration_since(said) >= REMIND)
        {
            self.said = Some(now);
            let limit = self.limit.map_or("for ever".to_owned(), |limit| {
                format!("at most {} s", limit.as_secs())
            });
            log::warn!(
                "waiting for {} to found {cluster}: {} s, {limit}",
                self.primary,
                waited.as_secs()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::{LiveCluster, LiveMember, LiveRole};

    fn patience(instance: &str, minutes: u32) -> Patience {
        let text = format!(
            "schema = 1\nname = \"x\"\n[network]\nsubnet = \"10.0.0.0/24\"\n[[meta]]\nname = \"meta\"\naddress = \"10.0.0.1\"\n\
             [[cluster]]\nname = \"pg-meta\"\n[[cluster.member]]\nseq = 1\naddress = \"10.0.0.1\"\nrole = \"primary\"\n\
             [[cluster]]\nname = \"c\"\nbootstrap_fallback_minutes = {minutes}\n\
             [[cluster.member]]\nseq = 1\naddress = \"10.0.0.11\"\nrole = \"primary\"\n\
             [[cluster.member]]\nseq = 2\naddress = \"10.0.0.12\"\nrole = \"replica\"\n\
             [[cluster.member]]\nseq = 3\naddress = \"10.0.0.13\"\nrole = \"replica\"\n\
             [[cluster.member]]\nseq = 4\naddress = \"10.0.0.14\"\nrole = \"offline\"\n"
        );
        let deployment = Deployment::parse(&text).unwrap();
        let machine = deployment.machine(instance).unwrap();
        Patience::new(&deployment, &machine)
    }

    fn seen(list: &[(&str, &str)], last_leader: Option<&str>) -> Members {
        let name = |text: &str| Name::parse(text).unwrap();
        let live = |state: &str| LiveMember {
            address: [10, 0, 0, 9].into(),
            role: LiveRole::Replica,
            state: state.into(),
            timeline: None,
            tags: Default::default(),
        };
        let cluster = LiveCluster {
            leader: None,
            last_leader: last_leader.map(name),
            founder: None,
            members: list
                .iter()
                .map(|(member, state)| (name(member), live(state)))
                .collect(),
        };
        Members {
            clusters: [(name("c"), cluster)].into(),
        }
    }

    /// Instance, minutes to wait, minutes waited, who is there, who led, whether it founds.
    #[test]
    fn the_lowest_live_replica_founds_when_the_time_is_over() {
        let two_and_three: &[_] = &[("c-2", "stopped"), ("c-3", "stopped")];
        for (instance, limit, waited, list, led, founds) in [
            ("c-2", 10, 9, two_and_three, None, false),
            ("c-2", 10, 10, two_and_three, None, true),
            ("c-3", 10, 60, two_and_three, None, false),
            ("c-3", 10, 60, &two_and_three[1..], None, true),
            ("c-4", 10, 60, &[("c-4", "stopped")], None, false),
            ("c-1", 10, 60, two_and_three, None, false),
            ("c-2", 0, 6000, two_and_three, None, false),
            ("c-2", 10, 60, two_and_three, Some("c-3"), false),
            (
                "c-2",
                10,
                60,
                &[("c-2", "stopped"), ("c-3", "running")],
                None,
                false,
            ),
        ] {
            let mut patience = patience(instance, limit);
            let start = Instant::now();
            for minute in 0..=waited {
                let mut found = seen(list, led);
                patience.watch_at(&mut found, start + Duration::from_secs(60 * minute));
                let founder = found.clusters["c"].founder.as_ref().map(Name::as_str);
                let expected = (founds && minute >= u64::from(limit)).then_some(instance);
                assert_eq!(founder, expected, "{instance} {limit} {minute} {led:?}");
            }
        }
    }
}
