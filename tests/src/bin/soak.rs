//! Randomised tests with their full figures, part by part: `just soak [PART…]`. Each part's date, seed, duration and
//! result go into `docs/soak.md`; parts that were not run keep the line they had.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

/// Seconds for each reader under libFuzzer; `FARROW_FUZZ_SECONDS` gives another number.
const FUZZ_SECONDS: u64 = 600;
/// Memory that a reader may use, in MiB.
const FUZZ_MEMORY: u64 = 1024;
/// What libFuzzer needs to see where a run goes: what `cargo fuzz --sanitizer none` passes. All of it is stable.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=1";
const MACHINE: &str = "x86_64-unknown-linux-gnu";
const HEAD: &str =
    "| Part | Full figure | Date | Seed | Seconds | Result |\n|---|---|---|---|---|---|\n";

/// A test with more cases than in the whole suite.
struct Part {
    name: &'static str,
    figure: &'static str,
    package: &'static str,
    test: &'static str,
    /// Of the end-to-end tests, the part.
    only: Option<&'static str>,
    cases: u32,
}

const PARTS: &[Part] = &[
    Part {
        name: "killed",
        figure: "200 × kill -9 over lock, fetch, publish, bundle, install",
        package: "offline-repo",
        test: "killed",
        only: None,
        cases: 200,
    },
    Part {
        name: "flipped",
        figure: "1,000 bundles with one bit flipped, and all bits of the ends",
        package: "offline-repo",
        test: "flipped",
        only: None,
        cases: 1000,
    },
    Part {
        name: "closures",
        figure: "300 sets, without and with Recommends, compared with apt's",
        package: "images",
        test: "trixie",
        only: None,
        cases: 300,
    },
    Part {
        name: "kills-of-bakes",
        figure: "100 × kill -9 at a random moment of a bake, half of them from an empty cache",
        package: "e2e",
        test: "e2e",
        only: Some("a_killed_bake_leaves_nothing_and_goes_on"),
        cases: 100,
    },
    Part {
        name: "flipped-images",
        figure: "200 flipped bytes in root, hash tree and kernel image",
        package: "e2e",
        test: "e2e",
        only: Some("random_flipped_bytes_are_never_served"),
        cases: 200,
    },
    Part {
        name: "roots",
        figure: "20 sets and the platform's list, compared with mmdebstrap's trees",
        package: "e2e",
        test: "e2e",
        only: Some("roots_are_what_dpkg_makes"),
        cases: 20,
    },
];

