//! Boots copies of an image side by side on a switch and shows what they say:
//! `boot TOOLS_TREE IMAGE RUN_DIR SECONDS [SEED…]`, one machine for each seed (none: one machine).
//! A seed is a volume, or a folder with `user-data`, `meta-data` and perhaps `network-config`; `=MAC,MAC` behind it
//! sets the machine's hardware addresses. For measurements: `BOOT_CPUS`, `BOOT_CACHE=writeback`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use images::accel::Accelerator;
use images::error::Result;
use images::qemu::Host;
use images::qemu_fleet::{Event, Fleet};
use images::qemu_machine::{DiskBus, DiskCache, Firmware, Forward, ImageFormat, Machine, Protocol};
use images::seed::SeedFiles;
use images::switch::Switch;
use images::tools::ToolsTree;

fn main() {
    images::sandbox::run_if_requested();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [tools, image, run_dir, seconds, seeds @ ..] = &arguments[..] else {
        eprintln!("usage: boot TOOLS_TREE IMAGE RUN_DIR SECONDS [SEED...]");
        std::process::exit(2);
    };
    let tools = ToolsTree {
        root: tools.into(),
        digest: tools.clone(),
    };
    let limit = Duration::from_secs(seconds.parse().unwrap_or(120));
    if let Err(error) = run(&tools, Path::new(image), Path::new(run_dir), limit, seeds) {
        let hint = error.hint().unwrap_or_default();
        eprintln!("{}: {error}\n{hint}", error.code());
        std::process::exit(1);
    }
}

fn run(
    tools: &ToolsTree,
    image: &Path,
    run_dir: &Path,
    limit: Duration,
    seeds: &[String],
) -> Result<()> {
    let start = Instant::now();
    let accelerator = Accelerator::detect(tools, run_dir)?;
    println!("{accelerator:?} after {:.2?}", start.elapsed());
    let switch = Switch::start(&run_dir.join("switch"), 1)?;
    let host = Host {
        tools,
        accelerator,
        run_dir,
        switch: Some(&switch),
    };
    let count = seeds.len().max(1);
    let mut machines = Vec::new();
    for n in 0..count {
        let word = seeds.get(n).map(String::as_str);
        let (path, macs) = word.map_or((None, None), |word| match word.split_once('=') {
            Some((path, macs)) => (Some(path), macs.split_once(',')),
            None => (Some(word), None),
        });
        let seed = path.map(|path| seed(tools, path, run_dir, n));
        let mut machine = machine(n, image, seed.transpose()?);
        if let Some((user, private)) = macs {
            (machine.mac_user, machine.mac_private) = (user.to_owned(), private.to_owned());
        }
        machines.push(machine);
    }
    let mut fleet = Fleet::start(machines, &host)?;
    for machine in &fleet.machines {
        println!("{} forwards {:?}", machine.name(), machine.forwards());
    }
    let mut report = |event: Event| {
        let seconds = start.elapsed().as_secs_f64();
        match event {
            Event::Console { machine, line } => println!("{seconds:7.2} {machine} | {line}"),
            Event::Status { machine, status } => {
                println!("{seconds:7.2} {machine} > {}", status.waiting_for());
            }
        }
    };
    let ready = fleet.wait_ready(limit, &mut report);
    println!("{:#?}", switch.counters());
    let obeyed = fleet.power_off(Duration::from_secs(60))?;
    println!(
        "{:7.2} down, by themselves: {obeyed}",
        start.elapsed().as_secs_f64()
    );
    ready
}

fn machine(n: usize, image: &Path, seed: Option<PathBuf>) -> Machine {
    let raw = image.extension().is_some_and(|e| e == "raw");
    Machine {
        name: format!("m{n}"),
        architecture: images::architecture::Architecture::Amd64,
        cpus: std::env::var("BOOT_CPUS").map_or(2, |n| n.parse().unwrap_or(2)),
        memory_mib: 2048,
        image: image.to_owned(),
        image_format: if raw {
            ImageFormat::Raw
        } else {
            ImageFormat::Qcow2
        },
        firmware: Firmware::Uefi,
        disk_bus: DiskBus::Virtio,
        disk_mib: Some(8192),
        data_mib: None,
        disk_cache: match std::env::var("BOOT_CACHE").as_deref() {
            Ok("writeback") => DiskCache::Writeback,
            _ => DiskCache::Unsafe,
        },
        seed,
        mac_user: format!("52:54:00:00:00:{n:02x}"),
        mac_private: format!("52:54:00:00:01:{n:02x}"),
        forwards: vec![Forward {
            protocol: Protocol::Tcp,
            host_port: 0,
            guest_port: 8080,
        }],
    }
}

fn seed(tools: &ToolsTree, path: &str, run_dir: &Path, n: usize) -> Result<PathBuf> {
    let folder = Path::new(path);
    if !folder.is_dir() {
        return Ok(folder.to_owned());
    }
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    let files = SeedFiles {
        user_data: read("user-data"),
        meta_data: read("meta-data"),
        network_config: read("network-config"),
    };
    let image = run_dir.join(format!("seed-{n}.img"));
    files.write(tools, &image)?;
    Ok(image)
}
