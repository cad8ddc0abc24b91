//! A mirror on the loopback interface: the real signed indexes, and the packages of one lock.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::world::World;
use offline_repo::cache::Cache;
use offline_repo::clearsign;
use offline_repo::http::Client;
use offline_repo::lock::Lock;
use offline_repo::mirror::Mirrors;
use offline_repo::serve::{Server, Site};

/// Larger than any index.
const INDEX_LIMIT: u64 = 128 << 20;

/// A running mirror.
pub struct Mirror {
    /// The lock of its packages.
    pub lock: Lock,
    /// URL of each archive by its name.
    pub urls: BTreeMap<String, String>,
    /// Folder of the files.
    pub root: PathBuf,
}

impl Mirror {
    /// Copies what the lock in `dir` names, and starts serving it; the server's thread ends with this process.
    pub fn new(world: &World, recipe: &str, dir: &Path) -> Result<Self> {
        let lock = Lock::load(&dir.join("bench.lock"))?;
        let root = dir.join("mirror");
        let cache = Cache::new(&world.root.join("cache"));
        for package in &lock.packages {
            let target = root.join(&package.archive).join(&package.path);
            fs::create_dir_all(target.parent().context("has a folder")?)?;
            let source = cache.path(&package.sha256);
            fs::copy(&source, &target).with_context(|| source.display().to_string())?;
        }
        copy_indexes(&lock, &root)?;
        let server = Server::bind(Site::of_folder(&root)?, "127.0.0.1:0".parse()?)?;
        let address = server.address()?;
        std::thread::spawn(move || server.run(&|| false, |_| {}));
        std::thread::sleep(Duration::from_millis(100));
        let archives = lock.indexes.iter().map(|index| index.archive.clone());
        let urls = archives.map(|archive| (archive.clone(), format!("http://{address}/{archive}")));
        ensure!(!lock.packages.is_empty(), "{recipe} has no packages");
        Ok(Mirror {
            urls: urls.collect(),
            lock,
            root,
        })
    }

    /// `--mirror ARCHIVE=URL` for each archive.
    pub fn options(&self) -> Vec<String> {
        let pairs = self.urls.iter();
        pairs
            .flat_map(|(archive, url)| ["--mirror".to_string(), format!("{archive}={url}")])
            .collect()
    }

    /// URL and path below a folder of each package.
    pub fn packages(&self) -> Vec<(String, String)> {
        let packages = self.lock.packages.iter();
        packages
            .map(|p| {
                let url = format!("{}/{}", self.urls[&p.archive], p.path.replace('%', "%25"));
                (
                    url,
                    p.path.rsplit('/').next().unwrap_or(&p.path).to_string(),
                )
            })
            .collect()
    }
}

/// InRelease and the compressed package indexes, from where the host gets them.
fn copy_indexes(lock: &Lock, root: &Path) -> Result<()> {
    let mirrors = Mirrors::from_host(BTreeMap::new());
    let client = Client::new(mirrors, false)?;
    for index in &lock.indexes {
        let bases = client.archive_urls(&index.archive, index.url.as_deref())?;
        let suite = format!("dists/{}", index.suite);
        let packages = format!(
            "{suite}/{}/binary-{}/Packages.xz",
            index.component, index.architecture
        );
        for path in [format!("{suite}/InRelease"), packages] {
            let urls: Vec<String> = bases.iter().map(|base| format!("{base}/{path}")).collect();
            let (bytes, _) = client.get(&urls, INDEX_LIMIT)?;
            let target = root.join(&index.archive).join(&path);
            fs::create_dir_all(target.parent().context("has a folder")?)?;
            if path.ends_with("InRelease") {
                // aptly, told to check no signature, asks for the plain file.
                let text = String::from_utf8(bytes.clone())?;
                let clear = clearsign::parse(&text).map_err(anyhow::Error::msg)?;
                fs::write(target.with_file_name("Release"), clear.text)?;
            }
            fs::write(&target, bytes)?;
        }
    }
    Ok(())
}
