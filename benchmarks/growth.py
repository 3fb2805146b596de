"""Memory, disk and processor seconds a slice, and what 1, 10 and 100 competitions take.

    python -m benchmarks.growth [--quick] [--folder=DIR] [--imports=N] [--parts=8,4,2]

Measures what holds all slices at once, on an eighth, a quarter and a half of the competition's
752,803 train and 121,232 test slices, with the recipe `gold`: `ingest` where it joins headers and
labels (index), `folds`, the linear probes, the other columns of the features, the blends and scores
of `stack`, and the report without pictures. Slices are those of real studies under new names,
predictions and embeddings are made up. Each measurement is a process of its own: processor seconds,
which other work on the machine disturbs least, the peak of memory without memory maps, and the
bytes of the files that it makes. --quick: an eighth of the two larger sizes, without the blends;
--folder: where the runs are written, 12 GB at the most; the system's temporary folder if not given.
--parts: parts of the competition, the smallest first.

--imports=20 measures the recipe `stack_only` with twenty imported models, 2,931 columns, instead:
`ingest` of the slice list with `folds` (listed), `import-predictions` of the first and of the last
model, the columns of the features, their bins (all, and those of one label), a search of one label
and fold with one trial, the fits of two labels for one outer fold, and the blends of `stack`.

Prints one table, and another with a straight line through the two largest sizes at 1, 10 and 100
times the competition. Exits with 1 where a slice costs more than 1.25 times as much at a larger
size as at a smaller one: then no line may be drawn.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.command_line import flag_parser, module_command
from benchmarks.large_tables import gold_stages, import_stages
from benchmarks.large_tables.gold_run import TEST, TRAIN, split_tables, write_headers, write_run
from benchmarks.large_tables.repeated_studies import real_studies

STAGES = gold_stages.STAGES | import_stages.STAGES
PARTS, QUICK = "8,4,2", 8  # parts of the competition; --quick: of an eighth of it
GROWTH = 1.25  # the bar
TIMES = (1, 10, 100)  # competitions
TURNS = dict.fromkeys(
    ("index", "folds", "columns", "report"), 2
)  # short ones: the turn with the least time counts


class Measured(NamedTuple):
    """One stage at one size."""

    slices: int  # of train and test
    seconds: float  # of one core
    memory: float  # bytes at the peak
    disk: float  # bytes of the files that it makes


def main():
    options = flag_parser(__doc__, "an eighth of the sizes")
    options.add_argument("--folder", type=Path)
    options.add_argument("--imports", type=int, default=0)
    options.add_argument("--parts", default=PARTS)
    options.add_argument("--measure", nargs=2, help=argparse.SUPPRESS, metavar=("WHAT", "FOLDER"))
    options = options.parse_args()
    if options.measure:
        print(json.dumps(measure_stage(options.measure[0], Path(options.measure[1]))))
        return 0
    folder = options.folder or Path(tempfile.mkdtemp(prefix="ich-growth-"))
    parts = [int(part) * (QUICK if options.quick else 1) for part in options.parts.split(",")]
    found = measure_sizes(folder, parts[options.quick :], options.imports, options.quick)
    for line in (*size_table(found), "", *times_table(found)):
        print(line)
    if not options.folder:
        shutil.rmtree(folder)
    missed = [
        f"{what}: {name} a slice grow {value:.2f} times, the bar is {GROWTH:g}"
        for what, sizes in found.items()
        for name, value in grown(sizes).items()
        if value > GROWTH
    ]
    print("\n".join(missed) if missed else "every bar is met")
    return 1 if missed else 0


def measure_sizes(folder, parts, imports, quick):
    """Measure all stages at all sizes. Returns {stage: [Measured]}, the smallest size first."""
    stages = import_stages.STAGES if imports else gold_stages.STAGES
    found = {what: [] for what in stages if not (quick and what == "blend")}
    studies, origin = real_studies()
    print(f"{origin}, repeated", flush=True)
    for part in parts:
        home = folder / f"part{part}"
        train, test = split_tables(studies, TRAIN // part)
        if imports:
            import_stages.write_imports(home, train, test, imports)
        else:
            write_headers(home / "headers", train, test)
            write_run(home / "run", train, test)
        slices = len(train) + len(test)
        del train, test
        for what in found:
            turns = [in_a_process(what, home) for _ in range(TURNS.get(what, 1))]
            found[what].append(Measured(slices, *min(turns)))
            print(size_line(what, found[what][-1]), flush=True)
        shutil.rmtree(home)
    return found


def in_a_process(what, home):
    """Return [seconds, memory, disk] of one stage, measured in a process of its own."""
    words = module_command(
        __spec__.name if __spec__ else "benchmarks.growth", "--measure", what, home
    )
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout)


def measure_stage(what, home):
    """Return [seconds, memory, disk] of one stage in this process."""
    cost, made = STAGES[what](home)
    files = [file for path in made for file in (path.rglob("*") if path.is_dir() else [path])]
    return [cost.cpu, cost.memory, sum(file.stat().st_size for file in files if file.is_file())]


def grown(sizes):
    """Return {"seconds", "memory": the most that a slice costs in times of a smaller size}."""
    worst = {}
    for name in ("seconds", "memory"):
        each = [getattr(size, name) / size.slices for size in sizes]
        worst[name] = max(after / before for before, after in zip(each, each[1:], strict=False))
    return worst


def at(sizes, slices, name):
    """Return a figure at another number of slices: on a line through the two largest sizes."""
    one, two = sizes[-2:]
    slope = (getattr(two, name) - getattr(one, name)) / (two.slices - one.slices)
    return getattr(two, name) + slope * (slices - two.slices)


def size_table(found):
    """Yield the lines of what was measured."""
    yield "stage      slices  seconds  us a slice    memory  B a slice  disk, B a slice"
    for what, sizes in found.items():
        for size in sizes:
            yield size_line(what, size)


def size_line(what, size):
    """Return the line of one stage at one size."""
    return (
        f"{what:8} {size.slices:8,} {size.seconds:8.1f} "
        f"{1e6 * size.seconds / size.slices:11.1f} {size.memory / 1e6:6.0f} MB "
        f"{size.memory / size.slices:10.0f} {size.disk / size.slices:16.0f}"
    )


def times_table(found):
    """Yield the lines of what 1, 10 and 100 competitions take."""
    yield f"{'competitions':12} {'stage':8} {'core minutes':>12} {'memory GB':>10} {'disk GB':>8}"
    for times in TIMES:
        slices = times * (TRAIN + TEST)
        for what, sizes in found.items():
            seconds, memory, disk = (at(sizes, slices, name) for name in Measured._fields[1:])
            yield (
                f"{times:12} {what:8} {seconds / 60:12.1f} {memory / 1e9:10.1f} {disk / 1e9:8.1f}"
            )


if __name__ == "__main__":
    sys.exit(main())
