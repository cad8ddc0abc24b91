//! Makes a tools tree and a root tree from folders of packages: `root TOOLS_DEBS ROOT_DEBS OUT`.

use std::path::{Path, PathBuf};

use images::error::{Error, Result};
use images::progress::Progress;
use images::root::{Package, RootInput, SystemUser};
use sha2::{Digest, Sha256};

fn main() {
    images::sandbox::run_if_requested();
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [tools, root, out] = &arguments[..] else {
        eprintln!("usage: root TOOLS_DEBS ROOT_DEBS OUT");
        std::process::exit(2);
    };
    if let Err(error) = run(tools, root, out) {
        eprintln!(
            "{}: {error}\n{}",
            error.code(),
            error.hint().unwrap_or_default()
        );
        std::process::exit(1);
    }
}

fn run(tools: &Path, root: &Path, out: &Path) -> Result<()> {
    let progress = |event: Progress| {
        if let Progress::Finished {
            stage,
            seconds,
            reused,
        } = event
        {
            println!(
                "{stage}: {seconds:.1} s{}",
                if reused { " (reused)" } else { "" }
            );
        }
    };
    let tools = images::tools::ensure(&out.join("tools"), &packages(tools)?, &progress)?;
    println!("tools tree {}", tools.root.display());
    let input = input(root)?;
    let tree = images::root::build(&input, out, &progress, &|_| ())?;
    println!("root tree {} {:?}", tree.path.display(), tree.kernel);
    Ok(())
}

/// The platform's own choices are the recipe's business; these are enough to look at a tree.
fn input(folder: &Path) -> Result<RootInput> {
    let package = |(path, sha256): (PathBuf, String)| {
        let stem = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut parts = stem.split('_').map(str::to_owned);
        let mut part = || parts.next().unwrap_or_default();
        Package {
            name: part(),
            version: part(),
            architecture: part(),
            path,
            sha256,
        }
    };
    let postgres = SystemUser {
        name: "postgres".into(),
        uid: 543,
        gid: 543,
        comment: "PostgreSQL administrator".into(),
        home: "/var/lib/postgresql".into(),
        shell: "/bin/bash".into(),
        groups: Vec::new(),
    };
    Ok(RootInput {
        packages: packages(folder)?.into_iter().map(package).collect(),
        files_before: Vec::new(),
        files_after: Vec::new(),
        users: vec![postgres],
        users_after: Vec::new(),
        scripts: Vec::new(),
        hostname: "localhost".into(),
        epoch: 1_790_000_000,
        emulator: None,
        exclude_documentation: true,
    })
}

fn packages(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let entries = std::fs::read_dir(folder).map_err(Error::io("list", folder))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    paths.sort();
    let hash = |path: PathBuf| {
        let content = std::fs::read(&path).map_err(Error::io("read", &path))?;
        Ok((path, hex::encode(Sha256::digest(content))))
    };
    paths.into_iter().map(hash).collect()
}
