//! The stages of a build, each reused when nothing that it depends on has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bootstrap::Catalogue;
use images::tools::ToolsTree;
use offline_repo::additions::Additions;
use offline_repo::archive::Upstream;
use offline_repo::bundle::{self, BundleForm, BundleOptions};
use offline_repo::cache::Cache;
use offline_repo::delta;
use offline_repo::digest::Sha256;
use offline_repo::fetch::Fetched;
use offline_repo::http::{self, Client};
use offline_repo::lock::Lock;
use offline_repo::locking;
use offline_repo::marker;
use offline_repo::mirror::Mirrors;
use offline_repo::openpgp::Keyring;
use offline_repo::progress::Progress;
use offline_repo::publish::{self, PublishOptions};
use offline_repo::repository::{Repository, RepositoryPackage};
use offline_repo::sbom::{self, Component, Subject};
use offline_repo::signer::Signer;

use crate::commands::write_file;
use crate::diagnostic::{Diagnostic, Result};
use crate::embedded;
use crate::interrupt;
use crate::locks;
use crate::own_packages;
use crate::recipe::{self, Recipe, UpstreamKind};
use crate::session::{Done, Session, Stage, digest_file};

/// User id of the signing key that farrow makes when there is none.
const KEY_USER: &str = "Farrow repository signing key";

/// A repository with its tarball.
pub struct BuiltRepository {
    /// The folder.
    pub path: PathBuf,
    /// The tarball.
    pub bundle: PathBuf,
    /// SHA-256 of the manifest: the repository's identity.
    pub manifest_sha256: String,
}

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

/// The repository's signing key, made at the first use; it never lies in a cache or in what is made.
fn signer(session: &Session) -> Result<Signer> {
    let path = session.paths.signing_key();
    if !path.exists() {
        Signer::generate(KEY_USER)?.save(&path)?;
    }
    Ok(Signer::load(&path)?)
}

/// The time in everything that is made: `SOURCE_DATE_EPOCH`, else the newest index date of the lock.
pub fn epoch(lock: &Lock) -> u64 {
    let given = std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| lock.epoch())
}

/// What a repository and its tarball are to be beside the usual.
#[derive(Debug, Clone, Default)]
pub struct RepositoryForm {
    /// With the packages of the tools tree, so that images can be baked from it alone.
    pub tools: bool,
    /// The tarball in volumes of so many bytes.
    pub split: Option<u64>,
    /// The tarball with only what this repository or tarball lacks.
    pub since: Option<PathBuf>,
}

/// Fetches what is missing, publishes the repository and packs the tarball below `out`.
pub fn repository(
    session: &Session,
    recipe: &Recipe,
    lock: &Lock,
    form: &RepositoryForm,
    out: &Path,
) -> Result<BuiltRepository> {
    let signer = signer(session)?;
    let additions = own_packages::additions(recipe, lock)?;
    let repo_dir = out.join("repo");
    interrupt::clean_on_interrupt(&repo_dir);
    interrupt::clean_on_interrupt(out);
    let path = repo_dir.join(&recipe.repository);
    let tools = match form.tools {
        true => Some(fetched_tools(session)?),
        false => None,
    };
    let found = session.stage("repository-check", |_| {
        let found = reusable(&path, recipe, lock, &additions, tools.as_ref(), &signer);
        Ok(Done::reused(found))
    })?;
    let manifest = match found {
        Some(manifest) => manifest,
        None => publish(
            session,
            recipe,
            lock,
            additions,
            tools.as_ref(),
            &signer,
            &repo_dir,
        )?,
    };
    let bytes: u64 = lock.packages.iter().map(|package| package.size).sum();
    session.add_artifact("repository", &path, &manifest, bytes);
    let bundle = pack(session, recipe, lock, form, &path, &manifest, out)?;
    for (kind, ending) in [("sbom-spdx", "spdx.json"), ("sbom-cyclonedx", "cdx.json")] {
        let file = out.join(format!("{}.{ending}", recipe.repository));
        write_file(
            &file,
            sbom(&path, lock, kind == "sbom-spdx")?.as_bytes(),
            0o644,
        )?;
        session.add_file(kind, &file)?;
    }
    Ok(BuiltRepository {
        path,
        bundle,
        manifest_sha256: manifest,
    })
}

