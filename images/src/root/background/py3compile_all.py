"""Does what py3compile was asked for by each note in a queue, until there is none left.

A note holds a name and arguments, each followed by a zero byte. The program that the tree has is loaded once and its main function called for
each note; where that does not succeed, the program itself is run, and decides. What fails with it, too, leaves its note in another
folder.
"""

import os
import subprocess
import sys

PROGRAM = "/usr/bin/py3compile"
QUEUE = "/run/farrow/queue"
FAILED = "/run/farrow/failed"


def load():
    """The program's names, without running it."""
    with open(PROGRAM, encoding="utf-8") as source:
        code = compile(source.read(), PROGRAM, "exec")
    names = {"__name__": "py3compile", "__file__": PROGRAM}
    exec(code, names)
    return names


def here(names, arguments):
    """Whether its main function succeeded in this process."""
    sys.argv = [PROGRAM, *arguments]
    try:
        # The interpreters of the call before have ended.
        names["STDINS"].clear()
        names["WORKERS"].clear()
        names["main"]()
    except SystemExit as end:
        return end.code in (None, 0)
    except Exception as error:
        print(f"{PROGRAM}: {error!r}", file=sys.stderr)
        return False
    return True


def done(names, arguments):
    """Whether it was done, in one way or the other."""
    if names is not None and here(names, arguments):
        return True
    return subprocess.run([PROGRAM, *arguments], check=False).returncode == 0


def main():
    """Empties the queue."""
    try:
        names = load()
    except Exception as error:
        print(f"{PROGRAM}: {error!r}", file=sys.stderr)
        names = None
    while notes := os.listdir(QUEUE):
        for note in notes:
            path = os.path.join(QUEUE, note)
            with open(path, encoding="utf-8") as content:
                arguments = content.read().split("\0")[1:-1]
            if done(names, arguments):
                os.remove(path)
            else:
                os.rename(path, os.path.join(FAILED, note))


main()
