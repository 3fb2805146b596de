"""Damaged inputs of every kind: none may end in a traceback, a crash, minutes or gigabytes.

    python -m benchmarks.fuzz [--quick] [--kind=NAME] [--cases=N] [--first=N] [--seed=N] [--show]

Each kind is a module in benchmarks/fuzzing/ with three functions:

    make_seeds(folder) -> seeds           whole inputs, the same ones each time
    mutate(rng, seeds, folder) -> text    writes a damaged input to `folder`, returns what it did
    attempt(folder) -> line               reads it: "" where it is accepted, else the error's line

The cases of a kind run in a child process, which is replaced when it dies or takes too long. A case
is `uncaught` where `attempt` raises, or its line is not one for a user; `died` where the child
does; `slow` beyond SECONDS of processor time (its children's included) or PATIENCE by the clock,
twice in succession; `large` beyond MEMORY. Any of these makes the exit status 1. The same seed and
number give the same case: `--first=N --cases=1 --show` repeats one.
"""

import collections
import contextlib
import importlib
import json
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np

from benchmarks.command_line import flag_parser
from ct.system.child_process import (
    ChildEnded,
    ChildProcess,
    message_pipes,
    read_message,
    write_message,
)

KINDS = {  # module in benchmarks/fuzzing: cases in all, cases with --quick
    "dicom": (20_000, 1500),
    "tables": (1800, 300),
    "recipes": (1500, 300),
    "zips": (900, 200),
    "models": (800, 120),
}
# a case's limits: of the processor, and bytes of memory beyond what the idle child has
SECONDS, MEMORY = 10, 2 << 30
PATIENCE = 60  # seconds by the clock after which a child that does not answer is killed
GOOD = ("read", "refused")
OUTCOMES = (*GOOD, "uncaught", "died", "slow", "large")
LONGEST = 400  # characters of a line that a user may see


def main(argv=None):
    options = flag_parser(__doc__)
    options.add_argument("--kind", choices=KINDS)
    options.add_argument("--cases", type=int)
    options.add_argument("--first", type=int, default=0)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--show", action="store_true", help="print every case")
    options = options.parse_args(argv)
    bad = 0
    print(
        f"seed {options.seed}\n| kind | cases | {' | '.join(OUTCOMES)} | reasons | longest, s | "
        "seconds |"
    )
    print(f"|{'---|' * (len(OUTCOMES) + 5)}")
    for kind in [options.kind] if options.kind else KINDS:
        count = options.cases or KINDS[kind][options.quick]
        bad += fuzz(kind, range(options.first, options.first + count), options.seed, options.show)
    return 1 if bad else 0


def fuzz(kind, numbers, seed, show=False):
    """Run the cases `numbers` of a kind and print its row of the table.

    Returns how many went wrong.
    """
    counts, reasons, longest, start = collections.Counter(), set(), 0.0, time.perf_counter()
    with tempfile.TemporaryDirectory(prefix=f"ich-fuzz-{kind}-") as folder:
        cases = Cases(kind, seed, folder)
        for number in numbers:
            result = cases.run(number)
            if result["outcome"] == "slow":
                result = cases.run(number)  # a busy machine is slow, too, but not twice
            counts[result["outcome"]] += 1
            longest = max(longest, result["seconds"])
            if result["outcome"] == "refused":
                reasons.add(result["line"].translate(str.maketrans("", "", "-0123456789.")))
            if show or result["outcome"] not in GOOD:
                print(
                    f"  {kind} {number} ({result['what']}): {result['outcome']}, {result['line']}",
                    file=sys.stderr,
                )
        cases.close()
    cells = [sum(counts.values()), *(counts[name] for name in OUTCOMES), len(reasons)]
    print(
        f"| {kind} | {' | '.join(map(str, cells))} | {longest:.1f} | "
        f"{time.perf_counter() - start:.0f} |",
        flush=True,
    )
    return sum(counts[name] for name in OUTCOMES if name not in GOOD)


class Cases:
    """Runs the cases of a kind in a child process, which is replaced if it dies."""

    def __init__(self, kind, seed, folder):
        self.folder = Path(folder)
        self.child = ChildProcess(
            "benchmarks.fuzz", kind, str(seed), folder, start_seconds=10 * PATIENCE
        )

    def run(self, number):
        """Return {"outcome", "what", "line", "seconds"} of a case."""
        start = time.perf_counter()
        try:
            return json.loads(self.child.request(str(number).encode(), PATIENCE))
        except ChildEnded as ended:
            if not ended.started:
                raise RuntimeError(f"the child did not start (status {ended.status})") from None
            late = ended.status is None
            what = (self.folder / "what").read_text() if (self.folder / "what").exists() else ""
            return {
                "outcome": "slow" if late else "died",
                "what": what,
                "line": f"no answer in {PATIENCE} s" if late else f"exit status {ended.status}",
                "seconds": time.perf_counter() - start,
            }

    def close(self):
        self.child.close()


def serve(kind, seed, folder):
    """Run in the child: answer each case number with the JSON of its result."""
    requests, answers = message_pipes()
    folder = Path(folder)
    module, place = importlib.import_module(f"benchmarks.fuzzing.{kind}"), list(KINDS).index(kind)
    (folder / "seeds").mkdir(exist_ok=True)
    seeds = module.make_seeds(folder / "seeds")
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    # the soft limit alone: the program's own child processes set limits of their own
    resource.setrlimit(
        resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGESIZE") + MEMORY, resource.RLIM_INFINITY)
    )
    write_message(answers, b"ready")
    while (message := read_message(requests)) is not None:
        case = folder / "case"
        shutil.rmtree(case, ignore_errors=True)
        case.mkdir()
        what = module.mutate(np.random.default_rng([int(seed), place, int(message)]), seeds, case)
        (folder / "what").write_text(what)
        start = processor_seconds()
        outcome, text = tried(module, case)
        seconds = processor_seconds() - start
        if outcome in GOOD and seconds > SECONDS:
            outcome, text = "slow", f"{seconds:.0f} s"
        result = {"outcome": outcome, "what": what, "line": text, "seconds": seconds}
        write_message(answers, json.dumps(result).encode())


def processor_seconds():
    """Seconds of the processor that this process and its ended children have taken."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in usage)


def tried(module, case):
    """Return (outcome, line) of one case."""
    try:
        with (
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            contextlib.redirect_stderr(nowhere),
        ):
            text = module.attempt(case)
    except MemoryError:
        return "large", f"more than {MEMORY >> 30} GB"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a Rust panic is no Exception
        where = traceback.extract_tb(error.__traceback__)[-1]
        return (
            "uncaught",
            f"{type(error).__name__}: {str(error)[:200]!r} "
            f"({Path(where.filename).name}:{where.lineno})",
        )
    if (
        not isinstance(text, str)
        or len(text) > LONGEST
        or (text and not text.isprintable())
        or str(case) in text
    ):
        return "uncaught", f"no line for a user: {text!r}"[:300]
    return ("refused", text) if text else ("read", "")


if __name__ == "__main__":
    sys.exit(main())