/// The manifest's digest of a repository that is complete, signed by this key, and holds what the lock and this program
/// say.
fn reusable(
    path: &Path,
    recipe: &Recipe,
    lock: &Lock,
    additions: &Additions,
    tools: Option<&Fetched>,
    signer: &Signer,
) -> Option<String> {
    let keyring = signer.public_key().and_then(|key| key.keyring()).ok()?;
    let repository = Repository::open(path, Some(&keyring)).ok()?;
    let here: BTreeSet<(&str, &str, String)> = repository
        .packages()
        .iter()
        .map(|package| {
            (
                package.name.as_str(),
                package.version.as_str(),
                package.sha256.to_string(),
            )
        })
        .collect();
    let locked = lock.packages.iter().map(|package| {
        (
            package.name.as_str(),
            package.version.as_str(),
            package.sha256.to_string(),
        )
    });
    let own = additions.packages.iter().map(|package| {
        let sha256 = Sha256::of(&package.content).to_string();
        (package.name.as_str(), package.version.as_str(), sha256)
    });
    let wanted = locked.chain(own).collect();
    // A repository without Debian packages has no proofs.
    let is_proved = match repository.document().ok()? {
        Some(document) => document.is_about(&recipe.packages, &locks::bases(recipe, lock).ok()?),
        None => recipe.kind == UpstreamKind::Rpm,
    };
    let tools_lock = tools.map(|tools| Sha256::of(tools.lock().to_text().as_bytes()));
    let complete = here == wanted
        && is_proved
        && repository
            .layout()
            .is_none_or(|layout| layout == recipe.layout)
        && repository.tools_lock() == tools_lock
        && repository.verify().ok()?.is_complete();
    complete.then(|| repository.manifest().to_string())
}

fn publish(
    session: &Session,
    recipe: &Recipe,
    lock: &Lock,
    additions: Additions,
    tools: Option<&Fetched>,
    signer: &Signer,
    repo_dir: &Path,
) -> Result<String> {
    let cache = Cache::new(&session.paths.cache);
    interrupt::clean_on_interrupt(&session.paths.cache);
    let fetched = session.stage("fetch", |stage| {
        let missing = offline_repo::fetch::FetchPlan::new(lock, &cache);
        let reused = missing.is_empty();
        let fetched =
            offline_repo::fetch::fetch(lock, &client(session)?, &cache, &archive_progress(stage))?;
        Ok(Done {
            value: fetched,
            reused,
        })
    })?;
    session.stage("repository", |stage| {
        let options = PublishOptions {
            name: recipe.repository.clone(),
            codename: recipe.distribution.suite.clone(),
            epoch: epoch(lock),
            url: None,
            groups: recipe.packages.clone(),
            bases: locks::bases(recipe, lock)?,
            additions,
            layout: recipe.layout,
        };
        let published = publish::publish_with_tools(
            &fetched,
            tools,
            &options,
            signer,
            repo_dir,
            &archive_progress(stage),
        )?;
        Ok(Done::made(published.manifest.to_string()))
    })
}

/// The tarball, with a `.sha256` file beside it that also names the manifest it was packed from.
fn pack(
    session: &Session,
    recipe: &Recipe,
    lock: &Lock,
    form: &RepositoryForm,
    repository: &Path,
    manifest: &str,
    out: &Path,
) -> Result<PathBuf> {
    let options = BundleOptions {
        version: env!("CARGO_PKG_VERSION").into(),
        codename: recipe.distribution.suite.clone(),
        architecture: recipe.architecture.clone(),
        epoch: epoch(lock),
    };
    if form.split.is_some() || form.since.is_some() {
        return pack_as(session, form, &options, repository, out);
    }
    let name = bundle::file_name(&recipe.repository, &options);
    let path = out.join(&name);
    let sums = out.join(format!("{name}.sha256"));
    let (sha256, size) = session.stage("bundle", |stage| {
        if path.exists() {
            let (sha256, size) = digest_file(&path)?;
            if std::fs::read_to_string(&sums)
                .is_ok_and(|text| text == sums_text(manifest, &sha256, &name))
            {
                return Ok(Done::reused((sha256, size)));
            }
        }
        let made = bundle::bundle(repository, &options, out, &archive_progress(stage))?;
        let sha256 = made.sha256.to_string();
        write_file(&sums, sums_text(manifest, &sha256, &name).as_bytes(), 0o644)?;
        Ok(Done::made((sha256, made.size)))
    })?;
    session.add_artifact("bundle", &path, &sha256, size);
    Ok(path)
}

