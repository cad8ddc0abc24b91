//! Upgrades of a machine as a whole: another version is written beside the running one, tried at the next boot, and kept only
//! when the machine then says that it is ready.
//!
//! A stage is a type: an [`Archive`] gives a [`Release`] whose signature is right; with the [`Disk`] and the running [`Image`]
//! that gives an [`UpgradePlan`], which [`apply`] carries out. After the next boot, [`assess`] keeps the version or goes back.

pub mod apply;
pub mod archive;
pub mod assess;
pub mod esp;
pub mod grubenv;
pub mod machine;
pub mod merkle;
pub mod names;
pub mod plan;
pub mod record;
pub mod release;
pub mod signature;
pub mod version;

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::context::Image;
use crate::error::{Error, Result};
use crate::http;
use archive::Archive;
use esp::Place;
use machine::{Disk, Running, not_an_image};
use plan::{Inputs, UpgradePlan};
use record::{Record, Records};
use release::Release;

/// The key that upgrades must be signed with: 32 bytes in hex, in the verified root.
pub const KEY_FILE: &str = "/usr/lib/farrow/upgrade.key";
/// How long a boot may take until it is ready, when nobody says otherwise, in seconds.
pub const READY_WITHIN_SECONDS: u64 = 600;
/// Held while one is written.
const LOCK: &str = "/run/farrow/upgrade.lock";
/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// File, or address with `http://`.
    pub source: String,
    /// How long a boot of the new version may take until it is ready, in seconds.
    pub ready_within_seconds: u64,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What a machine says of its versions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeStatus {
    /// Slot of the running root, `a` or `b`; none on a machine that is no image.
    pub slot: Option<String>,
    /// The upgrade that is on trial, else the last one.
    pub last: Option<Record>,
}

impl UpgradeStatus {
    /// Looks at this machine. What cannot be read is left out.
    pub fn probe() -> Self {
        let running = Running::probe();
        let disk = running.and_then(|running| Disk::find(&running).ok());
        UpgradeStatus {
            slot: disk.map(|disk| disk.running.to_string()),
            last: Records::new(Path::new(record::FOLDER))
                .latest()
                .ok()
                .flatten(),
        }
    }
}

/// Installs a version beside the running one; gives what was done, or with `dry_run` would be.
///
/// # Errors
/// `FR-UPGRADE-…`, `FR-HTTP`, `FR-IO`.
pub fn upgrade(request: &Request, image: &Image) -> Result<UpgradePlan> {
    let running = Running::probe().ok_or_else(|| not_an_image("it was not started from one"))?;
    let disk = Disk::find(&running)?;
    let key = read_key(Path::new(KEY_FILE))?;
    let _lock = lock()?;
    let mut archive = Archive::new(open(&request.source)?);
    let release = read_release(&mut archive, &key)?;
    let records = Records::new(Path::new(record::FOLDER));
    let place = Place::Device(disk.esp.path.clone());
    let plan = UpgradePlan::compute(&Inputs {
        image,
        running: &running,
        disk: &disk,
        release: &release,
        trial: records.trial()?.as_ref(),
        others: place
            .open(&image.name)?
            .esp
            .others(&names::id(&image.name, &image.version))?,
        ready_within_seconds: request.ready_within_seconds,
    })?;
    if !request.dry_run {
        apply::apply(&plan, &mut archive, &place, &records, &record::boot_id())?;
    }
    Ok(plan)
}

/// Follows a trial to its end, if there is one.
///
/// # Errors
/// `FR-IO`.
pub fn assess(image: &Image) -> Result<()> {
    let records = Records::new(Path::new(record::FOLDER));
    let Some(running) = Running::probe().filter(|_| matches!(records.trial(), Ok(Some(_)))) else {
        return Ok(());
    };
    let place = Place::Device(Disk::find(&running)?.esp.path);
    assess::assess(image, &place, &records, &record::boot_id())
}

/// The document of an archive, once its signature is right.
///
/// # Errors
/// `FR-UPGRADE-SIGNATURE`, `FR-UPGRADE-FORMAT`, `FR-UPGRADE-SOURCE`.
pub fn read_release<R: Read>(archive: &mut Archive<R>, key: &[u8; 32]) -> Result<Release> {
    let document = archive.small(release::DOCUMENT, release::DOCUMENT_LIMIT)?;
    let signed = archive.small(release::SIGNATURE, signature::LIMIT)?;
    signature::verify(&document, &signed, key).map_err(|reason| {
        Error::upgrade(
            "FR-UPGRADE-SIGNATURE",
            format!("the upgrade's signature is refused: {reason}"),
            "sign it with the key that signed the repository of this machine's image",
        )
    })?;
    Release::parse(&document)
}

/// Reads the key that upgrades must be signed with.
///
/// # Errors
/// `FR-UPGRADE-KEY`.
pub fn read_key(path: &Path) -> Result<[u8; 32]> {
    let mut key = [0; 32];
    let text = fs::read_to_string(path).unwrap_or_default();
    match hex::decode_to_slice(text.trim(), &mut key) {
        Ok(()) => Ok(key),
        Err(_) => Err(Error::upgrade(
            "FR-UPGRADE-KEY",
            format!("{} holds no key, so no upgrade is trusted", path.display()),
            "the image was made from a repository whose key is not Ed25519, or is not beside it: bake one that has it",
        )),
    }
}

fn lock() -> Result<Flock<File>> {
    let path = Path::new(LOCK);
    let failed = |error| Error::io("lock", path, error);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(failed)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| busy())
}

/// The refusal while another one is written.
pub fn busy() -> Error {
    Error::upgrade(
        "FR-UPGRADE-BUSY",
        "another upgrade is being written",
        "wait for its end: farrow-bootstrap upgrade --status",
    )
}

/// Opens a file or an address.
///
/// # Errors
/// `FR-UPGRADE-SOURCE`, `FR-HTTP`.
pub fn open(source: &str) -> Result<Box<dyn Read>> {
    if source.starts_with("http://") {
        return Ok(Box::new(http::download(source, SILENCE)?));
    }
    let refuse = |reason: String| {
        let hint = "name a file, or an address such as http://10.10.10.10/NAME.upgrade; the signature protects it, not the way";
        Err(Error::upgrade(
            "FR-UPGRADE-SOURCE",
            format!("{source}: {reason}"),
            hint,
        ))
    };
    if source.contains("://") {
        return refuse("only files and http:// are read".into());
    }
    let path = PathBuf::from(source);
    match File::open(&path) {
        Ok(file) if path.is_file() => Ok(Box::new(file)),
        Ok(_) => refuse("it is no file".into()),
        Err(error) => refuse(error.to_string()),
    }
}
