//! From a lock to a repository folder, its tarball and its bills of materials.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use offline_repo::additions::Additions;
use offline_repo::bundle::{self, BundleForm, BundleOptions};
use offline_repo::cache::Cache;
use offline_repo::delta;
use offline_repo::digest::Sha256;
use offline_repo::fetch::Fetched;
use offline_repo::lock::Lock;
use offline_repo::publish::{self, PublishOptions};
use offline_repo::repository::Repository;
use offline_repo::signer::{KeyKind, Signer};

use super::{archive_progress, epoch, fetch, fetched_tools, sboms};
use crate::commands::write_file;
use crate::diagnostic::Result;
use crate::interrupt;
use crate::locks;
use crate::own_packages;
use crate::recipe::Recipe;
use crate::session::{Done, Session, digest_file};

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

/// The signing key of a kind, made at the first use; it never lies in a cache or in what is made.
pub fn signer(session: &Session, kind: KeyKind) -> Result<Signer> {
    let path = session.paths.signing_key(kind);
    if !path.exists() {
        Signer::generate_kind(kind, KEY_USER)?.save(&path)?;
    }
    Ok(Signer::load(&path)?)
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
    let signer = signer(session, recipe.key)?;
    let additions = own_packages::additions(session, recipe, lock, &signer)?;
    let repo_dir = out.join("repo");
    interrupt::clean_on_interrupt(&repo_dir);
    interrupt::clean_on_interrupt(out);
    let path = repo_dir.join(&recipe.repository);
    let tools = match form.tools {
        true => Some(fetched_tools(session, recipe)?),
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
    // The bills are made while the disk is busy with the tarball.
    let (bundle, bills) = std::thread::scope(|scope| {
        let bills = scope.spawn(|| sboms(&path, lock));
        let bundle = pack(session, recipe, lock, form, &path, &manifest, out);
        (bundle, bills.join().expect("no panic while bills are made"))
    });
    let bundle = bundle?;
    let names = [("sbom-spdx", "spdx.json"), ("sbom-cyclonedx", "cdx.json")];
    for ((kind, ending), text) in names.into_iter().zip(bills?) {
        let file = out.join(format!("{}.{ending}", recipe.repository));
        write_file(&file, text.as_bytes(), 0o644)?;
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
    let bases = locks::bases(recipe, lock).ok()?;
    let published = Lock::load(&path.join(publish::lock_name(&recipe.repository))).ok()?;
    let document = repository.document().ok()?;
    let complete = document.is_some_and(|document| document.is_about(&recipe.packages, &bases))
        && here == wanted
        && published.modules == lock.modules
        && repository
            .layout()
            .is_none_or(|layout| layout == recipe.layout)
        && repository.tools_lock()
            == tools.map(|tools| Sha256::of(tools.lock().to_text().as_bytes()))
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
        let fetched = fetch(session, lock, &cache, stage)?;
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

fn sums_text(manifest: &str, sha256: &str, name: &str) -> String {
    format!("# manifest-sha256: {manifest}\n{sha256}  {name}\n")
}
