//! Renders the catalogue's templates and expressions. Strict: an unknown name is an error.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value};
use sha2::{Digest, Sha256};

use crate::catalogue::Catalogue;
use crate::error::{Error, Result};
use crate::fragment::SecretFile;
use crate::pki::Mint;
use crate::secrets::{ClusterSecret, cluster_secret, deployment_password, password};

/// The secrets a node holds, for the templates' `password` function.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    secret: SecretFile,
    own_cluster: Option<String>,
}

impl Keyring {
    /// The secrets of a fragment; `own_cluster` is the default of `password`.
    pub fn new(secret: SecretFile, own_cluster: Option<String>) -> Self {
        Keyring {
            secret,
            own_cluster,
        }
    }

    fn cluster(&self, cluster: &str) -> Option<ClusterSecret> {
        let own = self.secret.clusters.get(cluster).cloned();
        let generation = self.secret.generation;
        own.or_else(|| {
            Some(cluster_secret(
                self.secret.deployment.as_ref()?,
                generation,
                cluster,
            ))
        })
    }

    pub(crate) fn password(
        &self,
        user: &str,
        cluster: Option<&str>,
    ) -> std::result::Result<String, String> {
        let cluster = cluster.or(self.own_cluster.as_deref());
        let cluster =
            cluster.ok_or("this machine belongs to no cluster: write password(user, cluster)")?;
        let secret = self.cluster(cluster).ok_or_else(|| {
            format!("this machine holds no secret of cluster {cluster}; its node fragment needs [secret]")
        })?;
        Ok(password(&secret, self.secret.generation, user))
    }

    pub(crate) fn deployment_password(&self, user: &str) -> std::result::Result<String, String> {
        let secret = self
            .secret
            .deployment
            .as_ref()
            .ok_or("this machine holds no deployment secret")?;
        Ok(deployment_password(secret, self.secret.generation, user))
    }
}

/// A rendered text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Whether a password or private key is in it.
    pub secret: bool,
}

/// Renders for one node.
pub struct Renderer {
    environment: Environment<'static>,
    secret_used: Arc<AtomicBool>,
    mint: Arc<OnceLock<Mint>>,
}

