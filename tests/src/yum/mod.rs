//! Yum repositories in tests: the tools that build and install packages, random packages, metadata as comparable lines.

pub mod fields;
pub mod random;
pub mod site;
pub mod tools;
