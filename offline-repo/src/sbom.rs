//! Bills of materials: what a repository or an image consists of, as SPDX 2.3 and CycloneDX 1.6 documents.
//!
//! Pure functions over a list of packages: the same list gives the same bytes. Formats:
//! <https://spdx.github.io/spdx-spec/v2.3/>, <https://cyclonedx.org/docs/1.6/json/>, package URLs:
//! <https://github.com/package-url/purl-spec>. Debian's copyright files are not machine-readable throughout, so licences
//! are NOASSERTION.

use serde_json::{Value, json};

use crate::date;
use crate::digest::Sha256;
use crate::percent;
use crate::repository::RepositoryPackage;

/// Kinds of things that consist of packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A repository of packages.
    Repository,
    /// An image of a machine that they are installed on.
    Image,
}

impl Kind {
    /// Its element in SPDX, and its component type in CycloneDX.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Kind::Repository => ("SPDXRef-Repository", "application"),
            Kind::Image => ("SPDXRef-Image", "operating-system"),
        }
    }
}

/// What a document is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its name, for example "pigsty".
    pub name: String,
    /// Its version.
    pub version: String,
    /// Digest of its manifest: what makes the document's identity.
    pub digest: Sha256,
    /// Date of the document, seconds since 1970.
    pub epoch: u64,
    /// What made it, with its version: "farrow-0.1.0".
    pub tool: (String, String),
    /// What it is.
    pub kind: Kind,
}

/// A package in a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Component {
    /// Package name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Architecture.
    pub architecture: String,
    /// File name of the package.
    pub file: String,
    /// SHA-256 of the file.
    pub sha256: Sha256,
    /// Type of the package URL, with a namespace where one is known: "deb/debian", "rpm".
    pub family: String,
}

impl Component {
    /// A package of a repository.
    pub fn of(package: &RepositoryPackage) -> Self {
        let file = package.path.file_name().unwrap_or_default();
        let is_rpm = package.path.extension().is_some_and(|e| e == "rpm");
        Component {
            name: package.name.clone(),
            version: package.version.clone(),
            architecture: package.architecture.clone(),
            file: file.to_string_lossy().into_owned(),
            sha256: package.sha256,
            family: if is_rpm { "rpm" } else { "deb/debian" }.into(),
        }
    }

    /// The package URL: `pkg:deb/debian/NAME@VERSION?arch=ARCH`, `pkg:rpm/NAME@VERSION?arch=ARCH&epoch=N`.
    pub fn purl(&self) -> String {
        let (version, epoch) = match self.version.split_once(':') {
            Some((epoch, version)) if self.family == "rpm" => (version, format!("&epoch={epoch}")),
            _ => (self.version.as_str(), String::new()),
        };
        format!(
            "pkg:{}/{}@{}?arch={}{epoch}",
            self.family,
            encode(&self.name),
            encode(version),
            encode(&self.architecture)
        )
    }

    /// Letters, digits, dots and dashes, which is all that an SPDX identifier may have. The digest keeps those apart
    /// that differ only in other characters.
    fn spdx_id(&self) -> String {
        let plain = |text: &str| -> String {
            let kept = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
            text.chars()
                .map(|c| if kept(c) { c } else { '-' })
                .collect()
        };
        format!(
            "SPDXRef-Package-{}-{}-{}",
            plain(&self.name),
            plain(&self.version),
            &self.sha256.to_string()[..12]
        )
    }
}

/// Percent-encoding of package URLs: the colon stays as it is.
fn encode(text: &str) -> String {
    percent::encode(text, b":")
}

/// A name-based UUID (RFC 9562, version 8) of a document about this content.
fn uuid(kind: &str, digest: &Sha256) -> String {
    let mut bytes = *Sha256::of(format!("{kind} {digest}").as_bytes()).as_bytes();
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = hex::encode(&bytes[..16]);
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

fn sorted(components: &[Component]) -> Vec<&Component> {
    let mut sorted: Vec<&Component> = components.iter().collect();
    sorted.sort();
    sorted.dedup();
    sorted
}

fn to_text(document: &Value) -> String {
    format!("{document:#}\n")
}

/// The document in SPDX 2.3 JSON.
pub fn spdx(subject: &Subject, components: &[Component]) -> String {
    let (root, _) = subject.kind.names();
    let components = sorted(components);
    let mut packages = vec![json!({
        "SPDXID": root, "name": subject.name, "versionInfo": subject.version,
        "downloadLocation": "NOASSERTION", "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION", "licenseDeclared": "NOASSERTION", "copyrightText": "NOASSERTION",
        "checksums": [{"algorithm": "SHA256", "checksumValue": subject.digest.to_string()}],
    })];
    let mut relationships = vec![json!({
        "spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": root,
    })];
    for component in components {
        packages.push(json!({
            "SPDXID": component.spdx_id(), "name": component.name, "versionInfo": component.version,
            "packageFileName": component.file, "downloadLocation": "NOASSERTION", "filesAnalyzed": false,
            "licenseConcluded": "NOASSERTION", "licenseDeclared": "NOASSERTION", "copyrightText": "NOASSERTION",
            "checksums": [{"algorithm": "SHA256", "checksumValue": component.sha256.to_string()}],
            "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": component.purl()}],
        }));
        relationships.push(json!({
            "spdxElementId": root, "relationshipType": "CONTAINS", "relatedSpdxElement": component.spdx_id(),
        }));
    }
    let (tool, version) = &subject.tool;
    to_text(&json!({
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("{}-{}", subject.name, subject.version),
        "documentNamespace": format!("urn:uuid:{}", uuid("spdx", &subject.digest)),
        "creationInfo": {"created": date::format_iso(subject.epoch), "creators": [format!("Tool: {tool}-{version}")]},
        "packages": packages, "relationships": relationships,
    }))
}

