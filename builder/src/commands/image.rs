//! `farrow image …`: which command is where, and build.

use std::path::{Path, PathBuf};

use images::architecture::Architecture;
use images::secure_boot::signer::Signer;
use serde_json::json;

use crate::bake;
use crate::cli::{ImageBuildArgs, ImageCommand};
use crate::commands::{boot, keys, look};
use crate::diagnostic::{Diagnostic, Result};
use crate::effects;
use crate::recipe::{ImageFormat, Recipe};
use crate::session::{Done, Session};
use crate::stages;

/// Runs one of them.
pub fn run(session: &Session, command: ImageCommand) -> Result<()> {
    match command {
        ImageCommand::Build(args) => build(session, &args),
        ImageCommand::Boot(args) => boot::run(session, &args),
        ImageCommand::Keys { dir, name } => keys::run(session, &dir, &name),
        ImageCommand::Verify { manifest, key } => look::verify(session, &manifest, &key),
        ImageCommand::Inspect { image, packages } => look::inspect(session, &image, packages),
        ImageCommand::Diff { old, new } => look::diff(session, &old, &new),
    }
}

fn build(session: &Session, args: &ImageBuildArgs) -> Result<()> {
    let recipe = Recipe::load(&args.recipe)?;
    let out = std::path::absolute(&args.out).map_err(|e| Diagnostic::io("find", &args.out, e))?;
    let formats = formats(args, &recipe)?;
    let given = args
        .repo
        .clone()
        .unwrap_or_else(|| out.join("repo").join(&recipe.repository));
    let repository = repository(session, &given)?;
    let tools = stages::tools_for(session, &recipe, &repository.path)?;
    let baked = bake::image(
        session,
        &recipe,
        &repository.path,
        &tools,
        &formats,
        signer(args)?,
        &out.join("image"),
    )?;
    session.say(&out.join("image").display().to_string());
    if !args.explain {
        return session.finish(json!({}));
    }
    let effects = effects::of(&Recipe::layers(&args.recipe)?, &recipe, &baked)?;
    for line in effects::lines(&effects) {
        session.say(&line);
    }
    session.finish(json!({"effects": effects}))
}

/// The formats that are asked for, else the recipe's.
fn formats(args: &ImageBuildArgs, recipe: &Recipe) -> Result<Vec<ImageFormat>> {
    let formats = match (&args.format[..], &recipe.image.formats[..]) {
        ([], []) => vec![ImageFormat::Raw],
        ([], of_recipe) => of_recipe.to_vec(),
        (chosen, _) => chosen.to_vec(),
    };
    let processor = recipe.processor()?;
    if processor != Architecture::Amd64 {
        let refused = [
            (ImageFormat::Ova, "an ova describes a machine of amd64"),
            (ImageFormat::Upgrade, "an upgrade is for a machine of amd64"),
        ];
        if let Some((_, why)) = refused.iter().find(|(format, _)| formats.contains(format)) {
            let message = format!("{why}, not of {}", processor.debian());
            let hint = "leave it out: --format qcow2,vmdk";
            return Err(Diagnostic::invalid("FR-IMAGE-FORMAT", message).with_hint(hint));
        }
    }
    Ok(formats)
}

/// Whose key signs what Secure Boot looks at.
fn signer(args: &ImageBuildArgs) -> Result<Option<Signer>> {
    let (Some(key), Some(certificate)) = (&args.secure_boot_key, &args.secure_boot_certificate)
    else {
        return Ok(None);
    };
    let read =
        |path: &PathBuf| std::fs::read_to_string(path).map_err(|e| Diagnostic::io("read", path, e));
    let signer = Signer::from_pem(&read(key)?, &read(certificate)?);
    let refuse = |reason| {
        let message = format!("{} and {}: {reason}", key.display(), certificate.display());
        Diagnostic::invalid("FR-KEYS", message).with_hint("make keys with `farrow image keys DIR`")
    };
    signer.map(Some).map_err(refuse)
}

/// A repository folder; that of a tarball is gone with this value.
struct Unpacked {
    path: PathBuf,
    _folder: Option<tempfile::TempDir>,
}

fn repository(session: &Session, given: &Path) -> Result<Unpacked> {
    let given = std::path::absolute(given).map_err(|e| Diagnostic::io("find", given, e))?;
    if given.is_dir() {
        return Ok(Unpacked {
            path: given,
            _folder: None,
        });
    }
    if !given.is_file() {
        return Err(Diagnostic::invalid(
            "FR-REPO-NOTFOUND",
            format!("no repository at {}", given.display()),
        )
        .with_hint("make one with `farrow repo build`, or name it with --repo"));
    }
    let cache = &session.paths.cache;
    std::fs::create_dir_all(cache).map_err(|e| Diagnostic::io("create", cache, e))?;
    let folder = tempfile::Builder::new()
        .prefix(".farrow-repo-")
        .tempdir_in(cache)
        .map_err(|e| Diagnostic::io("create a folder in", cache, e))?;
    let path = session.stage("unpack", |stage| {
        let path = offline_repo::install::install(
            &given,
            folder.path(),
            None,
            &stages::archive_progress(stage),
        )?;
        Ok(Done::made(path))
    })?;
    Ok(Unpacked {
        path,
        _folder: Some(folder),
    })
}
