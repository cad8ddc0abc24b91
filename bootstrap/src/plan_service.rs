//! Adds one service after another to a plan: renders its directories, files, links, tasks and health check, and refuses
//! what no machine should do.

use std::collections::BTreeMap;

use minijinja::{Value, context};

use crate::catalogue::Service;
use crate::deployment::insert_sorted;
use crate::error::{Invalid, Result};
use crate::plan::{self, Content, Directory, File, Health, Link, Plan, Probe, Task};
use crate::render::Renderer;
use crate::service::{
    DirectoryFile, HealthFile, HealthKind, LinkFile, Mode, TaskFile, TemplateFile,
};
use crate::values::SqlName;

/// A plan in the making.
pub(crate) struct Planner<'a> {
    pub(crate) renderer: &'a Renderer,
    pub(crate) context: Value,
    /// Who writes each path.
    pub(crate) owners: BTreeMap<String, String>,
    pub(crate) plan: Plan,
}

impl Planner<'_> {
    pub(crate) fn add_network(&mut self, files: Vec<(String, String)>) -> Result<()> {
        for (path, text) in files {
            self.claim("network", &path)?;
            self.plan.network.push(File {
                path,
                owner: "root".into(),
                group: "root".into(),
                mode: Mode(0o644),
                content: Content {
                    text,
                    secret: false,
                },
                service: None,
                restart: true,
                each: false,
            });
        }
        Ok(())
    }

    pub(crate) fn add_service(&mut self, service: &Service, here: &[&Service]) -> Result<()> {
        let file = &service.file;
        let name = file.name.as_str();
        for directory in &file.directory {
            self.add_directory(name, directory)?;
        }
        for template in &file.file {
            self.add_files(name, template)?;
        }
        for link in &file.link {
            self.add_link(name, link)?;
        }
        let mut tasks = Vec::new();
        for task in &file.task {
            tasks.extend(self.task(name, task)?);
        }
        let after = file
            .after
            .iter()
            .filter(|other| here.iter().any(|s| s.file.name.as_str() == other.as_str()));
        let health = file
            .health
            .as_ref()
            .map(|health| self.health(name, health))
            .transpose()?;
        self.plan.services.push(plan::Service {
            name: name.to_owned(),
            unit: file.unit.clone(),
            after: after.cloned().collect(),
            start: file.start,
            tasks,
            health,
            reload: file.reload.as_ref().map(|reload| reload.command.clone()),
        });
        Ok(())
    }

    fn add_directory(&mut self, service: &str, file: &DirectoryFile) -> Result<()> {
        if !self.renderer.holds(
            service,
            "directory.when",
            file.when.as_deref(),
            &self.context,
        )? {
            return Ok(());
        }
        let path = self.path(service, "directory.path", &file.path, &self.context)?;
        check_owner(service, &file.owner, &file.group)?;
        let directory = Directory {
            path,
            owner: file.owner.clone(),
            group: file.group.clone(),
            mode: file.mode,
        };
        // Two services may share a directory, but must agree on it.
        let same = self
            .plan
            .directories
            .iter()
            .find(|other| other.path == directory.path);
        if same.is_some_and(|other| *other != directory) {
            let message = format!("{} is wanted with two owners or modes", directory.path);
            return Err(refuse(service, "FR-CATALOGUE-PATH-TWICE", message));
        }
        if same.is_none() {
            insert_sorted(&mut self.plan.directories, directory, |a, b| {
                a.path < b.path
            });
        }
        Ok(())
    }

    fn add_files(&mut self, service: &str, file: &TemplateFile) -> Result<()> {
        let Some(list) = &file.for_each else {
            return self.add_file(service, file, &self.context.clone());
        };
        let items = self
            .renderer
            .value(service, "file.for_each", list, &self.context)?;
        let items = items.try_iter().map_err(|_| {
            let message = format!("`{list}` is no list");
            refuse(service, "FR-CATALOGUE", message)
        })?;
        for item in items {
            let context = context! { item, ..self.context.clone() };
            self.add_file(service, file, &context)?;
        }
        Ok(())
    }

    fn add_file(&mut self, service: &str, file: &TemplateFile, context: &Value) -> Result<()> {
        if !self
            .renderer
            .holds(service, "file.when", file.when.as_deref(), context)?
        {
            return Ok(());
        }
        let path = self.path(service, "file.path", &file.path, context)?;
        check_owner(service, &file.owner, &file.group)?;
        self.claim(service, &path)?;
        let rendered = self.renderer.file(service, &file.template, context)?;
        let secret = file.secret || rendered.secret;
        let mode = file
            .mode
            .unwrap_or(Mode(if secret { 0o600 } else { 0o644 }));
        if secret && mode.0 & 0o007 != 0 {
            let message =
                format!("{path} holds a secret and has mode {mode}: everybody could read it");
            return Err(refuse(service, "FR-CATALOGUE-SECRET", message));
        }
        self.plan.files.push(File {
            path,
            owner: file.owner.clone(),
            group: file.group.clone(),
            mode,
            content: Content {
                text: rendered.text,
                secret,
            },
            service: Some(service.to_owned()),
            restart: file.restart,
            each: file.for_each.is_some(),
        });
        Ok(())
    }

    fn add_link(&mut self, service: &str, file: &LinkFile) -> Result<()> {
        if !self
            .renderer
            .holds(service, "link.when", file.when.as_deref(), &self.context)?
        {
            return Ok(());
        }
        let path = self.path(service, "link.path", &file.path, &self.context)?;
        self.claim(service, &path)?;
        let target = self.public(service, "link.target", &file.target)?;
        self.plan.links.push(Link {
            path,
            target,
            service: service.to_owned(),
        });
        Ok(())
    }

    fn task(&self, service: &str, file: &TaskFile) -> Result<Option<Task>> {
        let key = format!("task {}", file.name);
        if !self
            .renderer
            .holds(service, &key, file.when.as_deref(), &self.context)?
        {
            return Ok(None);
        }
        check_owner(service, &file.user, "root")?;
        let mut env = BTreeMap::new();
        for (name, value) in &file.env {
            let text = self
                .renderer
                .text(service, &key, value, &self.context)?
                .text;
            env.insert(name.clone(), Content { text, secret: true });
        }
        let stdin = file
            .stdin
            .as_ref()
            .map(|name| self.renderer.file(service, name, &self.context))
            .transpose()?;
        let creates = file.creates.as_ref();
        let creates = creates
            .map(|path| self.path(service, &key, path, &self.context))
            .transpose()?;
        Ok(Some(Task {
            name: file.name.clone(),
            phase: file.phase,
            command: self.words(service, &key, &file.command)?,
            user: file.user.clone(),
            stdin: stdin.map(|rendered| Content {
                text: rendered.text,
                secret: true,
            }),
            env,
            creates,
            touch: file.touch,
            retry: file.retry,
            timeout_seconds: file.timeout_seconds,
        }))
    }

    fn health(&self, service: &str, file: &HealthFile) -> Result<Health> {
        let text = |source: &Option<String>| -> Result<String> {
            self.public(service, "health", source.as_deref().unwrap_or_default())
        };
        let probe = match file.kind {
            HealthKind::Http => Probe::Http {
                url: text(&file.url)?,
                status: file.status.0.clone(),
                contains: file
                    .contains
                    .as_ref()
                    .map(|t| self.public(service, "health", t))
                    .transpose()?,
            },
            HealthKind::Tcp => Probe::Tcp {
                address: text(&file.address)?,
            },
            HealthKind::Exec => Probe::Exec {
                command: self.words(service, "health", &file.command)?,
                user: file.user.clone(),
            },
        };
        Ok(Health {
            probe,
            timeout_seconds: file.timeout_seconds,
        })
    }

    fn words(&self, service: &str, key: &str, words: &[String]) -> Result<Vec<String>> {
        words
            .iter()
            .map(|word| self.public(service, key, word))
            .collect()
    }

    /// A text that other users can see, such as a command line: no password may be in it.
    fn public(&self, service: &str, key: &str, source: &str) -> Result<String> {
        let rendered = self.renderer.text(service, key, source, &self.context)?;
        if rendered.secret {
            let message = format!("{key}: a password in a place that everybody can read");
            return Err(refuse(service, "FR-CATALOGUE-SECRET", message));
        }
        Ok(rendered.text)
    }

    fn path(&self, service: &str, key: &str, source: &str, context: &Value) -> Result<String> {
        let path = self.renderer.text(service, key, source, context)?.text;
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        let right = path
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(plain));
        if !right || path.chars().any(char::is_control) || path.len() > 1024 {
            let message = format!("{key}: {path:?} is no absolute path");
            return Err(refuse(service, "FR-CATALOGUE-PATH", message));
        }
        Ok(path)
    }

    fn claim(&mut self, service: &str, path: &str) -> Result<()> {
        if let Some(other) = self.owners.insert(path.to_owned(), service.to_owned()) {
            let message = format!("{path} is written by {other} too");
            return Err(refuse(service, "FR-CATALOGUE-PATH-TWICE", message));
        }
        Ok(())
    }
}

fn check_owner(service: &str, owner: &str, group: &str) -> Result<()> {
    for name in [owner, group] {
        SqlName::parse(name).map_err(|_| {
            let message = format!("{name:?} is no name of a user or group");
            refuse(service, "FR-CATALOGUE", message)
        })?;
    }
    Ok(())
}

fn refuse(service: &str, code: &'static str, message: String) -> crate::Error {
    Invalid::new(code, "", message, "")
        .in_document(&format!("service {service}"))
        .into()
}
