//! Fetching, publishing, the whole build and verifying, each beside its yardstick.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use e2e::world::World;
use offline_repo::lock::{Lock, LockedIndex};

use crate::mirror::Mirror;
use crate::run::{Table, evict, fastest, has, timed};

/// What all measurements share.
pub struct Setting<'a> {
    /// Where everything is.
    pub world: &'a World,
    /// Name of the recipe.
    pub recipe: &'a str,
    /// Folder for everything.
    pub dir: &'a Path,
    /// The mirror.
    pub mirror: &'a Mirror,
    repository: PathBuf,
}

impl<'a> Setting<'a> {
    /// Finds the repository that was built to fill the mirror.
    pub fn new(
        world: &'a World,
        recipe: &'a str,
        dir: &'a Path,
        mirror: &'a Mirror,
    ) -> Result<Self> {
        let repository = fs::read_dir(dir.join("first/repo"))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.is_dir())
            .context("no repository was built")?;
        Ok(Setting {
            world,
            recipe,
            dir,
            mirror,
            repository,
        })
    }

    /// `farrow ARGS…` with the mirror.
    pub fn farrow(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.world.binary);
        command
            .args(args)
            .args(self.mirror.options())
            .current_dir(self.dir)
            .env("FARROW_STATE", self.world.root.join("state"))
            .env("FARROW_TOOLS", self.world.root.join("tools"));
        command
    }

    /// A shell script in `dir` that measures by a program: the host's, or else one of the tools tree, which is started in
    /// namespaces of its own, some hundredths of a second.
    pub fn yardstick(&self, program: &str, script: &str, dir: &Path) -> Command {
        let script = format!("cd '{}' && {script}", dir.display());
        if has(program) {
            let mut command = Command::new("sh");
            command.args(["-c", &script]);
            return command;
        }
        let recipe = self.world.project.join("tests/recipes/bench-tools.toml");
        let bind = format!("{0}:{0}", self.world.root.display());
        let mut command = Command::new(&self.world.binary);
        command
            .args(["tools", "--network", "--bind", &bind, "--recipe"])
            .arg(recipe)
            .args(["--", "sh", "-c", &script])
            .env("FARROW_CACHE", self.world.root.join("cache"))
            .env("FARROW_TOOLS", self.world.root.join("tools"));
        command
    }

    /// Names of the packages asked for.
    pub fn requests(&self) -> Vec<&str> {
        let packages = self.mirror.lock.packages.iter();
        packages
            .filter(|package| package.why.starts_with("group "))
            .map(|package| package.name.as_str())
            .collect()
    }

    /// Builds the repository in `out` and returns the seconds of one stage.
    fn build(&self, out: &str, stage: &str) -> Result<f64> {
        let args = [
            "repo",
            "build",
            self.recipe,
            "--json",
            "--lock",
            "bench.lock",
            "--out",
            out,
        ];
        let mut command = self.farrow(&args);
        let output = command
            .env("FARROW_CACHE", self.dir.join("cache"))
            .output()?;
        let document: serde_json::Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let stages = document["stages"].as_array().context("stages")?;
        let found = stages.iter().find(|entry| entry["name"] == stage);
        found
            .and_then(|entry| entry["seconds"].as_f64())
            .with_context(|| format!("no stage {stage} in {document}"))
    }

    fn remove(&self, names: &[&str]) -> Result<()> {
        for name in names {
            let path = self.dir.join(name);
            if path.exists() {
                fs::remove_dir_all(&path)?;
            }
        }
        Ok(())
    }
}

/// The stage `fetch` with an empty cache and with a full one, beside curl and sha256sum.
pub fn fetch(setting: &Setting<'_>, table: &mut Table) -> Result<()> {
    let forget = || setting.remove(&["cache", "built"]);
    let ours = fastest(forget, || setting.build("built", "fetch"))?;
    let again = fastest(
        || setting.remove(&["built"]),
        || setting.build("built", "fetch"),
    )?;
    table.bound("fetch again, all there", again, "s", 1.0);
    let (mut config, mut sums) = (String::new(), String::new());
    for ((url, name), package) in setting
        .mirror
        .packages()
        .iter()
        .zip(&setting.mirror.lock.packages)
    {
        config += &format!("url = \"{url}\"\noutput = \"{name}\"\n");
        sums += &format!("{}  {name}\n", package.sha256);
    }
    fs::write(setting.dir.join("urls"), config)?;
    fs::write(setting.dir.join("sums"), sums)?;
    let script = "mkdir curl && cd curl && curl -s --fail --parallel --parallel-max 8 --config ../urls && sha256sum --quiet -c ../sums";
    let curl = fastest(
        || setting.remove(&["curl"]),
        || timed(&mut setting.yardstick("curl", script, setting.dir)),
    )?;
    table.ratio("fetch : curl + sha256sum", ours, curl, 1.25);
    setting.remove(&["curl"])
}

