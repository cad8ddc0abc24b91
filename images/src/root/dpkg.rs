//! Runs the tree's own dpkg in a sandbox.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use super::failure::Failure;
use super::input::{Package, RootInput};
use super::order::Plan;
use super::{policy, store};
use crate::error::{Error, Result};
use crate::process;
use crate::progress::{Progress, ProgressFn};
use crate::sandbox::Sandbox;

/// Where programs that stand in for those of the tree are: first in `PATH`, and on no disk.
const STAND_INS: &str = "/run/farrow/bin";
/// Where the packages are visible.
const PACKAGES: &str = "/run/farrow/packages";
/// How many of dpkg's last lines an error shows.
const TAIL: usize = 25;

/// Syncing is left out (the whole tree is synced at the end); nobody is there to be asked; conffiles that were put
/// into the tree before win over the packages'.
const OPTIONS: [&str; 5] = [
    "dpkg",
    "--force-unsafe-io",
    "--force-confold",
    "--force-confdef",
    "--log=/dev/null",
];

/// Documentation, manual pages and translations; licences stay.
const EXCLUDES: [&str; 8] = [
    "--path-exclude=/usr/share/doc/*",
    "--path-include=/usr/share/doc/*/copyright",
    "--path-exclude=/usr/share/man/*",
    "--path-exclude=/usr/share/info/*",
    "--path-exclude=/usr/share/lintian/*",
    "--path-exclude=/usr/share/locale/*",
    "--path-include=/usr/share/locale/locale.alias",
    "--path-exclude=/usr/share/help/*",
];

/// Unpacks every package. Dependencies are ignored: the order has put what preinst scripts need first, and nothing is
/// configured yet.
pub(super) fn unpack(
    plan: &Plan,
    input: &RootInput,
    work: &Path,
    progress: ProgressFn,
) -> Result<()> {
    let mut sandbox = sandbox(input, work)?;
    let mut argv: Vec<String> = OPTIONS.iter().map(|&word| word.to_owned()).collect();
    if input.exclude_documentation {
        argv.extend(EXCLUDES.map(str::to_owned));
    }
    argv.extend(["--force-depends".to_owned(), "--unpack".to_owned()]);
    for package in &plan.packages {
        let Package {
            name, architecture, ..
        } = package;
        let target = format!("{PACKAGES}/{name}_{architecture}.deb");
        sandbox = sandbox.bind_ro(&package.path, &target);
        argv.push(target);
    }
    run(
        &sandbox,
        &argv,
        "Unpacking ",
        "root/unpack",
        plan.packages.len(),
        work,
        progress,
    )
}

/// Configures every package, in the order of their dependencies, and runs the triggers.
pub(super) fn configure(input: &RootInput, work: &Path, progress: ProgressFn) -> Result<()> {
    let words = ["sh", "-c", policy::WAIT, "configure"]
        .into_iter()
        .chain(OPTIONS);
    let argv: Vec<String> = words
        .chain(["--configure", "--pending"])
        .map(str::to_owned)
        .collect();
    run(
        &sandbox(input, work)?,
        &argv,
        "Setting up ",
        "root/configure",
        input.packages.len(),
        work,
        progress,
    )
}

/// Runs the scripts that were asked for, each in a shell that ends at the first error.
pub(super) fn run_scripts(input: &RootInput, work: &Path, progress: ProgressFn) -> Result<()> {
    for script in &input.scripts {
        let words = ["sh", "-eu", "-c", &script.text, &script.name];
        let argv = words.map(str::to_owned);
        let stage = "root/script";
        run(
            &sandbox(input, work)?,
            &argv,
            "\0",
            stage,
            1,
            work,
            progress,
        )
        .map_err(|error| name_script(error, &script.name))?;
    }
    Ok(())
}

/// The error with the script's name instead of the stage's.
fn name_script(error: Error, name: &str) -> Error {
    match error {
        Error::Program { status, stderr, .. } => Error::Program {
            program: format!("script {name}"),
            status,
            stderr,
        },
        other => other,
    }
}

fn sandbox(input: &RootInput, work: &Path) -> Result<Sandbox> {
    let stand_ins = work.join("bin");
    for (name, script) in policy::STAND_INS {
        write_stand_in(&stand_ins, name, script)?;
    }
    let environment = [
        (
            "PATH",
            &*format!("{STAND_INS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ),
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
        ("UCF_FORCE_CONFFOLD", "1"),
        // systemctl and its kin then only edit files.
        ("SYSTEMD_OFFLINE", "1"),
        ("SOURCE_DATE_EPOCH", &*input.epoch.to_string()),
        // Orders that would come from random hash seeds.
        ("PERL_HASH_SEED", "0"),
        ("PYTHONHASHSEED", "0"),
    ];
    let sandbox = Sandbox::new(work.join(store::TREE))
        .ignore_sync()
        .emulator(input.emulator.clone())
        .bind_ro(stand_ins, STAND_INS);
    Ok(environment
        .iter()
        .fold(sandbox, |sandbox, (name, value)| sandbox.env(name, value)))
}

fn write_stand_in(folder: &Path, name: &str, script: &str) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let path = folder.join(name);
    fs::write(&path, script).map_err(Error::io("write", &path))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
        .map_err(Error::io("set the mode of", &path))
}

/// Runs dpkg, counts the lines that begin with `mark` as progress, and keeps what it says in a log.
fn run(
    sandbox: &Sandbox,
    argv: &[String],
    mark: &str,
    stage: &'static str,
    total: usize,
    work: &Path,
    progress: ProgressFn,
) -> Result<()> {
    let start = std::time::Instant::now();
    progress(Progress::Started {
        stage,
        total: Some(total as u64),
    });
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    let (reader, writer) = std::io::pipe().map_err(Error::sandbox("make a pipe"))?;
    let copy = writer.try_clone().map_err(Error::sandbox("make a pipe"))?;
    let mut child = sandbox.spawn(&words, Stdio::null(), writer.into(), copy.into())?;
    let path = work.join("dpkg.log");
    let mut log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    let mut tail = VecDeque::new();
    let mut failure = Failure::default();
    let mut done = 0;
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.map_err(Error::sandbox("read what dpkg says"))?;
        let line = String::from_utf8_lossy(&line);
        if line.starts_with(mark) {
            done += 1;
            progress(Progress::Advanced { stage, done });
        }
        writeln!(log, "{line}").map_err(Error::io("write", &path))?;
        failure.hear(&line);
        tail.push_back(line.into_owned());
        if tail.len() > TAIL {
            tail.pop_front();
        }
    }
    let status = child.wait()?;
    if !status.success() {
        if let Some(error) = failure.into_error(&path) {
            return Err(error);
        }
        tail.push_back(format!("(all of it is in {})", path.display()));
        let stderr = tail.into_iter().collect::<Vec<_>>().join("\n");
        return Err(Error::Program {
            program: stage.to_owned(),
            status: process::describe(status),
            stderr,
        });
    }
    progress(Progress::Finished {
        stage,
        seconds: start.elapsed().as_secs_f64(),
        reused: false,
    });
    Ok(())
}
