//! The stages of a build, each reused when nothing that it depends on has changed.

mod repository;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bootstrap::Catalogue;
use images::architecture::Architecture;
use images::tools::ToolsTree;
use offline_repo::archive::Upstream;
use offline_repo::cache::Cache;
use offline_repo::digest::Sha256;
use offline_repo::fetch::Fetched;
use offline_repo::http::{self, Client};
use offline_repo::lock::Lock;
use offline_repo::locking;
use offline_repo::marker;
use offline_repo::mirror::Mirrors;
use offline_repo::openpgp::Keyring;
use offline_repo::progress::Progress;
use offline_repo::publish;
use offline_repo::repository::{Repository, RepositoryPackage};
use offline_repo::sbom::{self, Component, Kind, Subject};

use crate::commands::write_file;
use crate::diagnostic::{Diagnostic, Result};
use crate::embedded;
use crate::interrupt;
use crate::locks;
use crate::recipe::{self, Recipe};
use crate::session::{Done, Session, Stage};

pub use repository::{RepositoryForm, repository, signer};

/// What `repo verify` found.
pub struct Verified {
    /// Number of files listed in the marker.
    pub files: usize,
    /// SHA-256 of the manifest.
    pub manifest_sha256: String,
    /// Missing, extra and wrong files.
    pub report: marker::Report,
}

/// Where the tools tree's packages may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolsSource {
    /// The archives, when the tree is not there yet.
    Archive,
    /// Only what is on this host already.
    Present,
}

/// Connects to the archives with the mirrors that the command line, the environment or the host names.
pub fn client(session: &Session) -> Result<Client> {
    let mut overrides: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (archive, url) in &session.options.mirror {
        overrides
            .entry(archive.clone())
            .or_default()
            .push(url.clone());
    }
    let options = http::Options {
        offline: session.options.offline,
        limit_rate: session.options.limit_rate,
        ..http::Options::default()
    };
    Ok(Client::with_options(
        Mirrors::from_host(overrides),
        options,
    )?)
}

/// All package files of a lock: of the cache, of a shared cache that is named, and of the archives.
pub fn fetch(session: &Session, lock: &Lock, cache: &Cache, stage: &Stage<'_>) -> Result<Fetched> {
    if let Some(shared) = session.shared()? {
        let bytes = |done, total| stage.bytes(done, total);
        shared.fill(lock, cache, &|note| stage.note(note), &bytes);
    }
    let progress = archive_progress(stage);
    let fetched = offline_repo::fetch::fetch(lock, &client(session)?, cache, &progress)?;
    Ok(fetched)
}

/// An archive with the contents of its keys.
pub fn upstream(recipe: &Recipe, upstream: &recipe::Upstream) -> Result<Upstream> {
    Ok(Upstream {
        name: upstream.name.clone(),
        archive: upstream.archive.clone(),
        url: upstream.url.clone(),
        suites: upstream.suites.clone(),
        components: upstream.components.clone(),
        keys: recipe.keys(upstream)?,
        priority: upstream.priority,
    })
}

/// Shows a library's reports as progress of a stage.
pub fn archive_progress<'a>(stage: &'a Stage<'_>) -> impl Fn(Progress<'_>) + Sync + 'a {
    move |report| match report {
        Progress::Stage { name, .. } => stage.step(name),
        Progress::Bytes { done, total } => stage.bytes(done, total),
        Progress::Item { name, done, total } => stage.items(done, total, name),
        Progress::Trouble { server, reason } => {
            stage.warn(&format!("{server} had trouble: {reason}"))
        }
    }
}

/// The catalogue that farrow carries.
pub fn catalogue() -> Result<Catalogue> {
    let files = embedded::catalogue()
        .into_iter()
        .filter_map(|(path, content)| Some((path, String::from_utf8(content.to_vec()).ok()?)));
    Catalogue::from_files(files)
        .map_err(|error| Diagnostic::failed(error.code(), error.to_string()))
}

/// The time in everything that is made: `SOURCE_DATE_EPOCH`, else the newest index date of the lock.
pub fn epoch(lock: &Lock) -> u64 {
    let given = std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| lock.epoch())
}

