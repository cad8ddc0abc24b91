//! What running services were last started with. A run that is killed between writing a file and restarting the service
//! must not leave the old configuration running: the next run finds the files right, but not what is recorded here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::files;
use crate::networkd::HOSTS;
use crate::plan::{File, Plan};
use crate::tree::read_json;

/// The record. It vanishes with the running services when the machine goes down.
pub const RECORD: &str = "/run/farrow/applied.json";

/// Name under which the network is recorded; no service can be called that, since names begin with a letter.
pub const NETWORK: &str = "/network";

/// Name under which it is recorded what the members are followed with.
pub const WATCH: &str = "/watch";

/// Digests of the configuration that is in use, by service.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    path: PathBuf,
    digests: BTreeMap<String, String>,
}

impl Applied {
    /// Reads the record; a missing or broken one is empty, and everything that runs is restarted.
    pub fn load(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        Applied {
            path: path.to_owned(),
            digests: read_json(&text).unwrap_or_default(),
        }
    }

    /// Whether a service runs with this configuration.
    pub fn has(&self, service: &str, digest: &str) -> bool {
        self.digests
            .get(service)
            .is_some_and(|found| found == digest)
    }

    /// Records that it does. When that cannot be written, the next run restarts it once more, which does no harm.
    /// The first boot and a change of members write to it side by side, each about its own services.
    pub fn record(&mut self, service: &str, digest: &str) {
        self.digests = Applied::load(&self.path).digests;
        self.digests.insert(service.to_owned(), digest.to_owned());
        let written = serde_json::to_string(&self.digests)
            .map_err(|error| error.to_string())
            .and_then(|text| {
                files::write_if_changed(&self.path, text.as_bytes(), 0o600, None)
                    .map_err(|error| error.to_string())
            });
        if let Err(error) = written {
            log::warn!("{error}");
        }
    }
}

/// Digest of the files and links that a service must be restarted for.
pub fn service_digest(plan: &Plan, service: &str) -> String {
    let files = plan
        .files
        .iter()
        .filter(|file| file.restart && file.service.as_deref() == Some(service));
    let links = plan.links.iter().filter(|link| link.service == service);
    digest(&files.collect::<Vec<&File>>(), &links.collect::<Vec<_>>())
}

/// Whether the files on disk are still the plan's: a change of members may have replaced them since. Then who made that
/// change records what it reloads, and this plan's digest would be a lie.
pub fn is_on_disk(plan: &Plan, service: &str) -> bool {
    let mut files = plan
        .files
        .iter()
        .filter(|file| file.restart && file.service.as_deref() == Some(service));
    files.all(|file| fs::read(&file.path).is_ok_and(|found| found == file.content.text.as_bytes()))
}

/// Digest of the network's files that its services must be restarted for.
pub fn network_digest(plan: &Plan) -> String {
    let files = plan.network.iter().filter(|file| file.path != HOSTS);
    digest(&files.collect::<Vec<&File>>(), &())
}

fn digest(files: &impl Serialize, links: &impl Serialize) -> String {
    let text = serde_json::to_string(&(files, links)).unwrap_or_default();
    hex::encode(Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recorded_is_known_to_the_next_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("applied.json");
        let mut applied = Applied::load(&path);
        assert!(!applied.has("etcd", "1"));
        applied.record("etcd", "1");
        applied.record("chrony", "2");
        let next = Applied::load(&path);
        assert!(next.has("etcd", "1") && next.has("chrony", "2") && !next.has("etcd", "2"));
        fs::write(&path, "{").unwrap();
        assert!(!Applied::load(&path).has("etcd", "1"));
    }
}
