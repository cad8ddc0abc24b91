//! A deployment in containers: started by `farrow up --containers`, steered by `farrow machine`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::farrow::{Farrow, Outcome, Running};
use crate::world::World;

/// What `up` is told for containers.
const CONTAINERS: [&str; 3] = ["--containers", "--timeout", "300"];
/// How long a clean stop may take.
const STOP: Duration = Duration::from_secs(120);

/// Containers of one deployment that run.
pub struct Fleet<'a> {
    world: &'a World,
    running: Option<Running>,
    /// Folder of its log and of what the test writes.
    pub dir: PathBuf,
    /// What `up` was given as `--out`.
    out: PathBuf,
    /// The machines, as `up --json` and `machine add` printed them.
    nodes: RefCell<Vec<Value>>,
    /// Seconds from the start of `up` to all ready, the machines' own part of it.
    pub boot_seconds: f64,
    passwords: BTreeMap<(String, String), String>,
}

impl<'a> Fleet<'a> {
    /// Boots a deployment (a name that is shipped, or a file) as containers of the root that the world has, and waits
    /// until every machine is ready. `options` go to `up`.
    pub fn start(world: &'a World, name: &str, deployment: &str, options: &[&str]) -> Result<Self> {
        Self::up(
            world,
            name,
            deployment,
            &[&CONTAINERS, options].concat(),
            world.out(),
        )
    }

    /// The same beside other fleets: it has an output folder of its own, which goes when it stops.
    pub fn start_apart(
        world: &'a World,
        name: &str,
        deployment: &str,
        options: &[&str],
    ) -> Result<Self> {
        let out = world.scratch(&format!("{name}-out"))?;
        Self::up(
            world,
            name,
            deployment,
            &[&CONTAINERS, options].concat(),
            out,
        )
    }

    /// The same in QEMU, from the image that the world has.
    pub fn start_in_qemu(
        world: &'a World,
        name: &str,
        deployment: &str,
        options: &[&str],
    ) -> Result<Self> {
        let own = ["--timeout", "900"];
        Self::up(
            world,
            name,
            deployment,
            &[&own, options].concat(),
            world.out(),
        )
    }

    fn up(
        world: &'a World,
        name: &str,
        deployment: &str,
        options: &[&str],
        out: PathBuf,
    ) -> Result<Self> {
        let dir = world.scratch(name)?;
        let place = out.display().to_string();
        let args = [&["up", deployment, "--json", "--out", &place], options].concat();
        let mut running = Farrow::new(world, &args).start(&dir.join("up.log"))?;
        let document = match running.read_document() {
            Ok(document) => document,
            Err(error) => {
                let log = std::fs::read_to_string(dir.join("up.log")).unwrap_or_default();
                bail!("{error:#}\n{log}");
            }
        };
        let stages = document["stages"].as_array().context("stages")?;
        let boot = stages.iter().find(|stage| stage["name"] == "boot");
        let boot_seconds = boot.and_then(|stage| stage["seconds"].as_f64());
        let credentials = crate::world::read_json(&out.join("credentials.json"))?;
        Ok(Fleet {
            world,
            running: Some(running),
            dir,
            out,
            boot_seconds: boot_seconds.context("the stage boot")?,
            passwords: read_passwords(&credentials),
            nodes: RefCell::new(document["nodes"].as_array().cloned().unwrap_or_default()),
        })
    }

    /// Names of the machines.
    pub fn nodes(&self) -> Vec<String> {
        let nodes = self.nodes.borrow();
        nodes
            .iter()
            .filter_map(|node| Some(node["name"].as_str()?.to_owned()))
            .collect()
    }

