//! Whether a version on trial stays: it does when the machine says that it is ready, and not when it does not say so in time.

use std::path::Path;
use std::thread;
use std::time::Duration;

use super::esp::{Esp, Place, only};
use super::grubenv::Choice;
use super::names::{self, Counter};
use super::record::{Outcome, Record, Records};
use crate::context::Image;
use crate::error::{Error, Result};
use crate::process;
use crate::status::{self, STATUS_FILE, State, Status};

/// Between two looks at the status.
const PAUSE: Duration = Duration::from_secs(1);
/// How long systemd may take to accept that the machine restarts.
const REBOOT_LIMIT: Duration = Duration::from_secs(30);
/// There when firmware is UEFI.
const UEFI: &str = "/sys/firmware/efi";

/// What is to be done about a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// This boot has nothing to do with it.
    Nothing,
    /// The version on trial runs and may still become ready.
    Wait,
    /// It is ready.
    Keep,
    /// It is not and will not be; why.
    GiveUp(String),
    /// The version before runs: its boot loader may have given up.
    LookAtTries,
}

/// Decides from the record, what runs (its root hash and boot), what it says of itself and the seconds since it started.
pub fn next(
    record: &Record,
    root_hash: &str,
    boot_id: &str,
    said: Option<&Status>,
    uptime: f64,
) -> Step {
    if root_hash == record.from.root_hash && boot_id != record.boot_id {
        return Step::LookAtTries;
    }
    if root_hash != record.to.root_hash {
        return Step::Nothing;
    }
    let error = |status: &Status| {
        status
            .error
            .as_ref()
            .map_or_else(String::new, |error| format!(": {}", error.message))
    };
    match said {
        Some(status) if status.state == State::Ready => Step::Keep,
        Some(status) if status.state == State::Refused => {
            Step::GiveUp(format!("it refused its metadata{}", error(status)))
        }
        _ if uptime >= record.ready_within_seconds as f64 => {
            let error = said.map(error).unwrap_or_default();
            Step::GiveUp(format!(
                "it was not ready within {} s{error}",
                record.ready_within_seconds
            ))
        }
        _ => Step::Wait,
    }
}

/// Follows a trial to its end, if there is one; restarts the machine when the version is given up.
///
/// # Errors
/// `FR-IO`; it can be tried again.
pub fn assess(image: &Image, esp: &Place, records: &Records, boot_id: &str) -> Result<()> {
    let Some(record) = records.trial()? else {
        return Ok(());
    };
    loop {
        let said = Status::load(Path::new(STATUS_FILE)).ok();
        match next(
            &record,
            &image.root_hash,
            boot_id,
            said.as_ref(),
            status::uptime(),
        ) {
            Step::Nothing => return Ok(()),
            Step::Wait => thread::sleep(PAUSE),
            Step::Keep => return keep(image, &record, esp, records),
            Step::LookAtTries => {
                return conclude(image, &record, &esp.open(&image.name)?.esp, records, uefi());
            }
            Step::GiveUp(reason) => {
                give_up(image, record, esp, records, reason);
                return reboot();
            }
        }
    }
}

fn uefi() -> bool {
    Path::new(UEFI).exists()
}

/// The version stays.
///
/// # Errors
/// `FR-IO`.
pub fn keep(image: &Image, record: &Record, esp: &Place, records: &Records) -> Result<()> {
    let id = names::id(&image.name, &record.to.version);
    let opened = esp.open(&image.name)?;
    opened.esp.recount(&id, |_| None)?;
    opened.esp.choose(&only(&id))?;
    records.finish(&Record {
        outcome: Outcome::Kept,
        ..record.clone()
    })?;
    log::info!("version {} is kept", record.to.version);
    Ok(())
}

/// Takes the version's tries away. What cannot be written is only logged: each restart uses up a try by itself.
fn give_up(image: &Image, mut record: Record, esp: &Place, records: &Records, reason: String) {
    log::error!("version {} is given up: {reason}", record.to.version);
    record.reason = Some(reason);
    let written = records.write(&record).and_then(|()| {
        let opened = esp.open(&image.name)?;
        without_tries(&opened.esp, image, &record)
    });
    if let Err(error) = written {
        log::error!("{error}");
    }
}

/// No boot loader starts the version by itself from now on.
fn without_tries(esp: &Esp, image: &Image, record: &Record) -> Result<()> {
    let id = names::id(&image.name, &record.to.version);
    let made = |old: Counter| Counter {
        left: 0,
        done: old.done + old.left.min(1),
    };
    esp.recount(&id, |old| Some(if old.left == 0 { old } else { made(old) }))?;
    esp.choose(&Choice {
        trial: Some((id, 0)),
        ..only(&names::id(&image.name, &record.from.version))
    })
}

/// The version before runs again after another boot. While tries are left, the boot loader will go on with them.
///
/// # Errors
/// `FR-IO`.
pub fn conclude(
    image: &Image,
    record: &Record,
    esp: &Esp,
    records: &Records,
    uefi: bool,
) -> Result<()> {
    let id = names::id(&image.name, &record.to.version);
    let entry = esp.entries()?.into_iter().find(|entry| entry.id == id);
    let left = match (uefi, esp.environment()?) {
        (false, Some(environment)) => match environment.choice().trial {
            Some((trial, tries)) if trial == id => tries,
            _ => 0,
        },
        _ => match &entry {
            // It was kept, and somebody chose the one before by hand.
            Some(entry) => entry.counter.map_or(1, |counter| counter.left),
            None => 0,
        },
    };
    if left > 0 {
        log::info!("version {} has {left} tries left", record.to.version);
        return Ok(());
    }
    without_tries(esp, image, record)?;
    let reason = record.reason.clone();
    let reason =
        reason.unwrap_or_else(|| "it did not start: the boot loader used up its tries".to_owned());
    log::error!(
        "version {} failed, {} runs again: {reason}",
        record.to.version,
        record.from.version
    );
    records.finish(&Record {
        outcome: Outcome::Failed,
        reason: Some(reason),
        ..record.clone()
    })
}

