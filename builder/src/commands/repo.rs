//! `farrow repo …`: build, verify, diff, install.

use std::path::Path;

use offline_repo::difference::difference;
use serde_json::json;

use crate::cli::RepoCommand;
use crate::diagnostic::{Diagnostic, Result};
use crate::install;
use crate::locks::{self, Upgrade};
use crate::recipe::Recipe;
use crate::session::{Done, Session};
use crate::stages;

/// Runs one of them.
pub fn run(session: &Session, command: RepoCommand) -> Result<()> {
    match command {
        RepoCommand::Build {
            recipe,
            out,
            lock,
            target,
        } => build(session, &recipe, &out, lock.as_deref(), target.as_deref()),
        RepoCommand::Verify { path } => verify(session, &path),
        RepoCommand::Diff { old, new } => diff(session, &old, &new),
        RepoCommand::Install(args) => install::run(session, &args),
    }
}

fn build(
    session: &Session,
    recipe: &str,
    out: &Path,
    lock: Option<&Path>,
    target: Option<&str>,
) -> Result<()> {
    let recipe = Recipe::load(recipe)?;
    let recipe = match target {
        Some(target) => recipe.for_target(target)?,
        None => recipe,
    };
    let path = lock.map_or_else(|| locks::beside(&recipe), Path::to_owned);
    let lock = locks::lock(session, &recipe, &path, &Upgrade::Nothing)?;
    let out = std::path::absolute(out).map_err(|e| Diagnostic::io("find", out, e))?;
    let repository = stages::repository(session, &recipe, &lock, &out)?;
    session.say(&format!(
        "{}\n{}",
        repository.path.display(),
        repository.bundle.display()
    ));
    session.finish(json!({"manifest": repository.manifest_sha256}))
}

fn verify(session: &Session, path: &Path) -> Result<()> {
    let report = session.stage("verify", |stage| {
        Ok(Done::made(stages::verify(path, stage)?))
    })?;
    for problem in &report.problems {
        session.say(problem);
    }
    session.finish(json!({"complete": report.problems.is_empty(), "files": report.files, "manifest": report.manifest_sha256, "problems": report.problems}))?;
    if report.problems.is_empty() {
        session.say(&format!(
            "{}: complete, {} files, manifest {}",
            path.display(),
            report.files,
            report.manifest_sha256
        ));
        return Ok(());
    }
    Err(Diagnostic::failed(
        "FR-REPO-INCOMPLETE",
        format!(
            "{} is not complete: {} problems",
            path.display(),
            report.problems.len()
        ),
    )
    .with_hint("build it again, or install it again from its tarball"))
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
