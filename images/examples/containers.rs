//! Boots one root tree as a container with a NoCloud folder: `containers TOOLS_TREE ROOT_TREE SEED_DIR ADDRESS/PREFIX`.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use images::container::{Container, Machine, Segment};
use images::qemu_fleet::{Event, Fleet};
use images::seed::SeedFiles;
use images::tools::ToolsTree;

fn main() {
    images::sandbox::run_if_requested();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [tools, tree, seed, address] = &words[..] else {
        eprintln!("usage: containers TOOLS_TREE ROOT_TREE SEED_DIR ADDRESS/PREFIX");
        std::process::exit(2);
    };
    let tools = ToolsTree {
        root: tools.into(),
        digest: String::new(),
    };
    let read = |name: &str| fs::read_to_string(Path::new(seed).join(name)).unwrap_or_default();
    let (address, prefix) = address.split_once('/').expect("ADDRESS/PREFIX");
    let prefix: u8 = prefix.parse().expect("a number");
    let network_config = read("network-config");
    let mac = network_config
        .split('"')
        .rfind(|word| word.matches(':').count() == 5)
        .expect("a hardware address in network-config")
        .to_owned();
    let machine = Machine {
        name: "machine".into(),
        mac,
        address: address.parse().expect("an address"),
        memory_mib: 1536,
        cpus: 2,
        disk_gib: 8,
        seed: SeedFiles {
            user_data: read("user-data"),
            meta_data: read("meta-data"),
            network_config,
        },
        ports: vec![5432],
        repository: None,
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let host = ("10.10.10.254".parse().expect("an address"), prefix);
    let segment = Segment::start(&tools, Path::new(tree), folder.path(), host);
    let segment = Arc::new(segment.unwrap_or_else(|error| panic!("{error}")));
    let mut container = Container::new(machine, 0, &segment).unwrap_or_else(|e| panic!("{e}"));
    container
        .power_on()
        .unwrap_or_else(|error| panic!("{error}"));
    let mut fleet = Fleet {
        machines: vec![container],
        tolerant: false,
    };
    let start = std::time::Instant::now();
    let mut report = |event: Event| match event {
        Event::Console { line, .. } => println!("{line}"),
        Event::Status { status, .. } => {
            println!(
                "{:6.2} {}",
                start.elapsed().as_secs_f64(),
                status.waiting_for()
            );
        }
    };
    if let Err(error) = fleet.wait_ready(Duration::from_secs(60), &mut report) {
        eprintln!("{error}");
    }
    println!("{:6.2} stopping", start.elapsed().as_secs_f64());
    let obeyed = fleet.power_off(Duration::from_secs(60));
    println!("{:6.2} stopped: {obeyed:?}", start.elapsed().as_secs_f64());
}
