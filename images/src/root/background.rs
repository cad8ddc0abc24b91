//! Work that scripts of packages ask for and that nothing needs until all packages are configured: it is done beside dpkg, on
//! another processor.
//!
//! - Python modules are compiled: packages' ones (`py3compile`), and the standard library's, which the scripts of Python itself
//!   [ask for](postponed). Half of py3compile's time goes into starting interpreters, so one process
//!   (`background/compile_python.py`) does what was asked for meanwhile. Two at a time could miss a folder that both want to make.
//! - The modules of a kernel are indexed (`depmod`): it unpacks each of them.
//!
//! Only while there is a queue, which the [waiting](WAIT) program makes: what a recipe's script asks for is done at once.

/// Stand-ins for programs of the tree: name and script.
pub(super) const STAND_INS: [(&str, &str); 4] = [
    ("py3compile", COMPILE),
    ("farrow-later", LATER),
    (
        "farrow-compile-python",
        include_str!("background/compile_python.py"),
    ),
    ("depmod", INDEX),
];

/// What is put before a command that is to be done later.
const POSTPONE: &str = "/run/farrow/bin/farrow-later run ";
/// How the scripts of Python's packages compile the standard library: the rest of the line is `py_compile.py $files`.
const LIBRARY: [&str; 2] = ["/usr/bin/python3.", "/usr/lib/python3."];

const COMPILE: &str = r#"#!/bin/sh
[ -d /run/farrow/queue ] || exec /usr/bin/py3compile "$@"
exec /run/farrow/bin/farrow-later py3compile "$@"
"#;

/// Puts its arguments into the queue, or does them at once when there is none. One lock is held by as many jobs as there are until
/// they end; whoever gets the other does all that is in the queue by then.
const LATER: &str = r#"#!/bin/sh
set -e
queue=/run/farrow/queue
if [ ! -d "$queue" ]; then
    shift
    exec "$@"
fi
note=$(mktemp -p /run/farrow)
printf '%s\0' "$@" >"$note"
mv "$note" "$queue"
note=$queue/${note##*/}
exec 8>>/run/farrow/running
flock --shared 8
(
    exec 9>>/run/farrow/turn
    flock 9
    [ ! -e "$note" ] || exec /usr/bin/python3 /run/farrow/bin/farrow-compile-python
) </dev/null >>/run/farrow/log 2>&1 &
"#;

/// Leaves a note among what failed, so that it is there also when it was killed, and takes it away when the real program has
/// succeeded. `-a` is the default (depmod(8)); whatever else is no plain order to index a kernel's modules may have an answer that
/// somebody waits for.
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

/// A package's script in which the standard library is compiled later; none when it does not do that in the way that is known.
pub(super) fn postponed(script: &str) -> Option<String> {
    let [interpreter, library] = LIBRARY;
    let is_known = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ([first, "-E", "-S", module, "$files"] | [first, "-E", "-S", "-O", module, "$files"]) =
            words[..]
        else {
            return false;
        };
        first.starts_with(interpreter)
            && module.starts_with(library)
            && module.ends_with("/py_compile.py")
    };
    let line = |line: &str| match is_known(line) {
        true => format!("{POSTPONE}{line}"),
        false => line.to_owned(),
    };
    let lines: Vec<String> = script.split('\n').map(line).collect();
    let changed = lines.join("\n");
    (changed != script).then_some(changed)
}

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
def py_compile(version, optimize, workers):
    raise AssertionError("interpreters of its own")
def compile(files, versions, force, optimize, e_patterns=None):
    for version in versions:
        if version not in STDINS:
            STDINS[version] = py_compile(version, optimize, WORKERS)
            next(STDINS[version])
        for name in files:
            STDINS[version].send(name)
