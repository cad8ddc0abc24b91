//! One run of the command line: its settings, its progress on the terminal, and the times of its stages.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::cli::GlobalOptions;
use crate::diagnostic::{Diagnostic, Result};
use crate::paths::Paths;
use crate::shared_cache::{Note, SharedCache};

/// What was made: one entry of `artifacts` in `--json`.
#[derive(Debug, Clone, Serialize)]
pub struct Artifact {
    /// `lock`, `repository`, `bundle`, `image-raw`, …
    pub kind: String,
    /// Where it is.
    pub path: String,
    /// SHA-256 of the file; of the manifest for a folder.
    pub sha256: String,
    /// Size in bytes; of all files for a folder.
    pub size: u64,
}

/// One entry of `stages` in `--json`.
#[derive(Debug, Clone, Serialize)]
pub struct StageTime {
    /// Name of the stage.
    pub name: String,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Whether an earlier result was used again.
    pub reused: bool,
}

/// Settings, folders and the record of a run.
pub struct Session {
    /// Options that every command takes.
    pub options: GlobalOptions,
    /// Folders on the host.
    pub paths: Paths,
    shared: OnceLock<Option<SharedCache>>,
    stages: Mutex<Vec<StageTime>>,
    artifacts: Mutex<Vec<Artifact>>,
}

/// Reports progress from inside a stage; may be used from several threads.
pub struct Stage<'a> {
    name: &'a str,
    bar: ProgressBar,
    events: bool,
    last_event: Mutex<Instant>,
}

/// Result of a stage, and whether it was there already.
pub struct Done<T> {
    /// The result.
    pub value: T,
    /// Whether an earlier result was used again.
    pub reused: bool,
}

impl<T> Done<T> {
    /// A result that was made now.
    pub fn made(value: T) -> Self {
        Self {
            value,
            reused: false,
        }
    }

    /// A result of an earlier run.
    pub fn reused(value: T) -> Self {
        Self {
            value,
            reused: true,
        }
    }
}

impl Session {
    /// Starts a run.
    pub fn new(options: GlobalOptions) -> Result<Self> {
        Ok(Self {
            options,
            paths: Paths::from_environment()?,
            shared: OnceLock::new(),
            stages: Mutex::default(),
            artifacts: Mutex::default(),
        })
    }

    /// The cache shared with other builders, if one is named; opened at the first use.
    pub fn shared(&self) -> Result<Option<&SharedCache>> {
        if let Some(opened) = self.shared.get() {
            return Ok(opened.as_ref());
        }
        let named = self.options.cache_from.as_deref();
        let opened = named.map(|url| SharedCache::open(url, &self.options.cache_key));
        let opened = opened.transpose()?;
        Ok(self.shared.get_or_init(|| opened).as_ref())
    }

