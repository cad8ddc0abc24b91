//! Asks who is there: the local Patroni about its own cluster, or the consensus store about all of them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::deployment::Machine;
use crate::http::{self, Request};
use crate::members::{self, Members};
use crate::metadata::Metadata;
use crate::render::Keyring;
use crate::values::{Name, Role};

/// Limit of one exchange: with the pause between two looks, a change is seen within 10 s even when one of them fails.
const LIMIT: Duration = Duration::from_secs(3);

/// Sockets of this machine's HAProxy, which adds TLS; where they are not, Patroni and etcd speak plain HTTP.
const PATRONI_SOCKET: &str = "/run/haproxy/patroni.sock";
const ETCD_SOCKET: &str = "/run/haproxy/etcd.sock";

/// The store's user with all rights; meta nodes know its password.
const ETCD_USER: &str = "root";

/// User whose password that is.
const ETCD_PASSWORD: &str = "etcd-root";

/// Address of a page of the local Patroni.
pub fn patroni(path: &str) -> String {
    if Path::new(PATRONI_SOCKET).exists() {
        format!("unix:{PATRONI_SOCKET}:{path}")
    } else {
        format!("http://127.0.0.1:8008{path}")
    }
}

/// Whom to ask.
#[derive(Debug)]
pub enum Source {
    /// The local Patroni, about this cluster.
    Patroni(Name),
    /// The store, about all clusters.
    Etcd(Etcd),
}

impl Source {
    /// A meta node asks the store, a database node its Patroni.
    pub fn of(metadata: &Metadata, machine: &Machine) -> Option<Self> {
        let cluster = machine.member.as_ref()?.cluster.clone();
        if machine.role == Role::Database {
            return Some(Source::Patroni(cluster));
        }
        let keyring = Keyring::new(metadata.fragment.secret.clone(), Some(cluster.to_string()));
        // Its own member of the store first.
        let mut hosts = vec![machine.address];
        let others = metadata.deployment.meta.iter().map(|meta| meta.address);
        hosts.extend(others.filter(|address| *address != machine.address));
        Some(Source::Etcd(Etcd {
            hosts,
            next: 0,
            password: keyring
                .deployment_password(ETCD_PASSWORD)
                .ok()
                .map(Zeroizing::new),
            token: None,
        }))
    }

    /// Looks once.
    ///
    /// # Errors
    /// Why nothing is known, in a few words.
    pub fn look(&mut self) -> std::result::Result<Members, String> {
        match self {
            Source::Patroni(cluster) => {
                let response = http::get(&patroni("/cluster"), LIMIT).map_err(|e| e.to_string())?;
                if response.status != 200 {
                    return Err(format!("Patroni answers {}", response.status));
                }
                let found = members::from_patroni(&response.body)?;
                Ok(Members {
                    clusters: [(cluster.clone(), found)].into(),
                })
            }
            Source::Etcd(etcd) => etcd.look(),
        }
    }
}

/// etcd's gateway from JSON to gRPC (its documentation, "gRPC gateway").
#[derive(Debug)]
pub struct Etcd {
    hosts: Vec<Ipv4Addr>,
    /// Which of them is asked next.
    next: usize,
    password: Option<Zeroizing<String>>,
    /// What a login gave; none before it was asked for one.
    token: Option<String>,
}

impl Etcd {
    fn look(&mut self) -> std::result::Result<Members, String> {
        // The end is the first key that does not begin with the namespace: its last byte plus one.
        let end = members::NAMESPACE.trim_end_matches('/').to_owned() + "0";
        let body =
            json!({"key": STANDARD.encode(members::NAMESPACE), "range_end": STANDARD.encode(end)});
        let found = self.ask("/v3/kv/range", &body).and_then(|(status, text)| {
            if status == 200 {
                return members::from_etcd(&text);
            }
            // Without a login, or with one that has run out, etcd refuses: log in, and ask once more.
            self.log_in(&refusal(status, &text))?;
            let (_, text) = self.ask("/v3/kv/range", &body)?;
            members::from_etcd(&text)
        });
        if found.is_err() {
            self.next = (self.next + 1) % self.hosts.len();
        }
        found
    }

    fn log_in(&mut self, why: &str) -> std::result::Result<(), String> {
        self.token = None;
        let Some(password) = &self.password else {
            return Err(why.to_owned());
        };
        let body = json!({"name": ETCD_USER, "password": password.as_str()});
        let (status, text) = self.ask("/v3/auth/authenticate", &body)?;
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        let token = answer["token"]
            .as_str()
            .filter(|token| token.bytes().all(|b| b.is_ascii_graphic()));
        // Where authentication is off, the first refusal was about something else.
        let token = token.ok_or_else(|| format!("{why}; login: {}", refusal(status, &text)))?;
        self.token = Some(token.to_owned());
        Ok(())
    }

    fn ask(&self, path: &str, body: &Value) -> std::result::Result<(u16, String), String> {
        let url = if Path::new(ETCD_SOCKET).exists() {
            format!("unix:{ETCD_SOCKET}:{path}")
        } else {
            format!("http://{}:2379{path}", self.hosts[self.next])
        };
        let token = self.token.iter();
        let request = Request {
            url: &url,
            headers: token
                .map(|token| ("Authorization", token.clone()))
                .collect(),
            body: Some(body.to_string()),
        };
        let response = http::send(&request, LIMIT).map_err(|error| error.to_string())?;
        Ok((response.status, response.body))
    }
}

/// etcd's message, or the status.
fn refusal(status: u16, text: &str) -> String {
    let answer: Value = serde_json::from_str(text).unwrap_or_default();
    let message = answer["error"].as_str().unwrap_or_default();
    let message: String = message
        .chars()
        .filter(|c| !c.is_control())
        .take(100)
        .collect();
    format!("etcd answers {status} {message}")
}