/// What the bills of materials of a repository are about.
struct Contents {
    subject: Subject,
    components: Vec<Component>,
}

fn contents(path: &Path, lock: &Lock) -> Result<Contents> {
    let repository = Repository::open(path, None)?;
    let manifest = repository.manifest();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let subject = Subject {
        name: name.into_owned(),
        version: manifest.to_string()[..12].to_string(),
        digest: manifest,
        epoch: epoch(lock),
        tool: ("farrow".into(), env!("CARGO_PKG_VERSION").into()),
        kind: Kind::Repository,
    };
    let packages = repository.packages().iter();
    Ok(Contents {
        subject,
        components: packages.map(Component::of).collect(),
    })
}

/// The bill of materials of a repository, in SPDX or in CycloneDX.
pub fn sbom(path: &Path, lock: &Lock, is_spdx: bool) -> Result<String> {
    let found = contents(path, lock)?;
    Ok(match is_spdx {
        true => sbom::spdx(&found.subject, &found.components),
        false => sbom::cyclonedx(&found.subject, &found.components),
    })
}

/// Both bills of materials of a repository: SPDX, then CycloneDX.
fn sboms(path: &Path, lock: &Lock) -> Result<[String; 2]> {
    let found = contents(path, lock)?;
    Ok([
        sbom::spdx(&found.subject, &found.components),
        sbom::cyclonedx(&found.subject, &found.components),
    ])
}

/// Checks a repository folder, or a tarball, against its marker. With keys, one of them must have signed it.
pub fn verify(path: &Path, keyring: Option<&Keyring>, stage: &Stage<'_>) -> Result<Verified> {
    let progress = archive_progress(stage);
    let (marker, report) = match path.is_dir() {
        true => offline_repo::verify::folder(path, keyring, &progress)?,
        false => offline_repo::verify::bundle(path, keyring, &progress)?,
    };
    Ok(Verified {
        files: marker.files.len(),
        manifest_sha256: marker.manifest.to_string(),
        report,
    })
}

/// The packages of a repository folder or tarball.
pub fn packages_of(path: &Path, stage: &Stage<'_>) -> Result<Vec<RepositoryPackage>> {
    if path.is_dir() {
        return Ok(Repository::open(path, None)?.packages().to_vec());
    }
    let progress = archive_progress(stage);
    Ok(offline_repo::repository::packages_of_bundle(
        path, &progress,
    )?)
}

/// The tools tree: the one of its lock, unpacked when it is not there yet.
pub fn tools(session: &Session, source: ToolsSource) -> Result<ToolsTree> {
    tools_of(session, "tools", source)
}

/// Name of the recipe of the tools tree that bakes and boots images for a processor.
pub fn tools_recipe(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Amd64 => "tools",
        Architecture::Arm64 => "tools-arm64",
    }
}

/// The tree of programs that another recipe lists.
pub fn tools_of(session: &Session, recipe: &str, source: ToolsSource) -> Result<ToolsTree> {
    let recipe = Recipe::load(recipe)?;
    let path = session.paths.tools.join(format!("{}.lock", recipe.name));
    let lock = match source {
        ToolsSource::Present => present_lock(&path, &recipe)?,
        ToolsSource::Archive => tools_lock(session, &recipe, &path)?,
    };
    let cache = Cache::new(&session.paths.cache);
    let packages: Vec<(PathBuf, String)> = lock
        .packages
        .iter()
        .map(|package| (cache.path(&package.sha256), package.sha256.to_string()))
        .collect();
    if let Some(tree) = images::tools::find(&session.paths.tools, &packages) {
        return Ok(tree);
    }
    session.stage("tools", |stage| {
        if source == ToolsSource::Present
            && !offline_repo::fetch::FetchPlan::new(&lock, &cache).is_empty()
        {
            return Err(no_tools(&session.paths.tools, &recipe));
        }
        interrupt::clean_on_interrupt(&session.paths.tools);
        let fetched = fetch(session, &lock, &cache, stage)?;
        let packages: Vec<(PathBuf, String)> = fetched
            .packages()
            .map(|(package, path)| (path.to_owned(), package.sha256.to_string()))
            .collect();
        let report = crate::bake::image_progress(stage);
        Ok(Done::made(images::tools::ensure(
            &session.paths.tools,
            &packages,
            &report,
        )?))
    })
}

