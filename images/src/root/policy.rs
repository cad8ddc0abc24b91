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
/// - Python modules are compiled while other packages are being configured; see [`WAIT`].
pub(super) const STAND_INS: [(&str, &str); 6] = [
    ("update-initramfs", NOTHING),
    ("deb-systemd-helper", NOTHING),
    ("deb-systemd-invoke", NOTHING),
    ("invoke-rc.d", NOTHING),
    ("update-ca-certificates", TRIGGERED),
    ("py3compile", COMPILE),
];

const NOTHING: &str = "#!/bin/sh\nexit 0\n";

/// Only the call of the trigger comes without `--hooksdir`. A program of the recipe's that comes before the package's own in
/// `PATH` is called as ever.
const TRIGGERED: &str = r#"#!/bin/sh
PATH=${PATH#*:}
own=$(command -v update-ca-certificates)
[ "${1:-}" = --hooksdir ] && [ "$own" = /usr/sbin/update-ca-certificates ] || exec "$own" "$@"
"#;

/// Leaves a note, and takes it away when the real program has succeeded. One lock is held until then, by as many jobs
/// as there are; the other lets one run at a time: dpkg needs a processor as well.
const COMPILE: &str = r#"#!/bin/sh
set -e
mkdir -p /run/farrow/jobs
note=$(mktemp -p /run/farrow/jobs)
echo "py3compile $*" >"$note"
exec 8>>/run/farrow/running
flock --shared 8
(
    exec 9>>/run/farrow/turn
    flock 9
    /usr/bin/py3compile "$@" && rm "$note"
) </dev/null >>/run/farrow/log 2>&1 &
"#;

/// Runs its arguments, then waits for background jobs; one that failed, or was killed, has left its note.
pub(super) const WAIT: &str = r#"
"$@" || exit
flock /run/farrow/running true
if [ -n "$(ls -A /run/farrow/jobs 2>/dev/null)" ]; then
    cat /run/farrow/log
    echo "these did not succeed:"
    cat /run/farrow/jobs/*
    exit 1
fi
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
