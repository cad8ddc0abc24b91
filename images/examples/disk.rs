//! Makes disk images of a root tree: `disk TREE DIGEST INIT TOOLS CACHE OUT [FORMAT…]`.

use std::path::{Path, PathBuf};

use images::architecture::Architecture;
use images::disk::DiskInput;
use images::formats::Format;
use images::manifest::Provenance;
use images::pack::{Context, WorkingImage};
use images::progress::Progress;
use images::root::{Kernel, RootTree};
use images::tools::ToolsTree;

fn main() {
    images::sandbox::run_if_requested();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [tree, digest, init, tools, cache, out, formats @ ..] = &words[..] else {
        eprintln!("usage: disk TREE DIGEST INIT TOOLS CACHE OUT [FORMAT...]");
        std::process::exit(2);
    };
    let release = release_of(Path::new(tree));
    let kernel = Kernel {
        image: format!("boot/vmlinuz-{release}").into(),
        modules: format!("usr/lib/modules/{release}").into(),
        version: release,
    };
    let input = DiskInput {
        name: "example".to_owned(),
        version: "0.1".to_owned(),
        root: RootTree {
            path: PathBuf::from(tree),
            digest: digest.clone(),
            kernel: Some(kernel),
            base: None,
        },
        repository: None,
        architecture: Architecture::Amd64,
        kernel_arguments: Architecture::Amd64.consoles().map(str::to_owned).to_vec(),
        secure_boot: None,
        init: std::fs::read(init).unwrap_or_default(),
        epoch: 1_750_000_000,
        seed: [1; 32],
        root_compression: Default::default(),
        root_slot_mib: None,
        var_mib: 256,
        formats: formats
            .iter()
            .filter_map(|name| Format::parse(name))
            .collect(),
        provenance: Provenance::default(),
    };
    let tools = ToolsTree {
        root: PathBuf::from(tools),
        digest: tools.clone(),
    };
    let print = |event: Progress| eprintln!("{event:?}");
    let context = Context {
        tools: &tools,
        cache: Path::new(cache).into(),
        epoch: input.epoch,
        working: &WorkingImage::default(),
        progress: &print,
    };
    match images::disk::build(&input, None, &context, Path::new(out)) {
        Ok(set) => println!("{set:#?}"),
        Err(error) => {
            eprintln!("{}: {error}", error.code());
            std::process::exit(1);
        }
    }
}

/// The name of the one folder of kernel modules in the tree.
fn release_of(tree: &Path) -> String {
    let mut folders = std::fs::read_dir(tree.join("usr/lib/modules"))
        .into_iter()
        .flatten()
        .flatten();
    folders
        .next()
        .and_then(|folder| folder.file_name().into_string().ok())
        .unwrap_or_default()
}
