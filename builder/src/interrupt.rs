//! Ctrl-C, SIGTERM and crashes: a supervisor starts the real run as its child, and when that ends early removes what
//! it left unfinished. By then nothing of the run writes any more, because its sandboxes end with it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Exit code after SIGINT, as shells give it.
const EXIT_INTERRUPTED: u8 = 130;
/// Tells the child that it is one: the inherited descriptor on which it names folders.
const CHILD: &str = "FARROW_SUPERVISED";
/// How deep below a named folder unfinished entries may be: `cache/roots/.unfinished-…`.
const DEPTH: usize = 2;
/// How far a file's time, in whole seconds here, may lie before the moment that it was written.
const CLOCK_TICK: Duration = Duration::from_secs(1);
/// How long the sandboxes of a run that was killed may take to end.
const SANDBOX_END: Duration = Duration::from_millis(300);

static REQUESTED: AtomicBool = AtomicBool::new(false);
static GRACEFUL: AtomicBool = AtomicBool::new(false);
static CHILD_PID: AtomicI32 = AtomicI32::new(0);
static REPORT: Mutex<Option<std::fs::File>> = Mutex::new(None);

/// In the supervisor: runs the child and returns its exit code. In the child: `None`, and the run goes on.
pub fn supervise() -> Option<ExitCode> {
    if let Some(descriptor) = std::env::var_os(CHILD) {
        become_child(&descriptor);
        return None;
    }
    match run_child() {
        Ok(code) => Some(code),
        Err(error) => {
            eprintln!("farrow: cannot start: {error}");
            Some(ExitCode::FAILURE)
        }
    }
}

fn become_child(descriptor: &OsStr) {
    let path = Path::new("/proc/self/fd").join(descriptor);
    *REPORT.lock().expect("no panic holds it") =
        std::fs::OpenOptions::new().append(true).open(path).ok();
    // The supervisor may be killed: then this run must not go on alone.
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGTERM);
    // Only a second handler in the same process makes this fail.
    let _ = ctrlc::set_handler(|| {
        let again = REQUESTED.swap(true, Ordering::SeqCst);
        if !GRACEFUL.load(Ordering::SeqCst) || again {
            std::process::exit(i32::from(EXIT_INTERRUPTED));
        }
    });
}

fn run_child() -> std::io::Result<ExitCode> {
    let started = SystemTime::now();
    let (reader, writer) = std::io::pipe()?;
    let mut command = Command::new("/proc/self/exe");
    command
        .args(std::env::args_os().skip(1))
        .env(CHILD, inheritable(&writer)?)
        // A group of its own, so that a terminal's ctrl-C comes to the supervisor alone, which passes it on.
        .process_group(0)
        .stdin(Stdio::inherit());
    let mut child = command.spawn()?;
    drop(writer);
    CHILD_PID.store(i32::try_from(child.id()).unwrap_or(0), Ordering::SeqCst);
    let _ = ctrlc::set_handler(|| {
        let pid = CHILD_PID.load(Ordering::SeqCst);
        if pid > 0 {
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
    });
    let folders: Vec<PathBuf> = BufReader::new(reader)
        .split(b'\n')
        .map_while(std::result::Result::ok)
        .map(|line| PathBuf::from(std::ffi::OsString::from_vec(line)))
        .collect();
    let status = child.wait()?;
    match status.code() {
        Some(code) if code != i32::from(EXIT_INTERRUPTED) => {
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
        }
        _ => {
            eprintln!(
                "farrow: interrupted{}",
                if status.signal().is_some() {
                    " by a signal"
                } else {
                    ""
                }
            );
            std::thread::sleep(SANDBOX_END);
            folders
                .iter()
                .for_each(|folder| remove_unfinished(folder, started, DEPTH));
            Ok(ExitCode::from(EXIT_INTERRUPTED))
        }
    }
}

/// Lets the child inherit the pipe's end; its number as text.
fn inheritable(writer: &std::io::PipeWriter) -> std::io::Result<String> {
    nix::fcntl::fcntl(
        writer,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )?;
    Ok(writer.as_raw_fd().to_string())
}

/// Whether the user has asked to stop.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// From now on the first ctrl-C only sets [`requested`]: the caller stops its machines by itself.
pub fn handle_gracefully() {
    GRACEFUL.store(true, Ordering::SeqCst);
}

/// Names a folder whose unfinished entries go when the run is interrupted.
pub fn clean_on_interrupt(folder: &Path) {
    if let Some(report) = REPORT.lock().expect("no panic holds it").as_mut() {
        let line = [folder.as_os_str().as_bytes(), b"\n"].concat();
        // Without the report the next run still removes what is left.
        let _ = report.write_all(&line);
    }
}

/// Removes what this run began and did not finish; whatever is older belongs to others.
fn remove_unfinished(folder: &Path, started: SystemTime, depth: usize) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if is_unfinished(&entry.file_name().to_string_lossy()) {
            if changed(&metadata) >= started {
                // What cannot be removed now, the next run removes.
                let _ = match metadata.is_dir() {
                    true => images::sandbox::remove_tree(&path).is_ok(),
                    false => std::fs::remove_file(&path).is_ok(),
                };
            }
        } else if metadata.is_dir() && depth > 0 {
            remove_unfinished(&path, started, depth - 1);
        }
    }
}

/// When the kernel last saw the entry change: unlike the time of modification nobody can set it, and published trees
/// are given a fixed one before they get their name.
fn changed(metadata: &std::fs::Metadata) -> SystemTime {
    let whole = Duration::from_secs(u64::try_from(metadata.ctime()).unwrap_or(0));
    SystemTime::UNIX_EPOCH + whole + CLOCK_TICK
}

/// The names under which the libraries build things before they rename them.
fn is_unfinished(name: &str) -> bool {
    name.starts_with(".unfinished-")
        || name.starts_with(".farrow-")
        || name.starts_with(".seed-")
        || name.starts_with(".tmp")
        || (name.starts_with('.') && name.ends_with(".partial"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_names_are_known_and_finished_ones_are_left() {
        for (name, expected) in [
            (".unfinished-12", true),
            (".pigsty.partial", true),
            (".farrow-x1", true),
            ("pigsty", false),
            ("repo_complete", false),
            (".lock", false),
        ] {
            assert_eq!(is_unfinished(name), expected, "{name}");
        }
    }
}
