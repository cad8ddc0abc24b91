//! Offline package repositories: sources, index, resolve, lock, fetch, publish.
//!
//! The stages, each a type that only the stage before it can make:
//!
//! ```text
//! LockRequest → (signed indexes) Universe → Resolution → Lock
//! Lock → FetchPlan → Fetched → a repository folder → a bundle
//! ```
//!
//! Parsers take text; effects (HTTP, writes) are in [`http`], [`cache`], [`publish`], [`bundle`]
//! [`repair`] and [`install`]; [`serve`] answers HTTP requests. Nothing here prints: long operations report through [`progress::Progress`].

pub mod additions;
pub mod archive;
pub mod bundle;
mod bundle_reader;
pub mod cache;
pub mod clearsign;
pub mod closure;
pub mod compression;
pub mod date;
pub mod deb;
pub mod deb822;
pub mod deb_write;
pub mod delta;
pub mod dependency;
pub mod difference;
pub mod digest;
pub mod error;
mod explain;
pub mod fetch;
mod files;
pub mod http;
mod indexes;
pub mod install;
mod keeping;
pub mod layout;
pub mod lock;
pub mod locking;
pub mod marker;
mod marking;
mod members;
pub mod metadata;
mod minimal;
pub mod mirror;
pub mod openpgp;
mod percent;
pub mod placement;
pub mod progress;
pub mod proof;
pub mod publish;
mod record;
pub mod release;
pub mod repair;
pub mod repository;
pub mod resolve;
pub mod rpm;
pub mod sbom;
mod scores;
pub mod serve;
pub mod signer;
mod solver;
mod status;
mod suggest;
mod tarball;
pub mod universe;
pub mod verify;
pub mod version;
pub mod volumes;

pub use error::{Error, Result};
