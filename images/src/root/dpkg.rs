//! Runs the tree's own dpkg in a sandbox.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use super::background;
use super::failure::Failure;
use super::filter;
use super::input::RootInput;
use super::order::Planned;
use super::policy;
use crate::error::{Error, Result};
use crate::process;
use crate::progress::{Progress, ProgressFn};
use crate::sandbox::Sandbox;

/// Where programs that stand in for those of the tree are: first in `PATH`, and on no disk.
const STAND_INS: &str = "/run/farrow/bin";
/// Where the packages are visible.
const PACKAGES: &str = "/run/farrow/packages";
/// The stage in which packages are unpacked.
const UNPACK: &str = "root/unpack";
/// The stage in which they are configured.
const CONFIGURE: &str = "root/configure";
/// How many of dpkg's last lines an error shows.
const TAIL: usize = 25;

/// Lists libraries. Not each package that has one asks for that; dpkg, which unpacks all packages before it configures any, lists
/// it when another package asks.
const LIBRARIES: [&str; 3] = [
    "sh",
    "-c",
    "[ ! -x /usr/sbin/ldconfig ] || exec /usr/sbin/ldconfig",
];

/// Syncing is left out (the whole tree is synced at the end); nobody is there to be asked; conffiles that were put
/// into the tree before win over the packages'.
const OPTIONS: [&str; 5] = [
    "dpkg",
    "--force-unsafe-io",
    "--force-confold",
    "--force-confdef",
    "--log=/dev/null",
];

/// dpkg of one tree.
pub(super) struct Dpkg<'a> {
    sandbox: Sandbox,
    input: &'a RootInput,
    work: &'a Path,
    progress: ProgressFn<'a>,
}

impl<'a> Dpkg<'a> {
    /// In a sandbox on the tree, with a log in the folder `work`.
    pub(super) fn new(
        sandbox: Sandbox,
        input: &'a RootInput,
        work: &'a Path,
        progress: ProgressFn<'a>,
    ) -> Result<Self> {
        Ok(Self {
            sandbox: prepared(sandbox, input, work)?,
            input,
            work,
            progress,
        })
    }

    /// Begins to unpack so many packages from a folder.
    pub(super) fn unpacking(&self, folder: &Path, total: usize) -> Unpacking<'_, 'a> {
        (self.progress)(Progress::Started {
            stage: UNPACK,
            total: Some(total as u64),
        });
        let mut argv: Vec<String> = OPTIONS.iter().map(|&word| word.to_owned()).collect();
        if self.input.exclude_documentation {
            argv.extend(filter::DOCUMENTATION.map(str::to_owned));
        }
        argv.extend(["--force-depends".to_owned(), "--unpack".to_owned()]);
        Unpacking {
            dpkg: self,
            sandbox: self.sandbox.clone().bind_ro(folder, PACKAGES),
            argv,
            done: 0,
            start: Instant::now(),
        }
    }

    /// Configures the packages, in the order of their dependencies, and runs the triggers. The essential ones come first,
    /// as nothing needs to depend on them (Debian Policy, section 3.8).
    pub(super) fn configure(&self, planned: &[Planned]) -> Result<()> {
        let start = Instant::now();
        (self.progress)(Progress::Started {
            stage: CONFIGURE,
            total: Some(planned.len() as u64),
        });
        let essential: Vec<&str> = planned
            .iter()
            .filter(|planned| planned.essential)
            .map(|planned| planned.package.name.as_str())
            .collect();
        if !essential.is_empty() {
            let words = ["--no-triggers", "--configure"].into_iter();
            self.set_up(words.chain(essential.iter().copied()), 0)?;
        }
        let words = ["--configure", "--pending"];
        self.set_up(words.into_iter(), essential.len() as u64)?;
        self.finished(CONFIGURE, start);
        Ok(())
    }

