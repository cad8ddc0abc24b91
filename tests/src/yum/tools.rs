//! Programs of the tools tree for yum, with a folder of the host as `/work`.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::Result;

use crate::farrow::{Farrow, Outcome};
use crate::world::World;

/// The tools tree and the folder that its programs see.
pub struct Tools<'w> {
    world: &'w World,
    /// `/work` inside.
    pub dir: PathBuf,
}

impl<'w> Tools<'w> {
    /// With `dir` as `/work`.
    pub fn new(world: &'w World, dir: &Path) -> Self {
        Tools {
            world,
            dir: dir.to_owned(),
        }
    }

    fn farrow(&self, script: &str) -> Farrow {
        let recipe = self.world.project.join("tests/recipes/yum-tools.toml");
        let recipe = recipe.to_string_lossy();
        let bind = format!("{}:/work", self.dir.display());
        let script = format!("set -eu; cd /work; export HOME=/work; {script}");
        let words = [
            "tools", "--recipe", &recipe, "--bind", &bind, "--", "bash", "-c", &script,
        ];
        Farrow::new(self.world, &words)
    }

    /// Runs a script to its end; anything but success is an error.
    pub fn run(&self, script: &str) -> Result<Outcome> {
        self.farrow(script).succeed()
    }

    /// Runs a script that may fail.
    pub fn attempt(&self, script: &str) -> Result<Outcome> {
        self.farrow(script).run()
    }

    /// Starts a script that is talked to over its standard input and output.
    pub fn converse(&self, script: &str) -> Result<Child> {
        let mut farrow = self.farrow(script);
        let command = farrow.command_mut();
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(command.spawn()?)
    }
}
