//! The folders that all end-to-end tests of a run share.

use std::fs;
use std::path::{Path, PathBuf};

const GB: u64 = 1_000_000_000;

/// Space that the whole run may need, in bytes; `up` alone needs half of it.
const SPACE: u64 = 10 * GB;

/// Folders below the target folder; made empty at the start of a run.
#[derive(Debug, Clone)]
pub struct World {
    /// Everything that the tests write.
    pub root: PathBuf,
    /// The binary under test.
    pub binary: PathBuf,
    /// The project's top folder.
    pub project: PathBuf,
}

impl World {
    /// Finds the binary beside this test and makes its folder empty: the first test starts from nothing.
    ///
    /// With `FARROW_E2E_KEEP` set, the folders of the last run are kept, to look into one test at a time.
    pub fn prepare() -> anyhow::Result<Self> {
        let world = Self::find()?;
        if !keeps() && world.root.exists() {
            fs::remove_dir_all(&world.root)?;
        }
        fs::create_dir_all(&world.root)?;
        let free = free_bytes(&world.root)?;
        anyhow::ensure!(
            free >= SPACE || keeps(),
            "{} GB are free at {}, the whole run needs {} GB",
            free / GB,
            world.root.display(),
            SPACE / GB
        );
        Ok(world)
    }

    /// The folders of the last run as they are.
    pub fn keep() -> anyhow::Result<Self> {
        let world = Self::find()?;
        fs::create_dir_all(&world.root)?;
        Ok(world)
    }

    fn find() -> anyhow::Result<Self> {
        let own = std::env::current_exe()?;
        let release = own
            .ancestors()
            .find(|dir| dir.join("farrow").is_file())
            .ok_or_else(|| {
                anyhow::anyhow!(
                    "no farrow binary above {}: build the whole workspace",
                    own.display()
                )
            })?;
        let project = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("a member of the workspace");
        Ok(Self {
            root: release.join("e2e"),
            binary: release.join("farrow"),
            project: project.to_owned(),
        })
    }

    /// A folder of its own for one test, empty.
    pub fn scratch(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.root.join("scratch").join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Removes what a part that went well has left in its folders, so that the whole run needs little space.
    ///
    /// With `FARROW_E2E_KEEP` set, it stays. What a plain user's mapped owners left may stay as well: it is in nobody's way.
    pub fn remove_scratch(&self) {
        if !keeps() {
            fs::remove_dir_all(self.root.join("scratch")).ok();
        }
    }

    /// The output folder of `up`.
    pub fn out(&self) -> PathBuf {
        self.root.join("out")
    }
}

/// True when the folders of the last run are kept, to look into one test at a time.
fn keeps() -> bool {
    std::env::var_os("FARROW_E2E_KEEP").is_some()
}

/// Bytes that a file system still has for us.
fn free_bytes(at: &Path) -> anyhow::Result<u64> {
    let found = nix::sys::statvfs::statvfs(at)?;
    Ok(found.blocks_available() * found.fragment_size())
}

/// Reads a JSON file.
pub fn read_json(path: &Path) -> anyhow::Result<serde_json::Value> {
    let text = fs::read(path).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
    Ok(serde_json::from_slice(&text)?)
}
