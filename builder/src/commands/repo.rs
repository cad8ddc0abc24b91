//! `farrow repo …`: build, verify, serve, diff, install.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use offline_repo::cache::Cache;
use offline_repo::difference::difference;
use offline_repo::lock::Lock;
use offline_repo::openpgp::Keyring;
use offline_repo::repair::{self, Repaired, Sources};
use offline_repo::serve::{Server, Site};
use serde_json::json;

use crate::cli::{RepoBuildArgs, RepoCommand, SbomFormat, VerifyArgs};
use crate::diagnostic::{Diagnostic, Result};
use crate::install;
use crate::interrupt;
use crate::locks::{self, Upgrade};
use crate::recipe::Recipe;
use crate::session::{Done, Session};
use crate::stages::{self, RepositoryForm};

/// Runs one of them.
pub fn run(session: &Session, command: RepoCommand) -> Result<()> {
    match command {
        RepoCommand::Build(args) => build(session, &args),
        RepoCommand::Sbom { path, format } => sbom(session, &path, format),
        RepoCommand::Verify(args) if args.repair => repair(session, &args),
        RepoCommand::Verify(args) => verify(session, &args),
        RepoCommand::Serve { path, listen } => serve(session, &path, listen),
        RepoCommand::Diff { old, new } => diff(session, &old, &new),
        RepoCommand::Install(args) => install::run(session, &args),
    }
}

fn build(session: &Session, args: &RepoBuildArgs) -> Result<()> {
    let recipe = Recipe::load(&args.recipe)?;
    let recipe = match &args.target {
        Some(target) => recipe.for_target(target)?,
        None => recipe,
    };
    let path = args.lock.clone().unwrap_or_else(|| locks::beside(&recipe));
    let lock = locks::lock(session, &recipe, &path, &Upgrade::Nothing)?;
    let out = std::path::absolute(&args.out).map_err(|e| Diagnostic::io("find", &args.out, e))?;
    let form = RepositoryForm {
        tools: args.with_tools,
        split: args.split,
        since: args.since.clone(),
    };
    let repository = stages::repository(session, &recipe, &lock, &form, &out)?;
    session.say(&format!(
        "{}\n{}",
        repository.path.display(),
        repository.bundle.display()
    ));
    session.finish(json!({"manifest": repository.manifest_sha256}))
}

fn sbom(session: &Session, path: &Path, format: SbomFormat) -> Result<()> {
    let path = std::path::absolute(path).map_err(|e| Diagnostic::io("find", path, e))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let lock = Lock::load(&path.join(offline_repo::publish::lock_name(&name)))?;
    let text = stages::sbom(&path, &lock, format == SbomFormat::Spdx)?;
    session.say(text.trim_end());
    let document: serde_json::Value = serde_json::from_str(&text)
        .map_err(|e| Diagnostic::failed("FR-REPO-SBOM", e.to_string()))?;
    session.finish(json!({"sbom": document}))
}

fn verify(session: &Session, args: &VerifyArgs) -> Result<()> {
    let (path, keyring) = (&args.path, keyring(&args.key)?);
    let found = session.stage("verify", |stage| {
        Ok(Done::made(stages::verify(path, keyring.as_ref(), stage)?))
    })?;
    let problems = found.report.lines();
    for problem in &problems {
        session.say(problem);
    }
    let result = json!({"complete": problems.is_empty(), "files": found.files, "manifest": found.manifest_sha256,
        "missing": found.report.missing, "extra": found.report.extra, "wrong": found.report.wrong, "problems": problems});
    if problems.is_empty() {
        session.say(&format!(
            "{}: complete, {} files, manifest {}",
            path.display(),
            found.files,
            found.manifest_sha256
        ));
        return session.finish(result);
    }
    let (shown, count) = (path.display(), problems.len());
    let noun = if count == 1 { "problem" } else { "problems" };
    let message = format!("{shown} is not complete: {count} {noun}");
    let hint = match path.is_dir() {
        true => "run it again with --repair and, if there is one, --from BUNDLE",
        false => "copy it again and compare its checksum with the origin's",
    };
    Err(Diagnostic::failed("FR-REPO-INCOMPLETE", message)
        .with_hint(hint)
        .with_result(result))
}

