//! Which packages must be there before dpkg can run, in which order dpkg unpacks, and which belong together.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::input::Package;
use super::record;
use crate::deb;
use crate::error::{Error, Result};

/// A package that no other one needs is large from this installed size on, in KiB.
const LARGE: u64 = 8 << 10;

/// The scripts of a package take long from this size on, all together in bytes: they make accounts, ask questions, write
/// configurations. Shorter ones set a link or enable a unit.
const LONG: usize = 2 << 10;

/// Scripts that run when a package is installed, or that decide when it is asked about.
const SCRIPTS: [&str; 3] = ["preinst", "postinst", "config"];

/// Packages in the order in which they are unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    packages: Vec<Planned>,
}

/// A package, and what its control file says that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) package: Package,
    /// Installed size, in KiB.
    pub(super) size: u64,
    /// Whether the tree needs it before dpkg can run.
    pub(super) essential: bool,
    /// Whether dpkg itself must unpack it; see [`record::is_plain`].
    pub(super) by_dpkg: bool,
    /// The layer that it belongs to.
    layer: usize,
}

impl Planned {
    /// A package of that name and installed size in KiB.
    #[cfg(test)]
    pub(super) fn plain(name: &str, size: u64) -> Self {
        let package = Package {
            name: name.into(),
            version: "1".into(),
            architecture: "all".into(),
            path: name.into(),
            sha256: name.into(),
        };
        Self {
            package,
            size,
            essential: false,
            by_dpkg: false,
            layer: 0,
        }
    }
}

impl Plan {
    /// The packages in layers, each complete with those below it: what any other package may need; then what none needs:
    /// the large ones, those with long scripts, which take time, and the others. So the change of one package leaves as much as
    /// possible as it is. Layers without a package
    /// are left out.
    pub(super) fn layers(&self) -> Vec<Vec<Planned>> {
        let layer = |index| {
            let of_layer = self.packages.iter().filter(|p| p.layer == index);
            of_layer.cloned().collect::<Vec<_>>()
        };
        let layers = [layer(0), layer(1), layer(2), layer(3)];
        layers
            .into_iter()
            .filter(|layer| !layer.is_empty())
            .collect()
    }
}

/// The fields of a control file that order packages. A relation is a list of alternatives' names.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Control {
    essential: bool,
    provides: Vec<String>,
    pre_depends: Vec<Vec<String>>,
    depends: Vec<Vec<String>>,
    installed_size: u64,
    plain: bool,
    /// Bytes of its scripts.
    scripts: usize,
}

/// Reads the packages' control files and orders them.
pub(super) fn plan(packages: &[Package]) -> Result<Plan> {
    let controls = packages
        .par_iter()
        .map(read_control)
        .collect::<Result<Vec<Control>>>()?;
    let named = packages
        .iter()
        .map(|package| package.name.as_str())
        .zip(controls)
        .collect();
    let (order, essential) = order(&named);
    if essential == 0 {
        return Err(Error::Tree {
            reason: "none of the packages is essential, so there is no shell or dpkg".into(),
        });
    }
    let needed = needed(&named);
    let by_name: BTreeMap<&str, &Package> = packages
        .iter()
        .map(|package| (package.name.as_str(), package))
        .collect();
    let planned = |(index, name): (usize, &&str)| {
        let control = named.get(name)?;
        let size = control.installed_size;
        let needed = index < essential || needed.contains(name);
        let package = (*by_name.get(name)?).clone();
        Some(Planned {
            package,
            size,
            essential: index < essential,
            by_dpkg: !control.plain,
            layer: layer(needed, control),
        })
    };
    let packages = order.iter().enumerate().filter_map(planned).collect();
    Ok(Plan { packages })
}

/// The layer of a package that another one may need, or not.
fn layer(needed: bool, control: &Control) -> usize {
    match needed {
        true => 0,
        false if control.installed_size >= LARGE => 1,
        false if control.scripts >= LONG => 2,
        false => 3,
    }
}