    /// The deployment's authority in PEM.
    pub fn authority(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.out.join("ca.crt"))?)
    }

    /// Whether a machine says that it is ready.
    pub fn is_ready(&self, node: &str) -> Result<bool> {
        let outcome = self.machine(&["--json", "status", node])?;
        let document: Value = serde_json::from_str(&outcome.stdout)
            .with_context(|| format!("status of {node}: {}", outcome.stderr))?;
        Ok(document["status"]["ready"] == true)
    }

    /// Adds a machine that joins a cluster; gives its name.
    pub fn add(&self, cluster: &str, instance_id: &str, address: &str) -> Result<String> {
        let words = [
            "--json",
            "add",
            "--join",
            cluster,
            "--instance-id",
            instance_id,
            "--address",
            address,
        ];
        let outcome = self.machine(&words)?;
        ensure!(outcome.code == Some(0), "add: {}", outcome.stderr);
        let answer: Value = serde_json::from_str(&outcome.stdout)?;
        let node = answer["node"].clone();
        let name = node["name"].as_str().context("name")?.to_owned();
        self.nodes.borrow_mut().push(node);
        Ok(name)
    }

    /// The password of a user of a cluster.
    pub fn password(&self, cluster: &str, user: &str) -> Result<&str> {
        let key = (cluster.to_owned(), user.to_owned());
        let found = self.passwords.get(&key);
        Ok(found.with_context(|| format!("no password of {user} in {cluster}"))?)
    }

    /// Where a port of a machine is reachable on the host.
    pub fn address(&self, node: &str, port: u16) -> Result<String> {
        let nodes = self.nodes.borrow();
        let found = nodes.iter().find(|found| found["name"] == node);
        let endpoints = found.and_then(|found| found["endpoints"].as_array());
        let endpoint = endpoints
            .into_iter()
            .flatten()
            .find(|endpoint| endpoint["guest_port"] == port);
        let address = endpoint.and_then(|endpoint| endpoint["address"].as_str());
        Ok(address
            .with_context(|| format!("{node} has no endpoint {port}"))?
            .to_owned())
    }

    /// `farrow machine VERB…`.
    pub fn machine(&self, words: &[&str]) -> Result<Outcome> {
        let run = self.run_folder();
        let mut args = vec!["machine", "--run", &run];
        args.extend(words);
        Farrow::new(self.world, &args).run()
    }

    /// `farrow machine VERB…`, which must succeed.
    pub fn order(&self, words: &[&str]) -> Result<()> {
        let outcome = self.machine(words)?;
        ensure!(
            outcome.code == Some(0),
            "machine {}: {}",
            words.join(" "),
            outcome.stderr
        );
        Ok(())
    }

    /// Runs a shell script in a machine; it comes on standard input, so that secrets in it are nobody else's to see.
    pub fn script(&self, node: &str, script: &str) -> Result<Outcome> {
        let run = self.run_folder();
        let args = ["machine", "--run", &run, "exec", node, "--", "sh", "-s"];
        Farrow::new(self.world, &args).input(script)
    }

    /// Runs a shell script in a machine that must succeed; gives what it printed, trimmed.
    pub fn ask(&self, node: &str, script: &str) -> Result<String> {
        let outcome = self.script(node, script)?;
        ensure!(
            outcome.code == Some(0),
            "{node}: `{}`: exit {:?}: {}{}",
            script.lines().last().unwrap_or_default(),
            outcome.code,
            outcome.stdout,
            outcome.stderr
        );
        Ok(outcome.stdout.trim().to_owned())
    }

    /// Asks each half second until the answer satisfies; gives the seconds it took.
    pub fn until(
        &self,
        node: &str,
        script: &str,
        limit: Duration,
        right: impl Fn(&str) -> bool,
    ) -> Result<f64> {
        let started = Instant::now();
        loop {
            let outcome = self.script(node, script)?;
            if outcome.code == Some(0) && right(outcome.stdout.trim()) {
                return Ok(started.elapsed().as_secs_f64());
            }
            ensure!(
                started.elapsed() < limit,
                "{node}: `{script}` still gives {:?} after {} s: {}{}",
                outcome.code,
                limit.as_secs(),
                outcome.stdout,
                outcome.stderr
            );
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Stops all machines in order.
    pub fn stop(mut self) -> Result<()> {
        let running = self.running.take().context("it runs")?;
        running.signal(Signal::SIGINT)?;
        let (code, _) = running.wait(STOP)?;
        ensure!(code == Some(0), "up ended with {code:?}");
        if self.out != self.world.out() {
            std::fs::remove_dir_all(&self.out)?;
        }
        Ok(())
    }

    /// Process id of `farrow`.
    pub fn process(&self) -> Result<u32> {
        Ok(self.running.as_ref().context("it runs")?.child.id())
    }

    /// Kills `farrow` as nothing can be prepared for.
    pub fn kill(mut self) -> Result<()> {
        let running = self.running.take().context("it runs")?;
        running.signal(Signal::SIGKILL)?;
        running.wait(STOP).map(drop)
    }

    fn run_folder(&self) -> String {
        self.out.join("run/pigsty").display().to_string()
    }
}

impl Drop for Fleet<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = running.signal(Signal::SIGTERM);
            let _ = running.wait(STOP);
        }
    }
}

fn read_passwords(credentials: &Value) -> BTreeMap<(String, String), String> {
    let mut passwords = BTreeMap::new();
    let clusters = credentials["clusters"].as_object().into_iter().flatten();
    for (cluster, users) in clusters {
        for (user, password) in users.as_object().into_iter().flatten() {
            let password = password.as_str().unwrap_or_default().to_owned();
            passwords.insert((cluster.clone(), user.clone()), password);
        }
    }
    passwords
}

impl Farrow {
    /// Runs it to its end with a text as standard input.
    pub fn input(mut self, text: &str) -> Result<Outcome> {
        let started = Instant::now();
        let command = self
            .command_mut()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().context("piped")?;
        // Whoever does not read all of it says so by its exit code.
        let _ = stdin.write_all(text.as_bytes());
        drop(stdin);
        let output = child.wait_with_output()?;
        Ok(Outcome {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}
