//! Files and users of a recipe: what they may be, and the files of the host that they take their content from.

use std::io::Read;
use std::path::{Component, Path};

use super::reading::Source;
use super::{File, RecipeFile, User};
use crate::diagnostic::{Diagnostic, Result};

/// The largest file that a recipe takes in, in bytes: it is held in memory and in the digest of the tree.
const LIMIT: u64 = 64 << 20;

/// Reads the content of each file with a `source`. One that is shipped inside farrow has no folder to read from.
pub(super) fn take_sources(mut recipe: RecipeFile, at: &Source) -> Result<RecipeFile> {
    let folder = at.path.as_deref().and_then(Path::parent);
    for file in &mut recipe.files {
        let Some(source) = file.source.clone() else {
            continue;
        };
        let below = Path::new(&source)
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        let Some(folder) = folder.filter(|_| below) else {
            let message = format!("source `{source}` is not below the recipe's folder");
            return Err(refuse(message, &source, at)
                .with_hint("name a file by its path from there, without `..`"));
        };
        let path = folder.join(&source);
        let mut bytes = Vec::new();
        let opened =
            std::fs::File::open(&path).and_then(|found| match found.metadata()?.is_file() {
                true => found.take(LIMIT + 1).read_to_end(&mut bytes),
                false => Err(std::io::Error::other("it is not a file")),
            });
        if let Err(error) = opened {
            let message = format!("cannot read the source `{source}`: {error}");
            return Err(refuse(message, &source, at)
                .with_hint("its path is taken from the recipe's folder"));
        }
        if bytes.len() as u64 > LIMIT {
            let message = format!("source `{source}` is larger than {} MiB", LIMIT >> 20);
            return Err(refuse(message, &source, at).with_hint("put it into a package"));
        }
        file.taken = Some(bytes);
    }
    Ok(recipe)
}

/// Refuses files that are not whole or lie where they must not, and users that contradict each other.
pub(super) fn check(files: &[File], users: &[User], at: &Source) -> Result<()> {
    files
        .iter()
        .try_for_each(|file| check_file(file, users, at))?;
    for (number, user) in users.iter().enumerate() {
        check_user(user, &users[..number], at)?;
    }
    Ok(())
}

fn refuse(message: String, quoted: &str, at: &Source) -> Diagnostic {
    let span = at.text.find(&format!("\"{quoted}\""));
    let span = span.map(|start| start..start + quoted.len() + 2);
    Diagnostic::invalid("FR-RECIPE-FILE", message).at(&at.shown, &at.text, span)
}

fn check_file(file: &File, users: &[User], at: &Source) -> Result<()> {
    let (path, mode) = (&file.path, &file.mode);
    let confined = path.starts_with('/') && !path.split('/').any(|part| part == "..");
    if !confined || !u32::from_str_radix(mode, 8).is_ok_and(|mode| mode <= 0o7777) {
        let message = format!("file `{path}` with mode `{mode}` is not valid");
        return Err(refuse(message, path, at)
            .with_hint("a path is absolute and has no `..`, a mode is octal such as 0644"));
    }
    let given = [
        !file.content.is_empty(),
        file.source.is_some(),
        file.link.is_some(),
    ];
    if given.into_iter().filter(|given| *given).count() > 1 {
        let message = format!("file `{path}` has more than one content");
        return Err(refuse(message, path, at).with_hint("give one of content, source and link"));
    }
    match &file.owner {
        Some(owner) if owner != "root" && users.iter().all(|user| &user.name != owner) => {
            let message =
                format!("file `{path}` belongs to `{owner}`, who is no user of the recipe");
            Err(refuse(message, owner, at).with_hint("add a [[user]] with a fixed uid"))
        }
        _ => Ok(()),
    }
}

/// Debian Policy 9.2.2: ids from 100 are the system's, those from 1000 are people's.
fn check_user(user: &User, before: &[User], at: &Source) -> Result<()> {
    let User { name, uid, .. } = user;
    let refuse = |message: String, hint: &str| {
        let span = at.text.find(&format!("\"{name}\""));
        let span = span.map(|start| start..start + name.len() + 2);
        let found = Diagnostic::invalid("FR-RECIPE-USER", message);
        Err(found.at(&at.shown, &at.text, span).with_hint(hint))
    };
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    let first = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if !first || name.len() > 32 || !name.chars().all(letter) {
        return refuse(
            format!("`{name}` is not a user name"),
            "up to 32 lower-case letters, digits, `_` and `-`, no digit first",
        );
    }
    if !(100..1000).contains(uid) {
        return refuse(
            format!("user `{name}` has the uid {uid}"),
            "system users have ids from 100 to 999",
        );
    }
    let field = |text: &str| !text.contains([':', '\n', '\0']);
    let fields = [&user.home, &user.shell, &user.comment];
    if !fields
        .into_iter()
        .chain(&user.groups)
        .all(|text| field(text))
    {
        return refuse(
            format!("user `{name}` has a field that does not fit into /etc/passwd"),
            "no colons and no line ends",
        );
    }
    match before
        .iter()
        .find(|other| other.name == *name || other.uid == *uid)
    {
        Some(other) => refuse(
            format!(
                "user `{name}` has the name or uid of `{}` ({})",
                other.name, other.uid
            ),
            "each user needs a name and an id of its own, also beside those of `extends`",
        ),
        None => Ok(()),
    }
}