/// The stage `repository`, which copies, indexes and signs, beside apt-ftparchive, which indexes.
pub fn publish(setting: &Setting<'_>, table: &mut Table) -> Result<()> {
    let ours = fastest(
        || setting.remove(&["built"]),
        || setting.build("built", "repository"),
    )?;
    let script = "apt-ftparchive packages . > ../Packages && mv ../Packages . && gzip -9kn Packages && xz -k Packages \
                  && apt-ftparchive release . > ../Release && mv ../Release .";
    let folder = setting.dir.join("ftparchive");
    let copy = || {
        setting.remove(&["ftparchive"])?;
        fs::create_dir(&folder)?;
        for package in &setting.mirror.lock.packages {
            let source = setting
                .mirror
                .root
                .join(&package.archive)
                .join(&package.path);
            fs::copy(&source, folder.join(source.file_name().context("name")?))?;
        }
        Ok(())
    };
    let theirs = fastest(copy, || {
        timed(&mut setting.yardstick("apt-ftparchive", script, &folder))
    })?;
    table.ratio("publish : apt-ftparchive", ours, theirs, 0.5);
    setting.remove(&["ftparchive"])
}

/// `repo build` with everything to do, tarball included, beside an aptly mirror that is published.
pub fn whole(setting: &Setting<'_>, table: &mut Table) -> Result<()> {
    let args = [
        "repo",
        "build",
        setting.recipe,
        "--lock",
        "whole.lock",
        "--out",
        "built",
    ];
    let forget = || {
        let _ = fs::remove_file(setting.dir.join("whole.lock"));
        setting.remove(&["cache", "built"])
    };
    let ours = fastest(forget, || {
        timed(
            setting
                .farrow(&args)
                .env("FARROW_CACHE", setting.dir.join("cache")),
        )
    })?;
    let aptly = Aptly::new(setting)?;
    // Minutes long; one run is exact enough for a bar of four times.
    let theirs = timed(&mut setting.yardstick("aptly", &aptly.script, setting.dir))?;
    table.ratio("repo build : aptly", ours, theirs, 0.25);
    setting.remove(&["aptly"])
}

struct Aptly {
    script: String,
}

impl Aptly {
    /// Mirrors of all suites with a filter by name and dependencies, snapshots, one published merge; signatures are
    /// neither checked nor made, which only favours it.
    fn new(setting: &Setting<'_>) -> Result<Self> {
        let root = setting.dir.join("aptly");
        fs::create_dir_all(&root)?;
        let config = root.join("aptly.conf");
        let content = serde_json::json!({
            "rootDir": root.join("root"), "downloadConcurrency": 8, "architectures": [setting.mirror.lock.architecture],
            "gpgDisableSign": true, "gpgDisableVerify": true, "dependencyFollowAllVariants": false,
        });
        fs::write(&config, content.to_string())?;
        let aptly = format!("aptly -config='{}'", config.display());
        let (mut script, mut snapshots) = (String::from("set -e\n"), String::new());
        for (n, index) in setting.mirror.lock.indexes.iter().enumerate() {
            let filter = filter(&setting.mirror.lock, index);
            if filter.is_empty() {
                continue;
            }
            let url = &setting.mirror.urls[&index.archive];
            script += &format!(
                "{aptly} mirror create -force-components -ignore-signatures -filter='{filter}' m{n} '{url}' '{}' '{}'\n\
                 {aptly} mirror update -ignore-signatures m{n}\n{aptly} snapshot create s{n} from mirror m{n}\n",
                index.suite, index.component
            );
            snapshots += &format!(" s{n}");
        }
        script += &format!(
            "{aptly} snapshot merge -latest all{snapshots}\n{aptly} publish snapshot -skip-signing -skip-contents -distribution=bench all\n"
        );
        Ok(Aptly { script })
    }
}

/// The packages that come from one index, by name and version, as aptly's filter.
fn filter(lock: &Lock, index: &LockedIndex) -> String {
    let packages = lock.packages.iter();
    let own = packages.filter(|p| p.archive == index.archive && p.suite == index.suite);
    let terms = own.map(|p| format!("(Name (= {}), $Version (= {}))", p.name, p.version));
    terms.collect::<Vec<_>>().join(" | ")
}

/// Every file's content, from the page cache, on all cores.
pub fn verify(setting: &Setting<'_>, table: &mut Table) -> Result<()> {
    let path = setting.repository.to_string_lossy().into_owned();
    let run = || timed(&mut setting.farrow(&["repo", "verify", &path]));
    run()?;
    let ours = fastest(|| Ok(()), run)?;
    let script = "find . -type f -print0 | xargs -0 -n 8 -P \"$(nproc)\" sha256sum > /dev/null";
    let theirs = fastest(
        || Ok(()),
        || timed(&mut setting.yardstick("sha256sum", script, &setting.repository)),
    )?;
    // At least 0.9 times the throughput.
    table.ratio("verify : sha256sum on all cores", ours, theirs, 1.0 / 0.9);
    let cold = |work: &dyn Fn() -> Result<f64>| fastest(|| evict(&setting.repository), work);
    let ours = cold(&run)?;
    let theirs = cold(&|| timed(&mut setting.yardstick("sha256sum", script, &setting.repository)))?;
    table.ratio("verify, from the disk", ours, theirs, 1.0 / 0.9);
    Ok(())
}
