//! Configuration of a machine at first boot: metadata, settings, plan, apply, status.
//!
//! A stage is a type: a source gives [`metadata::Raw`] texts, which are read into [`Metadata`] (with a valid
//! [`Deployment`]); with [`Facts`], a [`Catalogue`] and the image's description they give a [`Plan`], by a pure function.
//! Applying a plan is separate. The formats are owned here, and written for others by [`seed`].

pub mod accounts;
mod applied;
pub mod apply;
pub mod availability;
pub mod boot;
pub mod catalogue;
mod checks;
pub mod context;
mod contradictions;
pub mod data_disk;
pub mod deployment;
pub mod document;
pub mod error;
pub mod facts;
pub mod files;
pub mod follow;
mod founder;
pub mod fragment;
pub mod gpt;
pub mod health;
pub mod http;
pub mod initdb;
pub mod inventory;
pub mod join;
pub mod lasting;
pub mod leave;
pub mod members;
mod merge;
pub mod metadata;
pub mod mime;
mod mounts;
pub mod netplan;
pub mod networkd;
pub mod observe;
pub mod pki;
pub mod plan;
mod plan_service;
mod plan_text;
pub mod planner;
pub mod process;
mod record;
pub mod render;
pub mod role;
mod scaling;
pub mod secrets;
pub mod seed;
pub mod service;
pub mod sources;
mod start;
pub mod status;
pub mod store;
pub mod toml_text;
pub mod tree;
pub mod tuning;
mod units;
pub mod upgrade;
pub mod userdata;
pub mod values;
pub mod watch;
pub mod yaml;

use std::path::Path;

pub use catalogue::Catalogue;
pub use context::Image;
pub use deployment::Deployment;
pub use error::{Error, Result};
pub use facts::Facts;
pub use members::Members;
pub use metadata::Metadata;
pub use plan::Plan;
pub use planner::Inputs;
pub use status::Status;

/// The plan of the machine with the NoCloud folder `metadata`: its first boot, rehearsed anywhere.
///
/// # Errors
/// What would be refused at boot.
pub fn explain(metadata: &Path, services: &Path, image: &Image, facts: &Facts) -> Result<Plan> {
    let raw = sources::read_seed(metadata, &metadata.display().to_string())?;
    Plan::compute(&Inputs {
        metadata: &Metadata::merge(&raw)?,
        facts,
        members: &Members::default(),
        catalogue: &Catalogue::load(services)?,
        image,
    })
}
