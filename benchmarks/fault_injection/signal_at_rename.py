"""Run the command line and send it a signal before or after one of its renames.

    python -m benchmarks.fault_injection.signal_at_rename NUMBER SIGNAL before|after VERB --flag=...

NUMBER: of the rename, from 1; only renames of the process itself count, not those of its workers.
"""

import os
import signal
import sys


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
