//! etcd's users and their rights: root may everything, each cluster what is below `/pg/CLUSTER/`.
//!
//! Every meta node sees to this at every boot, also at the same moment: a step that another one did meanwhile is done.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::http::{self, Request};
use crate::members::NAMESPACE;

/// Socket of this machine's HAProxy, which adds TLS and goes to this machine's member of the store first.
pub const SOCKET: &str = "/run/haproxy/etcd.sock";

/// The store's user with all rights; meta nodes know its password.
pub(crate) const ROOT: &str = "root";

/// Limit of one exchange.
const LIMIT: Duration = Duration::from_secs(10);

/// What etcd says of names that exist (its server/etcdserver/api/v3rpc/rpctypes/error.go).
const EXISTS: [&str; 2] = ["user name already exists", "role name already exists"];

/// What it says to a login while nobody has to log in.
const DISABLED: &str = "authentication is not enabled";

/// Who may do what.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// Root's password.
    root: Zeroizing<String>,
    clusters: Vec<ClusterUser>,
}

/// A cluster's own user.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterUser {
    /// Name of the cluster, its user and its role.
    name: String,
    password: Zeroizing<String>,
}

/// One request to etcd's gateway from JSON to gRPC (its documentation, "gRPC gateway"): status and body.
///
/// # Errors
/// Why there is no answer.
pub(crate) fn post(
    base: &str,
    token: Option<&str>,
    path: &str,
    body: &Value,
    limit: Duration,
) -> std::result::Result<(u16, String), String> {
    let url = format!("{base}{path}");
    let token = token.iter();
    let request = Request {
        url: &url,
        headers: token
            .map(|token| ("Authorization", (*token).to_owned()))
            .collect(),
        body: Some(body.to_string()),
    };
    let response = http::send(&request, limit).map_err(|error| error.to_string())?;
    Ok((response.status, response.body))
}

/// The token in the answer to a login.
pub(crate) fn token(text: &str) -> Option<String> {
    let answer: Value = serde_json::from_str(text).unwrap_or_default();
    let token = answer["token"].as_str()?;
    let right = token.bytes().all(|byte| byte.is_ascii_graphic());
    right.then(|| token.to_owned())
}

/// etcd's message, or the status.
pub(crate) fn refusal(status: u16, text: &str) -> String {
    let answer: Value = serde_json::from_str(text).unwrap_or_default();
    let message = answer["error"].as_str().unwrap_or_default();
    let message: String = message
        .chars()
        .filter(|c| !c.is_control())
        .take(100)
        .collect();
    format!("etcd answers {status} {message}")
}

impl Access {
    /// Reads it from JSON.
    ///
    /// # Errors
    /// `FR-STORE`: it is not of this form.
    pub fn parse(text: &str) -> Result<Self> {
        // serde's message would quote what is there, and that may be a password.
        serde_json::from_str(text).map_err(|error| Error::Store {
            message: format!("line {}: this is no list of users", error.line()),
        })
    }

    /// Sets it up in the store behind the socket.
    ///
    /// # Errors
    /// `FR-STORE`: what etcd says, or that it cannot be reached.
    pub fn set_up(&self, socket: &Path) -> Result<()> {
        let mut store = Store {
            base: format!("unix:{}:/v3/auth/", socket.display()),
            token: None,
        };
        self.apply(&mut store)
            .map_err(|message| Error::Store { message })
    }

    fn apply(&self, store: &mut Store) -> Step<()> {
        store.token = store.log_in(ROOT, &self.root)?;
        let enabled = store.token.is_some();
        if !enabled {
            store.once("role/add", &json!({"name": ROOT}))?;
            store.add_user(ROOT, &self.root, ROOT)?;
        }
        for cluster in &self.clusters {
            store.add_role(&cluster.name, &format!("{NAMESPACE}{}/", cluster.name))?;
            store.add_user(&cluster.name, &cluster.password, &cluster.name)?;
        }
        if !enabled {
            store.ask("enable", &json!({}))?;
        }
        Ok(())
    }
}

type Step<T> = std::result::Result<T, String>;