    /// Runs a dpkg that configures packages beyond `done`, and waits for what their scripts left in the background.
    fn set_up<'w>(&self, words: impl Iterator<Item = &'w str>, done: u64) -> Result<()> {
        let waiting = ["sh", "-c", background::WAIT, "configure"].into_iter();
        let words = waiting.chain(OPTIONS).chain(words);
        let argv: Vec<String> = words.map(str::to_owned).collect();
        self.run(&self.sandbox, &argv, "Setting up ", CONFIGURE, done)
    }

    /// Has the loader know the libraries of packages that were unpacked above others.
    pub(super) fn list_libraries(&self) -> Result<()> {
        self.sandbox.run(&LIBRARIES, None).map(drop)
    }

    /// Runs the scripts that were asked for, each in a shell that ends at the first error.
    pub(super) fn run_scripts(&self) -> Result<()> {
        for script in &self.input.scripts {
            let start = Instant::now();
            let stage = "root/script";
            (self.progress)(Progress::Started {
                stage,
                total: Some(1),
            });
            let words = ["sh", "-eu", "-c", &script.text, &script.name];
            let argv = words.map(str::to_owned);
            self.run(&self.sandbox, &argv, "\0", stage, 0)
                .map_err(|error| name_script(error, &script.name))?;
            self.finished(stage, start);
        }
        Ok(())
    }

    fn finished(&self, stage: &'static str, start: Instant) {
        (self.progress)(Progress::Finished {
            stage,
            seconds: start.elapsed().as_secs_f64(),
            reused: false,
        });
    }

    /// Runs dpkg, counts the lines that begin with `mark` as progress beyond `done`, and keeps what it says in a log.
    fn run(
        &self,
        sandbox: &Sandbox,
        argv: &[String],
        mark: &str,
        stage: &'static str,
        mut done: u64,
    ) -> Result<()> {
        let words: Vec<&str> = argv.iter().map(String::as_str).collect();
        let (reader, writer) = std::io::pipe().map_err(Error::sandbox("make a pipe"))?;
        let copy = writer.try_clone().map_err(Error::sandbox("make a pipe"))?;
        let mut child = sandbox.spawn(&words, Stdio::null(), writer.into(), copy.into())?;
        let mut log = Log::open(self.work)?;
        for line in BufReader::new(reader).split(b'\n') {
            let line = line.map_err(Error::sandbox("read what dpkg says"))?;
            let line = String::from_utf8_lossy(&line);
            if line.starts_with(mark) {
                done += 1;
                (self.progress)(Progress::Advanced { stage, done });
            }
            log.write(&line)?;
        }
        let status = child.wait()?;
        match status.success() {
            true => Ok(()),
            false => Err(log.into_error(stage, process::describe(status))),
        }
    }
}

/// Packages that are being unpacked, some at a time.
pub(super) struct Unpacking<'d, 'a> {
    dpkg: &'d Dpkg<'a>,
    sandbox: Sandbox,
    argv: Vec<String>,
    done: u64,
    start: Instant,
}

impl Unpacking<'_, '_> {
    /// Unpacks packages of the folder. Dependencies are ignored: the order has put what preinst scripts need first, and
    /// nothing is configured yet.
    pub(super) fn run(&mut self, names: &[String]) -> Result<()> {
        let mut argv = self.argv.clone();
        argv.extend(names.iter().map(|name| format!("{PACKAGES}/{name}")));
        self.dpkg
            .run(&self.sandbox, &argv, "Unpacking ", UNPACK, self.done)?;
        self.done += names.len() as u64;
        Ok(())
    }

    /// All are unpacked.
    pub(super) fn finish(self) {
        self.dpkg.finished(UNPACK, self.start);
    }
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

/// The sandbox with what maintainer scripts find in it.
fn prepared(sandbox: Sandbox, input: &RootInput, work: &Path) -> Result<Sandbox> {
    let stand_ins = work.join("bin");
    for (name, script) in policy::STAND_INS.into_iter().chain(background::STAND_INS) {
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
        // A script that imports a module while it is compiled in the background would write it as well, in another form.
        ("PYTHONDONTWRITEBYTECODE", "1"),
    ];
    let sandbox = sandbox
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

/// What dpkg says: all of it in a file, the end of it for an error.
struct Log {
    path: PathBuf,
    file: fs::File,
    tail: VecDeque<String>,
    failure: Failure,
}

impl Log {
    fn open(work: &Path) -> Result<Self> {
        let path = work.join("dpkg.log");
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        Ok(Self {
            path,
            file,
            tail: VecDeque::new(),
            failure: Failure::default(),
        })
    }

    fn write(&mut self, line: &str) -> Result<()> {
        writeln!(self.file, "{line}").map_err(Error::io("write", &self.path))?;
        self.failure.hear(line);
        self.tail.push_back(line.to_owned());
        if self.tail.len() > TAIL {
            self.tail.pop_front();
        }
        Ok(())
    }

    fn into_error(mut self, stage: &str, status: String) -> Error {
        if let Some(error) = self.failure.into_error(&self.path) {
            return error;
        }
        let place = format!("(all of it is in {})", self.path.display());
        self.tail.push_back(place);
        let stderr = self.tail.into_iter().collect::<Vec<_>>().join("\n");
        Error::Program {
            program: stage.to_owned(),
            status,
            stderr,
        }
    }
}
