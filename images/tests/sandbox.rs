//! Sandboxes on the host's own root, read-only: as root, or as a plain user with subordinate ids.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use images::architecture::Architecture;
use images::emulation::Emulator;
use images::error::Error;
use images::sandbox::{Network, Sandbox, remove_tree, run_if_requested};
use libtest_mimic::{Arguments, Failed, Trial};

type Test = Result<(), Failed>;
type Check = fn() -> Test;

fn main() {
    run_if_requested();
    match std::env::args().nth(1).as_deref() {
        Some("--hold") => return hold(),
        Some("--try") => return try_to_start(),
        _ => {}
    }
    let arguments = Arguments::from_args();
    let tests: [(&str, Check); 11] = [
        ("ids_are_mapped", ids_are_mapped),
        ("own_id_needs_no_mapping", own_id_needs_no_mapping),
        ("network_is_its_own", network_is_its_own),
        ("only_binds_are_writable", only_binds_are_writable),
        (
            "failure_names_program_and_reason",
            failure_names_program_and_reason,
        ),
        ("input_and_output_pass", input_and_output_pass),
        ("syncing_can_be_ignored", syncing_can_be_ignored),
        ("kill_ends_everything_inside", kill_ends_everything_inside),
        (
            "death_of_the_caller_ends_everything_inside",
            death_of_the_caller_ends_everything_inside,
        ),
        ("missing_id_mapper_is_named", missing_id_mapper_is_named),
        (
            EMULATES,
            programs_of_another_processor_are_given_to_the_emulator,
        ),
    ];
    let mapped = can_map_ids();
    let trials = tests.map(|(name, test)| {
        let needs_ids = !matches!(
            name,
            "own_id_needs_no_mapping" | "missing_id_mapper_is_named"
        );
        let too_old = name == EMULATES && !has_own_binfmt();
        Trial::test(name, test).with_ignored_flag(needs_ids && !mapped || too_old)
    });
    libtest_mimic::run(&arguments, trials.into()).exit();
}

/// The test that asks for a kernel with registrations of interpreters for each user namespace.
const EMULATES: &str = "programs_of_another_processor_are_given_to_the_emulator";

/// Whether this is Linux 6.7 or later with binfmt_misc.
fn has_own_binfmt() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next(), numbers.next());
    let has = version >= (Some(6), Some(7)) && Path::new(BINFMT).is_dir();
    if !has {
        eprintln!("SKIPPED {EMULATES}: no Linux 6.7 with {BINFMT}");
    }
    has
}

/// Where registrations are.
const BINFMT: &str = "/proc/sys/fs/binfmt_misc";

/// Says loudly why most tests are skipped on a machine where a plain user has no subordinate ids.
fn can_map_ids() -> bool {
    match host().run(&["true"], None) {
        Ok(_) => true,
        Err(error) => {
            eprintln!(
                "SKIPPED, no sandbox with mapped ids here: {error}\n{}",
                error.hint().unwrap_or_default()
            );
            false
        }
    }
}

fn host() -> Sandbox {
    Sandbox::new("/").read_only()
}

fn text_of(sandbox: &Sandbox, script: &str) -> Result<String, Failed> {
    Ok(String::from_utf8(
        sandbox.run(&["sh", "-c", script], None)?.stdout,
    )?)
}

fn check(condition: bool, message: impl Into<String>) -> Test {
    if condition {
        Ok(())
    } else {
        Err(message.into().into())
    }
}

fn ids_are_mapped() -> Test {
    let text = text_of(
        &host(),
        "touch /tmp/a; chown 543:65534 /tmp/a; stat -c %u:%g /tmp/a; id -u; id -G",
    )?;
    check(text == "543:65534\n0\n0\n", text)
}

fn own_id_needs_no_mapping() -> Test {
    let text = text_of(
        &host().map_ids(false),
        "id -u; awk '{print $1, $3}' /proc/self/uid_map",
    )?;
    check(text == "0\n0 1\n", text)
}

fn network_is_its_own() -> Test {
    let interfaces = text_of(&host(), "tail -n +3 /proc/net/dev | cut -d: -f1")?;
    check(interfaces.trim() == "lo", interfaces)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
    let connects = |sandbox: Sandbox| sandbox.run(&["bash", "-c", &connect], None).is_ok();
    check(!connects(host()), "reached the host without a network")?;
    check(
        connects(host().network(Network::Host)),
        "did not reach the host through its network",
    )
}

fn only_binds_are_writable() -> Test {
    let folder = tempfile::tempdir()?;
    let path = folder.path().to_str().ok_or("temporary path")?;
    // A place that the tree does not have, in a folder that it has.
    let missing = "/usr/share/farrow-sandbox-test";
    let sandbox = host().bind(path, "/out").bind_ro(path, missing);
    let script = format!(
        "echo hello > /out/file; cat {missing}/file; \
         touch /x {missing}/x /usr/x /proc/sys/kernel/x 2>/dev/null && echo wrote; \
         echo x 2>/dev/null > /proc/sys/kernel/hostname && echo wrote; true"
    );
    let text = text_of(&sandbox, &script)?;
    check(text == "hello\n", text)?;
    check(
        fs::read_to_string(folder.path().join("file"))? == "hello\n",
        "not seen outside",
    )?;
    check(!Path::new(missing).exists(), "the tree was changed")
}

