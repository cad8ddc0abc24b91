//! Builds the static `farrow-bootstrap` and `farrow-init` that `farrow` carries inside itself.
//!
//! They have a profile of their own, `--target` with `+crt-static` (given explicitly, so that build scripts
//! and procedural macros are not linked statically too) and a target folder of their own, which keeps this
//! inner cargo from waiting for the lock that the outer one holds.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const BINARIES: [&str; 2] = ["farrow-bootstrap", "farrow-init"];

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
    build(workspace, &out.join("static"), &target);
    for name in BINARIES {
        let built = out
            .join("static")
            .join(&target)
            .join("bootstrap")
            .join(name);
        fs::copy(&built, out.join(name))
            .unwrap_or_else(|e| panic!("cannot copy {}: {e}", built.display()));
    }
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
fn rustflags(workspace: &Path, folder: &Path) -> Vec<String> {
    let mut flags = vec![String::from("-Ctarget-feature=+crt-static")];
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
        if links(folder, &longer) {
            flags = longer;
        }
    }
    flags
}

/// Whether the linker takes these flags.
fn links(folder: &Path, flags: &[String]) -> bool {
    fs::create_dir_all(folder).expect("OUT_DIR is writable");
    let source = folder.join("probe.rs");
    fs::write(&source, "fn main() {}\n").expect("OUT_DIR is writable");
    Command::new(env::var_os("RUSTC").expect("set by cargo"))
        .args(flags)
        .arg("-Cpanic=abort")
        .arg("-o")
        .arg(folder.join("probe"))
        .arg(&source)
        .output()
        .is_ok_and(|output| output.status.success())
}

fn build(workspace: &Path, folder: &Path, target: &str) {
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
            target,
        ])
        .arg("--target-dir")
        .arg(folder)
        // Separated by a character that no path has (unlike the spaces of RUSTFLAGS).
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            rustflags(workspace, folder).join("\x1f"),
        )
        // The outer cargo's settings would override these or tie the inner one to its job server.
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_MAKEFLAGS")
        .env_remove("MAKEFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    let status = cargo.status().expect("cargo runs");
    assert!(status.success(), "building the static bootstrap failed");
}
