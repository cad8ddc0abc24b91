//! `repodata/`: the metadata files, the `repomd.xml` that lists them, and its signature. Values in, files out.

use std::fmt::Write;

use rayon::prelude::*;

use super::metadata::Elements;
use super::xml::DECLARATION;
use crate::compression;
use crate::digest::Sha256;
use crate::error::Result;
use crate::signer::Signer;

/// Path of the list of metadata files.
pub const REPOMD: &str = "repodata/repomd.xml";
/// Path of its signature, armoured.
pub const SIGNATURE: &str = "repodata/repomd.xml.asc";
/// Path of the public key; zypper looks for it under this name, and a `NAME.repo` points to it.
pub const KEY: &str = "repodata/repomd.xml.key";

/// Kind of the file of modular metadata.
pub(crate) const MODULES: &str = "modules";

const NAMESPACE: &str = "http://linux.duke.edu/metadata";

/// A metadata file: kind, name of its root element, its text in each package's elements.
type Kind = (
    &'static str,
    &'static str,
    &'static str,
    fn(&Elements) -> &str,
);

const KINDS: [Kind; 3] = [
    ("primary", "metadata", "common", |e| &e.primary),
    ("filelists", "filelists", "filelists", |e| &e.filelists),
    ("other", "otherdata", "other", |e| &e.other),
];

/// A metadata file as `repomd.xml` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    kind: &'static str,
    path: String,
    packed: (Sha256, usize),
    open: (Sha256, usize),
}

/// All files of `repodata/`, with their paths below the repository, dated `epoch`; with modular metadata if there is any.
///
/// They are compressed with gzip, which every yum and dnf reads; zstd would need EL 9.
pub fn files(
    elements: &[Elements],
    modules: Option<&str>,
    signer: &Signer,
    epoch: u64,
) -> Result<Vec<(String, Vec<u8>)>> {
    let mut made: Vec<(Listed, Vec<u8>)> = KINDS
        .par_iter()
        .map(|kind| packed(kind.0, "xml", &document(kind, elements)))
        .collect();
    made.extend(modules.map(|text| packed(MODULES, "yaml", text)));
    let (listed, packed): (Vec<Listed>, Vec<Vec<u8>>) = made.into_iter().unzip();
    let repomd = repomd(&listed, epoch);
    let signature = signer.detach_armored(repomd.as_bytes(), epoch)?;
    let mut files: Vec<(String, Vec<u8>)> =
        listed.into_iter().map(|l| l.path).zip(packed).collect();
    files.push((REPOMD.into(), repomd.into_bytes()));
    files.push((SIGNATURE.into(), signature.into_bytes()));
    files.push((KEY.into(), signer.public_key()?.armored.into_bytes()));
    Ok(files)
}

/// The text of a metadata file, `primary`, `filelists` or `other`.
pub(crate) fn text(kind: &str, elements: &[Elements]) -> String {
    let found = KINDS.iter().find(|known| known.0 == kind);
    document(found.expect("one of the three"), elements)
}

fn document((kind, root, namespace, part): &Kind, all: &[Elements]) -> String {
    let mut text = format!("{DECLARATION}<{root} xmlns=\"{NAMESPACE}/{namespace}\"");
    if *kind == "primary" {
        let _ = write!(text, " xmlns:rpm=\"{NAMESPACE}/rpm\"");
    }
    let _ = writeln!(text, " packages=\"{}\">", all.len());
    text.extend(all.iter().map(part));
    let _ = writeln!(text, "</{root}>");
    text
}

fn packed(kind: &'static str, ending: &str, text: &str) -> (Listed, Vec<u8>) {
    let packed = compression::gzip(text.as_bytes());
    let sha256 = Sha256::of(&packed);
    let listed = Listed {
        kind,
        path: format!("repodata/{sha256}-{kind}.{ending}.gz"),
        packed: (sha256, packed.len()),
        open: (Sha256::of(text.as_bytes()), text.len()),
    };
    (listed, packed)
}

fn repomd(listed: &[Listed], epoch: u64) -> String {
    let mut text = format!(
        "{DECLARATION}<repomd xmlns=\"{NAMESPACE}/repo\" xmlns:rpm=\"{NAMESPACE}/rpm\">\n  <revision>{epoch}</revision>\n"
    );
    for Listed {
        kind,
        path,
        packed,
        open,
    } in listed
    {
        let _ = write!(
            text,
            "  <data type=\"{kind}\">\n    <checksum type=\"sha256\">{}</checksum>\n    \
             <open-checksum type=\"sha256\">{}</open-checksum>\n    <location href=\"{path}\"/>\n    \
             <timestamp>{epoch}</timestamp>\n    <size>{}</size>\n    <open-size>{}</open-size>\n  </data>\n",
            packed.0, open.0, packed.1, open.1
        );
    }
    text.push_str("</repomd>\n");
    text
}

/// A `NAME.repo` file (dnf.conf(5)): packages and metadata must be signed. `keys` are paths below the repository.
pub fn repo_file(name: &str, url: &str, keys: &[&str]) -> String {
    let url = url.trim_end_matches('/');
    let keys: Vec<String> = keys.iter().map(|key| format!("{url}/{key}")).collect();
    format!(
        "[{name}]\nname={name} offline repository\nbaseurl={url}/\nenabled=1\ngpgcheck=1\nrepo_gpgcheck=1\ngpgkey={}\n",
        keys.join("\n       ")
    )
}