/// The packages of the tools tree of a recipe's images, for a repository that carries them.
fn fetched_tools(session: &Session, recipe: &Recipe) -> Result<Fetched> {
    let recipe = Recipe::load(tools_recipe(recipe.processor()?))?;
    let path = session.paths.tools.join(format!("{}.lock", recipe.name));
    let lock = tools_lock(session, &recipe, &path)?;
    let cache = Cache::new(&session.paths.cache);
    interrupt::clean_on_interrupt(&session.paths.cache);
    session.stage("tools-fetch", |stage| {
        let reused = offline_repo::fetch::FetchPlan::new(&lock, &cache).is_empty();
        let value = fetch(session, &lock, &cache, stage)?;
        Ok(Done { value, reused })
    })
}

/// The tools tree for a bake: the one on this host, else that of the packages which the repository carries.
pub fn tools_for(session: &Session, recipe: &Recipe, repository: &Path) -> Result<ToolsTree> {
    let recipe = Recipe::load(tools_recipe(recipe.processor()?))?;
    let missing = match tools_of(session, &recipe.name, ToolsSource::Present) {
        Ok(tree) => return Ok(tree),
        Err(error) => error,
    };
    let marker = marker::Marker::load(repository)?;
    let name = publish::tools_lock_name();
    let Some(listed) = marker.sha256(&name) else {
        return Err(missing);
    };
    session.stage("tools", |stage| {
        let path = repository.join(&name);
        let lock = Lock::load(&path)?;
        let verified = |path: &Path, expected: Sha256| match Sha256::of_file(path)?.0 == expected {
            true => Ok(()),
            false => Err(Diagnostic::failed(
                "FR-REPO-INCOMPLETE",
                format!("{} is not as listed", path.display()),
            )),
        };
        verified(&path, listed)?;
        if !locks::fits(&lock, &recipe) {
            return Err(Diagnostic::failed(
                "FR-TOOLS-MISSING",
                format!("{} is of another version of farrow", path.display()),
            )
            .with_hint("bake with the farrow that made the repository"));
        }
        let mut packages = Vec::new();
        for package in &lock.packages {
            let path = repository.join(publish::tool_path(package));
            verified(&path, package.sha256)?;
            packages.push((path, package.sha256.to_string()));
        }
        interrupt::clean_on_interrupt(&session.paths.tools);
        let report = crate::bake::image_progress(stage);
        let tree = images::tools::ensure(&session.paths.tools, &packages, &report)?;
        let own = session.paths.tools.join(format!("{}.lock", recipe.name));
        write_file(&own, lock.to_text().as_bytes(), 0o644)?;
        Ok(Done::made(tree))
    })
}

fn tools_lock(session: &Session, recipe: &Recipe, path: &Path) -> Result<Lock> {
    if let Ok(lock) = present_lock(path, recipe) {
        return Ok(lock);
    }
    session.stage("tools-lock", |stage| {
        let request = locks::request(recipe)?;
        let cache = Cache::new(&session.paths.cache);
        let lock = locking::lock(
            &request,
            &client(session)?,
            &cache,
            &archive_progress(stage),
        )?;
        write_file(path, lock.to_text().as_bytes(), 0o644)?;
        Ok(Done::made(lock))
    })
}

fn present_lock(path: &Path, recipe: &Recipe) -> Result<Lock> {
    let missing = || no_tools(path.parent().unwrap_or(path), recipe);
    if !path.exists() {
        return Err(missing());
    }
    let lock = Lock::load(path)?;
    match locks::fits(&lock, recipe) {
        true => Ok(lock),
        false => Err(missing()),
    }
}

fn no_tools(folder: &Path, recipe: &Recipe) -> Diagnostic {
    let (of, option) = match recipe.name.as_str() {
        "tools" => (String::new(), String::new()),
        name => (format!(" of `{name}`"), format!(" --recipe {name}")),
    };
    Diagnostic::failed("FR-TOOLS-MISSING", format!("no tools tree{of} in {}", folder.display()))
        .with_hint(format!("run `farrow tools{option} -- true` once where the archives can be reached; a bake itself opens no connection"))
}