/// Names of packages that another one names among its dependencies, or that provide what one names.
fn needed<'a>(controls: &'a BTreeMap<&'a str, Control>) -> BTreeSet<&'a str> {
    let mut wanted: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, control) in controls {
        let relations = control.pre_depends.iter().chain(&control.depends);
        for other in relations.flatten() {
            wanted.entry(other).or_default().insert(name);
        }
    }
    let by_another = |name: &str, wanting: &str| {
        let wanting = wanted.get(wanting).into_iter().flatten();
        wanting.into_iter().any(|&other| other != name)
    };
    let is_needed = |(name, control): (&&'a str, &Control)| {
        let mut names = control.provides.iter().map(String::as_str).chain([*name]);
        names
            .any(|wanting| by_another(name, wanting))
            .then_some(*name)
    };
    controls.iter().filter_map(is_needed).collect()
}

fn read_control(package: &Package) -> Result<Control> {
    let members = deb::control_members(&package.path)?;
    let refuse = |reason: &str| Error::Package {
        path: package.path.clone(),
        reason: reason.to_owned(),
    };
    let control = members
        .get("control")
        .ok_or_else(|| refuse("has no control file"))?;
    Ok(Control {
        plain: record::is_plain(package, &members),
        scripts: SCRIPTS
            .iter()
            .filter_map(|name| members.get(*name))
            .map(|script| script.content.len())
            .sum(),
        ..parse_control(&String::from_utf8_lossy(&control.content))
    })
}

/// Names in unpacking order, and how many of them are needed for dpkg to run.
fn order<'a>(controls: &'a BTreeMap<&'a str, Control>) -> (Vec<&'a str>, usize) {
    let mut walk = Walk {
        controls,
        providers: providers(controls),
        seen: BTreeSet::new(),
        order: Vec::new(),
    };
    for (name, _) in controls.iter().filter(|(_, control)| control.essential) {
        walk.visit(name, true);
    }
    let essential = walk.order.len();
    for name in controls.keys() {
        walk.visit(name, false);
    }
    (walk.order, essential)
}

fn providers<'a>(controls: &'a BTreeMap<&'a str, Control>) -> BTreeMap<&'a str, &'a str> {
    let mut providers = BTreeMap::new();
    for (name, control) in controls {
        for provided in &control.provides {
            providers.entry(provided.as_str()).or_insert(*name);
        }
    }
    providers
}

/// A walk in depth along dependencies; it breaks cycles where it meets them.
struct Walk<'a> {
    controls: &'a BTreeMap<&'a str, Control>,
    providers: BTreeMap<&'a str, &'a str>,
    seen: BTreeSet<&'a str>,
    order: Vec<&'a str>,
}

impl<'a> Walk<'a> {
    /// Puts what `name` needs for its preinst before it; with `whole`, everything it depends on.
    fn visit(&mut self, name: &'a str, whole: bool) {
        let Some(control) = self.controls.get(name) else {
            return;
        };
        if !self.seen.insert(name) {
            return;
        }
        for relation in &control.pre_depends {
            // What a package pre-depends on must be usable, so with all of its own dependencies.
            self.visit_relation(relation);
        }
        if whole {
            for relation in &control.depends {
                self.visit_relation(relation);
            }
        }
        self.order.push(name);
    }

    fn visit_relation(&mut self, alternatives: &'a [String]) {
        let real = alternatives
            .iter()
            .map(String::as_str)
            .find(|name| self.controls.contains_key(name));
        let chosen = real.or_else(|| {
            alternatives
                .iter()
                .find_map(|name| self.providers.get(name.as_str()).copied())
        });
        if let Some(name) = chosen {
            self.visit(name, true);
        }
    }
}