    /// Runs one stage with a line of progress, and records its time.
    pub fn stage<T>(
        &self,
        name: &str,
        work: impl FnOnce(&Stage<'_>) -> Result<Done<T>>,
    ) -> Result<T> {
        let started = Instant::now();
        let stage = Stage::start(name, self.options.events, self.shows_bars());
        let outcome = work(&stage);
        stage.bar.finish_and_clear();
        let done = outcome?;
        let seconds = (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        self.announce(name, seconds, done.reused);
        self.stages
            .lock()
            .expect("no panic holds it")
            .push(StageTime {
                name: name.into(),
                seconds,
                reused: done.reused,
            });
        Ok(done.value)
    }

    /// Records something that was made.
    pub fn add_artifact(&self, kind: &str, path: &Path, sha256: &str, size: u64) {
        self.artifacts
            .lock()
            .expect("no panic holds it")
            .push(Artifact {
                kind: kind.into(),
                path: path.display().to_string(),
                sha256: sha256.into(),
                size,
            });
    }

    /// Records a file that was made, reading it for its digest.
    pub fn add_file(&self, kind: &str, path: &Path) -> Result<()> {
        let (sha256, size) = digest_file(path)?;
        self.add_artifact(kind, path, &sha256, size);
        Ok(())
    }

    /// The stages so far.
    pub fn stages(&self) -> Vec<StageTime> {
        self.stages.lock().expect("no panic holds it").clone()
    }

    /// With `--json`, prints the one document: `result`'s keys, `artifacts` and `stages`.
    pub fn finish(&self, result: serde_json::Value) -> Result<()> {
        if !self.options.json {
            return Ok(());
        }
        let mut document = serde_json::json!({
            "schema": 1,
            "artifacts": *self.artifacts.lock().expect("no panic holds it"),
            "stages": self.stages(),
        });
        if let (Some(document), serde_json::Value::Object(own)) = (document.as_object_mut(), result)
        {
            document.extend(own);
        }
        self.print(&format!("{document:#}"));
        Ok(())
    }

    /// Prints a line for people on standard output; silent with `--json`.
    pub fn say(&self, line: &str) {
        if !self.options.json {
            self.print(line);
        }
    }

    /// Prints a line on standard error for people who asked for more with `-v`.
    pub fn detail(&self, line: &str) {
        if self.options.verbose > 0 {
            eprintln!("{line}");
        }
    }

    fn print(&self, text: &str) {
        // A reader that went away, as with `| head`, is no error of ours.
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }

    fn shows_bars(&self) -> bool {
        !self.options.events && std::io::stderr().is_terminal()
    }

    fn announce(&self, name: &str, seconds: f64, reused: bool) {
        if self.options.events {
            event(
                serde_json::json!({"event": "stage", "stage": name, "seconds": seconds, "reused": reused}),
            );
        } else {
            let note = if reused { "  (unchanged)" } else { "" };
            eprintln!("  {name:<18} {seconds:>7.1} s{note}");
        }
    }
}

impl<'a> Stage<'a> {
    fn start(name: &'a str, events: bool, bars: bool) -> Self {
        let bar = ProgressBar::with_draw_target(
            None,
            match bars {
                true => ProgressDrawTarget::stderr(),
                false => ProgressDrawTarget::hidden(),
            },
        );
        let style = ProgressStyle::with_template("  {prefix:<18} {elapsed:>4} {wide_msg}")
            .expect("template is valid");
        bar.set_style(style);
        bar.set_prefix(name.to_owned());
        if bars {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        if events {
            event(serde_json::json!({"event": "stage-start", "stage": name}));
        }
        Self {
            name,
            bar,
            events,
            last_event: Mutex::new(Instant::now()),
        }
    }

    /// Says what is being done now.
    pub fn step(&self, text: &str) {
        self.bar.set_message(text.to_owned());
        if self.events {
            event(serde_json::json!({"event": "step", "stage": self.name, "text": text}));
        }
    }

    /// Says how far it is, in bytes, how fast and how long it will take; at most twice a second as an event.
    pub fn bytes(&self, done: u64, total: u64) {
        if self.bar.length() != Some(total) {
            self.bar.set_length(total);
            self.bar.set_style(byte_style());
        }
        self.bar.set_position(done);
        self.progress(|| {
            let rate = self.bar.per_sec() as u64;
            let left = (rate > 0).then(|| total.saturating_sub(done) / rate);
            serde_json::json!({"event": "progress", "stage": self.name, "unit": "bytes", "done": done, "total": total, "rate": rate, "seconds_left": left})
        });
    }

    /// Says how far it is, in items.
    pub fn items(&self, done: u64, total: u64, text: &str) {
        self.bar.set_message(format!("{done}/{total} {text}"));
        self.progress(|| {
            serde_json::json!({"event": "progress", "stage": self.name, "unit": "items", "done": done, "total": total})
        });
    }

    /// Says something that went wrong and did no harm.
    pub fn warn(&self, text: &str) {
        match self.events {
            true => {
                event(serde_json::json!({"event": "warning", "stage": self.name, "text": text}))
            }
            false => self.bar.suspend(|| eprintln!("warning: {text}")),
        }
    }

    /// Passes on what a shared cache says.
    pub fn note(&self, note: Note) {
        match note {
            Note::Took(text) => self.step(&text),
            Note::Warning(text) => self.warn(&text),
        }
    }

    fn progress(&self, document: impl FnOnce() -> serde_json::Value) {
        let mut last = self.last_event.lock().expect("no panic holds it");
        if self.events && last.elapsed() > Duration::from_millis(500) {
            *last = Instant::now();
            event(document());
        }
    }
}

fn byte_style() -> ProgressStyle {
    ProgressStyle::with_template(
        "  {prefix:<18} {elapsed:>4} {bar:16} {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left  {wide_msg}",
    )
    .expect("template is valid")
}

fn event(document: serde_json::Value) {
    eprintln!("{document}");
}

/// SHA-256 in hexadecimal and size of a file.
pub fn digest_file(path: &Path) -> Result<(String, u64)> {
    let mut file = std::fs::File::open(path).map_err(|e| Diagnostic::io("read", path, e))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let read = std::io::Read::read(&mut file, &mut buffer)
            .map_err(|e| Diagnostic::io("read", path, e))?;
        if read == 0 {
            return Ok((hex::encode(hasher.finalize()), size));
        }
        hasher.update(&buffer[..read]);
        size += read as u64;
    }
}