impl Renderer {
    /// A renderer for the catalogue's templates and a node's secrets.
    pub fn new(catalogue: &Catalogue, keyring: Keyring) -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        set_whitespace(&mut environment);
        let mut templates = BTreeMap::new();
        for (name, service) in &catalogue.services {
            for (file, text) in &service.templates {
                templates.insert(format!("{name}/{file}"), text.clone());
            }
        }
        environment.set_loader(move |name| Ok(templates.get(name).cloned()));
        // An include stays in the service's folder.
        environment.set_path_join_callback(|name, parent| {
            let folder = parent.split('/').next().unwrap_or_default();
            format!("{folder}/{name}").into()
        });
        let secret_used = Arc::new(AtomicBool::new(false));
        let mint = Arc::new(OnceLock::new());
        add_passwords(&mut environment, keyring, &secret_used);
        add_certificates(&mut environment, &mint, &secret_used);
        environment.add_function("fail", |text: &str| {
            Err::<Value, _>(complaint(text.to_owned()))
        });
        add_filters(&mut environment);
        Renderer {
            environment,
            secret_used,
            mint,
        }
    }

    /// Says who makes certificates. That takes the names of the portal, which take rendering; before, there are none.
    pub fn set_mint(&self, mint: Mint) {
        // The first one counts: a renderer is for one node.
        let _ = self.mint.set(mint);
    }

    /// Renders a template file of a service.
    ///
    /// # Errors
    /// `FR-TEMPLATE`.
    pub fn file(&self, service: &str, template: &str, context: &Value) -> Result<Rendered> {
        self.secret_used.store(false, Ordering::Relaxed);
        let name = format!("{service}/{template}");
        let text = self
            .environment
            .get_template(&name)
            .and_then(|found| found.render(context))
            .map_err(|error| self.refuse(service, template, &error))?;
        Ok(self.rendered(text))
    }

    /// Renders a short text, such as a path.
    ///
    /// # Errors
    /// `FR-TEMPLATE`.
    pub fn text(
        &self,
        service: &str,
        key: &str,
        source: &str,
        context: &Value,
    ) -> Result<Rendered> {
        self.secret_used.store(false, Ordering::Relaxed);
        if !source.contains('{') {
            return Ok(self.rendered(source.to_owned()));
        }
        let name = format!("{service}/{key}");
        let text = self
            .environment
            .render_named_str(&name, source, context)
            .map_err(|error| self.refuse(service, key, &error))?;
        Ok(self.rendered(text))
    }

    /// Evaluates an expression.
    ///
    /// # Errors
    /// `FR-TEMPLATE`.
    pub fn value(&self, service: &str, key: &str, source: &str, context: &Value) -> Result<Value> {
        let refuse = |error: minijinja::Error| {
            template_error(
                service,
                key,
                0,
                format!("{} in `{source}`", message(&error)),
            )
        };
        let value = self
            .environment
            .compile_expression(source)
            .map_err(refuse)?
            .eval(context)
            .map_err(refuse)?;
        if value.is_undefined() {
            let text = format!("undefined value in `{source}`");
            return Err(template_error(service, key, 0, text));
        }
        Ok(value)
    }

    /// Whether an optional condition holds; none does.
    ///
    /// # Errors
    /// `FR-TEMPLATE`.
    pub fn holds(
        &self,
        service: &str,
        key: &str,
        source: Option<&str>,
        context: &Value,
    ) -> Result<bool> {
        source.map_or(Ok(true), |source| {
            self.value(service, key, source, context)
                .map(|value| value.is_true())
        })
    }

    fn rendered(&self, text: String) -> Rendered {
        let secret = self.secret_used.load(Ordering::Relaxed);
        Rendered { text, secret }
    }

    /// The engine's error with the template's line, since "undefined value" alone does not say which.
    fn refuse(&self, service: &str, template: &str, error: &minijinja::Error) -> Error {
        let line = error.line().unwrap_or(0);
        let name = error.name().unwrap_or_default();
        let shown = name
            .strip_prefix(service)
            .map_or(template, |rest| rest.trim_start_matches('/'));
        let source = self
            .environment
            .get_template(name)
            .ok()
            .map(|found| found.source().to_owned());
        let text = source
            .as_deref()
            .and_then(|source| source.lines().nth(line.checked_sub(1)?));
        let text = text
            .map(|text| format!(" in `{}`", text.trim()))
            .unwrap_or_default();
        template_error(service, shown, line, format!("{}{text}", message(error)))
    }
}

/// Block tags leave no blank lines, and files end as their templates do.
fn set_whitespace(environment: &mut Environment<'static>) {
    let mut syntax = environment.syntax().to_builder();
    syntax
        .trim_blocks(true)
        .lstrip_blocks(true)
        .keep_trailing_newline(true);
    if let Ok(syntax) = syntax.build() {
        environment.set_syntax(syntax);
    }
}

fn template_error(service: &str, template: &str, line: usize, message: String) -> Error {
    Error::Template {
        service: service.to_owned(),
        template: template.to_owned(),
        line,
        message,
    }
}

fn message(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    }
}

fn complaint(text: String) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, text)
}

fn add_passwords(
    environment: &mut Environment<'static>,
    keyring: Keyring,
    secret_used: &Arc<AtomicBool>,
) {
    let keyring = Arc::new(keyring);
    let (held, used) = (Arc::clone(&keyring), Arc::clone(secret_used));
    environment.add_function("password", move |user: &str, cluster: Option<&str>| {
        used.store(true, Ordering::Relaxed);
        held.password(user, cluster).map_err(complaint)
    });
    let used = Arc::clone(secret_used);
    environment.add_function("deployment_password", move |user: &str| {
        used.store(true, Ordering::Relaxed);
        keyring.deployment_password(user).map_err(complaint)
    });
}

/// Purpose of a certificate when the template names none.
const DEFAULT_PURPOSE: &str = "node";

