//! `leave`: what a member does before it goes. A leader hands over while everything still runs, so that clients wait for
//! seconds instead of for a time limit; then Patroni ends, and its last word in the store, "stopped", takes the member out of
//! everybody's configuration where it is not declared. Data stay.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::error::{Error, Result};
use crate::http::{self, Request};
use crate::members::{self, LiveCluster};
use crate::metadata::Metadata;
use crate::observe::patroni;
use crate::process::Program;
use crate::render::Keyring;
use crate::values::Name;
use crate::{Facts, record, role, sources, units};

/// How long to hand over at most: a machine that goes down must not wait for long.
const LIMIT: Duration = Duration::from_secs(20);

/// Limit of a question.
const QUESTION: Duration = Duration::from_secs(3);

/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// How long Patroni may take to stop: PostgreSQL writes a checkpoint.
const STOP: Duration = Duration::from_secs(150);

/// User of Patroni's requests that change something.
const USER: &str = "patroni";

/// Leaves. `at_shutdown`: only if the machine is going down, where systemd stops Patroni afterwards.
///
/// # Errors
/// `FR-IO`, `FR-COMMAND`, `FR-TIMEOUT` when no other member took over; at a shutdown that is only logged.
pub fn leave(at_shutdown: bool) -> Result<()> {
    if at_shutdown && !going_down() {
        return Ok(());
    }
    let metadata = Metadata::merge(&sources::kept()?)?;
    let facts = record::facts().unwrap_or_else(Facts::probe);
    let machine = role::identify(&metadata, &facts)?;
    let Some(member) = &machine.member else {
        return Ok(());
    };
    let keyring = Keyring::new(
        metadata.fragment.secret.clone(),
        Some(member.cluster.to_string()),
    );
    let password = keyring.password(USER, None).unwrap_or_default();
    match hand_over(&member.instance, &http::basic(USER, &password)) {
        Err(error) if at_shutdown => log::warn!("{error}"),
        other => other?,
    }
    if at_shutdown {
        return Ok(());
    }
    units::stop("patroni.service", STOP)?;
    log::info!("{} has left {}", member.instance, member.cluster);
    Ok(())
}

/// Whether systemd is shutting down: "systemctl is-system-running" says "stopping", and exits with 1.
fn going_down() -> bool {
    let words = ["systemctl", "is-system-running"].map(str::to_owned);
    let program = Program {
        words: &words,
        user: None,
        stdin: None,
        env: Vec::new(),
        limit: QUESTION,
    };
    program
        .run()
        .is_ok_and(|outcome| outcome.stdout.trim() == "stopping")
}

/// Lets another member lead if this one does. Which one is Patroni's to choose: it knows who lags and who may not.
fn hand_over(instance: &str, authorization: &str) -> Result<()> {
    let end = Instant::now() + LIMIT;
    let mut silent = 0;
    loop {
        let said = match look() {
            Ok(cluster) => {
                let leads = cluster
                    .leader
                    .as_ref()
                    .is_some_and(|leader| leader.as_str() == instance);
                if !leads {
                    return Ok(());
                }
                if !anybody_else(&cluster, instance) {
                    log::info!("{instance} leads, and there is nobody to hand over to");
                    return Ok(());
                }
                log::info!("{instance} leads: handing over");
                match switch_over(instance, authorization, end) {
                    Ok(()) => return Ok(()),
                    Err(message) => message,
                }
            }
            // A Patroni that is gone leads nothing.
            Err(message) if silent == 2 => {
                log::info!("nothing to hand over: {message}");
                return Ok(());
            }
            Err(message) => {
                silent += 1;
                message
            }
        };
        if Instant::now() + PAUSE >= end {
            return Err(Error::Timeout {
                what: format!("{instance} did not hand over: {said}"),
                seconds: LIMIT.as_secs(),
            });
        }
        std::thread::sleep(PAUSE);
    }
}

/// Asks Patroni, which answers when another member leads.
fn switch_over(
    instance: &str,
    authorization: &str,
    end: Instant,
) -> std::result::Result<(), String> {
    let url = patroni("/switchover");
    let request = Request {
        url: &url,
        headers: vec![("Authorization", authorization.to_owned())],
        body: Some(json!({"leader": instance}).to_string()),
    };
    let left = end.saturating_duration_since(Instant::now()).max(QUESTION);
    let response = http::send(&request, left).map_err(|error| error.to_string())?;
    let said = response.body.trim();
    if response.status == 200 {
        log::info!("{said}");
        return Ok(());
    }
    Err(format!("Patroni answers {} {said}", response.status))
}

fn look() -> std::result::Result<LiveCluster, String> {
    let response = http::get(&patroni("/cluster"), QUESTION).map_err(|error| error.to_string())?;
    members::from_patroni(&response.body)
}

fn anybody_else(cluster: &LiveCluster, instance: &str) -> bool {
    let others = cluster
        .members
        .iter()
        .filter(|(name, _): &(&Name, _)| name.as_str() != instance);
    others.into_iter().any(|(_, member)| member.running())
}
