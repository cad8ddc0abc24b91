//! The targets of `offline-repo/tests/support/targets.rs`; `FARROW_FUZZ_TARGET` names the one.

#![no_main]

#[path = "../../tests/support/mod.rs"]
mod support;
#[path = "../../tests/support/targets.rs"]
mod targets;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

fn target() -> targets::Target {
    static TARGET: OnceLock<targets::Target> = OnceLock::new();
    *TARGET.get_or_init(|| {
        let wanted = std::env::var("FARROW_FUZZ_TARGET").expect("FARROW_FUZZ_TARGET names a target");
        let found = targets::TARGETS.iter().find(|(name, _)| *name == wanted);
        found.expect("there is such a target").1
    })
}

fuzz_target!(|data: &[u8]| target()(data));
