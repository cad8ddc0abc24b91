//! What the binary carries inside: recipes, keys, the service catalogue, the bootstrap and the init of the initrd.

use images::architecture::Architecture;
use include_dir::{Dir, include_dir};

static RECIPES: Dir<'_> = include_dir!("$OUT_DIR/recipes");

/// `farrow-bootstrap`, static, as the build script made it.
pub static BOOTSTRAP: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/farrow-bootstrap"));
/// `farrow-init`, static: the first process of the initrd.
static INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/farrow-init"));
/// The unit that starts the bootstrap.
pub static BOOTSTRAP_UNIT: &str = include_str!("../../bootstrap/systemd/farrow-bootstrap.service");

/// The unit that follows the members of clusters; the bootstrap starts it.
pub static WATCH_UNIT: &str = include_str!("../../bootstrap/systemd/farrow-watch.service");

/// The unit that keeps or gives up a version on trial.
pub static TRIAL_UNIT: &str = include_str!("../../bootstrap/systemd/farrow-trial.service");

/// What systemd itself does about crashes and hangs.
pub static SYSTEM_CONF: &str = include_str!("../../bootstrap/systemd/system.conf");

/// Which devices udev looks at when a machine starts.
pub static COLDPLUG: &str = include_str!("../../bootstrap/systemd/coldplug.conf");

/// The JSON Schema of recipes, for editors.
pub static RECIPE_SCHEMA: &str = include_str!("../../recipes/recipe.schema.json");

/// `farrow-bootstrap` and `farrow-init` for a processor: for this one, and for arm64 when the build script could make them.
pub fn programs(architecture: Architecture) -> Option<(&'static [u8], &'static [u8])> {
    if Architecture::of_host() == Some(architecture) {
        return Some((BOOTSTRAP, INIT));
    }
    #[cfg(carries_arm64)]
    if architecture == Architecture::Arm64 {
        return Some((
            include_bytes!(concat!(env!("OUT_DIR"), "/arm64/farrow-bootstrap")),
            include_bytes!(concat!(env!("OUT_DIR"), "/arm64/farrow-init")),
        ));
    }
    None
}

/// The text of a shipped recipe.
pub fn recipe(name: &str) -> Option<&'static str> {
    RECIPES.get_file(format!("{name}.toml"))?.contents_utf8()
}

/// Names of the shipped recipes, sorted.
pub fn recipe_names() -> Vec<String> {
    names_of(&RECIPES)
}

/// The text of a shipped deployment.
pub fn deployment(name: &str) -> Option<&'static str> {
    RECIPES
        .get_file(format!("deployments/{name}.toml"))?
        .contents_utf8()
}

/// Names of the shipped deployments, sorted.
pub fn deployment_names() -> Vec<String> {
    RECIPES
        .get_dir("deployments")
        .map(names_of)
        .unwrap_or_default()
}

/// A shipped archive key, armoured.
pub fn key(name: &str) -> Option<Vec<u8>> {
    Some(
        RECIPES
            .get_file(format!("keys/{name}"))?
            .contents()
            .to_vec(),
    )
}

/// Names of the shipped archive keys, sorted.
pub fn key_names() -> Vec<String> {
    let files = RECIPES.get_dir("keys").into_iter().flat_map(Dir::files);
    let keys = files.filter(|file| file.path().extension().is_some_and(|end| end == "asc"));
    let mut names: Vec<String> = keys
        .filter_map(|file| Some(file.path().file_name()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

/// Every file of the service catalogue: path below `services/`, content.
pub fn catalogue() -> Vec<(String, &'static [u8])> {
    let mut found = Vec::new();
    if let Some(services) = RECIPES.get_dir("services") {
        collect_below(services, "services/", &mut found);
    }
    found.sort();
    found
}

fn collect_below(dir: &Dir<'static>, prefix: &str, found: &mut Vec<(String, &'static [u8])>) {
    for file in dir.files() {
        let path = file.path().display().to_string();
        let path = path.strip_prefix(prefix).unwrap_or(&path).to_owned();
        found.push((path, file.contents()));
    }
    for inner in dir.dirs() {
        collect_below(inner, prefix, found);
    }
}

fn names_of(dir: &Dir<'_>) -> Vec<String> {
    let mut names: Vec<String> = dir
        .files()
        .filter_map(|file| {
            let name = file.path().file_name()?.to_str()?;
            Some(name.strip_suffix(".toml")?.to_owned())
        })
        .collect();
    names.sort();
    names
}