/// Readers, each under libFuzzer for ten minutes: the folders of the corpus.
fn readers(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root.join("offline-repo/fuzz/corpus"))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// What a part came to.
struct Outcome {
    seconds: u64,
    result: String,
    passed: bool,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let fuzz: Vec<String> = (readers(&root)?.iter())
        .map(|name| format!("fuzz {name}"))
        .collect();
    let names: Vec<&str> = (PARTS.iter().map(|part| part.name))
        .chain(fuzz.iter().map(String::as_str))
        .collect();
    for part in &wanted {
        let known = part == "fuzz" || names.contains(&part.as_str());
        ensure!(known, "no part `{part}`, but fuzz and {names:?}");
    }
    let is_wanted = |name: &str| {
        let all_fuzz = name.starts_with("fuzz ") && wanted.iter().any(|part| part == "fuzz");
        wanted.is_empty() || all_fuzz || wanted.iter().any(|part| part == name)
    };
    let seed = match std::env::var("FARROW_TEST_SEED") {
        Ok(seed) => seed.parse().context("FARROW_TEST_SEED")?,
        Err(_) => now() % 1_000_000,
    };
    let mut all_passed = true;
    for part in PARTS.iter().filter(|part| is_wanted(part.name)) {
        let outcome = test(&root, part, seed)?;
        all_passed &= outcome.passed;
        record(&root, part.name, part.figure, seed, &outcome)?;
    }
    let fuzz: Vec<&String> = fuzz.iter().filter(|name| is_wanted(name)).collect();
    if !fuzz.is_empty() {
        let seconds = match std::env::var("FARROW_FUZZ_SECONDS") {
            Ok(seconds) => seconds.parse().context("FARROW_FUZZ_SECONDS")?,
            Err(_) => FUZZ_SECONDS,
        };
        let program = build_readers(&root)?;
        for name in fuzz {
            let reader = name.trim_start_matches("fuzz ");
            let outcome = fuzz_reader(&root, &program, reader, seconds, seed)?;
            all_passed &= outcome.passed;
            record(&root, name, "10 minutes under libFuzzer", seed, &outcome)?;
        }
    }
    Ok(all_passed)
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

fn test(root: &Path, part: &Part, seed: u64) -> Result<Outcome> {
    println!("{}: {}", part.name, part.figure);
    if part.only.is_some() {
        // End-to-end tests run the built programs.
        let built = Command::new("cargo")
            .args(["build", "--release", "--workspace", "--bins"])
            .current_dir(root)
            .status()?;
        ensure!(built.success(), "the programs cannot be built");
    }
    let begin = Instant::now();
    let words = ["test", "--release", "-p", part.package, "--test", part.test];
    let output = Command::new("cargo")
        .args(words)
        .args(["--", "--nocapture"])
        .args(part.only)
        .env("FARROW_TEST_CASES", part.cases.to_string())
        .env("FARROW_TEST_SEED", seed.to_string())
        .envs(part.only.map(|_| ("FARROW_E2E_KEEP", "1")))
        .envs(part.only.map(|_| ("FARROW_E2E_LONG", "1")))
        .current_dir(root)
        .output()
        .context("cargo test")?;
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    // Other end-to-end parts may be skipped; this one says so with its name, or in a line of its own.
    let skipped = text.lines().find(|line| match part.only {
        Some(name) => {
            line.trim().starts_with("SKIPPED:") || line.starts_with(&format!("SKIPPED {name}"))
        }
        None => line.contains("SKIPPED"),
    });
    // The tests say their figures in lines with a colon or a comma; end-to-end tests in indented ones.
    let figures = text
        .lines()
        .rev()
        .find(|line| line.contains(|c: char| c.is_ascii_digit()) && is_figure(line, part));
    let verdict = match (output.status.success(), skipped) {
        (true, Some(why)) => why.to_string(),
        (true, None) => "passed".to_string(),
        (false, _) => "FAILED".to_string(),
    };
    Ok(Outcome {
        seconds: begin.elapsed().as_secs(),
        result: format!("{verdict}: {}", figures.unwrap_or("no figures").trim()),
        passed: output.status.success(),
    })
}

fn is_figure(line: &str, part: &Part) -> bool {
    match part.only {
        Some(name) => line.starts_with("    ") && !line.ends_with(name),
        None => !line.contains("test") && !line.contains("cases,"),
    }
}

/// Builds the readers for libFuzzer; returns the program.
fn build_readers(root: &Path) -> Result<PathBuf> {
    let target = root.join("target/fuzz");
    let status = Command::new("cargo")
        .args(["build", "--release", "--target", MACHINE, "--target-dir"])
        .arg(&target)
        .env("RUSTFLAGS", COVERAGE)
        .current_dir(root.join("offline-repo/fuzz"))
        .status()
        .context("cargo build of offline-repo/fuzz")?;
    ensure!(
        status.success(),
        "offline-repo/fuzz cannot be built; libFuzzer needs a C++ compiler"
    );
    Ok(target.join(MACHINE).join("release/readers"))
}

fn fuzz_reader(
    root: &Path,
    program: &Path,
    reader: &str,
    seconds: u64,
    seed: u64,
) -> Result<Outcome> {
    println!("fuzz {reader}: {seconds} s");
    let found = root.join("target/fuzz/found").join(reader);
    std::fs::create_dir_all(found.join("inputs"))?;
    let begin = Instant::now();
    let output = Command::new(program)
        .env("FARROW_FUZZ_TARGET", reader)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-rss_limit_mb={FUZZ_MEMORY}"))
        .arg(format!("-seed={}", seed.max(1)))
        .args([
            "-timeout=10",
            "-max_len=65536",
            "-print_final_stats=1",
            "-verbosity=0",
        ])
        .arg(format!("-artifact_prefix={}/crash-", found.display()))
        .arg(found.join("inputs"))
        .arg(root.join("offline-repo/fuzz/corpus").join(reader))
        .current_dir(root)
        .output()
        .context("the readers under libFuzzer")?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let number = |name: &str| {
        let line = text.lines().find(|line| line.contains(name));
        line.and_then(|line| line.split_ascii_whitespace().last())
            .unwrap_or("?")
            .to_string()
    };
    let passed = output.status.success();
    if !passed {
        println!("{text}");
    }
    let result = match passed {
        true => format!(
            "passed: {} inputs, {} new, peak {} MiB",
            number("number_of_executed_units"),
            number("new_units_added"),
            number("peak_rss_mb")
        ),
        false => format!(
            "FAILED after {} inputs, see {}",
            number("number_of_executed_units"),
            found.display()
        ),
    };
    println!("{result}");
    Ok(Outcome {
        seconds: begin.elapsed().max(Duration::from_secs(1)).as_secs(),
        result,
        passed,
    })
}

/// Puts a part's line into the page.
fn record(root: &Path, name: &str, figure: &str, seed: u64, outcome: &Outcome) -> Result<()> {
    let path = root.join("docs/soak.md");
    let page = std::fs::read_to_string(&path).context("docs/soak.md")?;
    let (before, table) = page.split_once(HEAD).context("docs/soak.md has no table")?;
    let mut rows: BTreeMap<String, String> = BTreeMap::new();
    for line in table.lines().filter(|line| line.starts_with("| ")) {
        let part = line
            .trim_start_matches("| ")
            .split(" |")
            .next()
            .unwrap_or_default();
        rows.insert(part.to_string(), line.to_string());
    }
    let date = Command::new("date")
        .args(["-u", "+%Y-%m-%d"])
        .output()?
        .stdout;
    let line = format!(
        "| {name} | {figure} | {} | {seed} | {} | {} |",
        String::from_utf8_lossy(&date).trim(),
        outcome.seconds,
        outcome.result.replace('|', "/")
    );
    rows.insert(name.to_string(), line);
    let rows: String = rows.values().map(|line| format!("{line}\n")).collect();
    std::fs::write(&path, format!("{before}{HEAD}{rows}")).context("docs/soak.md")
}