/// The store, and the login that is in use.
struct Store {
    base: String,
    token: Option<String>,
}

impl Store {
    fn ask(&self, path: &str, body: &Value) -> Step<Value> {
        let (status, text) = post(&self.base, self.token.as_deref(), path, body, LIMIT)?;
        if status != 200 {
            return Err(refusal(status, &text));
        }
        serde_json::from_str(&text).map_err(|_| format!("etcd's answer to {path} is no JSON"))
    }

    /// Like [`Store::ask`], where what exists already is as good.
    fn once(&self, path: &str, body: &Value) -> Step<()> {
        match self.ask(path, body) {
            Err(said) if !EXISTS.iter().any(|text| said.contains(text)) => Err(said),
            _ => Ok(()),
        }
    }

    /// A token; none while nobody has to log in.
    fn log_in(&self, name: &str, password: &str) -> Step<Option<String>> {
        let body = json!({"name": name, "password": password});
        let (status, text) = post(&self.base, None, "authenticate", &body, LIMIT)?;
        match token(&text) {
            Some(token) => Ok(Some(token)),
            None if text.contains(DISABLED) => Ok(None),
            None => Err(refusal(status, &text)),
        }
    }

    /// Makes a user with this password and role. Nothing is asked for twice: each change makes all clients log in anew.
    fn add_user(&self, name: &str, password: &str, role: &str) -> Step<()> {
        let user = match self.ask("user/get", &json!({"name": name})) {
            Err(_) => {
                self.once("user/add", &json!({"name": name, "password": password}))?;
                Value::Null
            }
            Ok(user) => {
                // While nobody has to log in there is no telling whether it is right.
                if !matches!(self.log_in(name, password), Ok(Some(_))) {
                    let body = json!({"name": name, "password": password});
                    self.ask("user/changepw", &body)?;
                }
                user
            }
        };
        let has = |role: &str| {
            let mut roles = user["roles"].as_array().into_iter().flatten();
            roles.any(|found| found == role)
        };
        if has(role) {
            return Ok(());
        }
        self.ask("user/grant", &json!({"user": name, "role": role}))
            .map(drop)
    }

    /// Makes a role with all rights on the keys that begin with the prefix.
    fn add_role(&self, name: &str, prefix: &str) -> Step<()> {
        let wanted = json!({
            "permType": "READWRITE",
            "key": STANDARD.encode(prefix),
            "range_end": STANDARD.encode(range_end(prefix)),
        });
        let role = match self.ask("role/get", &json!({"role": name})) {
            Ok(role) => role,
            Err(_) => {
                self.once("role/add", &json!({"name": name}))?;
                Value::Null
            }
        };
        let mut rights = role["perm"].as_array().into_iter().flatten();
        if rights.any(|found| *found == wanted) {
            return Ok(());
        }
        self.ask("role/grant", &json!({"name": name, "perm": wanted}))
            .map(drop)
    }
}

/// The first key that does not begin with the prefix: its last byte plus one. No prefix here ends with the highest byte.
pub(crate) fn range_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_before_the_first_key_without_the_prefix() {
        assert_eq!(range_end("/pg/pg-test/"), b"/pg/pg-test0");
    }

    #[test]
    fn passwords_are_not_quoted_in_errors() {
        for text in [
            r#"{"root": "sesame"}"#,
            r#"{"root": ["sesame"], "clusters": []}"#,
            "sesame",
        ] {
            let error = Access::parse(text).map(drop).unwrap_err().to_string();
            assert!(!error.contains("sesame"), "{error}");
        }
    }

    #[test]
    fn tokens_go_into_headers() {
        assert_eq!(token(r#"{"token":"a.1"}"#).as_deref(), Some("a.1"));
        for text in [r#"{"token":"a\r\nb: c"}"#, r#"{"error":"no"}"#, "", "{}"] {
            assert_eq!(token(text), None, "{text}");
        }
        assert_eq!(
            refusal(400, r#"{"error":"a\u0007b"}"#),
            "etcd answers 400 ab"
        );
    }
}
