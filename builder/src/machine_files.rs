//! Files that a machine needs whatever it comes from: the bootstrap, its units, the catalogue, and what the machine can
//! say about its origin. An image has them in its root, any other machine from the package `farrow-bootstrap`.

use offline_repo::lock::Lock;
use serde_json::json;

use crate::diagnostic::{Diagnostic, Result};
use crate::embedded;
use crate::recipe::Recipe;

/// Where the catalogue is on a machine.
const SERVICES: &str = "/usr/lib/farrow/services";

/// What a machine comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// An image, whose `/etc` is as baked at each boot.
    Image,
    /// An existing system into which packages were installed. What is written below its `/etc` lasts.
    Packages,
}

/// A file that belongs to root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineFile {
    /// Absolute path.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Content.
    pub content: Vec<u8>,
}

/// The files, of the recipe's services only.
pub fn of_every_machine(
    recipe: &Recipe,
    lock: &Lock,
    origin: Origin,
    bootstrap: &[u8],
) -> Result<Vec<MachineFile>> {
    let file = |path: &str, mode, content: &[u8]| MachineFile {
        path: path.into(),
        mode,
        content: content.to_vec(),
    };
    let version = match origin {
        Origin::Image => recipe.image_version(),
        Origin::Packages => env!("CARGO_PKG_VERSION"),
    };
    let mut identity = json!({
        "name": recipe.name,
        "version": version,
        "lock": lock.digest().to_string(),
        "repository": recipe.repository,
    });
    if origin == Origin::Packages {
        identity["etc_lasts"] = true.into();
    }
    let mut files = vec![
        file("/usr/bin/farrow-bootstrap", 0o755, bootstrap),
        file(
            "/usr/lib/systemd/system/farrow-bootstrap.service",
            0o644,
            embedded::BOOTSTRAP_UNIT.as_bytes(),
        ),
        file(
            "/usr/lib/systemd/system/farrow-watch.service",
            0o644,
            embedded::WATCH_UNIT.as_bytes(),
        ),
        file(
            "/usr/lib/farrow/image.json",
            0o644,
            format!("{identity:#}\n").as_bytes(),
        ),
    ];
    let catalogue = embedded::catalogue();
    for name in recipe.services.iter().flatten() {
        if !catalogue.iter().any(|(path, _)| service_of(path) == name) {
            let message = format!("the catalogue has no service `{name}`");
            return Err(Diagnostic::invalid("FR-RECIPE-SERVICE", message));
        }
    }
    let wanted = catalogue
        .iter()
        .filter(|(path, _)| carries(recipe, service_of(path)));
    files.extend(wanted.map(|(path, content)| file(&format!("{SERVICES}/{path}"), 0o644, content)));
    Ok(files)
}

/// Whether machines of a recipe can have this service.
pub fn carries(recipe: &Recipe, service: &str) -> bool {
    let wanted = recipe.services.as_ref();
    wanted.is_none_or(|wanted| wanted.iter().any(|name| name == service))
}

/// The service that a file of the catalogue belongs to.
fn service_of(path: &str) -> &str {
    path.split('/').next().unwrap_or_default()
}