/// A delta, or volumes: made anew each time.
fn pack_as(
    session: &Session,
    form: &RepositoryForm,
    options: &BundleOptions,
    repository: &Path,
    out: &Path,
) -> Result<PathBuf> {
    let made = session.stage("bundle", |stage| {
        let progress = archive_progress(stage);
        let since = match &form.since {
            Some(old) => Some(delta::marker_of(old, &progress)?),
            None => None,
        };
        let form = BundleForm {
            split: form.split,
            since: since.as_ref(),
        };
        let made = bundle::bundle_as(repository, options, form, out, &progress)?;
        Ok(Done::made(made))
    })?;
    for volume in &made.volumes {
        session.add_file("bundle-volume", volume)?;
    }
    match made.volumes.is_empty() {
        true => session.add_artifact("bundle", &made.path, &made.sha256.to_string(), made.size),
        false => session.add_file("bundle-volumes", &made.path)?,
    }
    Ok(made.path)
}

/// The bill of materials of a repository, in SPDX or in CycloneDX.
pub fn sbom(path: &Path, lock: &Lock, is_spdx: bool) -> Result<String> {
    let repository = Repository::open(path, None)?;
    let manifest = repository.manifest();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let subject = Subject {
        name: name.into_owned(),
        version: manifest.to_string()[..12].to_string(),
        digest: manifest,
        epoch: epoch(lock),
        tool: ("farrow".into(), env!("CARGO_PKG_VERSION").into()),
    };
    let packages = repository.packages().iter();
    let components: Vec<Component> = packages.map(Component::of_debian).collect();
    Ok(match is_spdx {
        true => sbom::spdx(&subject, &components),
        false => sbom::cyclonedx(&subject, &components),
    })
}

fn sums_text(manifest: &str, sha256: &str, name: &str) -> String {
    format!("# manifest-sha256: {manifest}\n{sha256}  {name}\n")
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
            return Err(no_tools(&session.paths.tools));
        }
        interrupt::clean_on_interrupt(&session.paths.tools);
        let fetched =
            offline_repo::fetch::fetch(&lock, &client(session)?, &cache, &archive_progress(stage))?;
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

/// The packages of the tools tree, for a repository that carries them.
fn fetched_tools(session: &Session) -> Result<Fetched> {
    let recipe = Recipe::load("tools")?;
    let path = session.paths.tools.join("tools.lock");
    let lock = tools_lock(session, &recipe, &path)?;
    let cache = Cache::new(&session.paths.cache);
    interrupt::clean_on_interrupt(&session.paths.cache);
    session.stage("tools-fetch", |stage| {
        let reused = offline_repo::fetch::FetchPlan::new(&lock, &cache).is_empty();
        let value =
            offline_repo::fetch::fetch(&lock, &client(session)?, &cache, &archive_progress(stage))?;
        Ok(Done { value, reused })
    })
}

/// The tools tree for a bake: the one on this host, else that of the packages which the repository carries.
pub fn tools_for(session: &Session, repository: &Path) -> Result<ToolsTree> {
    let missing = match tools(session, ToolsSource::Present) {
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
        if !locks::fits(&lock, &Recipe::load("tools")?) {
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
        let own = session.paths.tools.join("tools.lock");
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
    let missing = || no_tools(path.parent().unwrap_or(path));
    if !path.exists() {
        return Err(missing());
    }
    let lock = Lock::load(path)?;
    match locks::fits(&lock, recipe) {
        true => Ok(lock),
        false => Err(missing()),
    }
}

fn no_tools(folder: &Path) -> Diagnostic {
    Diagnostic::failed("FR-TOOLS-MISSING", format!("no tools tree in {}", folder.display()))
        .with_hint("run `farrow tools -- true` once where the archives can be reached; a bake itself opens no connection")
}
