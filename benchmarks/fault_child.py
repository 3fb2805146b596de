"""Runs the command line and sends it a signal at one of its renames: what is done so far has its
name, or not yet.

    python benchmarks/fault_child.py NUMBER SIGNAL before|after VERB --flag=value ...

NUMBER: of the rename, from 1; the process's own renames count, not those of its workers.
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def signal_at(number, name, moment):
    """Let the `number`-th call of os.replace or os.rename send this process the signal `name`."""
    left = [number]

    def counted(function):
        def call(*words, **more):
            left[0] -= 1
            if left[0] == 0 and moment == "before":
                os.kill(os.getpid(), getattr(signal, name))
            done = function(*words, **more)
            if left[0] == 0 and moment == "after":
                os.kill(os.getpid(), getattr(signal, name))
            return done

        return call

    os.replace, os.rename = counted(os.replace), counted(os.rename)


if __name__ == "__main__":
    import run

    signal_at(int(sys.argv[1]), *sys.argv[2:4])
    sys.exit(run.main(sys.argv[4:]))
