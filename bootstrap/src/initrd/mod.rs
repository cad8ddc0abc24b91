//! The steps from the kernel's first process to the verified root, one module per concern.
//!
//! Parsing and planning are pure functions over bytes and strings; the modules `device`, `mapper`, `mounts` and
//! `switch` do what they say to the machine.

pub mod arguments;
pub mod device;
pub mod failure;
pub mod grow;
pub mod log;
pub mod machine_id;
pub mod mapper;
pub mod modules;
pub mod mounts;
pub mod switch;
pub mod verity;
