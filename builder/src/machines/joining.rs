//! Machines that join a deployment while it runs.

use std::net::Ipv4Addr;

use bootstrap::Catalogue;
use bootstrap::secrets::DeploymentSecret;

use super::{Planned, plan_one};
use crate::deployment::{self, Loaded};
use crate::diagnostic::Result;

/// What makes a seed for a machine that nobody declared.
pub struct Joining {
    /// The deployment that runs.
    pub loaded: Loaded,
    /// Its secret.
    pub secret: DeploymentSecret,
    /// What its machines run.
    pub catalogue: Catalogue,
}

impl Joining {
    /// The plan of a machine that joins `cluster`; its name follows from the instance id.
    ///
    /// # Errors
    /// The cluster does not scale by itself, or the instance id or the address is somebody's.
    pub fn plan(&self, cluster: &str, instance_id: &str, address: Ipv4Addr) -> Result<Planned> {
        let (machine, seed) =
            deployment::joining(&self.loaded, &self.secret, cluster, instance_id, address)?;
        let deployment = &self.loaded.deployment;
        Ok(plan_one(deployment, &self.catalogue, &machine, seed))
    }
}
