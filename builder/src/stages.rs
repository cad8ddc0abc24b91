//! The stages of a build, each reused when nothing that it depends on has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bootstrap::Catalogue;
use images::tools::ToolsTree;
use offline_repo::additions::Additions;
use offline_repo::archive::Upstream;
use offline_repo::bundle::{self, BundleOptions};
use offline_repo::cache::Cache;
use offline_repo::digest::Sha256;
use offline_repo::http::{self, Client};
use offline_repo::lock::Lock;
use offline_repo::locking;
use offline_repo::marker;
use offline_repo::mirror::Mirrors;
use offline_repo::progress::Progress;
use offline_repo::publish::{self, PublishOptions};
use offline_repo::repository::{Repository, RepositoryPackage};
use offline_repo::signer::Signer;

use crate::commands::write_file;
use crate::diagnostic::{Diagnostic, Result};
use crate::embedded;
use crate::interrupt;
use crate::locks;
use crate::own_packages;
use crate::recipe::{self, Recipe};
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
    /// One line for each missing, extra or wrong file.
    pub problems: Vec<String>,
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

/// Fetches what is missing, publishes the repository and packs the tarball below `out`.
pub fn repository(
    session: &Session,
    recipe: &Recipe,
    lock: &Lock,
    out: &Path,
) -> Result<BuiltRepository> {
    let signer = signer(session)?;
    let additions = own_packages::additions(recipe, lock)?;
    let repo_dir = out.join("repo");
    interrupt::clean_on_interrupt(&repo_dir);
    interrupt::clean_on_interrupt(out);
    let path = repo_dir.join(&recipe.repository);
    let found = session.stage("repository-check", |_| {
        Ok(Done::reused(reusable(
            &path, recipe, lock, &additions, &signer,
        )))
    })?;
    let manifest = match found {
        Some(manifest) => manifest,
        None => publish(session, recipe, lock, additions, &signer, &repo_dir)?,
    };
    let bytes: u64 = lock.packages.iter().map(|package| package.size).sum();
    session.add_artifact("repository", &path, &manifest, bytes);
    let bundle = pack(session, recipe, lock, &path, &manifest, out)?;
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
    let document = repository.document().ok()??;
    let complete = here == wanted
        && document.is_about(&recipe.packages, &locks::bases(recipe, lock).ok()?)
        && repository.verify().ok()?.is_complete();
    complete.then(|| repository.manifest().to_string())
}

fn publish(
    session: &Session,
    recipe: &Recipe,
    lock: &Lock,
    additions: Additions,
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
        };
        let published = publish::publish(
            &fetched,
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

fn sums_text(manifest: &str, sha256: &str, name: &str) -> String {
    format!("# manifest-sha256: {manifest}\n{sha256}  {name}\n")
}

/// Checks a repository folder, or a tarball, against its marker.
pub fn verify(path: &Path, stage: &Stage<'_>) -> Result<Verified> {
    with_folder(path, stage, verify_folder)
}

/// The packages of a repository folder or tarball.
pub fn packages_of(path: &Path, stage: &Stage<'_>) -> Result<Vec<RepositoryPackage>> {
    with_folder(path, stage, |folder| {
        let repository = Repository::open(folder, None)?;
        Ok(repository.packages().to_vec())
    })
}

/// Runs `work` on a repository folder; a tarball is installed beside itself for it, which also proves it.
fn with_folder<T>(
    path: &Path,
    stage: &Stage<'_>,
    work: impl FnOnce(&Path) -> Result<T>,
) -> Result<T> {
    if path.is_dir() {
        return work(path);
    }
    let scratch = tempfile::Builder::new()
        .prefix(".farrow-verify-")
        .tempdir_in(parent(path))
        .map_err(|e| Diagnostic::io("create a folder beside", path, e))?;
    interrupt::clean_on_interrupt(parent(path));
    let report = archive_progress(stage);
    let installed = offline_repo::install::install(path, scratch.path(), None, &report)?;
    work(&installed)
}

fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

fn verify_folder(path: &Path) -> Result<Verified> {
    let found = marker::Marker::load(path)?;
    let report = found.compare(path)?;
    let named = |what: &str, paths: &[String]| {
        paths
            .iter()
            .map(|path| format!("{what}: {path}"))
            .collect::<Vec<_>>()
    };
    let problems = [
        named("missing", &report.missing),
        named("extra", &report.extra),
        named("wrong", &report.wrong),
    ]
    .concat();
    Ok(Verified {
        files: found.files.len(),
        manifest_sha256: found.manifest.to_string(),
        problems,
    })
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
