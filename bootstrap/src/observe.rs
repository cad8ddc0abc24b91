//! Asks who is there: the local Patroni about its own cluster, or the consensus store about all of them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::deployment::Machine;
use crate::http;
use crate::members::{self, Members};
use crate::metadata::Metadata;
use crate::render::Keyring;
use crate::store;
use crate::values::{Name, Role};

/// Limit of one exchange: with the pause between two looks, a change is seen within 10 s even when one of them fails.
const LIMIT: Duration = Duration::from_secs(3);

/// Socket of this machine's HAProxy, which adds TLS; where it is not, Patroni speaks plain HTTP.
const PATRONI_SOCKET: &str = "/run/haproxy/patroni.sock";

/// Whose password lets a meta node into the store.
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
        let end = store::range_end(members::NAMESPACE);
        let body =
            json!({"key": STANDARD.encode(members::NAMESPACE), "range_end": STANDARD.encode(end)});
        let found = self.ask("/v3/kv/range", &body).and_then(|(status, text)| {
            if status == 200 {
                return members::from_etcd(&text);
            }
            // Without a login, or with one that has run out, etcd refuses: log in, and ask once more.
            self.log_in(&store::refusal(status, &text))?;
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
        let body = json!({"name": store::ROOT, "password": password.as_str()});
        let (status, text) = self.ask("/v3/auth/authenticate", &body)?;
        // Where authentication is off, the first refusal was about something else.
        let refused = || format!("{why}; login: {}", store::refusal(status, &text));
        self.token = Some(store::token(&text).ok_or_else(refused)?);
        Ok(())
    }

    fn ask(&self, path: &str, body: &Value) -> std::result::Result<(u16, String), String> {
        let base = if Path::new(store::SOCKET).exists() {
            format!("unix:{}:", store::SOCKET)
        } else {
            format!("http://{}:2379", self.hosts[self.next])
        };
        store::post(&base, self.token.as_deref(), path, body, LIMIT)
    }
}
