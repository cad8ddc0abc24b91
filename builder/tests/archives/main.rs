//! `farrow` as a program with small signed archives on loopback: locks, repositories, tarballs, bills of materials, refusals.

#[path = "../golden/mod.rs"]
mod golden;
#[path = "../../../offline-repo/tests/support/mod.rs"]
mod support;

mod bases;
mod bundles;
mod codes;
mod errors;
mod locks;
mod processors;
mod rpms;
mod sboms;
mod shared;
mod site;