def main():
    global calls
    if "odd" in sys.argv and __name__ != "__main__" or "bad" in sys.argv:
        raise ValueError("cannot")
    calls += 1
    with open("/run/farrow/did", "a") as did:
        print(*sys.argv[1:], calls, file=did)
    if __name__ != "__main__":
        compile(sys.argv[2].split(), ["3"], False, False)
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
        for name in ["a.py", "b.py", "c.py"] {
            fs::write(place.path(name), "x = 1\n").unwrap();
        }
        let calls = [
            call("-p /run/farrow/a.py"),
            call("-p '/run/farrow/b.py /run/farrow/c.py'"),
        ];
        assert_eq!(place.waited(&held(&calls.concat())), (true, String::new()));
        let did = text(&place.path("did"));
        let ends: Vec<char> = did.lines().filter_map(|line| line.chars().last()).collect();
        assert_eq!(ends, ['1', '2'], "{did}");
        let compiled = fs::read_dir(place.path("__pycache__")).unwrap().count();
        assert_eq!(compiled, 3);

        fs::remove_file(place.path("did")).unwrap();
        let calls = [call("-p /run/farrow/a.py"), call("-p odd")].concat();
        assert_eq!(place.waited(&held(&calls)), (true, String::new()));
        let did = text(&place.path("did"));
        assert!(
            did.ends_with("/a.py 1\n-p odd 1\n"),
            "by the program itself: {did}"
        );

        let (succeeded, said) = place.waited(&call("-p bad"));
        assert!(
            !succeeded && said.ends_with("this did not succeed:\npy3compile -p bad "),
            "{said}"
        );
    }

    #[test]
    fn commands_are_run_later_in_their_order() {
        if Command::new("/usr/bin/python3").arg("-V").output().is_err() {
            println!("SKIPPED commands_are_run_later_in_their_order: no /usr/bin/python3 here");
            return;
        }
        let place = Place::new();
        place.program("real-py3compile", "#!/bin/sh\nexit 1\n");
        let later =
            |text: &str| format!("/run/farrow/bin/farrow-later run sh -c '{text}' sh 'a b'; ");
        let all = [
            later("echo one $1 >>/run/farrow/did"),
            later("echo two >>/run/farrow/did"),
            "[ ! -e /run/farrow/did ]; exec 9>&-".to_owned(),
        ];
        let held = format!("exec 9>>/run/farrow/turn; flock 9; {}", all.concat());
        assert_eq!(place.waited(&held), (true, String::new()));
        assert_eq!(text(&place.path("did")), "one a b\ntwo\n");
        let (succeeded, said) = place.waited(&later("exit 3"));
        assert!(
            !succeeded && said.starts_with("this did not succeed:\nrun sh -c"),
            "{said}"
        );
        let outside = Place::new().run(&["/run/farrow/bin/farrow-later", "run", "echo", "at once"]);
        assert_eq!(outside.stdout, b"at once\n");
    }

    #[test]
    fn only_the_known_way_to_compile_the_library_is_postponed() {
        let known = "x\n\t/usr/bin/python3.13 -E -S /usr/lib/python3.13/py_compile.py $files\nfi\n";
        let changed = postponed(known).unwrap();
        let line = changed.lines().nth(1).unwrap();
        assert_eq!(
            line,
            "/run/farrow/bin/farrow-later run \t/usr/bin/python3.13 -E -S /usr/lib/python3.13/py_compile.py $files"
        );
        assert_eq!(changed.lines().count(), known.lines().count());
        assert!(postponed(&known.replace("-S ", "-S -O ")).is_some());
        for other in [
            known.replace("-S ", ""),
            known.replace("$files", "$files || true"),
            known.replace("\t/usr/bin", "if ! /usr/bin"),
            known.replace("py_compile.py", "other.py"),
            known.replace("$files", "a.py"),
        ] {
            assert_eq!(postponed(&other), None);
        }
    }

    #[test]
    fn a_killed_compiler_is_noticed() {
        let place = Place::new();
        place.program(
            "bin/farrow-compile-python",
            "import os\nos.kill(os.getpid(), 9)\n",
        );
        let (succeeded, said) = place.waited("/run/farrow/bin/py3compile -p a");
        assert!(!succeeded && said.ends_with("py3compile -p a "), "{said}");
    }
}