fn add_certificates(
    environment: &mut Environment<'static>,
    mint: &Arc<OnceLock<Mint>>,
    secret_used: &Arc<AtomicBool>,
) {
    fn made<T>(
        mint: &OnceLock<Mint>,
        make: impl FnOnce(&Mint) -> std::result::Result<T, String>,
    ) -> std::result::Result<T, minijinja::Error> {
        let mint = mint
            .get()
            .ok_or_else(|| complaint("there are no certificates here".to_owned()))?;
        make(mint).map_err(complaint)
    }
    let held = Arc::clone(mint);
    environment.add_function("ca_certificate", move || made(&held, Mint::ca_certificate));
    let held = Arc::clone(mint);
    environment.add_function("anchor", move |kind: &str| {
        made(&held, |mint| mint.anchor(kind))
    });
    let held = Arc::clone(mint);
    environment.add_function("certificate", move |kind: &str, purpose: Option<&str>| {
        let purpose = purpose.unwrap_or(DEFAULT_PURPOSE);
        made(&held, |mint| mint.certificate(kind, purpose))
    });
    let (held, used) = (Arc::clone(mint), Arc::clone(secret_used));
    environment.add_function("private_key", move |kind: &str, purpose: Option<&str>| {
        used.store(true, Ordering::Relaxed);
        let purpose = purpose.unwrap_or(DEFAULT_PURPOSE);
        made(&held, |mint| mint.private_key(kind, purpose)).map(|pem| pem.as_str().to_owned())
    });
}

fn add_filters(environment: &mut Environment<'static>) {
    environment.add_filter("json", |value: Value| {
        serde_json::to_string(&value).map_err(|error| complaint(error.to_string()))
    });
    environment.add_filter("sql_id", |text: &str| {
        format!("\"{}\"", text.replace('"', "\"\""))
    });
    environment.add_filter("sql_text", |text: &str| sql_text(text));
    environment.add_filter("shell", |text: &str| {
        format!("'{}'", text.replace('\'', "'\\''"))
    });
    environment.add_filter("slug", |text: &str| slug(text));
    environment.add_filter("sha256", |text: &str| hex::encode(Sha256::digest(text)));
}

/// A literal that means the same whatever `standard_conforming_strings` is.
fn sql_text(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

fn slug(text: &str) -> String {
    text.to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renderer(template: &str) -> Renderer {
        let service = "schema = 1\nname = \"s\"\ndescription = \"\"\nroles = [\"meta\"]\n";
        let files = [
            ("s/service.toml", service),
            ("s/t", template),
            ("s/part", "part {{ x }}"),
        ];
        let files = files.map(|(name, text)| (name.to_owned(), text.to_owned()));
        Renderer::new(&Catalogue::from_files(files).unwrap(), Keyring::default())
    }

    #[test]
    fn templates() {
        let context = Value::from_pairs([("x", Value::from("a'b\\")), ("none", Value::from(()))]);
        for (template, expected) in [
            ("{% include \"part\" %}\n", "part a'b\\"),
            ("{% if none %}\n  x\n{% endif %}\nend\n", "end\n"),
            ("{{ x | sql_text }}", " E'a''b\\\\'"),
            ("{{ x | shell }}", "'a'\\''b\\'"),
            ("{{ x | slug }} {{ [1, x] | json }}", "a_b_ [1,\"a'b\\\\\"]"),
            ("{{ 'x\"y' | sql_id }}", "\"x\"\"y\""),
        ] {
            assert_eq!(
                renderer(template).file("s", "t", &context).unwrap().text,
                expected
            );
        }
    }

    #[test]
    fn errors_say_where() {
        for (template, expected) in [
            (
                "a\n{{ nothing.here }}\n",
                "service s: t, line 2: undefined value in `{{ nothing.here }}`",
            ),
            (
                "{{ fail('no') }}",
                "service s: t, line 1: no in `{{ fail('no') }}`",
            ),
            ("{{ password('u', 'c') }}", "holds no secret of cluster c"),
            ("{% include '../s/part' %}", "service s: t, line 1: "),
            ("{% if %}", "service s: t, line 1: "),
        ] {
            let error = renderer(template)
                .file("s", "t", &Value::from(()))
                .unwrap_err();
            assert!(error.to_string().contains(expected), "{template}: {error}");
        }
    }
}
