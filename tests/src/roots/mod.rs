//! Root trees as data, to compare two makers of them.

mod exceptions;
pub mod tree;

pub use exceptions::EXCEPTIONS;
