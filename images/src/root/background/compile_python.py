"""Does what was asked for by each note in a queue, until there is none left.

A note holds words, each followed by a zero byte. Two kinds are known by the first of them:

- `run`: a command. Commands are run one after the other, in the order in which they were asked for.
- `py3compile`: arguments of that program. The one that the tree has is loaded once and its main function called for each note
  that is there. It hands files to interpreters, which compile them when they are told that there are no more: here there is one
  interpreter for each processor, and they are told once for all notes. Where that does not succeed, the program itself is run
  for each note, and decides.

What fails leaves its note in another folder.
"""

import os
import subprocess
import sys

PROGRAM = "/usr/bin/py3compile"
QUEUE = "/run/farrow/queue"
FAILED = "/run/farrow/failed"


class Interpreters:
    """Those that compile the files of all notes."""

    def __init__(self):
        self.started = []

    def start(self, version, optimize, _workers):
        """Takes the place of the program's generator that is sent the names of files for a version of Python."""
        version = version if isinstance(version, str) else ".".join(map(str, version))
        optimized = ["-O"] if optimize else []
        command = ["/usr/bin/python" + version, *optimized, "-m", "py_compile", "-"]
        processors = os.sched_getaffinity(0)
        own = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in processors]
        self.started += own
        while True:
            for process in own:
                name = yield
                process.stdin.write(os.fsencode(name) + b"\n")

    def end(self):
        """Whether all of them have succeeded. None is left."""
        for process in self.started:
            process.stdin.close()
        codes = [process.wait() for process in self.started]
        self.started.clear()
        return not any(codes)


class Program:
    """The tree's py3compile, loaded without running it."""

    def __init__(self):
        with open(PROGRAM, encoding="utf-8") as source:
            code = compile(source.read(), PROGRAM, "exec")
        self.names = {"__name__": "py3compile", "__file__": PROGRAM}
        exec(code, self.names)
        self.interpreters = Interpreters()
        self.own = self.names["compile"]
        self.by_level = {}
        self.names["py_compile"] = self.interpreters.start
        self.names["compile"] = self.compile

    def compile(self, files, versions, force, optimize, e_patterns=None):
        """The program's own, which knows its interpreters by their version alone."""
        self.names["STDINS"] = self.by_level.setdefault(bool(optimize), {})
        self.own(files, versions, force, optimize, e_patterns)

    def call(self, arguments):
        """Whether its main function succeeded."""
        sys.argv = [PROGRAM, *arguments]
        try:
            self.names["main"]()
        except SystemExit as end:
            return end.code in (None, 0)
        return True

    def compile_all(self, calls):
        """Whether all calls succeeded, and then the interpreters."""
        try:
            called = all([self.call(arguments) for arguments in calls])
        finally:
            self.by_level.clear()
            ended = self.interpreters.end()
        return called and ended


def together(calls):
    """Whether all calls were done in this process."""
    try:
        return Program().compile_all(calls)
    except Exception as error:
        print(f"{PROGRAM}: {error!r}", file=sys.stderr)
        return False


def done(command):
    """Whether a command succeeded."""
    return subprocess.run(command, check=False).returncode == 0


def notes():
    """Paths and words of the notes that are there, the oldest first."""
    paths = [entry.path for entry in os.scandir(QUEUE)]
    found = []
    for path in sorted(paths, key=lambda path: os.stat(path).st_mtime_ns):
        with open(path, encoding="utf-8") as content:
            found.append((path, content.read().split("\0")[:-1]))
    return found


def main():
    """Empties the queue; what dpkg does meanwhile has precedence."""
    os.nice(10)
    while found := notes():
        # Modules of the standard library come first: else they would be compiled at each start of an interpreter.
        commands = [note for note in found if note[1][0] == "run"]
        whole = not commands and together([words[1:] for _, words in found])
        for path, (_, *words) in commands or found:
            succeeded = done(words) if commands else whole or done([PROGRAM, *words])
            if succeeded:
                os.remove(path)
            else:
                os.rename(path, os.path.join(FAILED, os.path.basename(path)))


main()
