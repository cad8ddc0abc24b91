//! `farrow image keys`: keys of one's own for Secure Boot.

use std::path::Path;

use images::secure_boot::keys;
use serde_json::json;

use crate::commands::write_file;
use crate::diagnostic::{Diagnostic, Result};
use crate::session::Session;

/// Writes keys, certificates and what enrols them into a folder that does not exist or is empty.
pub fn run(session: &Session, dir: &Path, name: &str) -> Result<()> {
    if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        let message = format!("{} is not empty", dir.display());
        return Err(Diagnostic::invalid("FR-KEYS-EXISTS", message)
            .with_hint("name a new folder: keys that are in use are never replaced"));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || " .-".contains(c);
    if name.is_empty() || name.len() > 48 || !name.chars().all(plain) {
        let message = format!("`{name}` is no name for certificates");
        return Err(Diagnostic::invalid("FR-KEYS", message)
            .with_hint("take letters, digits, spaces, dots and dashes, at most 48"));
    }
    let refuse = |reason: String| Diagnostic::failed("FR-KEYS", format!("no keys: {reason}"));
    let pairs = keys::generate(name).map_err(refuse)?;
    let enrolments = keys::enrolments(&pairs).map_err(refuse)?;
    for (pair, enrolment) in pairs.iter().zip(&enrolments) {
        let path = |ending: &str| dir.join(format!("{}.{ending}", pair.name));
        write_file(&path("key"), pair.key.as_bytes(), 0o600)?;
        write_file(&path("pem"), pair.certificate.as_bytes(), 0o644)?;
        write_file(&path("esl"), &enrolment.list, 0o644)?;
        write_file(&path("auth"), &enrolment.authenticated, 0o644)?;
        session.add_file("secure-boot-certificate", &path("pem"))?;
    }
    session.say(&format!(
        "wrote {0}/PK, KEK and db: .key (secret), .pem, .esl, .auth\n\
         next: farrow image build RECIPE --secure-boot-key {0}/db.key --secure-boot-certificate {0}/db.pem",
        dir.display()
    ));
    session.finish(json!({}))
}
