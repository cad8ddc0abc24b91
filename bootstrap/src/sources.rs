//! Where metadata comes from, in order: a NoCloud volume, a NoCloud folder, cloud-init's own record, and the copy of
//! what was last accepted. Each is bounded and read as it is; nothing is asked over the network.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::error::{Error, Invalid, Result};
use crate::files;
use crate::metadata::Raw;
use crate::mounts;
use crate::toml_text::MAX_DOCUMENT_BYTES;
use crate::tree;

/// Folder that NoCloud seeds are put into an image or a container.
const SEED_FOLDER: &str = "/var/lib/cloud/seed/nocloud";

/// cloud-init's record of the instance; the first has what the second hides.
const INSTANCE_DATA: [&str; 2] = [
    "/run/cloud-init/instance-data-sensitive.json",
    "/run/cloud-init/instance-data.json",
];

/// What was last accepted, so that a reboot needs no metadata.
pub const KEPT_COPY: &str = "/var/lib/farrow/metadata.json";

/// Where the seed volume is mounted while it is read.
const MOUNT_POINT: &str = "/run/farrow/seed";

/// How long to wait for a volume to appear when there is nothing else: drivers of removable media load late.
const VOLUME_WAIT: Duration = Duration::from_secs(20);

/// Finds this machine's metadata.
///
/// # Errors
/// `FR-METADATA-NONE`, or why a source that is there cannot be read.
pub fn find() -> Result<Raw> {
    let deadline = Instant::now() + VOLUME_WAIT;
    loop {
        if let Some(raw) = look()? {
            return Ok(raw);
        }
        if Instant::now() >= deadline {
            let looked_at = format!(
                "a volume labelled CIDATA, {SEED_FOLDER}, {}, {KEPT_COPY}",
                INSTANCE_DATA[1]
            );
            return Err(Error::NoMetadata { looked_at });
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn look() -> Result<Option<Raw>> {
    if let Some(volume) = find_volume() {
        return read_volume(&volume).map(Some);
    }
    if Path::new(SEED_FOLDER).join("user-data").exists() {
        return read_seed(Path::new(SEED_FOLDER), SEED_FOLDER).map(Some);
    }
    for path in INSTANCE_DATA.map(Path::new) {
        if path.exists() {
            return instance_data(&read_text(path)?, &path.display().to_string()).map(Some);
        }
    }
    let kept = Path::new(KEPT_COPY);
    if kept.exists() {
        log::info!("no source of metadata is there; using the copy kept in {KEPT_COPY}");
        return read_kept(&read_text(kept)?).map(Some);
    }
    Ok(None)
}

/// Reads a NoCloud folder; meta-data and network-config may be missing.
///
/// # Errors
/// `FR-IO` when there is no user-data, `FR-YAML` when meta-data is no YAML.
pub fn read_seed(folder: &Path, source: &str) -> Result<Raw> {
    let user_data = read_text(&folder.join("user-data"))?;
    let meta_data = read_optional(&folder.join("meta-data"))?.unwrap_or_default();
    let network_config = read_optional(&folder.join("network-config"))?;
    Raw::from_seed(source, user_data, &meta_data, network_config)
}

/// Keeps what was accepted.
///
/// # Errors
/// `FR-IO`.
pub fn keep(raw: &Raw, path: &Path) -> Result<()> {
    let text =
        serde_json::to_string(raw).map_err(|error| Error::io("serialise", path, error.into()))?;
    files::make_directory(path.parent().unwrap_or(Path::new("/")), 0o700, None)?;
    files::write_if_changed(path, text.as_bytes(), 0o600, None).map(|_| ())
}

/// What was last accepted: what all but the first boot of a machine goes by.
///
/// # Errors
/// `FR-IO`, `FR-METADATA-KEPT`.
pub fn kept() -> Result<Raw> {
    read_kept(&read_text(Path::new(KEPT_COPY))?)
}

fn read_kept(text: &str) -> Result<Raw> {
    tree::read_json(text).map_err(|error| {
        let hint = "remove it, and give the machine its metadata again";
        Invalid::new("FR-METADATA-KEPT", error.field, error.message, hint)
            .in_document(KEPT_COPY)
            .into()
    })
}

fn read_text(path: &Path) -> Result<String> {
    let limit = u64::try_from(MAX_DOCUMENT_BYTES).unwrap_or(u64::MAX) * 2;
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(limit).read_to_string(&mut text))
        .map_err(|error| Error::io("read", path, error))?;
    Ok(text)
}

fn read_optional(path: &Path) -> Result<Option<String>> {
    if path.exists() {
        read_text(path).map(Some)
    } else {
        Ok(None)
    }
}

/// A volume with a seed: its device and file system type.
struct Volume {
    device: PathBuf,
    kind: &'static str,
}

/// Looks for the label in the file systems themselves: udev's links under /dev/disk may not be there yet.
fn find_volume() -> Option<Volume> {
    let entries = fs::read_dir("/sys/class/block").ok()?.flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names.into_iter().find_map(|name| {
        let device = Path::new("/dev").join(name);
        let kind = seed_kind(&mut File::open(&device).ok()?)?;
        Some(Volume { device, kind })
    })
}

/// The file system type, if its label is CIDATA in any case.
fn seed_kind(device: &mut (impl Read + Seek)) -> Option<&'static str> {
    let mut sector = [0; 512];
    device.read_exact(&mut sector).ok()?;
    let cidata = |label: &[u8]| label.trim_ascii_end().eq_ignore_ascii_case(b"cidata");
    // Microsoft's FAT specification: type name and, before it, the label's 11 bytes.
    for (name, label, kind) in [(82, 71, b"FAT32".as_slice()), (54, 43, b"FAT1")] {
        if sector[name..].starts_with(kind) {
            return cidata(&sector[label..label + 11]).then_some("vfat");
        }
    }
    // ECMA-119: primary volume descriptor in sector 16 of 2048 bytes, volume identifier at 40.
    device.seek(SeekFrom::Start(16 * 2048)).ok()?;
    device.read_exact(&mut sector).ok()?;
    (sector[1..6] == *b"CD001" && cidata(&sector[40..72])).then_some("iso9660")
}

fn read_volume(volume: &Volume) -> Result<Raw> {
    let point = Path::new(MOUNT_POINT);
    files::make_directory(point, 0o700, None)?;
    mounts::mount_read_only(&volume.device, point, volume.kind)?;
    let raw = read_seed(point, &format!("volume {}", volume.device.display()));
    mounts::unmount(point)?;
    raw
}

/// Reads cloud-init's instance-data.json (its keys are documented under "Instance metadata").
fn instance_data(text: &str, source: &str) -> Result<Raw> {
    let refuse =
        |message: String| Invalid::new("FR-METADATA-INSTANCE", "", message, "").in_document(source);
    let data: Value = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let user_data = text(&data["userdata"]).unwrap_or_default();
    let user_data = match user_data.strip_prefix("ci-b64:") {
        None => user_data,
        Some(packed) => {
            let bytes = STANDARD
                .decode(packed)
                .map_err(|error| refuse(error.to_string()))?;
            String::from_utf8(bytes).map_err(|_| refuse("the user-data is no text".into()))?
        }
    };
    let tags = data["ds"]["meta_data"]["tags"].as_object();
    let tags = tags
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), text(value)?)));
    Ok(Raw {
        source: source.to_owned(),
        user_data,
        instance_id: text(&data["v1"]["instance_id"]),
        local_hostname: text(&data["v1"]["local_hostname"]),
        tags: tags.collect(),
        network_config: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn labels() {
        let mut fat = vec![0; 64 * 1024];
        fat[54..62].copy_from_slice(b"FAT16   ");
        fat[43..54].copy_from_slice(b"CIDATA     ");
        assert_eq!(seed_kind(&mut Cursor::new(&fat)), Some("vfat"));
        fat[43] = b'X';
        assert_eq!(seed_kind(&mut Cursor::new(&fat)), None);
        let mut iso = vec![0; 64 * 1024];
        iso[32769..32774].copy_from_slice(b"CD001");
        iso[32808..32814].copy_from_slice(b"cidata");
        iso[32814..32840].fill(b' ');
        assert_eq!(seed_kind(&mut Cursor::new(&iso)), Some("iso9660"));
        assert_eq!(seed_kind(&mut Cursor::new(vec![0; 100])), None);
    }

    #[test]
    fn cloud_init() {
        let text = r##"{"userdata": "ci-b64:I2Nsb3VkLWNvbmZpZwo=", "v1": {"instance_id": "i-1", "local_hostname": "meta"},
            "ds": {"meta_data": {"tags": {"farrow:role": "meta"}}}}"##;
        let raw = instance_data(text, "test").unwrap();
        assert_eq!(raw.user_data, "#cloud-config\n");
        assert_eq!(raw.instance_id.as_deref(), Some("i-1"));
        assert_eq!(raw.tags["farrow:role"], "meta");
        assert!(instance_data("[", "test").is_err());
    }
}