/// Restarts in order; when systemd does not even accept that, at once.
pub fn reboot() -> Result<()> {
    if let Err(error) = process::run(&["systemctl", "reboot"], REBOOT_LIMIT) {
        log::error!("{error}");
        nix::unistd::sync();
        let Err(errno) = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_AUTOBOOT);
        return Err(Error::io("restart", Path::new("/"), errno.into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upgrade::names::Entry;
    use crate::upgrade::{esp, record};

    fn image() -> Image {
        Image {
            name: "base".into(),
            ..Image::default()
        }
    }

    #[test]
    fn decisions() {
        let record = record::sample();
        let (old, new, other) = ("1".repeat(64), "2".repeat(64), "3".repeat(64));
        let said = |state| {
            let mut status = Status::new(image());
            status.enter(state);
            Some(status)
        };
        let give_up = |text: &str| Step::GiveUp(text.to_owned());
        for (root, boot, said, uptime, expected) in [
            (&old, "one", None, 10.0, Step::Nothing),
            (&old, "two", None, 10.0, Step::LookAtTries),
            (&other, "two", said(State::Ready), 10.0, Step::Nothing),
            (&new, "two", None, 10.0, Step::Wait),
            (&new, "two", said(State::Configuring), 599.0, Step::Wait),
            (&new, "two", said(State::Failed), 599.0, Step::Wait),
            (&new, "two", said(State::Ready), 599.0, Step::Keep),
            (&new, "two", said(State::Ready), 601.0, Step::Keep),
            (
                &new,
                "two",
                said(State::Failed),
                600.0,
                give_up("it was not ready within 600 s"),
            ),
            (
                &new,
                "two",
                None,
                600.0,
                give_up("it was not ready within 600 s"),
            ),
            (
                &new,
                "two",
                said(State::Refused),
                1.0,
                give_up("it refused its metadata"),
            ),
        ] {
            let found = next(&record, root, boot, said.as_ref(), uptime);
            assert_eq!(found, expected, "{root} {boot} {said:?} {uptime}");
        }
    }

    fn on_trial(folder: &Path) -> (Esp, Place, Records) {
        let sample = esp::sample(folder, "base_1");
        sample.create("base_2", "x").unwrap();
        let counter = Some(Counter { left: 2, done: 1 });
        sample
            .arm("base_2", "x", &Entry::new("base", "2", counter))
            .unwrap();
        sample
            .choose(&Choice {
                trial: Some(("base_2".into(), 2)),
                ..only("base_1")
            })
            .unwrap();
        let records = Records::new(&folder.join("records"));
        records.write(&record::sample()).unwrap();
        (sample, Place::Folder(folder.to_owned()), records)
    }

    fn seen(esp: &Esp) -> (Vec<String>, Choice) {
        let names = esp
            .entries()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        (names, esp.environment().unwrap().unwrap().choice())
    }

    #[test]
    fn a_ready_version_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (esp, place, records) = on_trial(folder.path());
        for _ in 0..2 {
            keep(&image(), &record::sample(), &place, &records).unwrap();
            assert_eq!(
                seen(&esp),
                (
                    vec!["base_1.efi".into(), "base_2.efi".into()],
                    only("base_2")
                )
            );
            assert_eq!(records.latest().unwrap().unwrap().outcome, Outcome::Kept);
        }
    }

    #[test]
    fn a_version_is_given_up_and_the_one_before_says_so() {
        for uefi in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let (esp, place, records) = on_trial(folder.path());
            conclude(&image(), &record::sample(), &esp, &records, uefi).unwrap();
            assert_eq!(
                records.trial().unwrap(),
                Some(record::sample()),
                "tries are left"
            );
            give_up(
                &image(),
                record::sample(),
                &place,
                &records,
                "it is slow".into(),
            );
            let given = Choice {
                trial: Some(("base_2".into(), 0)),
                ..only("base_1")
            };
            assert_eq!(
                seen(&esp),
                (
                    vec!["base_1.efi".into(), "base_2+0-2.efi".into()],
                    given.clone()
                )
            );
            let record = records.trial().unwrap().unwrap();
            conclude(&image(), &record, &esp, &records, uefi).unwrap();
            let last = records.latest().unwrap().unwrap();
            assert_eq!(
                (last.outcome, last.reason.as_deref()),
                (Outcome::Failed, Some("it is slow"))
            );
            assert_eq!(seen(&esp).1, given);
        }
    }

    /// One boot loader counted down to nothing: the other one's tries end as well.
    #[test]
    fn tries_that_were_used_up() {
        for uefi in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let (esp, _, records) = on_trial(folder.path());
            if uefi {
                esp.recount("base_2", |_| Some(Counter { left: 0, done: 3 }))
                    .unwrap();
            } else {
                esp.choose(&Choice {
                    trial: Some(("base_2".into(), 0)),
                    ..only("base_1")
                })
                .unwrap();
            }
            conclude(&image(), &record::sample(), &esp, &records, uefi).unwrap();
            let (names, choice) = seen(&esp);
            assert!(names[1].starts_with("base_2+0-"), "{names:?}");
            assert_eq!(choice.trial, Some(("base_2".into(), 0)));
            let last = records.latest().unwrap().unwrap();
            assert!(last.reason.unwrap().contains("used up"));
        }
    }
}
