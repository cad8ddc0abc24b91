//! Parsers of what comes from outside never panic, whatever it is; what is written is read back.

mod support;

use bootstrap::metadata::{Metadata, Raw};
use bootstrap::mime::{self, Part};
use bootstrap::{Deployment, netplan, userdata, yaml};
use proptest::prelude::*;

/// Pieces that lead parsers further than random characters do.
const PIECES: &[&str] = &[
    "#cloud-config\n",
    "#farrow-deployment\n",
    "farrow:",
    "deployment:",
    "node:",
    "\n",
    "  ",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    "&a ",
    "*a",
    "!!str ",
    "? ",
    "| ",
    "> ",
    "'",
    "\"",
    "\\",
    "---\n",
    "...\n",
    "%YAML 1.1\n",
    "schema = 1\n",
    "[[cluster]]\n",
    "[[cluster.member]]\n",
    "[network]\n",
    "subnet = \"10.0.0.0/8\"\n",
    "address = \"10.0.0.1\"\n",
    "role = \"primary\"\n",
    "Content-Type: multipart/mixed; boundary=b\n\n",
    "--b\n",
    "--b--\n",
    "Content-Type: text/x-farrow-deployment\n\n",
    "Content-Transfer-Encoding: base64\n\n",
    "Content-Transfer-Encoding: quoted-printable\n\n",
    "=4",
    "=\n",
    "ä",
    "\u{feff}",
    "\r\n",
    "version: 2\n",
    "ethernets:\n",
    "addresses: ",
    "10.0.0.1/24",
    "macaddress: ",
    "0644",
    "1e999",
    "0x",
    ".inf",
    "1_0",
    "~",
    "\t",
    "\0",
];

fn hostile() -> impl Strategy<Value = String> {
    let pieces = prop::collection::vec(
        prop_oneof![4 => prop::sample::select(PIECES).prop_map(str::to_owned), 1 => ".{0,8}"],
        0..40,
    );
    pieces.prop_map(|pieces| pieces.concat())
}

/// The valid user-data of a machine with a few bytes changed.
fn damaged() -> impl Strategy<Value = String> {
    let good = support::raw(&support::deployment_text(), "meta")
        .user_data
        .clone();
    prop::collection::vec(
        (any::<prop::sample::Index>(), prop::sample::select(PIECES)),
        1..4,
    )
    .prop_map(move |changes| {
        let mut text: Vec<char> = good.chars().collect();
        for (at, piece) in changes {
            let at = at.index(text.len());
            text.splice(at..(at + 1).min(text.len()), piece.chars());
        }
        text.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn hostile_texts_do_not_panic(text in hostile()) {
        let _ = userdata::parse(&text);
        let _ = yaml::parse("test", &text);
        let _ = netplan::parse(&text);
        let _ = Deployment::parse(&text);
        let _ = Raw::from_seed("test", text.clone(), &text, Some(text.clone()));
    }

    #[test]
    fn random_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let _ = userdata::parse(&text);
        let _ = userdata::parse(&format!("#cloud-config\n{text}"));
        let _ = Deployment::parse(&text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn damaged_user_data_is_read_or_refused(text in damaged()) {
        let mut raw = Raw::default();
        raw.user_data = text;
        if let Err(error) = Metadata::merge(&raw) {
            prop_assert!(error.code().starts_with("FR-"));
            // The start of the deployment secret: an error must not repeat it.
            prop_assert!(!error.to_string().contains("070707"), "{}", error);
        }
    }

    #[test]
    fn messages_are_read_back(bodies in prop::collection::vec("(\\PC|\n){0,200}", 1..5)) {
        let parts: Vec<Part> = bodies.into_iter().map(|body| Part { content_type: "text/x-test".into(), body }).collect();
        prop_assert_eq!(mime::parts(&mime::write(&parts)).unwrap(), parts);
    }
}