/// The document in CycloneDX 1.6 JSON.
pub fn cyclonedx(subject: &Subject, components: &[Component]) -> String {
    let (_, kind) = subject.kind.names();
    let components = sorted(components);
    let root = format!("{}@{}", subject.name, subject.version);
    let hash = |sha256: &Sha256| json!([{"alg": "SHA-256", "content": sha256.to_string()}]);
    let purls: Vec<String> = components.iter().map(|c| c.purl()).collect();
    let listed = components.iter().map(|component| {
        json!({
            "type": "library", "bom-ref": component.purl(), "name": component.name, "version": component.version,
            "purl": component.purl(), "hashes": hash(&component.sha256),
            "licenses": [{"license": {"name": "NOASSERTION"}}],
            "properties": [{"name": "farrow:file", "value": component.file}],
        })
    });
    let listed: Vec<Value> = listed.collect();
    let (tool, version) = &subject.tool;
    to_text(&json!({
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "serialNumber": format!("urn:uuid:{}", uuid("cyclonedx", &subject.digest)),
        "metadata": {
            "timestamp": date::format_iso(subject.epoch),
            "tools": {"components": [{"type": "application", "name": tool, "version": version}]},
            "component": {"type": kind, "bom-ref": root, "name": subject.name, "version": subject.version,
                          "hashes": hash(&subject.digest)},
        },
        "components": listed,
        "dependencies": [{"ref": root, "dependsOn": purls}],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        Subject {
            name: "pigsty".into(),
            version: "1".into(),
            digest: Sha256::of(b"manifest"),
            epoch: 1_795_000_000,
            tool: ("farrow".into(), "0.1.0".into()),
            kind: Kind::Repository,
        }
    }

    fn component(name: &str, version: &str) -> Component {
        Component {
            name: name.into(),
            version: version.into(),
            architecture: "amd64".into(),
            file: format!("{name}.deb"),
            sha256: Sha256::of(name.as_bytes()),
            family: "deb/debian".into(),
        }
    }

    #[test]
    fn package_urls() {
        for (name, version, expected) in [
            ("curl", "8.14-1", "pkg:deb/debian/curl@8.14-1?arch=amd64"),
            (
                "g++",
                "1:2.41~rc1+deb13u1",
                "pkg:deb/debian/g%2B%2B@1:2.41~rc1%2Bdeb13u1?arch=amd64",
            ),
        ] {
            assert_eq!(component(name, version).purl(), expected);
        }
        let rpm = Component {
            family: "rpm".into(),
            ..component("alpha", "2:1.0-3")
        };
        assert_eq!(rpm.purl(), "pkg:rpm/alpha@1.0-3?arch=amd64&epoch=2");
    }

    #[test]
    fn documents_do_not_depend_on_the_order_of_packages() {
        let (a, b) = (component("a", "1"), component("b+", "2"));
        for write in [spdx, cyclonedx] {
            let text = write(&subject(), &[a.clone(), b.clone()]);
            assert_eq!(text, write(&subject(), &[b.clone(), a.clone(), a.clone()]));
            let other = Subject {
                digest: Sha256::of(b"other"),
                ..subject()
            };
            assert_ne!(text, write(&other, &[a.clone(), b.clone()]));
        }
    }

    /// Required fields and forms of both schemas, and every reference leads somewhere.
    #[test]
    fn documents_have_what_their_schemas_require() {
        let components = [
            component("a", "1:1"),
            component("b+", "2"),
            component("b-", "2"),
        ];
        let document: Value = serde_json::from_str(&spdx(&subject(), &components)).unwrap();
        assert_eq!(document["spdxVersion"], "SPDX-2.3");
        assert_eq!(document["dataLicense"], "CC0-1.0");
        assert_eq!(document["creationInfo"]["created"], "2026-11-18T11:06:40Z");
        let packages = document["packages"].as_array().unwrap();
        let mut ids: Vec<&str> = packages
            .iter()
            .map(|package| package["SPDXID"].as_str().unwrap())
            .collect();
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
        assert!(
            ids.iter()
                .all(|id| id.starts_with("SPDXRef-") && id.chars().all(allowed))
        );
        for relationship in document["relationships"].as_array().unwrap() {
            let to = relationship["relatedSpdxElement"].as_str().unwrap();
            assert!(ids.contains(&to), "{to}");
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 4);

        let document: Value = serde_json::from_str(&cyclonedx(&subject(), &components)).unwrap();
        assert_eq!(document["specVersion"], "1.6");
        let serial = document["serialNumber"].as_str().unwrap();
        assert_eq!(serial.len(), "urn:uuid:".len() + 36);
        let mut references: Vec<&str> = document["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|component| component["bom-ref"].as_str().unwrap())
            .collect();
        let depends = document["dependencies"][0]["dependsOn"].as_array().unwrap();
        assert!(
            depends
                .iter()
                .all(|d| references.contains(&d.as_str().unwrap()))
        );
        references.dedup();
        assert_eq!(references.len(), 3);
    }
}