/// The keys in files; none: what a repository brings along is taken, which finds damage but not forgery.
pub(super) fn keyring(files: &[PathBuf]) -> Result<Option<Keyring>> {
    let contents = files
        .iter()
        .map(|path| std::fs::read(path).map_err(|e| Diagnostic::io("read", path, e)))
        .collect::<Result<Vec<_>>>()?;
    match contents.is_empty() {
        true => Ok(None),
        false => Ok(Some(Keyring::from_files(&contents)?)),
    }
}

fn repair(session: &Session, args: &VerifyArgs) -> Result<()> {
    let path = &args.path;
    if !path.is_dir() && path.exists() {
        return Err(Diagnostic::invalid(
            "FR-REPO-REPAIR",
            format!("{} is a tarball, which cannot be repaired", path.display()),
        )
        .with_hint("copy it again from where it was made"));
    }
    let path = std::path::absolute(path).map_err(|e| Diagnostic::io("find", path, e))?;
    let keyring = keyring(&args.key)?;
    let cache = Cache::new(&session.paths.cache);
    let client = stages::client(session)?;
    let done = session.stage("repair", |stage| {
        let sources = Sources {
            bundle: args.from.as_deref(),
            cache: Some(&cache),
            client: Some(&client),
        };
        let progress = stages::archive_progress(stage);
        let done = repair::repair(&path, keyring.as_ref(), sources, &progress)?;
        let reused = done.restored.is_empty() && done.moved.is_empty();
        Ok(Done {
            value: done,
            reused,
        })
    })?;
    report_repair(session, &path, &done)
}

fn report_repair(session: &Session, path: &Path, done: &Repaired) -> Result<()> {
    for file in &done.restored {
        session.say(&format!("restored: {} ({})", file.path, file.from));
    }
    for moved in &done.moved {
        let to = done.moved_to.as_deref().unwrap_or(Path::new(""));
        session.say(&format!("moved: {moved} to {}", to.display()));
    }
    for lost in &done.lost {
        session.say(&format!("lost: {lost}"));
    }
    let result = json!({"complete": done.lost.is_empty(), "repaired": done});
    if done.lost.is_empty() {
        session.say(&format!("{}: complete", path.display()));
        return session.finish(result);
    }
    Err(Diagnostic::failed(
        "FR-REPO-LOST",
        format!(
            "{} is not complete, its marker stays withdrawn: nobody has {}",
            path.display(),
            done.lost.join(", ")
        ),
    )
    .with_hint("give a bundle that holds them with --from BUNDLE, or let it reach the archives")
    .with_result(result))
}

fn serve(session: &Session, path: &Path, listen: SocketAddr) -> Result<()> {
    let site = Site::of_repositories(path)?;
    let names = site.repositories().to_vec();
    let server = Server::bind(site, listen)?;
    let address = server.address()?;
    let urls: Vec<String> = names
        .iter()
        .map(|name| format!("http://{address}/{name}/"))
        .collect();
    for url in &urls {
        session.say(&format!("{url}  (ctrl-C ends it)"));
    }
    session.finish(json!({"address": address.to_string(), "urls": urls}))?;
    interrupt::handle_gracefully();
    let log: fn(&str) = match session.options.verbose > 0 {
        true => |line| eprintln!("{line}"),
        false => |_| {},
    };
    server.run(&interrupt::requested, log);
    Ok(())
}

fn diff(session: &Session, old: &Path, new: &Path) -> Result<()> {
    let found = session.stage("diff", |stage| {
        let old = stages::packages_of(old, stage)?;
        let new = stages::packages_of(new, stage)?;
        Ok(Done::made(difference(&old, &new)))
    })?;
    session.say(found.to_string().trim_end());
    session.say(&format!(
        "{} added, {} removed, {} upgraded, {} downgraded, {} rebuilt; {:+.1} MB",
        found.added.len(),
        found.removed.len(),
        found.upgraded.len(),
        found.downgraded.len(),
        found.rebuilt.len(),
        found.growth() as f64 / 1e6
    ));
    session.finish(json!({"difference": found, "growth": found.growth()}))
}
