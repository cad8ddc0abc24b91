//! End-to-end tests: first those of which a later one looks into what an earlier one made, then those with machines of
//! their own, two at a time.
//!
//! `cargo test --release -p e2e -- NAME` runs the parts whose names contain NAME; with `FARROW_E2E_KEEP=1` they
//! find what an earlier run made.

mod parts;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use e2e::world::World;
use libtest_mimic::{Arguments, Failed, Trial};

/// One part: its name, why it cannot run here (if so), and what it does.
struct Part {
    name: &'static str,
    skip: Option<String>,
    run: fn(&World) -> anyhow::Result<()>,
}

fn main() -> ExitCode {
    if e2e::peak::measure_if_requested() {
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::from_args();
    let world = match World::prepare() {
        Ok(world) => Arc::new(world),
        Err(error) => {
            eprintln!("end-to-end tests cannot start: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let times = Arc::new(Mutex::new(Vec::new()));
    let mut failed = false;
    // Two machines that boot already fill two cores.
    for (parts, threads) in [(parts::in_order(), 1), (parts::side_by_side(), 2)] {
        arguments.test_threads = Some(threads);
        let trials = parts
            .into_iter()
            .map(|part| trial(part, &world, &times, threads == 1))
            .collect();
        failed |= libtest_mimic::run(&arguments, trials).has_failed();
        world.remove_scratch();
    }
    println!("time of each part:");
    for (name, seconds) in times.lock().expect("no panic holds it").iter() {
        println!("  {seconds:>7.1} s  {name}");
    }
    match failed {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

type Times = Mutex<Vec<(&'static str, f64)>>;

/// A part as a test. One that runs alone removes what it left in its folders when it went well.
fn trial(part: Part, world: &Arc<World>, times: &Arc<Times>, alone: bool) -> Trial {
    let (world, times) = (Arc::clone(world), Arc::clone(times));
    let skip = part.skip.clone();
    if let Some(reason) = &skip {
        println!("SKIPPED {}: {reason}", part.name);
    }
    Trial::test(part.name, move || {
        let started = Instant::now();
        let outcome = (part.run)(&world);
        if outcome.is_ok() && alone {
            world.remove_scratch();
        }
        times
            .lock()
            .expect("no panic holds it")
            .push((part.name, started.elapsed().as_secs_f64()));
        outcome.map_err(|error| Failed::from(format!("{error:#}")))
    })
    .with_ignored_flag(skip.is_some())
}
