//! The service catalogue: folders with a `service.toml` and templates, which say what runs where and how.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::document::SCHEMA;
use crate::error::{Error, Invalid, Result};
use crate::service::{HealthKind, ServiceFile};
use crate::toml_text;
use crate::values::Name;

/// Largest template in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Deepest folder below a service.
const MAX_DEPTH: usize = 4;

/// A service of the catalogue: its description and its templates by file name.
#[derive(Debug, Clone)]
pub struct Service {
    /// `service.toml`.
    pub file: ServiceFile,
    /// Text files of the folder, by path relative to it.
    pub templates: BTreeMap<String, String>,
}

/// All services by name. Each refers only to templates it has, and the start order has no cycle.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    /// Services by name.
    pub services: BTreeMap<Name, Service>,
}

impl Catalogue {
    /// Reads a catalogue folder.
    ///
    /// # Errors
    /// `FR-IO`, `FR-CATALOGUE…`.
    pub fn load(folder: &Path) -> Result<Self> {
        let mut files = Vec::new();
        collect(folder, "", 0, &mut files)?;
        Self::from_files(files)
    }

    /// Makes a catalogue of files `NAME/service.toml` and `NAME/template`.
    ///
    /// # Errors
    /// `FR-CATALOGUE…`.
    pub fn from_files(files: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let mut folders: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for (path, text) in files {
            if let Some((folder, file)) = path.split_once('/') {
                folders
                    .entry(folder.to_owned())
                    .or_default()
                    .insert(file.to_owned(), text);
            }
        }
        let mut services = BTreeMap::new();
        for (folder, mut templates) in folders {
            let Some(text) = templates.remove("service.toml") else {
                continue;
            };
            let document = format!("{folder}/service.toml");
            let tree = toml_text::parse(&document, "FR-CATALOGUE-SYNTAX", &text)?;
            let file: ServiceFile =
                toml_text::read_tree(&document, "FR-CATALOGUE-FIELD", &tree, &text)?;
            check(&folder, &file, &templates).map_err(|invalid| {
                toml_text::locate(invalid.in_document(&document), &tree, &text)
            })?;
            services.insert(file.name.clone(), Service { file, templates });
        }
        let catalogue = Catalogue { services };
        catalogue.order()?;
        Ok(catalogue)
    }

    /// Names in start order: each after those it waits for, else by name.
    ///
    /// # Errors
    /// `FR-CATALOGUE-CYCLE`.
    pub fn order(&self) -> Result<Vec<&Name>> {
        let mut done: BTreeSet<&str> = BTreeSet::new();
        let mut order = Vec::new();
        while order.len() < self.services.len() {
            let ready = |service: &&Service| {
                let mut waits = service
                    .file
                    .after
                    .iter()
                    .filter(|name| self.services.contains_key(name.as_str()));
                !done.contains(service.file.name.as_str())
                    && waits.all(|name| done.contains(name.as_str()))
            };
            let Some(next) = self.services.values().find(ready) else {
                let rest = self
                    .services
                    .keys()
                    .filter(|name| !done.contains(name.as_str()));
                let rest: Vec<&str> = rest.map(Name::as_str).collect();
                let message = format!("these services wait for one another: {}", rest.join(", "));
                let invalid =
                    Invalid::new("FR-CATALOGUE-CYCLE", "after", message, "take one name out");
                return Err(invalid.in_document("catalogue").into());
            };
            done.insert(next.file.name.as_str());
            order.push(&next.file.name);
        }
        Ok(order)
    }
}

fn collect(
    folder: &Path,
    prefix: &str,
    depth: usize,
    files: &mut Vec<(String, String)>,
) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(|error| Error::io("list", folder, error))?;
    for entry in entries {
        let entry = entry.map_err(|error| Error::io("list", folder, error))?;
        let path = entry.path();
        let kind = fs::metadata(&path).map_err(|error| Error::io("read", &path, error))?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if kind.is_dir() && depth < MAX_DEPTH {
            collect(&path, &format!("{prefix}{name}/"), depth + 1, files)?;
        } else if kind.is_file() && kind.len() <= MAX_FILE_BYTES && depth > 0 {
            let bytes = fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
            // A file that is no text is no template, and nothing can refer to it.
            if let Ok(text) = String::from_utf8(bytes) {
                files.push((format!("{prefix}{name}"), text));
            }
        }
    }
    Ok(())
}

type Check = std::result::Result<(), Box<Invalid>>;

fn refuse(field: impl Into<String>, message: impl Into<String>, hint: &str) -> Check {
    Err(Invalid::new("FR-CATALOGUE", field, message, hint))
}

fn check(folder: &str, file: &ServiceFile, templates: &BTreeMap<String, String>) -> Check {
    if file.schema != SCHEMA {
        let message = format!("schema {} is not known", file.schema);
        return refuse("schema", message, "write schema = 1");
    }
    if file.name.as_str() != folder {
        let message = format!("the folder is called {folder}");
        return refuse("name", message, "name and folder must agree");
    }
    if file.roles.is_empty() {
        let hint = "write roles = [\"meta\"] or [\"database\"]";
        return refuse("roles", "there is no role", hint);
    }
    for (index, template) in file.file.iter().enumerate() {
        let field = format!("file[{index}].template");
        check_template(field, &template.template, templates)?;
    }
    check_tasks(file, templates)?;
    check_health(file)
}

fn check_template(field: String, name: &str, templates: &BTreeMap<String, String>) -> Check {
    if templates.contains_key(name) {
        return Ok(());
    }
    let message = format!("there is no file {name} in the folder");
    refuse(field, message, "names are relative to service.toml")
}

fn check_tasks(file: &ServiceFile, templates: &BTreeMap<String, String>) -> Check {
    let mut names = BTreeSet::new();
    for (index, task) in file.task.iter().enumerate() {
        let field = format!("task[{index}]");
        if let Some(name) = &task.stdin {
            check_template(format!("{field}.stdin"), name, templates)?;
        }
        if !names.insert(task.name.as_str()) {
            let message = format!("two tasks are called {}", task.name);
            return refuse(format!("{field}.name"), message, "rename one");
        }
        if task.command.is_empty() {
            return refuse(format!("{field}.command"), "is empty", "");
        }
        if task.touch && task.creates.is_none() {
            let hint = "name the file to be made";
            return refuse(format!("{field}.touch"), "needs creates", hint);
        }
    }
    Ok(())
}

fn check_health(file: &ServiceFile) -> Check {
    let Some(health) = &file.health else {
        return Ok(());
    };
    let (needed, given) = match health.kind {
        HealthKind::Http => ("url", health.url.is_some()),
        HealthKind::Tcp => ("address", health.address.is_some()),
        HealthKind::Exec => ("command", !health.command.is_empty()),
    };
    if given {
        return Ok(());
    }
    let message = format!("this kind of check needs {needed}");
    Err(Invalid::new("FR-CATALOGUE", "health", message, ""))
}