fn failure_names_program_and_reason() -> Test {
    let error = host()
        .run(&["sh", "-c", "echo reason >&2; exit 3"], None)
        .unwrap_err();
    let expected = "sh -c echo reason >&2; exit 3 failed with exit code 3: reason";
    check(error.to_string() == expected, error.to_string())?;
    let error = host().run(&["no-such-program"], None).unwrap_err();
    check(
        error.to_string().contains("execute no-such-program"),
        error.to_string(),
    )?;
    let error = Sandbox::new("/no-such-tree")
        .run(&["true"], None)
        .unwrap_err();
    check(
        matches!(&error, Error::Io { path, .. } if path == Path::new("/no-such-tree")),
        error.to_string(),
    )?;
    let error = host().run(&["sh", "-c", "kill -9 $$"], None).unwrap_err();
    check(error.to_string().contains("signal 9"), error.to_string())
}

fn input_and_output_pass() -> Test {
    let input = vec![b'x'; 300_000];
    let output = host()
        .env("NAME", "value")
        .run(&["sh", "-c", "echo $NAME; cat >&2"], Some(&input))?;
    check(
        output.stdout == b"value\n" && output.stderr == input,
        "not the same",
    )
}

fn syncing_can_be_ignored() -> Test {
    let state = |sandbox: Sandbox| {
        text_of(
            &sandbox,
            "grep ^Seccomp: /proc/self/status && sync /usr && echo fine",
        )
    };
    let text = state(host().ignore_sync())?;
    check(text == "Seccomp:\t2\nfine\n", text)
}

/// Seconds to sleep that no other process sleeps: they mark the processes of one test.
fn mark(salt: u32) -> String {
    (1_000_000_000 + u64::from(std::process::id()) * 10 + u64::from(salt)).to_string()
}

fn running(mark: &str) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else {
        return false;
    };
    let command_lines = processes
        .flatten()
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let wanted = format!("sleep\0{mark}\0");
    command_lines
        .into_iter()
        .any(|line| line.ends_with(wanted.as_bytes()))
}

fn within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < limit {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

fn kill_ends_everything_inside() -> Test {
    let mark = mark(1);
    let script = format!("sleep {mark} & sleep {mark}");
    let mut child = host().spawn(
        &["sh", "-c", &script],
        Stdio::null(),
        Stdio::null(),
        Stdio::null(),
    )?;
    check(
        within(Duration::from_secs(10), || running(&mark)),
        "did not start",
    )?;
    check(child.try_wait()?.is_none(), "ended by itself")?;
    child.kill();
    check(child.wait()?.code() == Some(137), "not killed")?;
    check(!running(&mark), "a process is left when wait returns")
}

fn death_of_the_caller_ends_everything_inside() -> Test {
    let mark = mark(2);
    let mut caller = Command::new("/proc/self/exe")
        .args(["--hold", &mark])
        .spawn()?;
    check(
        within(Duration::from_secs(10), || running(&mark)),
        "did not start",
    )?;
    caller.kill()?;
    check(caller.wait()?.signal() == Some(9), "not killed")?;
    check(
        within(Duration::from_secs(5), || !running(&mark)),
        "a process outlives its caller",
    )
}

/// Holds a sandbox until this process is killed.
fn hold() {
    let mark = std::env::args().nth(2).unwrap_or_default();
    // From a thread that ends at once: the sandbox belongs to the process and not to the thread.
    let child = std::thread::spawn(move || {
        host().spawn(
            &["sleep", &mark],
            Stdio::null(),
            Stdio::null(),
            Stdio::null(),
        )
    });
    let child = child.join();
    std::thread::sleep(Duration::from_secs(600));
    drop(child);
}

fn missing_id_mapper_is_named() -> Test {
    // A place that any user can execute from.
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let program = folder.path().join("test");
    fs::copy(std::env::current_exe()?, &program)?;
    let mut command = Command::new(&program);
    command
        .arg("--try")
        .env("PATH", "/nonexistent")
        .current_dir("/");
    if nix::unistd::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    check(
        text.starts_with("FR-SANDBOX-PROGRAM newuidmap is not in PATH"),
        format!("{text}{output:?}"),
    )?;
    check(text.contains("install the package `uidmap`"), text)
}

/// Prints the error of a sandbox that maps ids, and removes a tree that does not exist (which is fine).
fn try_to_start() {
    if let (Err(error), Ok(())) = (
        host().run(&["true"], None),
        remove_tree(Path::new("/no-such-tree")),
    ) {
        println!(
            "{} {error}\n{}",
            error.code(),
            error.hint().unwrap_or_default()
        );
    }
}

/// `echo` in place of an emulator says what it was called with; outside, nothing has changed.
fn programs_of_another_processor_are_given_to_the_emulator() -> Test {
    let foreign = [Architecture::Amd64, Architecture::Arm64]
        .into_iter()
        .find(|known| Architecture::of_host() != Some(*known))
        .ok_or("a processor of another kind")?;
    let folder = tempfile::tempdir()?;
    let program = folder.path().join("program");
    let mut elf = vec![0; 64];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    elf[16] = 2;
    elf[18] = match foreign {
        Architecture::Amd64 => 62,
        Architecture::Arm64 => 183,
    };
    fs::write(&program, elf)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let entries = || -> Result<Vec<_>, Failed> {
        let listed = fs::read_dir(BINFMT)?;
        Ok(listed.flatten().map(|entry| entry.file_name()).collect())
    };
    let before = entries()?;
    let sandbox = host()
        .emulator(Some(Emulator {
            architecture: foreign,
            program: "/bin/echo".into(),
        }))
        .bind_ro(folder.path(), "/run/programs");
    for sandbox in [sandbox.clone(), sandbox.map_ids(false)] {
        let said = text_of(&sandbox, "cd /run/programs; ./program word")?;
        check(said.contains("./program word"), said)?;
    }
    let output = host()
        .bind_ro(folder.path(), "/run/programs")
        .run(&["/run/programs/program"], None);
    check(output.is_err(), "it runs without the emulator as well")?;
    check(entries()? == before, "the host has other registrations now")
}