/// Reads the fields of a control file (deb-control(5)).
fn parse_control(text: &str) -> Control {
    let mut control = Control::default();
    for (name, value) in fields(text) {
        match name.to_ascii_lowercase().as_str() {
            "essential" => control.essential = value.trim() == "yes",
            "provides" => control.provides = relations(&value).into_iter().flatten().collect(),
            "pre-depends" => control.pre_depends = relations(&value),
            "depends" => control.depends = relations(&value),
            "installed-size" => control.installed_size = value.trim().parse().unwrap_or(0),
            _ => {}
        }
    }
    control
}

/// Names and values, continuation lines joined.
pub(super) fn fields(text: &str) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        match (
            line.starts_with([' ', '\t']),
            line.split_once(':'),
            fields.last_mut(),
        ) {
            (true, _, Some((_, value))) => value.push_str(line),
            (false, Some((name, value)), _) => fields.push((name.to_owned(), value.to_owned())),
            _ => {}
        }
    }
    fields
}

/// `a (>= 1) | b:any, c` → `[[a, b], [c]]`.
fn relations(value: &str) -> Vec<Vec<String>> {
    let name = |alternative: &str| {
        let end = alternative
            .trim()
            .find([' ', '(', '[', ':', '<'])
            .unwrap_or(alternative.trim().len());
        alternative.trim()[..end].to_owned()
    };
    let names = |relation: &str| {
        relation
            .split('|')
            .map(name)
            .filter(|name| !name.is_empty())
            .collect()
    };
    value
        .split(',')
        .map(names)
        .filter(|names: &Vec<String>| !names.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_fields_that_order() {
        let control = parse_control(
            "Package: x\nEssential: yes\nPre-Depends: libc6 (>= 2.34), init:any | sysv\nDepends: a,\n b [amd64] | c\nProvides: awk (= 1)\n",
        );
        assert!(control.essential);
        assert_eq!(control.pre_depends, [vec!["libc6"], vec!["init", "sysv"]]);
        assert_eq!(control.depends, [vec!["a"], vec!["b", "c"]]);
        assert_eq!(control.provides, ["awk"]);
    }

    #[test]
    fn packages_that_another_one_may_need() {
        let texts = [
            ("app", "Depends: either | or, virtual, app-common"),
            ("app-common", "Depends: app"),
            ("either", ""),
            ("gives", "Provides: virtual (= 1)"),
            ("lonely", "Provides: lonely-api\nDepends: lonely-api"),
            ("or", ""),
        ];
        let controls = texts
            .iter()
            .map(|(name, text)| (*name, parse_control(text)))
            .collect();
        let needed: Vec<&str> = needed(&controls).into_iter().collect();
        assert_eq!(needed, ["app", "app-common", "either", "gives", "or"]);
    }

    #[test]
    fn what_takes_long_lies_below_what_does_not() {
        let control = |installed_size, scripts| Control {
            installed_size,
            scripts,
            ..Control::default()
        };
        assert_eq!(layer(true, &control(LARGE, LONG)), 0);
        assert_eq!(layer(false, &control(LARGE, 0)), 1);
        assert_eq!(layer(false, &control(LARGE - 1, LONG)), 2);
        assert_eq!(layer(false, &control(LARGE - 1, LONG - 1)), 3);
    }

    #[test]
    fn essential_closure_comes_first_and_pre_dependencies_before_their_users() {
        let texts = [
            ("app", "Pre-Depends: debconf\nDepends: late"),
            ("base", "Essential: yes\nPre-Depends: awk\nDepends: loop"),
            ("debconf", "Depends: perl"),
            ("late", ""),
            ("loop", "Depends: base"),
            ("mawk", "Provides: awk"),
            ("perl", ""),
        ];
        let controls = texts
            .iter()
            .map(|(name, text)| (*name, parse_control(text)))
            .collect();
        let (order, essential) = order(&controls);
        assert_eq!(order[..essential], ["mawk", "loop", "base"]);
        assert_eq!(order[essential..], ["perl", "debconf", "app", "late"]);
    }
}
