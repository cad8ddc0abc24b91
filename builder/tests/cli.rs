//! The command line as a program: help, usage errors, and what it writes without a network.

use std::process::{Command, Output};

fn farrow(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_farrow"))
        .args(args)
        .output()
        .expect("farrow runs")
}

#[test]
fn every_command_has_help_and_unknown_ones_are_refused_with_exit_code_2() {
    for args in [
        &["--help"][..],
        &["up", "--help"],
        &["repo", "build", "--help"],
        &["image", "boot", "--help"],
        &["explain", "--help"],
    ] {
        assert!(farrow(args).status.success(), "{args:?}");
    }
    for args in [
        &["upp"][..],
        &["lock"],
        &["up", "--check", "nonsense"],
        &["image", "build", "--format", "floppy", "x"],
    ] {
        assert_eq!(farrow(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn a_new_folder_holds_a_recipe_and_a_deployment_that_are_valid() {
    let work = tempfile::tempdir().unwrap();
    let dir = work.path().join("mine");
    let shown = dir.to_str().unwrap();
    assert!(farrow(&["new", shown]).status.success());
    let deployment = dir.join("deployment.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_farrow"))
        .args(["explain", deployment.to_str().unwrap(), "--node", "meta"])
        .env("FARROW_STATE", work.path().join("state"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("patroni"));
    assert_eq!(
        farrow(&["new", shown]).status.code(),
        Some(2),
        "a folder that holds something is left alone"
    );
}

#[test]
fn the_bootstrap_is_written_out_whole_and_executable() {
    use std::os::unix::fs::PermissionsExt;
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("farrow-bootstrap");
    assert!(
        farrow(&["bootstrap", "--out", file.to_str().unwrap()])
            .status
            .success()
    );
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o755);
    assert!(
        Command::new(&file)
            .arg("--version")
            .status()
            .unwrap()
            .success()
    );
}
