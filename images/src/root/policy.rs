//! What is in every tree before anything is unpacked, so that nothing starts or enables itself.

use super::input::{Content, FileEntry};

/// Asked by invoke-rc.d before it starts anything; exit code 101 is "not allowed". Removed when the tree is finished.
pub(super) const POLICY_RC_D: &str = "/usr/sbin/policy-rc.d";

/// Programs that stand in for those of the tree while packages are configured: name and script.
///
/// - The image brings its own initrd.
/// - Presets let no unit be enabled and policy-rc.d lets none be started, so asking for it changes nothing but a
///   record of the asking, which is not kept. Each asking costs the start of an interpreter, and there are hundreds.
/// - Certificates are hashed once: what ca-certificates does when it is configured, it does again a moment later, by its
///   own trigger.
pub(super) const STAND_INS: [(&str, &str); 5] = [
    ("update-initramfs", NOTHING),
    ("deb-systemd-helper", NOTHING),
    ("deb-systemd-invoke", NOTHING),
    ("invoke-rc.d", NOTHING),
    ("update-ca-certificates", TRIGGERED),
];

const NOTHING: &str = "#!/bin/sh\nexit 0\n";

/// Only the call of the trigger comes without `--hooksdir`. A program of the recipe's that comes before the package's own in
/// `PATH` is called as ever.
const TRIGGERED: &str = r#"#!/bin/sh
PATH=${PATH#*:}
own=$(command -v update-ca-certificates)
[ "${1:-}" = --hooksdir ] && [ "$own" = /usr/sbin/update-ca-certificates ] || exec "$own" "$@"
"#;

/// Sections of the manual. Its pages are left out, but scripts link to pages that packages have elsewhere.
const MANUAL: std::ops::RangeInclusive<u8> = 1..=8;

/// Files that are written before any script of a package runs.
pub(super) fn files() -> Vec<FileEntry> {
    let section = |number| FileEntry {
        path: format!("/usr/share/man/man{number}"),
        mode: 0o755,
        uid: 0,
        gid: 0,
        kind: Content::Directory,
    };
    let file = |path: &str, mode, content: &str| FileEntry {
        path: path.to_owned(),
        mode,
        uid: 0,
        gid: 0,
        kind: Content::File(content.as_bytes().to_vec()),
    };
    let mut files = vec![
        file(POLICY_RC_D, 0o755, "#!/bin/sh\nexit 101\n"),
        // First in order, so it decides: a unit is enabled only by a link that the image's recipe makes.
        file(
            "/usr/lib/systemd/system-preset/00-farrow.preset",
            0o644,
            "disable *\n",
        ),
        file(
            "/usr/lib/systemd/user-preset/00-farrow.preset",
            0o644,
            "disable *\n",
        ),
        file(
            "/etc/postgresql-common/createcluster.d/00-farrow.conf",
            0o644,
            "create_main_cluster = false\n",
        ),
    ];
    files.extend(MANUAL.map(section));
    files
}
