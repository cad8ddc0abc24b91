//! Helpers of the end-to-end tests: where things are, how `farrow` is run, what it printed.

pub mod cluster;
pub mod existing;
pub mod farrow;
pub mod figures;
pub mod fleet;
pub mod load;
pub mod peak;
pub mod proxy;
pub mod roots;
pub mod scenarios;
pub mod world;
pub mod yum;
