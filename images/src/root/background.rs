//! Work that scripts of packages ask for and that nothing needs until all packages are configured: it is done beside dpkg, on
//! another processor.
//!
//! - Python modules are compiled (`py3compile`). Half of that program's time goes into starting interpreters, so one process
//!   (`background/py3compile_all.py`) does what was asked for meanwhile. Two at a time could miss a folder that both want to make.
//! - The modules of a kernel are indexed (`depmod`): it unpacks each of them.
//!
//! Only while there is a queue, which the [waiting](WAIT) program makes: what a recipe's script asks for is done at once.

/// Stand-ins for programs of the tree: name and script.
pub(super) const STAND_INS: [(&str, &str); 3] = [
    ("py3compile", COMPILE),
    (
        "farrow-py3compile-all",
        include_str!("background/py3compile_all.py"),
    ),
    ("depmod", INDEX),
];

/// Puts its arguments into the queue. One lock is held by as many jobs as there are until they end; whoever gets the other
/// does all that is in the queue by then.
const COMPILE: &str = r#"#!/bin/sh
set -e
queue=/run/farrow/queue
[ -d "$queue" ] || exec /usr/bin/py3compile "$@"
note=$(mktemp -p /run/farrow)
printf '%s\0' py3compile "$@" >"$note"
mv "$note" "$queue"
note=$queue/${note##*/}
exec 8>>/run/farrow/running
flock --shared 8
(
    exec 9>>/run/farrow/turn
    flock 9
    [ ! -e "$note" ] || exec /usr/bin/python3 /run/farrow/bin/farrow-py3compile-all
) </dev/null >>/run/farrow/log 2>&1 &
"#;

/// Leaves a note among what failed, so that it is there also when it was killed, and takes it away when the real program has succeeded. `-a` is the default (depmod(8)); whatever else is no plain
/// order to index a kernel's modules may have an answer that somebody waits for.
const INDEX: &str = r#"#!/bin/sh
set -e
[ "${1:-}" != -a ] || shift
[ $# = 1 ] && [ "${1#-}" = "$1" ] && [ -d /run/farrow/queue ] || exec /usr/sbin/depmod "$@"
note=$(mktemp -p /run/farrow/failed)
printf '%s\0' depmod "$@" >"$note"
exec 8>>/run/farrow/running
flock --shared 8
(/usr/sbin/depmod "$@" && rm "$note") </dev/null >>/run/farrow/log 2>&1 &
"#;

/// Runs its arguments, then waits for what they left in the background; what failed, or was killed, has left its note.
pub(super) const WAIT: &str = r#"
mkdir -p /run/farrow/queue /run/farrow/failed
"$@" || exit
flock /run/farrow/running true
for note in /run/farrow/queue/* /run/farrow/failed/*; do
    if [ -e "$note" ]; then
        cat /run/farrow/log
        echo "this did not succeed:"
        tr '\0' ' ' <"$note"
        exit 1
    fi
done
"#;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};

    use super::*;

    /// A folder that is `/run/farrow`, and where the real programs are.
    struct Place {
        folder: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let place = Self {
                folder: tempfile::tempdir().unwrap(),
            };
            fs::create_dir(place.path("bin")).unwrap();
            for (name, script) in STAND_INS {
                place.program(&format!("bin/{name}"), script);
            }
            place
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn here(&self, text: &str) -> String {
            let folder = self.folder.path().to_string_lossy();
            let real = format!("{folder}/real-");
            text.replace("/run/farrow", &folder)
                .replace("/usr/sbin/", &real)
                .replace("/usr/bin/py3compile", &format!("{real}py3compile"))
        }

        fn program(&self, name: &str, text: &str) {
            fs::write(self.path(name), self.here(text)).unwrap();
            fs::set_permissions(self.path(name), PermissionsExt::from_mode(0o755)).unwrap();
        }

        fn run(&self, words: &[&str]) -> Output {
            let words = words.iter().map(|word| self.here(word));
            let mut words = words.collect::<Vec<_>>().into_iter();
            let program = words.next().unwrap();
            Command::new(program).args(words).output().unwrap()
        }

        /// What dpkg's place has, and what it printed.
        fn waited(&self, script: &str) -> (bool, String) {
            let output = self.run(&["sh", "-c", WAIT, "wait", "sh", "-c", script]);
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            (output.status.success(), said)
        }
    }

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn modules_are_indexed_before_dpkg_has_ended() {
        let place = Place::new();
        place.program(
            "real-depmod",
            "#!/bin/sh\n[ \"$1\" = -n ] || sleep 0.2\necho \"$*\" >>/run/farrow/did\necho listed\n",
        );
        let script =
            "/run/farrow/bin/depmod -a 6.1; /run/farrow/bin/depmod 6.2; [ ! -e /run/farrow/did ]";
        assert_eq!(place.waited(script), (true, String::new()));
        let mut did: Vec<String> = text(&place.path("did"))
            .lines()
            .map(str::to_owned)
            .collect();
        did.sort();
        assert_eq!(did, ["6.1", "6.2"]);
        let (_, said) = place.waited("/run/farrow/bin/depmod -n 6.1");
        assert_eq!(said, "listed\n", "somebody reads that");
    }

    #[test]
    fn what_fails_in_the_background_is_told() {
        let place = Place::new();
        place.program("real-depmod", "#!/bin/sh\necho no module\nexit 1\n");
        let (succeeded, said) = place.waited("/run/farrow/bin/depmod 6.1");
        assert!(!succeeded);
        assert_eq!(said, "no module\nthis did not succeed:\ndepmod 6.1 ");
    }

    #[test]
    fn without_a_queue_it_is_done_at_once() {
        let place = Place::new();
        for name in ["depmod", "py3compile"] {
            place.program(&format!("real-{name}"), "#!/bin/sh\necho \"now $*\"\n");
            let output = place.run(&[&format!("/run/farrow/bin/{name}"), "x"]);
            assert_eq!(output.stdout, b"now x\n");
        }
    }

    /// The program counts its calls in a variable, so that what one process did can be told.
    #[test]
    fn one_process_compiles_what_it_can() {
        if Command::new("/usr/bin/python3").arg("-V").output().is_err() {
            println!("SKIPPED one_process_compiles_what_it_can: no /usr/bin/python3 here");
            return;
        }
        let place = Place::new();
        place.program(
            "real-py3compile",
            r#"#!/usr/bin/python3
import os, sys
STDINS, WORKERS, calls = {}, {}, 0
def main():
    global calls
    if "odd" in sys.argv and __name__ != "__main__" or "bad" in sys.argv:
        raise ValueError("cannot")
    assert not STDINS
    STDINS[1] = calls = calls + 1
    with open("/run/farrow/did", "a") as did:
        print(*sys.argv[1:], calls, file=did)
    exit(0)
if __name__ == "__main__":
    main()
"#,
        );
        let call = |words: &str| format!("/run/farrow/bin/py3compile {words}; ");
        // Held, so that all are in the queue before the first is done.
        let held = |calls: &str| {
            format!("exec 9>>/run/farrow/turn; flock 9; {calls} exec 9>&-; exec 8>&-")
        };
        let calls = [call("-p a"), call("-p odd"), call("-p 'b c'")].concat();
        assert_eq!(place.waited(&held(&calls)), (true, String::new()));
        let mut did: Vec<String> = text(&place.path("did"))
            .lines()
            .map(str::to_owned)
            .collect();
        did.sort();
        let ends: Vec<char> = did.iter().filter_map(|line| line.chars().last()).collect();
        assert!(
            did[0].starts_with("-p a ") && did[1].starts_with("-p b c "),
            "{did:?}"
        );
        assert_eq!(did[2], "-p odd 1", "by the program itself");
        assert_eq!(ends[0].max(ends[1]), '2', "{did:?}");

        let (succeeded, said) = place.waited(&call("-p bad"));
        assert!(
            !succeeded && said.ends_with("this did not succeed:\npy3compile -p bad "),
            "{said}"
        );
    }

    #[test]
    fn a_killed_compiler_is_noticed() {
        let place = Place::new();
        place.program(
            "bin/farrow-py3compile-all",
            "import os\nos.kill(os.getpid(), 9)\n",
        );
        let (succeeded, said) = place.waited("/run/farrow/bin/py3compile -p a");
        assert!(!succeeded && said.ends_with("py3compile -p a "), "{said}");
    }
}
