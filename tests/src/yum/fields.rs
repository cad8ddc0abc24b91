//! Metadata files as lines that can be compared: one per element, with its place, attributes and text.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use offline_repo::rpm::reader::{self, Item};

/// Lines of each package by its digest, from the file of a kind below `folder/repodata`.
pub fn by_package(folder: &Path, kind: &str) -> Result<BTreeMap<String, Vec<String>>> {
    let mut packages = BTreeMap::new();
    let mut lines: Vec<String> = Vec::new();
    let mut place: Vec<String> = Vec::new();
    let mut digest = String::new();
    let handle = |item: Item| {
        match item {
            Item::Start(name, attributes) => {
                if let Some(found) = attributes.get("pkgid").filter(|id| *id != "YES") {
                    digest = found.to_string();
                }
                let mut pairs: Vec<String> = (attributes.iter())
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                pairs.sort();
                place.push(format!("{name}[{}]", pairs.join(" ")));
            }
            Item::End(name, text) => {
                if name == "checksum" {
                    digest = text.clone();
                }
                // Between elements there is nothing but space.
                let text = match text.trim().is_empty() {
                    true => "",
                    false => &text,
                };
                lines.push(format!("{} {text}", place.join(" ")));
                place.pop();
                if name == "package" {
                    packages.insert(std::mem::take(&mut digest), std::mem::take(&mut lines));
                }
            }
        }
        Ok(())
    };
    let path = find(folder, kind)?;
    let file = flate2::read::GzDecoder::new(BufReader::new(File::open(&path)?));
    reader::read(BufReader::new(file), handle).map_err(|e| anyhow!("{}: {e}", path.display()))?;
    Ok(packages)
}

/// The one metadata file of a kind.
pub fn find(folder: &Path, kind: &str) -> Result<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder.join("repodata"))?;
    let ending = format!("-{kind}.xml.gz");
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths
        .find(|path| path.to_string_lossy().ends_with(&ending))
        .with_context(|| format!("no {kind} in {}", folder.display()))
}
