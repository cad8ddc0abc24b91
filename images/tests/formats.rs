//! Every disk format made of a small sparse disk, twice, and read back by qemu-img.
//!
//! They need an unpacked tools tree in `FARROW_TEST_TOOLS`; without it they are skipped, and say so.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use images::formats::{Format, Identity, convert};
use images::pack::RootCompression;
use images::sparse_digest::digest;
use images::tools::ToolsTree;
use libtest_mimic::{Arguments, Failed, Trial};

/// Not a multiple of a table's, a cluster's or a GiB's size.
const SIZE: u64 = 301 << 20;

fn main() -> ExitCode {
    images::sandbox::run_if_requested();
    let arguments = Arguments::from_args();
    let tools = std::env::var_os("FARROW_TEST_TOOLS").map(PathBuf::from);
    if tools.is_none() {
        println!("SKIPPED formats: FARROW_TEST_TOOLS names no tools tree");
    }
    let packings = [RootCompression::Lz4, RootCompression::Zstd];
    let all = Format::ALL.into_iter();
    let all = all.flat_map(|format| packings.map(|packing| (format, packing)));
    let trials = all.map(|(format, packing)| {
        let (tools, skip) = (tools.clone(), tools.is_none());
        let name = format!(
            "{}_of_{packing:?}_is_read_back_and_the_same_twice",
            format.name()
        );
        let trial = Trial::test(name.to_lowercase(), move || {
            let tools = tools.ok_or("FARROW_TEST_TOOLS is not set")?;
            round_trip(format, packing, &tools)
        });
        trial.with_ignored_flag(skip)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn round_trip(format: Format, packing: RootCompression, tools: &Path) -> Result<(), Failed> {
    let tools = ToolsTree {
        root: tools.to_owned(),
        digest: "test".to_owned(),
    };
    let folders = [tempfile::tempdir()?, tempfile::tempdir()?];
    let mut digests = Vec::new();
    for folder in &folders {
        let raw = folder.path().join("disk.raw");
        make_disk(&raw)?;
        let made = convert(format, &raw, &identity(packing), &tools).map_err(|e| e.to_string())?;
        digests.push(digest(&made).map_err(|e| e.to_string())?);
    }
    if digests[0] != digests[1] {
        return Err(format!("two files differ: {digests:?}").into());
    }
    read_back(format, folders[0].path(), &tools)
}

fn identity(packing: RootCompression) -> Identity {
    Identity {
        name: "sample".to_owned(),
        version: "1.0".to_owned(),
        seed: [7; 32],
        epoch: 1_795_000_000,
        root_compression: packing,
    }
}

/// Text, noise, and holes between them.
fn make_disk(path: &Path) -> std::io::Result<()> {
    let file = File::create_new(path)?;
    file.set_len(SIZE)?;
    let text = "the same line again and again\n".repeat(100_000);
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(3 << 20)
    .collect();
    file.write_all_at(text.as_bytes(), 0)?;
    file.write_all_at(&noise, (64 << 20) - 1000)?;
    file.write_all_at(text.as_bytes(), 200 << 20)?;
    file.write_all_at(&noise, SIZE - noise.len() as u64)
}

/// qemu-img finds no difference to the raw disk, and nothing wrong with what it can check.
fn read_back(format: Format, folder: &Path, tools: &ToolsTree) -> Result<(), Failed> {
    let run = |argv: &[&str]| {
        let sandbox = tools.sandbox().map_ids(false);
        let sandbox = sandbox.bind(folder, "/work").workdir("/work");
        sandbox
            .run(argv, None)
            .map_err(|e| Failed::from(e.to_string()))
    };
    let file = format!("image.{}", format.extension());
    let compare = |driver: &str, file: &str| {
        run(&[
            "qemu-img", "compare", "-f", "raw", "-F", driver, "disk.raw", file,
        ])
        .map(|_| ())
    };
    match format {
        Format::Raw => Ok(()),
        Format::Qcow2 | Format::Qcow2Compressed => {
            run(&["qemu-img", "check", "-f", "qcow2", &file])?;
            compare("qcow2", &file)
        }
        Format::Vmdk => {
            run(&["qemu-img", "check", "-f", "vmdk", &file])?;
            compare("vmdk", &file)
        }
        Format::Vhd => compare("vpc", &file),
        Format::Gce => {
            std::fs::create_dir(folder.join("unpacked"))?;
            run(&["tar", "-C", "unpacked", "-xzf", &file])?;
            compare("raw", "unpacked/disk.raw")
        }
        Format::Ova => {
            run(&["tar", "-xf", &file])?;
            run(&[
                "sh",
                "-c",
                "sed -E 's/^SHA256\\((.*)\\)= (.*)$/\\2  \\1/' sample-1.0.mf | sha256sum -c",
            ])?;
            compare("vmdk", "sample-1.0-disk1.vmdk")
        }
    }
}
