//! Builds the static `farrow-bootstrap` and `farrow-init` that `farrow` carries inside itself.
//!
//! They have a profile of their own, `--target` with `+crt-static` (given explicitly, so that build scripts
//! and procedural macros are not linked statically too) and a target folder of their own, which keeps this
//! inner cargo from waiting for the lock that the outer one holds.
//!
//! Where the toolchain can make them for arm64, too (`rustup target add aarch64-unknown-linux-musl`, or `-gnu` and a
//! linker), `farrow` carries those as well; else it takes them from a folder when an image needs them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const BINARIES: [&str; 2] = ["farrow-bootstrap", "farrow-init"];

/// Targets for arm64 and linkers for them, in the order of trials. `rust-lld` comes with Rust and needs no C library with
/// that of musl.
const ARM64: [(&str, &str); 3] = [
    ("aarch64-unknown-linux-musl", "rust-lld"),
    ("aarch64-unknown-linux-musl", "aarch64-linux-gnu-gcc"),
    ("aarch64-unknown-linux-gnu", "aarch64-linux-gnu-gcc"),
];

/// What the programs are built for.
struct Target<'a> {
    name: &'a str,
    /// The linker; `None` for the toolchain's own choice.
    linker: Option<&'a str>,
}

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    let target = env::var("TARGET").expect("set by cargo");
    let workspace = manifest.parent().expect("builder is in a workspace");
    for watched in [
        "bootstrap/src",
        "bootstrap/Cargo.toml",
        "bootstrap/no-unwind.ld",
        "bootstrap/systemd",
        "Cargo.toml",
    ] {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(watched).display()
        );
    }
    let embedded = out.join("recipes");
    let _ = fs::remove_dir_all(&embedded);
    copy_recipes(&workspace.join("recipes"), &embedded);
    let native = Target {
        name: &target,
        linker: None,
    };
    build(workspace, &out.join("static"), &native, &out);
    println!("cargo::rustc-check-cfg=cfg(carries_arm64)");
    if let Some(arm64) = find_arm64(&out.join("static"), &target) {
        let folder = out.join("arm64");
        fs::create_dir_all(&folder).expect("OUT_DIR is writable");
        build(workspace, &out.join("static"), &arm64, &folder);
        println!("cargo::rustc-cfg=carries_arm64");
    }
}

/// The first target for arm64 that this toolchain can link a static program for; none on arm64 itself.
fn find_arm64(folder: &Path, native: &str) -> Option<Target<'static>> {
    let candidates = ARM64.into_iter().map(|(name, linker)| Target {
        name,
        linker: Some(linker),
    });
    let mut candidates = candidates.filter(|_| !native.starts_with("aarch64"));
    candidates.find(|target| links(folder, target, &base_flags(target)))
}

/// Copies what is carried inside: everything but the locks that people's own runs leave beside recipes.
fn copy_recipes(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("OUT_DIR is writable");
    let entries =
        fs::read_dir(from).unwrap_or_else(|e| panic!("cannot read {}: {e}", from.display()));
    for entry in entries {
        let path = entry.expect("readable").path();
        let name = path.file_name().expect("has a name").to_owned();
        if path.is_dir() {
            println!("cargo::rerun-if-changed={}", path.display());
            copy_recipes(&path, &to.join(name));
        } else if path.extension().is_none_or(|extension| extension != "lock") {
            println!("cargo::rerun-if-changed={}", path.display());
            fs::copy(&path, to.join(name)).expect("OUT_DIR is writable");
        }
    }
}

/// Flags of the static programs: relocations in their short form (glibc 2.36 and newer read it at their own start),
/// equal functions only once, and no tables for unwinding, which together spare half a megabyte. Not every linker knows
/// all of them, so each is tried.
fn rustflags(workspace: &Path, folder: &Path, target: &Target) -> Vec<String> {
    let mut flags = base_flags(target);
    let script = workspace.join("bootstrap/no-unwind.ld");
    let script = format!("-Clink-arg=-Wl,-T,{}", script.display());
    let choices: [&[&str]; 3] = [
        &["-Clink-arg=-Wl,-z,pack-relative-relocs"],
        &["-Clink-arg=-Wl,--icf=all"],
        &["-Clink-arg=-Wl,--no-eh-frame-hdr", &script],
    ];
    for choice in choices {
        let mut longer = flags.clone();
        longer.extend(choice.iter().map(|flag| (*flag).to_owned()));
        if links(folder, target, &longer) {
            flags = longer;
        }
    }
    flags
}

fn base_flags(target: &Target) -> Vec<String> {
    let mut flags = vec![String::from("-Ctarget-feature=+crt-static")];
    flags.extend(target.linker.map(|linker| format!("-Clinker={linker}")));
    flags
}

/// Whether the linker takes these flags.
fn links(folder: &Path, target: &Target, flags: &[String]) -> bool {
    fs::create_dir_all(folder).expect("OUT_DIR is writable");
    let source = folder.join("probe.rs");
    fs::write(&source, "fn main() {}\n").expect("OUT_DIR is writable");
    Command::new(env::var_os("RUSTC").expect("set by cargo"))
        .args(flags)
        .args(["--target", target.name])
        .arg("-Cpanic=abort")
        .arg("-o")
        .arg(folder.join("probe"))
        .arg(&source)
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Builds the programs and copies them to `to`.
fn build(workspace: &Path, folder: &Path, target: &Target, to: &Path) {
    let mut cargo = Command::new(env::var_os("CARGO").expect("set by cargo"));
    cargo
        .current_dir(workspace)
        .args([
            "build",
            "--package",
            "bootstrap",
            "--bins",
            "--profile",
            "bootstrap",
            "--locked",
            "--target",
            target.name,
        ])
        .arg("--target-dir")
        .arg(folder)
        // Separated by a character that no path has (unlike the spaces of RUSTFLAGS).
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            rustflags(workspace, folder, target).join("\x1f"),
        )
        // The outer cargo's settings would override these or tie the inner one to its job server.
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_MAKEFLAGS")
        .env_remove("MAKEFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    let status = cargo.status().expect("cargo runs");
    assert!(status.success(), "building the static bootstrap failed");
    for name in BINARIES {
        let built = folder.join(target.name).join("bootstrap").join(name);
        fs::copy(&built, to.join(name))
            .unwrap_or_else(|e| panic!("cannot copy {}: {e}", built.display()));
    }
}
