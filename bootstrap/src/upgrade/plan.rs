//! What an upgrade will do to this machine, as a value: nothing is written before all of it is decided.

use std::cmp::Ordering;
use std::fmt::Write as _;
use std::path::PathBuf;

use super::esp::{TRIES, only};
use super::grubenv::Choice;
use super::machine::{Disk, Running};
use super::names::{self, Counter, Entry};
use super::record::{Outcome, Record, Version};
use super::release::{Member, Release};
use super::version;
use crate::context::Image;
use crate::error::{Error, Result};

/// What a plan is made of.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The running image.
    pub image: &'a Image,
    /// The running root.
    pub running: &'a Running,
    /// Its disk.
    pub disk: &'a Disk,
    /// The version to come.
    pub release: &'a Release,
    /// The upgrade that is on trial.
    pub trial: Option<&'a Record>,
    /// What is on the EFI system partition beside the running version, by path.
    pub others: Vec<PathBuf>,
    /// How long a boot of the version to come may take until it is ready, in seconds.
    pub ready_within_seconds: u64,
}

/// What will be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradePlan {
    /// Name of the image.
    pub name: String,
    /// The running version.
    pub from: Version,
    /// The version to come.
    pub to: Version,
    /// What is removed from the EFI system partition, so that nothing boots a slot that is half written.
    pub remove: Vec<PathBuf>,
    /// Where the version goes.
    pub disk: Disk,
    /// What is written: root and hash tree to the slot, the rest to the EFI system partition.
    pub members: Vec<Member>,
    /// The partitions' ids, by number, as the kernel's command line of the version names them.
    pub ids: [(u32, [u8; 16]); 2],
    /// How systemd-boot sees it.
    pub entry: Entry,
    /// What GRUB boots from then on.
    pub choice: Choice,
    /// How long a boot may take until it is ready, in seconds.
    pub ready_within_seconds: u64,
}

impl UpgradePlan {
    /// Decides whether and how a version is written.
    ///
    /// # Errors
    /// `FR-UPGRADE-TRIAL`, `FR-UPGRADE-NAME`, `FR-UPGRADE-ARCHITECTURE`, `FR-UPGRADE-VERSION`, `FR-UPGRADE-SIZE`.
    pub fn compute(inputs: &Inputs<'_>) -> Result<Self> {
        let (image, release) = (inputs.image, inputs.release);
        refuse_during_trial(inputs)?;
        refuse_others(image, release)?;
        let slot = &inputs.disk.other;
        for (member, region) in release.members.iter().zip([&slot.root, &slot.verity]) {
            if member.size > region.length {
                let message = format!(
                    "{} of version {} has {} MiB, and its place in slot {} has {}",
                    member.name,
                    release.version,
                    member.size.div_ceil(1 << 20),
                    slot.letter,
                    region.length >> 20
                );
                let hint = "bake the first image with a larger `root_slot_mib`, or the upgrade with less in it";
                return Err(Error::upgrade("FR-UPGRADE-SIZE", message, hint));
            }
        }
        let [root, verity] = release.partition_ids();
        let running = names::id(&image.name, &image.version);
        let tries = Counter {
            left: TRIES,
            done: 0,
        };
        let entry = Entry::new(&release.name, &release.version, Some(tries));
        Ok(UpgradePlan {
            name: image.name.clone(),
            from: Version {
                version: image.version.clone(),
                root_hash: inputs.running.root_hash.clone(),
            },
            to: Version {
                version: release.version.clone(),
                root_hash: release.root_hash.clone(),
            },
            remove: inputs.others.clone(),
            disk: inputs.disk.clone(),
            members: release.members.clone(),
            ids: [(slot.root.number, root), (slot.verity.number, verity)],
            choice: Choice {
                trial: Some((entry.id.clone(), TRIES)),
                ..only(&running)
            },
            entry,
            ready_within_seconds: inputs.ready_within_seconds,
        })
    }

    /// What is remembered while the version is on trial.
    pub fn record(&self, boot_id: &str) -> Record {
        Record {
            schema: 1,
            outcome: Outcome::Trying,
            from: self.from.clone(),
            to: self.to.clone(),
            slot: self.disk.other.letter.to_string(),
            boot_id: boot_id.to_owned(),
            ready_within_seconds: self.ready_within_seconds,
            reason: None,
        }
    }

    /// The plan as text.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        self.write_text(&mut out).unwrap_or_default();
        out
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let slot = &self.disk.other;
        writeln!(
            out,
            "upgrade     {} {} -> {}",
            self.name, self.from.version, self.to.version
        )?;
        writeln!(out, "root hash   {}", self.to.root_hash)?;
        writeln!(
            out,
            "slot        {} of {}",
            slot.letter,
            self.disk.path.display()
        )?;
        writeln!(out, "\nremove from the EFI system partition")?;
        for path in &self.remove {
            writeln!(out, "  {}", path.display())?;
        }
        writeln!(out, "\nwrite")?;
        for (index, member) in self.members.iter().enumerate() {
            let place = match index {
                0 => slot.root.path.display().to_string(),
                1 => slot.verity.path.display().to_string(),
                _ => "the EFI system partition".to_owned(),
            };
            writeln!(
                out,
                "  {:<10} {:>10} bytes to {place}",
                member.name, member.size
            )?;
        }
        writeln!(out, "\npartition ids")?;
        for (number, id) in &self.ids {
            writeln!(out, "  {number} {}", hex::encode(id))?;
        }
        writeln!(out, "\ntry")?;
        writeln!(out, "  {} at the next boot, {TRIES} times", self.entry)?;
        writeln!(
            out,
            "  keep it when it is ready within {} s, else {} again",
            self.ready_within_seconds, self.from.version
        )
    }
}

/// The running version is what a failed trial goes back to, so it must have proved itself.
fn refuse_during_trial(inputs: &Inputs<'_>) -> Result<()> {
    match inputs.trial {
        Some(record) if record.to.root_hash == inputs.running.root_hash => Err(Error::upgrade(
            "FR-UPGRADE-TRIAL",
            format!(
                "the running version {} is on trial itself",
                record.to.version
            ),
            "wait until it is ready and kept: farrow-bootstrap upgrade --status",
        )),
        _ => Ok(()),
    }
}

fn refuse_others(image: &Image, release: &Release) -> Result<()> {
    if release.name != image.name {
        return Err(Error::upgrade(
            "FR-UPGRADE-NAME",
            format!(
                "the upgrade is for images of the name {}, this machine runs {}",
                release.name, image.name
            ),
            "images of different names do not share their data; bake the upgrade from a recipe of the same name",
        ));
    }
    if release.architecture != architecture() {
        return Err(Error::upgrade(
            "FR-UPGRADE-ARCHITECTURE",
            format!(
                "the upgrade is for {}, this machine is {}",
                release.architecture,
                architecture()
            ),
            "take the upgrade for this machine's architecture",
        ));
    }
    if version::compare(&release.version, &image.version) != Ordering::Greater {
        return Err(Error::upgrade(
            "FR-UPGRADE-VERSION",
            format!(
                "version {} is not newer than the running {}",
                release.version, image.version
            ),
            "boot loaders start the newest version first; bake the wanted content with a higher `version` in [image]",
        ));
    }
    Ok(())
}

/// Debian's name of the architecture that this program was built for.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
