//! Real QEMU processes with nothing but firmware in them: start, monitor, stop, loss of power.
//!
//! They need an unpacked tools tree in `FARROW_TEST_TOOLS`; without it they are skipped, and say so.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use images::accel::Accelerator;
use images::error::Error;
use images::qemu::{Host, Running};
use images::qemu_error::MachineError;
use images::qemu_fleet::Fleet;
use images::qemu_machine::{DiskBus, DiskCache, Firmware, Forward, ImageFormat, Machine, Protocol};
use images::seed::SeedFiles;
use images::switch::Switch;
use images::tools::ToolsTree;
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::json;

/// Generous: test hosts are busy.
const LIMIT: Duration = Duration::from_secs(120);

/// A test: it gets the tools and an empty folder.
type Test = fn(&ToolsTree, &Path) -> Result<(), Error>;

fn main() -> ExitCode {
    images::sandbox::run_if_requested();
    let arguments = Arguments::from_args();
    let tools = std::env::var_os("FARROW_TEST_TOOLS").map(PathBuf::from);
    if tools.is_none() {
        println!("SKIPPED machines: FARROW_TEST_TOOLS names no tools tree");
    }
    let tests: [(&str, Test); 7] = [
        ("detection_is_repeatable", detection_is_repeatable),
        ("a_disk_without_system_is_reported", no_system),
        ("picked_ports_lead_to_the_machine", picked_ports),
        ("a_taken_port_is_named", taken_port),
        ("power_can_be_cut_and_come_back", power_cut),
        ("flushed_data_survives_a_killed_qemu", flushed_data),
        ("seeds_are_reproducible", seeds),
    ];
    let trials = tests.into_iter().map(|(name, test)| {
        let tools = tools.clone();
        let trial = Trial::test(name, move || run(tools.as_deref(), test));
        trial.with_ignored_flag(std::env::var_os("FARROW_TEST_TOOLS").is_none())
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn run(tools: Option<&Path>, test: Test) -> Result<(), Failed> {
    let root = tools.ok_or("FARROW_TEST_TOOLS is not set")?.to_owned();
    let tools = ToolsTree {
        root,
        digest: "test".to_owned(),
    };
    let folder = tempfile::tempdir()?;
    test(&tools, folder.path()).map_err(|error| Failed::from(error.to_string()))
}

/// A machine with an empty disk and a forward to its port 80.
fn machine(folder: &Path, host_port: u16) -> Machine {
    let image = folder.join("empty.raw");
    let file = std::fs::File::create(&image).expect("a new file in an empty folder");
    file.set_len(1 << 20).expect("a megabyte of room");
    Machine {
        name: "m".to_owned(),
        architecture: images::architecture::Architecture::Amd64,
        cpus: 1,
        memory_mib: 256,
        image,
        image_format: ImageFormat::Raw,
        firmware: Firmware::Uefi,
        disk_bus: DiskBus::Virtio,
        disk_mib: Some(64),
        data_mib: Some(64),
        disk_cache: DiskCache::Unsafe,
        seed: None,
        mac_user: "52:54:00:00:00:01".to_owned(),
        mac_private: "52:54:00:00:01:01".to_owned(),
        forwards: vec![Forward {
            protocol: Protocol::Tcp,
            host_port,
            guest_port: 80,
        }],
    }
}

fn host<'a>(tools: &'a ToolsTree, folder: &'a Path) -> Host<'a> {
    Host {
        tools,
        accelerator: Accelerator::Tcg,
        run_dir: folder,
        switch: None,
    }
}

fn detection_is_repeatable(tools: &ToolsTree, folder: &Path) -> Result<(), Error> {
    let first = Accelerator::detect(tools, folder)?;
    assert_eq!(Accelerator::detect(tools, folder)?, first);
    Ok(())
}

fn no_system(tools: &ToolsTree, folder: &Path) -> Result<(), Error> {
    let switch = Switch::start(&folder.join("switch"), 0)?;
    let host = Host {
        switch: Some(&switch),
        ..host(tools, folder)
    };
    let mut fleet = Fleet::start(vec![machine(folder, 0)], &host)?;
    let error = fleet.wait_ready(LIMIT, &mut |_| ());
    match error {
        Err(Error::Machine(MachineError::Boot { line, .. })) => {
            assert!(line.contains("Boot0001"), "the entry of the disk: {line}");
        }
        other => panic!("expected a failed boot, got {other:?}"),
    }
    let short = Duration::from_millis(200);
    assert!(
        !fleet.power_off(short)?,
        "firmware does not know the power button"
    );
    Ok(())
}

fn picked_ports(tools: &ToolsTree, folder: &Path) -> Result<(), Error> {
    let running = Running::start(machine(folder, 0), &host(tools, folder))?;
    let port = running.host_port(80).expect("the forward is there");
    assert_ne!(port, 0);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("QEMU listens");
    drop(running);
    // Whatever was sent into the void: with QEMU gone the connection is over.
    let _ = stream.write_all(b"x");
    assert!(stream.read(&mut [0; 1]).map_or(true, |length| length == 0));
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    Ok(())
}

fn taken_port(tools: &ToolsTree, folder: &Path) -> Result<(), Error> {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let number = taken.local_addr().expect("it is bound").port();
    match Running::start(machine(folder, number), &host(tools, folder)) {
        Err(Error::Machine(MachineError::PortInUse { port, .. })) => assert_eq!(port, number),
        other => panic!("expected a taken port, got {other:?}"),
    }
    Ok(())
}

fn power_cut(tools: &ToolsTree, folder: &Path) -> Result<(), Error> {
    let host = host(tools, folder);
    let mut running = Running::start(machine(folder, 0), &host)?;
    let ports = running.forwards().to_vec();
    running.reset()?;
    assert!(running.is_running()?);
    running.power_cut();
    assert!(!running.is_running()?);
    assert!(running.reset().is_err());
    running.start_again(&host)?;
    assert_eq!(running.forwards(), ports);
    assert!(running.is_running()?);
    Ok(())
}

/// The guest's flushes are not passed on to the host's disk, but nothing of them is left in QEMU's own memory either.
fn flushed_data(tools: &ToolsTree, folder: &Path) -> Result<(), Error> {
    let mut running = Running::start(machine(folder, 0), &host(tools, folder))?;
    for command in ["write -P 0xab 32M 1M", "flush", "write -P 0xcd 34M 1M"] {
        let line = format!("qemu-io disk \"{command}\"");
        running.monitor("human-monitor-command", json!({ "command-line": line }))?;
    }
    running.power_cut();
    let sandbox = tools
        .sandbox()
        .map_ids(false)
        .bind(running.folder(), "/run/machine")
        .bind_ro(folder.join("empty.raw"), "/run/image/base");
    let read = |pattern: &str| {
        let command = format!("read -P {pattern} 32M 1M");
        let image = "/run/machine/disk.qcow2";
        sandbox.run(&["qemu-io", "-f", "qcow2", "-c", &command, image], None)
    };
    read("0xab")?;
    assert!(read("0xcd").is_err(), "the check does not check");
    Ok(())
}

fn seeds(tools: &ToolsTree, folder: &Path) -> Result<(), Error> {
    let seed = SeedFiles {
        user_data: "secret".repeat(1000),
        meta_data: "instance-id: i-1\n".to_owned(),
        network_config: "version: 2\n".to_owned(),
    };
    let read = |name: &str| std::fs::read(folder.join(name)).expect("the seed was written");
    seed.write(tools, &folder.join("a"))?;
    // FAT stores times with a resolution of two seconds.
    std::thread::sleep(Duration::from_secs(3));
    seed.write(tools, &folder.join("b"))?;
    assert!(read("a") == read("b"), "two seeds differ");
    assert_eq!(&read("a")[43..54], b"CIDATA     ", "volume label");
    Ok(())
}
